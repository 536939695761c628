"""A `ReadTransaction` on a ledger in an SQLite file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError

from gateway.ledger.database import Query
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rollups import Dialect
from gateway.ledger.sqlite.engine import open_reader, unavailable
from gateway.ledger.sqlite.migrate import require_head

_DIALECT = sqlite.dialect(paramstyle="qmark")


class SqliteReading:
    """One transaction. The file is never locked by it."""

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
def sqlite_reading(path: Path) -> Iterator[SqliteReading]:
    """Raises LedgerUnavailable, on entering and for each query."""
    try:
        with open_reader(path).connect() as connection:
            require_head(connection, path)
            yield SqliteReading(connection)
    except DatabaseError as exc:
        raise unavailable(path, exc) from exc
