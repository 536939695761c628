"""`Maintenance` of a ledger in PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import PERIODS_LOCK, Connection, connect, disconnect, translated
from gateway.ledger.postgres.loop_thread import LoopThread
from gateway.ledger.postgres.migrate import require_head
from gateway.ledger.postgres.partitions import create_partition, month_in, months_of
from gateway.ledger.postgres.sql import CLAIM_ATTEMPTS, KEEP_ROLLUPS, STAGE, STAGED, TAKE, numbered
from gateway.ledger.rollups import Dialect
from gateway.ledger.rows import Row
from gateway.ledger.tables import ALL_COLUMNS

# Rebuilding a year takes minutes. The wait for the lock stays as short as everywhere.
ANSWER_SECONDS = 3600.0
_SETTINGS = {"statement_timeout": f"{ANSWER_SECONDS:.0f}s", "idle_in_transaction_session_timeout": "600s"}
_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_record'::regclass"


class PostgresTransaction:
    """One open transaction of maintenance."""

    dialect: Dialect = "postgresql"

    def __init__(self, loop: LoopThread, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._loop.run(self._connection.fetch(numbered(statement), *values))]

    def add(self, rows: Sequence[Row]) -> None:
        for month in months_of(rows):
            self.run(create_partition(month))
        copy = self._connection.copy_records_to_table(STAGED, records=rows, columns=ALL_COLUMNS)
        self._loop.run(copy)
        for statement in (CLAIM_ATTEMPTS, TAKE, *KEEP_ROLLUPS, f"TRUNCATE {STAGED}"):
            self.run(statement)

    def lock(self, number: int) -> None:
        self.run("SELECT pg_advisory_xact_lock(?)", number)

    def drop_partitions(self, before: int) -> int:
        rows = 0
        for (name,) in self.run(_PARTITIONS):
            if month_in(name).following.starts <= before:
                ((held,),) = self.run(f"SELECT count(*) FROM {name}")  # noqa: S608  # from the catalogue
                self.run(f"DROP TABLE {name}")
                rows += held
        return rows


class PostgresMaintenance:
    """Its transactions follow each other on one connection."""

    def __init__(self, loop: LoopThread, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection

    @contextmanager
    def begin(self, *, exclusive: bool = True) -> Iterator[PostgresTransaction]:
        transaction = self._connection.transaction()
        self._loop.run(transaction.start())
        try:
            one = PostgresTransaction(self._loop, self._connection)
            if exclusive:
                one.lock(PERIODS_LOCK)
            yield one
        except BaseException:
            self._loop.run(transaction.rollback())
            raise
        self._loop.run(transaction.commit())

    def delete_rows(self, before: int) -> int:
        # Not exclusive: writers never touch these rows any more. Attempts of dropped months go here too.
        with self.begin(exclusive=False) as transaction:
            transaction.run("DELETE FROM usage_attempt WHERE at < ?", before)
            return len(transaction.run("DELETE FROM usage_record WHERE at < ? RETURNING 1", before))


@contextmanager
def postgres_maintenance(
    address: PostgresAddress, *, is_quick: bool = False
) -> Iterator[PostgresMaintenance]:
    """Raises LedgerUnavailable."""
    with LoopThread() as loop, translated(address):
        connecting = (
            connect(address)
            if is_quick
            else connect(address, settings=_SETTINGS, answer_seconds=ANSWER_SECONDS)
        )
        connection = loop.run(connecting)
        try:
            loop.run(require_head(connection, address))
            for statement in STAGE:
                loop.run(connection.execute(statement))
            yield PostgresMaintenance(loop, connection)
        finally:
            loop.run(disconnect(connection))
