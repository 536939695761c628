"""The ledger: one row for each attempt, in a SQL database, append-only.

`open_ledger(url)` gives the writer for the pipeline, `usage_by(url, ...)` a report; `upgrade(url)` migrates.
"""

import re
from pathlib import Path

from gateway.ledger.address import SqliteAddress, parse
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.dimensions import Dimension
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.migrate import upgrade
from gateway.ledger.reports import RowsDeleted, UsageRow, usage_by
from gateway.ledger.spill import Spill
from gateway.ledger.store import SqliteStore
from gateway.ledger.writer import LedgerWriter, WriterLimits

__all__ = [
    "AuditTrail",
    "Dimension",
    "LedgerUnavailable",
    "LedgerUnusable",
    "LedgerWriter",
    "RowsDeleted",
    "UsageRow",
    "WriterLimits",
    "open_ledger",
    "upgrade",
    "usage_by",
]


SPILL_FOLDER = Path("tollway-ledger")


def open_ledger(
    url: str,
    *,
    spill_folder: Path | None = None,
    limits: WriterLimits | None = None,
    trail: AuditTrail | None = None,
    sync_each_commit: bool = False,
) -> LedgerWriter:
    """A writer for the database at `url`, not yet started.

    Spill files stand beside an SQLite file, and for PostgreSQL in the folder `tollway-ledger` of the working
    directory, unless told otherwise. `trail` is this process's chain of the audit log.
    `sync_each_commit`: an SQLite file too has each commit on the disk when it returns, as PostgreSQL does.
    Raises LedgerUnavailable when `url` names no database that the ledger can live in.
    """
    address = parse(url)
    if isinstance(address, SqliteAddress):
        path = address.path
        store = SqliteStore(path, trail, sync_each_commit=sync_each_commit)
        return LedgerWriter(store, Spill(spill_folder or path.parent, path.name), limits, trail)
    # Imported only where it is used: the driver takes a twentieth of a second.
    from gateway.ledger.postgres.store import PostgresStore  # noqa: PLC0415

    name = re.sub(r"[^\w.-]", "_", address.database)
    return LedgerWriter(
        PostgresStore(address, trail), Spill(spill_folder or SPILL_FOLDER, name), limits, trail
    )
