"""Bring a ledger database to the revision that this version of Tollway writes."""

import io
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.exc import DatabaseError

from gateway.ledger.address import Address
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.sqlite.engine import (
    create_folder,
    is_busy,
    open_reader,
    open_writer,
    sqlite_path,
    unavailable,
)

HEAD = "0005"  # a test holds this equal to the newest file in migrations/versions
REVISIONS = ("0001", "0002", "0003", "0004", "0005")  # oldest first
MIGRATION_SECONDS = 10.0  # how long another process may take for it
BUSY_PAUSE_SECONDS = 0.05
VERSION_TABLE = "ledger_revision"  # not Alembic's default: the database may belong to another program too


def upgrade(url: str) -> None:
    """As `upgrade_file`, for a `sqlite:///` URL; makes the folders of its path."""
    path = sqlite_path(url)
    create_folder(path)
    upgrade_file(path)


def upgrade_file(path: Path) -> None:
    """Create or migrate the database at `path`; does nothing, and takes no lock, when it is up to date.

    Raises LedgerUnavailable when it cannot be opened or written, or was written by a newer Tollway. Safe to
    run in several processes at once: a migration holds the write lock, the next one finds nothing to do.
    """
    deadline = time.monotonic() + MIGRATION_SECONDS
    while True:
        try:
            if not path.exists() or _revision_of(path) != HEAD:
                with open_writer(path).connect() as connection:
                    _migrate(connection)
            return
        except DatabaseError as exc:
            # SQLite does not wait for everything, such as a change of the journal mode, and another process
            # may be migrating at this moment.
            if not is_busy(exc) or time.monotonic() > deadline:
                raise unavailable(path, exc) from exc
            time.sleep(BUSY_PAUSE_SECONDS)


def written_by(path: Path) -> str | None:
    """The revision of the database at `path`, None when there is none. Raises LedgerUnavailable."""
    if not path.exists():
        return None
    try:
        return _revision_of(path)
    except DatabaseError as exc:
        raise unavailable(path, exc) from exc


def require_head(connection: Connection, path: Path) -> None:
    """Raise LedgerUnavailable unless the database is at the revision of this version."""
    refuse_old(_revision(connection, path), path)


def refuse_old(revision: str | None, place: Address | Path) -> None:
    """Raise LedgerUnavailable unless `revision` is that of this version."""
    if revision != HEAD:
        raise LedgerUnavailable(f"ledger {place}: is of an older version; starting the gateway migrates it")


def refuse_newer(revision: str | None, place: Address | Path) -> None:
    """Raise LedgerUnavailable when this version of Tollway does not know `revision`. None is an empty one."""
    if revision is not None and revision not in REVISIONS:
        raise LedgerUnusable(
            f"ledger {place}: is at revision {revision}, this Tollway knows up to {HEAD}; "
            "it was written by a newer version: upgrade Tollway or restore a backup"
        )


def postgres_script(revision: str | None) -> str:
    """SQL that takes a PostgreSQL ledger from `revision` (None: an empty database) to HEAD."""
    output = io.StringIO()
    _run_alembic({"output": output}, f"{revision or 'base'}:{HEAD}", sql=True)
    return output.getvalue()


def _revision_of(path: Path) -> str | None:
    with open_reader(path).connect() as connection:
        return _revision(connection, path)


def _revision(connection: Connection, path: Path) -> str | None:
    """The revision of the database, None when it is empty. Plain SQL: importing Alembic takes 0.2 s."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar()
    refuse_newer(revision, path)
    return str(revision) if revision is not None else None


def _migrate(connection: Connection) -> None:
    _run_alembic({"connection": connection}, HEAD)


def _run_alembic(attributes: dict[str, Any], revision: str, *, sql: bool = False) -> None:
    # Imported here because only a new or an old database needs it, and a start has 1.5 s for everything.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes.update(attributes, version_table=VERSION_TABLE)
    command.upgrade(config, revision, sql=sql)
