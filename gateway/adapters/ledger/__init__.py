"""The ledger: one row for each attempt, in a SQL database, append-only.

`open_ledger(url)` gives the writer for the pipeline, `usage_by(url, ...)` a report; `upgrade(url)` migrates.
"""

from pathlib import Path

from gateway.adapters.ledger.engine import database_path
from gateway.adapters.ledger.errors import LedgerUnavailable
from gateway.adapters.ledger.migrate import upgrade
from gateway.adapters.ledger.reports import Dimension, UsageRow, usage_by
from gateway.adapters.ledger.spill import Spill
from gateway.adapters.ledger.store import SqliteStore
from gateway.adapters.ledger.writer import LedgerWriter, WriterLimits

__all__ = [
    "Dimension",
    "LedgerUnavailable",
    "LedgerWriter",
    "UsageRow",
    "WriterLimits",
    "open_ledger",
    "upgrade",
    "usage_by",
]


def open_ledger(
    url: str, *, spill_folder: Path | None = None, limits: WriterLimits | None = None
) -> LedgerWriter:
    """A writer for the database at `url`, not yet started. Spill files stand beside it unless told otherwise.

    Raises LedgerUnavailable when `url` names no database that the ledger can live in.
    """
    path = database_path(url)
    return LedgerWriter(SqliteStore(path), Spill(spill_folder or path.parent, path.name), limits)
