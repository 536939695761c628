"""The ledger in PostgreSQL: one connection, on the event loop of the writer's process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import asyncpg

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
from gateway.ledger.database import Advance, Batch, JournalMoved, RefusedRow, RowsRefused
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.periods import PRUNED, SELECT_BOUNDS, PeriodBounds
from gateway.ledger.positions import ADVANCE, BEGIN, COMMITTED, FORGET, committed_in
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
from gateway.ledger.refused_requests import INSERT_REFUSED, refused_values
from gateway.ledger.rows import ATTEMPT_ID, Row, careful_row
from gateway.ledger.tables import COLUMNS

SLICE_ROWS = 2560
ANSWER_SECONDS = 15.0  # then readyz says that the database does not answer
SLICE_SECONDS = 60.0  # for one whole transaction, whatever its statements take by themselves

# What leaves the connection in order: the fault of a row, or of a batch.
UNDONE = (*ROW_FAULTS, RowsRefused, JournalMoved)

Insert: TypeAlias = Callable[[Connection, Sequence[Row]], Awaitable[list[RefusedRow]]]


class PostgresStore:
    """The `RowStore` in a PostgreSQL database. It connects anew after a failure."""

    slice_rows = SLICE_ROWS

    def __init__(self, address: PostgresAddress, trail: AuditTrail | None = None) -> None:
        """With a `trail` each transaction also holds the receipts of its rows."""
        self._address = address
        self._trail = trail
        self._connection: Connection | None = None
        self._partitions: set[Month] = set()
        self._turn = asyncio.Lock()  # a connection answers one question after the other

    async def open(self) -> None:
        """Connect, and make or migrate the tables."""
        async with self._turn:
            await self._connected()

    async def write(self, batch: Batch) -> None:
        async with self._turn:
            try:
                await self._write(batch, self._insert_over)
            except ROW_FAULTS:
                await self._write(batch, self._insert_one_by_one)

    async def committed(self, worker: str) -> int:
        async with self._turn:
            connection = await self._connected()
            with self._watched():
                return committed_in(await connection.fetch(numbered(COMMITTED), worker))

    async def forget(self, worker: str) -> None:
        async with self._turn:
            connection = await self._connected()
            with self._watched():
                await connection.execute(numbered(FORGET), worker)

    async def check(self) -> None:
        """Its files are the server's own business."""

    async def close(self) -> None:
        """Disconnect, within seconds even when the server does not answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await disconnect(connection)

    async def _write(self, batch: Batch, insert: Insert) -> None:
        """Commit `batch`. Raises RowsRefused and JournalMoved."""
        connection = await self._connected()
        with self._watched():
            async with asyncio.timeout(SLICE_SECONDS):
                await self._commit(connection, batch, insert)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Whatever fails but by one of UNDONE ends the connection.

        A cancelled statement too leaves it in an unknown state.
        """
        try:
            with translated(self._address):
                yield
        except UNDONE:
            raise
        except BaseException:
            self._abandon()
            raise

    async def _commit(self, connection: Connection, batch: Batch, insert: Insert) -> None:
        if batch.rows:
            await self._make_partitions(connection, batch.rows)
        draft = None
        async with _transaction(connection):
            for advance in batch.advances:
                await _advance(connection, advance)
            if batch.rows and (refused := await insert(connection, batch.rows)):
                raise RowsRefused(refused)
            if batch.refused:
                values = [refused_values(one) for one in batch.refused]
                await connection.executemany(numbered(INSERT_REFUSED), values)
            if self._trail is not None:
                draft = await _keep_receipts(connection, self._trail, batch)
                self._trail.pledge(draft)
        if self._trail is not None and draft is not None:
            self._trail.adopt(draft)

    async def _insert_over(self, connection: Connection, rows: Sequence[Row]) -> list[RefusedRow]:
        """Insert `rows`, but for those of a pruned period, which are returned."""
        await connection.execute("SELECT pg_advisory_xact_lock_shared($1)", PERIODS_LOCK)
        bounds = PeriodBounds(*await connection.fetchrow(SELECT_BOUNDS) or (None, None))
        fresh: dict[object, Row] = {}
        for row in rows:
            if bounds.takes(row):
                fresh.setdefault(row[ATTEMPT_ID], row)
        await connection.copy_records_to_table(STAGED, records=fresh.values(), columns=COLUMNS)
        await connection.execute(CLAIM_ATTEMPTS)
        if bounds.closed is not None and bounds.late(rows):
            await connection.execute(create_partition(month_of(bounds.closed)))
            await connection.execute(DATE_LATE, bounds.closed)
        await connection.execute(TAKE)
        for statement in KEEP_ROLLUPS:
            await connection.execute(statement)
        return [RefusedRow(row, PRUNED) for row in rows if not bounds.takes(row)]

    async def _insert_one_by_one(self, connection: Connection, rows: Sequence[Row]) -> list[RefusedRow]:
        """As `_insert_over`, when one of `rows` is at fault: those that can never be kept come back."""
        refused = []
        for row in rows:
            try:
                async with connection.transaction():  # a savepoint
                    found = await self._insert_over(connection, [careful_row(row)])
                    refused += [RefusedRow(row, reason) for _, reason in found]
                    await connection.execute(f"DELETE FROM {STAGED}")  # noqa: S608
            except ROW_FAULTS as exc:
                refused.append(RefusedRow(row, f"{type(exc).__name__}: {cause(exc)}"))
        return refused

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
    """A transaction that waits for no rollback but after one of UNDONE.

    Whatever else goes wrong ends the connection, and with it the transaction. asyncpg's own would first ask a
    server to undo that may be silent, and turn the cancellation of a stop into a failure to be tried again.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except UNDONE:
        await transaction.rollback()
        raise
    await transaction.commit()


async def _advance(connection: Connection, advance: Advance) -> None:
    """Raises JournalMoved."""
    worker, before, after = advance
    if await connection.execute(numbered(ADVANCE), after, worker, before) == "UPDATE 1":
        return
    if before or await connection.execute(numbered(BEGIN), worker, after) != "INSERT 0 1":
        raise JournalMoved


async def _keep_receipts(connection: Connection, trail: AuditTrail, batch: Batch) -> Draft:
    """Raises LedgerUnavailable when a commit that was given up has reached the chain just now."""
    heads = [tuple(head) for head in await connection.fetch(HEADS)] if trail.needs_heads else []
    draft = trail.draft(batch.rows, heads, batch.notes)
    try:
        for entry in draft.entries:
            await connection.execute(numbered(INSERT_ENTRY), *entry_values(entry))
    except asyncpg.UniqueViolationError as exc:  # no fault of the rows: none of them may be refused for it
        raise LedgerUnavailable(CHAIN_MOVED) from exc
    if draft.entries:
        await connection.execute(numbered(SET_HEAD), *head_values(draft.head))
    return draft
