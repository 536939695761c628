"""A `ReadTransaction` on a ledger in PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.dialects.postgresql import asyncpg as sqlalchemy_asyncpg

from gateway.ledger.database import Query
from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import Connection, connect, disconnect, translated
from gateway.ledger.postgres.loop_thread import LoopThread
from gateway.ledger.postgres.migrate import require_head
from gateway.ledger.rollups import Dialect

_DIALECT = sqlalchemy_asyncpg.dialect()  # type: ignore[no-untyped-call]
_SETTINGS = {"default_transaction_read_only": "on"}


class PostgresReading:
    """One transaction at isolation level REPEATABLE READ."""

    dialect: Dialect = "postgresql"

    def __init__(self, loop: LoopThread, connection: Connection, address: PostgresAddress) -> None:
        self._loop = loop
        self._connection = connection
        self._address = address

    def fetch(self, query: Query) -> list[tuple[Any, ...]]:
        statement, values = compiled(query)
        with translated(self._address):
            return [tuple(row) for row in self._loop.run(self._connection.fetch(statement, *values))]

    def batches(self, query: Query, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        statement, values = compiled(query)
        with translated(self._address):
            cursor = self._loop.run(_cursor(self._connection, statement, values))
            while found := self._loop.run(cursor.fetch(rows)):
                yield [tuple(row) for row in found]


async def _cursor(connection: Connection, statement: str, values: list[Any]) -> Any:
    return await connection.cursor(statement, *values)


def compiled(query: Query) -> tuple[str, list[Any]]:
    """The SQL of `query` with numbered parameters, and their values."""
    built = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    values = built.construct_params()
    return str(built), [values[name] for name in built.positiontup or ()]


@contextmanager
def postgres_reading(address: PostgresAddress) -> Iterator[PostgresReading]:
    """Raises LedgerUnavailable, on entering and for each query."""
    with LoopThread() as loop:
        connection = loop.run(connect(address, settings=_SETTINGS))
        try:
            with translated(address):
                loop.run(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
                loop.run(require_head(connection, address))
            yield PostgresReading(loop, connection, address)
        finally:
            loop.run(disconnect(connection))
