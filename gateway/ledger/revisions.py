"""The revisions of the ledger's tables: which one this version writes, and how Alembic is run for it."""

from pathlib import Path
from typing import Any

from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable

HEAD = "0008"  # a test holds this equal to the newest file in migrations/versions
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")  # oldest first
# The revision that the tables have. Not Alembic's default: the database may belong to another program too.
VERSION_TABLE = "ledger_schema"
# The revision that a Tollway has to know to work with them. Release 0.1.0 has this table alone, for both.
LEAST_TABLE = "ledger_revision"
# For a ledger that has only the latter.
ADOPT = (
    f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    f"INSERT INTO {VERSION_TABLE} SELECT version_num FROM {LEAST_TABLE} "  # noqa: S608  # constants
    f"WHERE NOT EXISTS (SELECT 1 FROM {VERSION_TABLE})",
)


def refuse_old(revision: str | None, place: object) -> None:
    """Raise LedgerUnavailable unless `revision` is that of this version. `place` is named in the message."""
    if revision != HEAD:
        raise LedgerUnavailable(f"ledger {place}: is of an older version; starting the gateway migrates it")


def revision_in(schema: str | None, least: str | None, place: object) -> str | None:
    """The revision of a ledger by what both its tables say; None for an empty database.

    One that a newer Tollway has added to counts as ours. Raises LedgerUnusable for one that we do not know.
    """
    refuse_newer(least, place)
    if schema is None:
        return least
    return schema if schema in REVISIONS else HEAD


def refuse_newer(revision: str | None, place: object) -> None:
    """Raise LedgerUnusable when this version of Tollway does not know `revision`. None is an empty one."""
    if revision is not None and revision not in REVISIONS:
        raise LedgerUnusable(
            f"ledger {place}: is at revision {revision}, this Tollway knows up to {HEAD}; "
            "it was written by a newer version: upgrade Tollway or restore a backup"
        )


def run_alembic(attributes: dict[str, Any], revision: str, *, sql: bool = False) -> None:
    """Take a database to `revision`. `attributes`: its `connection`, or, with `sql`, the `output`."""
    # Imported here because only a new or an old database needs it, and a start has 1.5 s for everything.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes.update(attributes, version_table=VERSION_TABLE)
    command.upgrade(config, revision, sql=sql)
