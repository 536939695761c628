"""Bring a ledger database to the revision that this version of Tollway writes."""

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.exc import DatabaseError

from gateway.adapters.ledger.engine import create_folder, database_path, open_reader, open_writer
from gateway.adapters.ledger.errors import LedgerUnavailable

HEAD = "0001"  # a test holds this equal to the newest file in migrations/versions
REVISIONS = ("0001",)  # oldest first
VERSION_TABLE = "ledger_revision"  # not Alembic's default: the database may belong to another program too


def upgrade(url: str) -> None:
    """As `upgrade_file`, for a `sqlite:///` URL; makes the folders of its path."""
    path = database_path(url)
    create_folder(path)
    upgrade_file(path)


def upgrade_file(path: Path) -> None:
    """Create or migrate the database at `path`; does nothing, and takes no lock, when it is up to date.

    Raises LedgerUnavailable when it cannot be opened or written, or was written by a newer Tollway. Safe to
    run in several processes at once: a migration holds the write lock, the next one finds nothing to do.
    """
    try:
        if not path.exists() or _revision_of(path) != HEAD:
            with open_writer(path).connect() as connection:
                _run_alembic(connection)
    except DatabaseError as exc:
        raise LedgerUnavailable(f"ledger {path}: {exc.orig}") from exc


def require_head(connection: Connection, path: Path) -> None:
    """Raise LedgerUnavailable unless the database is at the revision of this version."""
    if _revision(connection, path) != HEAD:
        raise LedgerUnavailable(f"ledger {path}: is of an older version; starting the gateway migrates it")


def _revision_of(path: Path) -> str | None:
    with open_reader(path).connect() as connection:
        return _revision(connection, path)


def _revision(connection: Connection, path: Path) -> str | None:
    """The revision of the database, None when it is empty. Plain SQL: importing Alembic takes 0.2 s."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar()
    if revision is not None and revision not in REVISIONS:
        raise LedgerUnavailable(
            f"ledger {path}: is at revision {revision}, this Tollway knows up to {HEAD}; "
            "it was written by a newer version: upgrade Tollway or restore a backup"
        )
    return str(revision) if revision is not None else None


def _run_alembic(connection: Connection) -> None:
    # Imported here because only a new or an old database needs it, and a start has 1.5 s for everything.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, HEAD)
