"""The writer of a ledger, from the URL of its database."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.spill import Spill
from gateway.ledger.url import database_of
from gateway.ledger.writer import LedgerWriter, WriterLimits
from gateway.supervised import TaskRegistry


def open_ledger(
    url: str,
    *,
    spill_folder: Path | None = None,
    limits: WriterLimits | None = None,
    trail: AuditTrail | None = None,
    sync_each_commit: bool = False,
    tasks: TaskRegistry | None = None,
    fill: Callable[[int], Awaitable[None]] | None = None,
    committed: Callable[[], None] | None = None,
) -> LedgerWriter:
    """A writer for the database at `url`, not yet started. `fill` and `committed`: see LedgerWriter.

    Refused rows stand beside an SQLite file, and for PostgreSQL in the folder `tollway-ledger` of the working
    directory, unless told otherwise. `trail` is this process's chain of the audit log.
    `tasks` hears of a writer that fails.
    `sync_each_commit`: an SQLite file too has each commit on the disk when it returns, as PostgreSQL does.
    Raises LedgerUnavailable when `url` names no database that the ledger can live in.
    """
    database = database_of(url)
    spill = Spill(spill_folder or database.paths.spill_folder, database.paths.name)
    store = database.row_store(trail, sync_each_commit=sync_each_commit)
    return LedgerWriter(store, spill, limits, tasks, fill=fill, committed=committed)
