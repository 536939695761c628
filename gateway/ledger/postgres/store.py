"""The ledger in PostgreSQL: one connection, on the event loop.

Slices are small enough that encoding one holds the loop up for a few milliseconds at most.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from gateway.core.record import UsageRecord
from gateway.ledger.audit.trail import (
    CHAIN_MOVED,
    HEADS,
    INSERT_ENTRY,
    SET_HEAD,
    AuditTrail,
    Draft,
    entry_values,
    head_values,
)
from gateway.ledger.database import RefusedRow
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.periods import PRUNED, SELECT_BOUNDS, PeriodBounds
from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import (
    MIGRATION_LOCK,
    PERIODS_LOCK,
    ROW_FAULTS,
    Connection,
    cause,
    connect,
    disconnect,
    translated,
)
from gateway.ledger.postgres.migrate import migrate
from gateway.ledger.postgres.partitions import Month, create_partition, month_of, months_of
from gateway.ledger.postgres.sql import (
    CLAIM_ATTEMPTS,
    DATE_LATE,
    DURABLE,
    KEEP_ROLLUPS,
    STAGE,
    STAGED,
    TAKE,
    numbered,
)
from gateway.ledger.rows import Row, careful_row_of, row_of
from gateway.ledger.tables import COLUMNS

SLICE_ROWS = 1024
ANSWER_SECONDS = 15.0  # then readyz says that the database does not answer
SLICE_SECONDS = 60.0  # for one whole transaction, whatever its statements take by themselves

_ID = COLUMNS.index("attempt_id")


class PostgresStore:
    """The `RowStore` in a PostgreSQL database. It connects anew after a failure."""

    slice_rows = SLICE_ROWS

    def __init__(self, address: PostgresAddress, trail: AuditTrail | None = None) -> None:
        """With a `trail` each transaction also holds the receipts of its rows."""
        self._address = address
        self._trail = trail
        self._connection: Connection | None = None
        self._partitions: set[Month] = set()

    async def open(self) -> None:
        """Connect, and make or migrate the tables."""
        await self._connected()

    async def write(self, records: Sequence[UsageRecord]) -> list[RefusedRow]:
        try:
            kept_out = await self._insert([row_of(record) for record in records])
        except ROW_FAULTS:
            return [refused for record in records if (refused := await self._write_one(record))]
        return [RefusedRow(records[position], PRUNED) for position in kept_out]

    async def replay(self, rows: Sequence[Row]) -> list[Row]:
        try:
            return [rows[position] for position in await self._insert(rows)]
        except ROW_FAULTS:
            return [row for row in rows if not await self._is_kept(row)]

    async def close(self) -> None:
        """Disconnect, within seconds even when the server does not answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await disconnect(connection)

    async def _write_one(self, record: UsageRecord) -> RefusedRow | None:
        try:
            kept_out = await self._insert([careful_row_of(record)])
        except ROW_FAULTS as exc:
            return RefusedRow(record, f"{type(exc).__name__}: {cause(exc)}")
        return RefusedRow(record, PRUNED) if kept_out else None

    async def _is_kept(self, row: Row) -> bool:
        try:
            return not await self._insert([row])
        except ROW_FAULTS:
            return False

    async def _insert(self, rows: Sequence[Row]) -> list[int]:
        """Commit all of `rows`, but for those of a pruned period, whose positions are returned."""
        connection = await self._connected()
        try:
            with translated(self._address):
                async with asyncio.timeout(SLICE_SECONDS):
                    return await self._commit(connection, rows)
        except ROW_FAULTS:
            raise
        except BaseException:  # a cancelled statement too leaves the connection in an unknown state
            self._abandon()
            raise

    async def _commit(self, connection: Connection, rows: Sequence[Row]) -> list[int]:
        if rows:
            await self._make_partitions(connection, rows)
        draft = None
        async with _transaction(connection):
            kept_out = await self._insert_over(connection, rows) if rows else []
            if self._trail is not None:
                draft = await _keep_receipts(connection, self._trail, rows)
                self._trail.pledge(draft)
        if self._trail is not None and draft is not None:
            self._trail.adopt(draft)
        return kept_out

    async def _insert_over(self, connection: Connection, rows: Sequence[Row]) -> list[int]:
        await connection.execute("SELECT pg_advisory_xact_lock_shared($1)", PERIODS_LOCK)
        bounds = PeriodBounds(*await connection.fetchrow(SELECT_BOUNDS) or (None, None))
        fresh: dict[object, Row] = {}
        for row in rows:
            if bounds.takes(row):
                fresh.setdefault(row[_ID], row)
        await connection.copy_records_to_table(STAGED, records=fresh.values(), columns=COLUMNS)
        await connection.execute(CLAIM_ATTEMPTS)
        if bounds.closed is not None and bounds.late(rows):
            await connection.execute(create_partition(month_of(bounds.closed)))
            await connection.execute(DATE_LATE, bounds.closed)
        await connection.execute(TAKE)
        for statement in KEEP_ROLLUPS:
            await connection.execute(statement)
        return [position for position, row in enumerate(rows) if not bounds.takes(row)]

    async def _make_partitions(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Make those of `rows` and of the month after, ahead and by itself: this locks the whole table."""
        missing = [month for month in months_of(rows) if month not in self._partitions]
        if not missing:
            return
        async with _transaction(connection):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            for month in missing:
                await connection.execute(create_partition(month))
        self._partitions.update(missing)

    async def _connected(self) -> Connection:
        """The connection, made anew after a failure."""
        if self._connection is None:
            connection = await connect(self._address, answer_seconds=ANSWER_SECONDS)
            try:
                with translated(self._address):
                    await migrate(connection, self._address)
                    for statement in (DURABLE, *STAGE):
                        await connection.execute(statement)
            except BaseException:
                connection.terminate()
                raise
            self._partitions.clear()  # it may be another database now, restored from a backup
            self._connection = connection
        return self._connection

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction that waits for no rollback but that of a row's fault.

    Whatever else goes wrong ends the connection, and with it the transaction. asyncpg's own would first ask a
    server to undo that may be silent, and turn the cancellation of a stop into a failure to be tried again.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except ROW_FAULTS:
        await transaction.rollback()
        raise
    await transaction.commit()


async def _keep_receipts(connection: Connection, trail: AuditTrail, rows: Sequence[Row]) -> Draft:
    """Raises LedgerUnavailable when a commit that was given up has reached the chain just now."""
    heads = [tuple(head) for head in await connection.fetch(HEADS)] if trail.needs_heads else []
    draft = trail.draft(rows, heads)
    try:
        for entry in draft.entries:
            await connection.execute(numbered(INSERT_ENTRY), *entry_values(entry))
    except asyncpg.UniqueViolationError as exc:  # no fault of the rows: none of them may be refused for it
        raise LedgerUnavailable(CHAIN_MOVED) from exc
    if draft.entries:
        await connection.execute(numbered(SET_HEAD), *head_values(draft.head))
    return draft
