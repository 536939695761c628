"""Work on a ledger that nothing else may do meanwhile: closing, deleting, rebuilding, repricing.

Gateways may go on running: their writers wait for the end of the transaction and then see what it did.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection as SqliteConnection
from sqlalchemy.exc import DatabaseError

from gateway.ledger.address import SqliteAddress, parse
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.migrate import require_head
from gateway.ledger.rollups import KEEP_ON_SQLITE, Dialect
from gateway.ledger.rows import Row
from gateway.ledger.sqlite.engine import open_reader, open_writer
from gateway.ledger.store import prepared
from gateway.ledger.tables import ALL_COLUMNS


class Maintenance(Protocol):
    """One open transaction."""

    @property
    def dialect(self) -> Dialect: ...

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that answer `statement`, whose parameters are question marks."""
        ...

    def add(self, rows: Sequence[Row]) -> None:
        """Insert `rows` (in the order of ALL_COLUMNS), unless they are there, and keep the rollups."""
        ...


class Begin(Protocol):
    """Begins a transaction; leaving it commits, and an exception undoes it."""

    def __call__(self, *, alone: bool = True) -> AbstractContextManager[Maintenance]:
        """`alone`: no writer has an open transaction meanwhile. SQLite knows no other kind."""
        ...


@contextmanager
def upkeep(url: str, *, is_quick: bool = False) -> Iterator[Begin]:
    """Transactions on the ledger at `url`. Raises LedgerUnavailable, on entering and within.

    `is_quick`: they take moments, so a server that falls silent is given up as early as by any request.
    """
    address = parse(url)
    if isinstance(address, SqliteAddress):
        with _sqlite(address) as begin:
            yield begin
    else:
        from gateway.ledger.postgres.upkeep import postgres_upkeep  # noqa: PLC0415

        with postgres_upkeep(address, is_quick=is_quick) as begin:
            yield begin


class _SqliteUpkeep:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        result = self._connection.exec_driver_sql(statement, values)
        return [tuple(row) for row in result] if result.returns_rows else []

    def add(self, rows: Sequence[Row]) -> None:
        ((newest,),) = self.run("SELECT coalesce(max(rowid), 0) FROM usage_record")
        marks = ", ".join("?" * len(ALL_COLUMNS))
        names = ", ".join(ALL_COLUMNS)
        insert = f"INSERT INTO usage_record ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
        self._connection.exec_driver_sql(insert, list(rows))
        self.run(KEEP_ON_SQLITE, newest)


@contextmanager
def _sqlite(address: SqliteAddress) -> Iterator[Begin]:
    path = address.path
    with open_reader(path).connect() as connection:  # says so when there is no ledger
        require_head(connection, path)

    @contextmanager
    def begin(*, alone: bool = True) -> Iterator[_SqliteUpkeep]:
        try:
            with prepared(open_writer(path).connect()) as connection, connection.begin():  # always alone
                yield _SqliteUpkeep(connection)
        except DatabaseError as exc:
            raise LedgerUnavailable(f"ledger {path}: {exc.orig}") from exc

    yield begin
