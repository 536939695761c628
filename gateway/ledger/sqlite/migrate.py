"""Bring a ledger in an SQLite file to the revision that this version of Tollway writes."""

import time
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.exc import DatabaseError

from gateway.ledger.revisions import HEAD, LEAST_TABLE, VERSION_TABLE, refuse_old, revision_in, run_alembic
from gateway.ledger.sqlite.engine import is_busy, keep_private, open_reader, open_writer, unavailable

MIGRATION_SECONDS = 10.0  # how long another process may take for it
BUSY_PAUSE_SECONDS = 0.05


def upgrade_file(path: Path) -> str | None:
    """Create or migrate the database at `path`; does nothing, and takes no lock, when it is up to date.

    Returns the revision before, None when there was no ledger. Raises LedgerUnavailable when it cannot be
    opened or written, or was written by a newer Tollway. Safe to run in several processes at once: a
    migration holds the write lock, the next one finds nothing to do.
    """
    deadline = time.monotonic() + MIGRATION_SECONDS
    while True:
        try:
            keep_private(path)
            before = _revision_of(path) if path.exists() else None
            if before != HEAD:
                with open_writer(path).connect() as connection:
                    run_alembic({"connection": connection}, HEAD)
            return before
        except DatabaseError as exc:
            # SQLite does not wait for everything, such as a change of the journal mode, and another process
            # may be migrating at this moment.
            if not is_busy(exc) or time.monotonic() > deadline:
                raise unavailable(path, exc) from exc
            time.sleep(BUSY_PAUSE_SECONDS)


def require_head(connection: Connection, path: Path) -> None:
    """Raise LedgerUnavailable unless the database is at the revision of this version."""
    refuse_old(_revision(connection, path), path)


def _revision_of(path: Path) -> str | None:
    with open_reader(path).connect() as connection:
        return _revision(connection, path)


def _revision(connection: Connection, path: Path) -> str | None:
    """The revision of the database, None when it is empty. Plain SQL: importing Alembic takes 0.2 s."""
    inspector = inspect(connection)
    schema, least = (
        connection.execute(select(column("version_num")).select_from(table(name))).scalar()
        if inspector.has_table(name)
        else None
        for name in (VERSION_TABLE, LEAST_TABLE)
    )
    return revision_in(schema, least, path)
