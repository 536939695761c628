"""The ledger's database, read past any gateway, and out of reach for a while."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from tests.ledger.postgres_server import PostgresServer

Row = dict[str, Any]

_ROWS = "SELECT * FROM usage_record ORDER BY attempt_id"


class Ledger(Protocol):
    """A database that gateways write to."""

    @property
    def url(self) -> str: ...

    def unreachable(self) -> Any:
        """A block in which no gateway can write to it."""

    async def rows(self) -> list[Row]:
        """Every row of `usage_record`, in the order of the attempts' ids."""

    async def save(self) -> None:
        """Remember what it holds outside of the installation's folder. No gateway may run."""

    async def restore(self) -> None:
        """Hold again what was saved. No gateway may run."""


class SqliteLedger:
    """A file, which another process can lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    async def rows(self) -> list[Row]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(_ROWS)]

    async def save(self) -> None:
        """It lies in the folder."""

    async def restore(self) -> None:
        """It lies in the folder."""


class PostgresLedger:
    """A database of its own on a server that can crash."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name

    @property
    def url(self) -> str:
        return self._server.url(self._name)

    async def create(self) -> None:
        await self._execute(f"CREATE DATABASE {self._name}")

    async def save(self) -> None:
        await self._execute(f"CREATE DATABASE {self._name}_saved TEMPLATE {self._name}")

    async def restore(self) -> None:
        await self._execute(f"DROP DATABASE {self._name} WITH (FORCE)")
        await self._execute(f"CREATE DATABASE {self._name} TEMPLATE {self._name}_saved")

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self._server.stop(signal.SIGQUIT)
        try:
            yield
        finally:
            self._server.start()

    async def rows(self) -> list[Row]:
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(_ROWS)]
        finally:
            await connection.close()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
