"""The `Database` that is an SQLite file."""

from contextlib import AbstractContextManager
from pathlib import Path

from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.database import Maintenance, ReadTransaction, RowStore
from gateway.ledger.paths import LedgerPaths
from gateway.ledger.revisions import HEAD
from gateway.ledger.sqlite.engine import create_folder
from gateway.ledger.sqlite.maintenance import sqlite_maintenance
from gateway.ledger.sqlite.migrate import upgrade_file
from gateway.ledger.sqlite.reading import sqlite_reading
from gateway.ledger.sqlite.store import SqliteStore


class SqliteDatabase:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = LedgerPaths(name=path.name, identity=path.name, folder=path.parent)

    def __str__(self) -> str:
        return str(self.path)

    def row_store(self, trail: AuditTrail | None = None, *, sync_each_commit: bool = False) -> RowStore:
        return SqliteStore(self.path, trail, sync_each_commit=sync_each_commit)

    def reading(self) -> AbstractContextManager[ReadTransaction]:
        return sqlite_reading(self.path)

    def maintenance(self, *, is_quick: bool = False) -> AbstractContextManager[Maintenance]:
        """A file answers or fails at once: `is_quick` changes nothing."""
        return sqlite_maintenance(self.path)

    def create_if_absent(self) -> None:
        if not self.path.exists():
            self.create_or_migrate()

    def create_or_migrate(self) -> tuple[str | None, str]:
        if not self.path.parent.is_dir():  # of one that is there the writer tells
            create_folder(self.path)
        return upgrade_file(self.path), HEAD
