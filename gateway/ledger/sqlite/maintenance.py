"""`Maintenance` of a ledger in an SQLite file. Every transaction holds the file's only write lock."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from gateway.ledger.rollups import KEEP_ON_SQLITE, Dialect
from gateway.ledger.rows import Row
from gateway.ledger.sqlite.engine import open_reader, open_writer, unavailable
from gateway.ledger.sqlite.migrate import require_head
from gateway.ledger.sqlite.store import with_rollup_trigger
from gateway.ledger.tables import ALL_COLUMNS

DELETE_ROWS = 20_000  # in one transaction, so that a writer on the same database waits for moments only

_SOME = f"SELECT rowid FROM usage_record WHERE at < ? ORDER BY at LIMIT {DELETE_ROWS}"  # noqa: S608
_DELETE_SOME = f"DELETE FROM usage_record WHERE rowid IN ({_SOME}) RETURNING 1"  # noqa: S608


class SqliteTransaction:
    """One open transaction of maintenance."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: Connection) -> None:
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

    def lock(self, number: int) -> None:
        """Nothing to wait for: no other transaction can write meanwhile."""

    def drop_partitions(self, before: int) -> int:
        """The table has no partitions: `delete_rows` deletes everything."""
        return 0


class SqliteMaintenance:
    """Each transaction is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def begin(self, *, exclusive: bool = True) -> Iterator[SqliteTransaction]:
        try:
            with (
                with_rollup_trigger(open_writer(self._path).connect()) as connection,
                connection.begin(),
            ):
                yield SqliteTransaction(connection)
        except DatabaseError as exc:
            raise unavailable(self._path, exc) from exc

    def delete_rows(self, before: int) -> int:
        deleted = 0
        while found := self._delete_some(before):
            deleted += found
        return deleted

    def _delete_some(self, before: int) -> int:
        with self.begin() as transaction:
            return len(transaction.run(_DELETE_SOME, before))


@contextmanager
def sqlite_maintenance(path: Path) -> Iterator[SqliteMaintenance]:
    """Raises LedgerUnavailable."""
    try:
        with open_reader(path).connect() as connection:  # says so when there is no ledger
            require_head(connection, path)
    except DatabaseError as exc:
        raise unavailable(path, exc) from exc
    yield SqliteMaintenance(path)
