"""Reading the ledger from code that does not run on an event loop: commands, and threads of the gateway.

A reading is one transaction: all its queries see the same rows, whatever is written meanwhile.
"""

import asyncio
import concurrent.futures
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

from sqlalchemy import Connection, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError

from gateway.ledger.address import SqliteAddress, parse
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.migrate import require_head
from gateway.ledger.rollups import Dialect
from gateway.ledger.sqlite.engine import open_reader

Query = Select[*tuple[Any, ...]]

T = TypeVar("T")

_DIALECT = sqlite.dialect(paramstyle="qmark")


class Reading(Protocol):
    """An open read transaction."""

    @property
    def dialect(self) -> Dialect: ...

    def fetch(self, query: Query) -> list[tuple[Any, ...]]:
        """All rows that answer `query`."""
        ...

    def batches(self, query: Query, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The same, `rows` at a time, for more of them than should be in memory. Booleans may be 0 and 1."""
        ...


@contextmanager
def reading(url: str) -> Iterator[Reading]:
    """A reading of the ledger at `url`. Raises LedgerUnavailable, on entering and for each query."""
    address = parse(url)
    if isinstance(address, SqliteAddress):
        with _reading_sqlite(address) as sqlite:
            yield sqlite
    else:
        # Imported only where it is used: the driver takes a twentieth of a second.
        from gateway.ledger.postgres.reading import reading_postgres  # noqa: PLC0415

        with reading_postgres(address) as postgres:
            yield postgres


class _SqliteReading:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fetch(self, query: Query) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._connection.execute(query)]

    def batches(self, query: Query, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        # The driver's own cursor: a million rows as SQLAlchemy's would take four times as long.
        built = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        values = built.construct_params()
        driver = self._connection.connection.dbapi_connection
        if driver is None:
            raise LedgerUnavailable("ledger: the connection was closed")
        cursor = driver.cursor()
        try:
            cursor.execute(str(built), [values[name] for name in built.positiontup or ()])
            while found := cursor.fetchmany(rows):
                yield list(found)
        finally:
            cursor.close()


@contextmanager
def _reading_sqlite(address: SqliteAddress) -> Iterator[_SqliteReading]:
    try:
        with open_reader(address.path).connect() as connection:
            require_head(connection, address.path)
            yield _SqliteReading(connection)
    except DatabaseError as exc:
        raise LedgerUnavailable(f"ledger {address}: {exc.orig}") from exc


class OwnLoop:
    """Runs coroutines to their end on an event loop of its own, wherever the caller runs."""

    def __enter__(self) -> Self:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ledger-reading")
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. The coroutine must have a deadline of its own."""
        return self._thread.submit(self._runner.run, coroutine).result()
