"""`Upkeep` of a ledger in PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.ledger.address import PostgresAddress
from gateway.ledger.months import create_partition, months_of
from gateway.ledger.postgres.connection import (
    PERIODS_LOCK,
    Connection,
    connect,
    disconnect,
    require_head,
    translated,
)
from gateway.ledger.postgres.sql import CLAIM_ATTEMPTS, KEEP_ROLLUPS, STAGE, STAGED, TAKE, numbered
from gateway.ledger.reading import OwnLoop
from gateway.ledger.rollups import Dialect
from gateway.ledger.rows import Row
from gateway.ledger.tables import ALL_COLUMNS
from gateway.ledger.upkeep import Begin

# Rebuilding a year takes minutes. The wait for the lock stays as short as everywhere.
ANSWER_SECONDS = 3600.0
_SETTINGS = {"statement_timeout": f"{ANSWER_SECONDS:.0f}s", "idle_in_transaction_session_timeout": "600s"}


class PostgresUpkeep:
    dialect: Dialect = "postgresql"

    def __init__(self, loop: OwnLoop, connection: Connection) -> None:
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


@contextmanager
def postgres_upkeep(address: PostgresAddress, *, is_quick: bool = False) -> Iterator[Begin]:
    """Raises LedgerUnavailable."""
    with OwnLoop() as loop, translated(address):
        connecting = (
            connect(address)
            if is_quick
            else connect(address, settings=_SETTINGS, answer_seconds=ANSWER_SECONDS)
        )
        connection = loop.run(connecting)

        @contextmanager
        def begin(*, alone: bool = True) -> Iterator[PostgresUpkeep]:
            transaction = connection.transaction()
            loop.run(transaction.start())
            try:
                one = PostgresUpkeep(loop, connection)
                if alone:
                    one.run("SELECT pg_advisory_xact_lock(?)", PERIODS_LOCK)
                yield one
            except BaseException:
                loop.run(transaction.rollback())
                raise
            loop.run(transaction.commit())

        try:
            loop.run(require_head(connection, address))
            for statement in STAGE:
                loop.run(connection.execute(statement))
            yield begin
        finally:
            loop.run(disconnect(connection))
