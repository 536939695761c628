"""The databases over which the ledger's specification runs."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.ledger import LedgerWriter, WriterLimits, open_ledger


class SqliteDatabase:
    """A ledger database that a test can look into and get in the way of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "var" / "ledger.db"
        self.url = f"sqlite:///{self.path}"

    def writer(self, **limits: Any) -> LedgerWriter:
        settings = {"linger_seconds": 0.005, "retry_seconds": 0.005, "retry_ceiling_seconds": 0.02}
        return open_ledger(self.url, limits=WriterLimits(**(settings | limits)))

    def rows(self) -> list[dict[str, Any]]:
        """All rows in the order in which they were committed."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM usage_record ORDER BY rowid")]

    def attempts(self) -> list[str]:
        return [row["attempt_id"] for row in self.rows()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the write lock."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    @contextmanager
    def gone(self) -> Iterator[None]:
        """The table is not there, as after a wrong restore."""
        self._execute("ALTER TABLE usage_record RENAME TO elsewhere")
        yield
        self._execute("ALTER TABLE elsewhere RENAME TO usage_record")

    def spills(self) -> list[Path]:
        return sorted(self.path.parent.glob("ledger.db.unsaved-*"))

    def refused(self) -> str:
        path = self.path.parent / "ledger.db.refused.jsonl"
        return path.read_text() if path.exists() else ""

    def _execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> SqliteDatabase:
    assert request.param == "sqlite"
    return SqliteDatabase(tmp_path)
