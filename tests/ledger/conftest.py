"""The databases over which the ledger's specification runs: an SQLite file, and a real PostgreSQL server.

The server is our own, unless TOLLWAY_TEST_POSTGRES_URL names one whose role may create databases.
"""

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from gateway.ledger.opening import open_ledger
from gateway.ledger.postgres.loop_thread import LoopThread
from gateway.ledger.writer import WriterLimits
from tests.ledger.ledger_records import RecordWriter
from tests.ledger.postgres_server import postgres_server

# A lock is waited for briefly, so that a test sees the refusal soon.
SHORT_LOCK_TIMEOUT = "lock_timeout=20ms"


class _TestLedger:
    """A ledger database that a test can look into and get in the way of."""

    url: str
    spill_folder: Path
    spill_name: str

    @property
    def waiting_url(self) -> str:
        """For what is to wait for others as long as it does in service."""
        return self.url.replace(SHORT_LOCK_TIMEOUT, "lock_timeout=10s")

    def writer(self, **limits: Any) -> RecordWriter:
        settings = {"linger_seconds": 0.005, "retry_seconds": 0.005, "retry_ceiling_seconds": 0.02}
        writer = open_ledger(
            self.url, spill_folder=self.spill_folder, limits=WriterLimits(**(settings | limits))
        )
        return RecordWriter(writer)

    def spill(self, *rows: dict[str, Any]) -> Path:
        """A file of rows that release 0.1.0 could not save."""
        self.spill_folder.mkdir(exist_ok=True)
        path = self.spill_folder / f"{self.spill_name}.unsaved-{uuid.uuid4().hex}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def attempts(self) -> list[str]:
        return [row["attempt_id"] for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        """All rows in the order in which they were committed."""
        raise NotImplementedError

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    @contextmanager
    def gone(self) -> Iterator[None]:
        """The table is not there, as after a wrong restore."""
        self.execute("ALTER TABLE usage_record RENAME TO elsewhere")
        yield
        self.execute("ALTER TABLE elsewhere RENAME TO usage_record")

    def spills(self) -> list[Path]:
        return sorted(self.spill_folder.glob(f"{self.spill_name}.unsaved-*"))

    def refused(self) -> str:
        path = self.spill_folder / f"{self.spill_name}.refused.jsonl"
        return path.read_text() if path.exists() else ""


class SqliteLedger(_TestLedger):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "var" / "ledger.db"
        self.url = f"sqlite:///{self.path}"
        self.spill_folder = self.path.parent
        self.spill_name = self.path.name

    def rows(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM usage_record ORDER BY rowid")]

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the write lock."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    def forget(self) -> None:
        """Begin anew with an empty ledger."""
        self.path.unlink(missing_ok=True)


class PostgresLedger(_TestLedger):
    def __init__(self, server_url: str, folder: Path, loop: LoopThread) -> None:
        self._loop = loop
        self._server = loop.run(asyncpg.connect(server_url))
        self._name = f"ledger_{uuid.uuid4().hex}"
        self.folder = folder
        self.spill_folder = folder / "var"
        self.spill_name = self._name
        self._ask(f"CREATE DATABASE {self._name}")
        parts = urlsplit(server_url)
        query = f"{parts.query}&{SHORT_LOCK_TIMEOUT}" if parts.query else SHORT_LOCK_TIMEOUT
        self.url = urlunsplit((parts.scheme, parts.netloc, f"/{self._name}", query, ""))
        self._connection = loop.run(asyncpg.connect(self.url))

    def rows(self) -> list[dict[str, Any]]:
        query = "SELECT * FROM usage_record ORDER BY tableoid, ctid"
        return [dict(row) for row in self._loop.run(self._connection.fetch(query))]

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._loop.run(self._connection.fetch(statement))]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the table."""
        self.execute("BEGIN")
        self.execute("LOCK TABLE usage_record IN ACCESS EXCLUSIVE MODE")
        yield
        self.execute("ROLLBACK")

    def forget(self) -> None:
        """Begin anew with an empty ledger."""
        for (name,) in self.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            self.execute(f'DROP TABLE IF EXISTS "{name}" CASCADE')

    def disconnect_everybody(self) -> None:
        """As an administrator does, or a failover."""
        self._ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self._name}' AND pid <> {self._connection.get_server_pid()}"
        )

    def drop(self) -> None:
        self._loop.run(self._connection.close())
        self._ask(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._loop.run(self._server.close())

    def _ask(self, statement: str) -> None:
        self._loop.run(self._server.execute(statement))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if "TOLLWAY_TEST_POSTGRES_URL" in os.environ:
        yield os.environ["TOLLWAY_TEST_POSTGRES_URL"]
    else:
        with postgres_server("fsync=off") as server:
            yield server.url()


@pytest.fixture
def postgres(postgres_url: str, tmp_path: Path) -> Iterator[PostgresLedger]:
    with LoopThread() as loop:
        database = PostgresLedger(postgres_url, tmp_path, loop)
        try:
            yield database
        finally:
            database.drop()


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> SqliteLedger | PostgresLedger:
    return request.getfixturevalue(request.param)
