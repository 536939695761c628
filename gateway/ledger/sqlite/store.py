"""The `RowStore` in an SQLite file: one connection, on one thread of its own.

Why the shape is as it is, measured with an event loop that is never idle, on one core and on two:
- `executemany` gives the interpreter lock back once per row, and each time the event loop takes it first. One
  statement for a whole slice gives it back once.
- With a second core the event loop takes the lock back before the writer has woken up, every time: the queue
  grows without end. So when a slice takes longer than it should, the loop stands aside for a moment, and then
  ever more rarely, because the reason may also be a slow disk, which no waiting speeds up.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError

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
from gateway.ledger.periods import DATE_LATE_ROWS, PRUNED, SELECT_BOUNDS, PeriodBounds
from gateway.ledger.rollups import KEEP_ON_SQLITE, prepare_sqlite
from gateway.ledger.rows import Row, careful_row_of, row_of
from gateway.ledger.sqlite.engine import create_folder, open_writer, unavailable
from gateway.ledger.sqlite.migrate import upgrade_file
from gateway.ledger.tables import COLUMNS, usage_record

SLICE_ROWS = 640  # 2 ms with the interpreter lock, 6 ms in SQLite without it
GRACE_SECONDS = 0.002
GRACE_CEILING_SECONDS = 0.256
STAND_ASIDE_SECONDS = 0.001
CLOSE_TIMEOUT_SECONDS = 2.0

T = TypeVar("T")

# The row itself is at fault, and would be again.
_ROW_FAULTS = (
    IntegrityError,
    DataError,
    InterfaceError,
    ProgrammingError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class SqliteStore:
    """The ledger in an SQLite file. Everything but the waiting happens on one dedicated thread."""

    slice_rows = SLICE_ROWS

    def __init__(
        self, path: Path, trail: AuditTrail | None = None, *, sync_each_commit: bool = False
    ) -> None:
        """With a `trail` each transaction also holds the receipts of its rows."""
        self._path = path
        self._trail = trail
        self._engine = open_writer(path, sync_each_commit=sync_each_commit)
        self._connection: Connection | None = None
        self._closed = False
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def open(self) -> None:
        """Create or migrate the file, and connect."""
        await self._on_thread(self._connected)

    async def write(self, records: Sequence[UsageRecord]) -> list[RefusedRow]:
        return await self._on_thread(lambda: self._write(records))

    async def replay(self, rows: Sequence[Row]) -> list[Row]:
        return await self._on_thread(lambda: self._replay(rows))

    async def close(self) -> None:
        """Disconnect for good. A thread stuck in the file system is left behind after two seconds."""
        if self._closed:
            return
        self._closed = True
        job = asyncio.wrap_future(self._thread.submit(self._disconnect))
        await asyncio.wait({job}, timeout=CLOSE_TIMEOUT_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread, standing aside for it when the event loop has kept it from running."""
        job = self._thread.submit(work)
        waiter = asyncio.wrap_future(job)
        grace = GRACE_SECONDS
        try:
            while True:
                await asyncio.wait({waiter}, timeout=grace)
                if waiter.done():
                    return waiter.result()
                concurrent.futures.wait({job}, timeout=STAND_ASIDE_SECONDS)
                grace = min(2 * grace, GRACE_CEILING_SECONDS)
        finally:
            waiter.cancel()  # nobody is left to hear of a failure when this call was cancelled

    def _write(self, records: Sequence[UsageRecord]) -> list[RefusedRow]:
        try:
            kept_out = self._insert([row_of(record) for record in records])
        except _ROW_FAULTS:
            return self._write_one_by_one(records)
        return [RefusedRow(records[position], PRUNED) for position in kept_out]

    def _write_one_by_one(self, records: Sequence[UsageRecord]) -> list[RefusedRow]:
        refused = []
        for record in records:
            try:
                if self._insert([careful_row_of(record)]):
                    refused.append(RefusedRow(record, PRUNED))
            except _ROW_FAULTS as exc:
                refused.append(RefusedRow(record, f"{type(exc).__name__}: {exc}"))
        return refused

    def _replay(self, rows: Sequence[Row]) -> list[Row]:
        try:
            return [rows[position] for position in self._insert(rows)]
        except _ROW_FAULTS:
            return [row for row in rows if not self._is_kept(row)]

    def _is_kept(self, row: Row) -> bool:
        try:
            return not self._insert([row])
        except _ROW_FAULTS:
            return False

    def _insert(self, rows: Sequence[Row]) -> list[int]:
        """Commit all of `rows`, but for those of a pruned period, whose positions are returned."""
        connection = self._connected()
        try:
            with connection.begin():
                kept_out = _insert_over(connection, rows) if rows else []
                draft = None if self._trail is None else _keep_receipts(connection, self._trail, rows)
                if self._trail is not None and draft is not None:
                    self._trail.pledge(draft)
            if self._trail is not None and draft is not None:
                self._trail.adopt(draft)
            return kept_out
        except _ROW_FAULTS:
            raise
        except SQLAlchemyError as exc:
            self._disconnect()
            raise unavailable(self._path, exc) from exc

    def _connected(self) -> Connection:
        """The connection, made anew after a failure: the file may have been moved or replaced meanwhile."""
        if self._connection is None:
            try:
                create_folder(self._path)
                upgrade_file(self._path)
                self._connection = with_rollup_trigger(self._engine.connect())
            except (SQLAlchemyError, OSError) as exc:
                raise unavailable(self._path, exc) from exc
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # closes without the rollback that a broken disk would refuse too
            connection.close()


def _insert_over(connection: Connection, rows: Sequence[Row]) -> list[int]:
    run = connection.exec_driver_sql
    closed, pruned, newest = run(STATE).one()
    bounds = PeriodBounds(closed, pruned)
    kept = rows if pruned is None else [row for row in rows if bounds.takes(row)]
    if len(kept) == SLICE_ROWS:
        run(INSERT_SLICE, tuple(chain.from_iterable(kept)))
    elif kept:
        run(INSERT_ROW, list(kept))
    # Whatever was inserted stands after the newest row of before: this transaction holds the only write lock.
    if bounds.late(kept):
        run(DATE_LATE, (closed, closed, newest))
    run(KEEP_ON_SQLITE, (newest,))
    return [] if pruned is None else [n for n, row in enumerate(rows) if not bounds.takes(row)]


def _keep_receipts(connection: Connection, trail: AuditTrail, rows: Sequence[Row]) -> Draft:
    """Raises LedgerUnavailable when the chain in the database has come further than `trail` knows."""
    run = connection.exec_driver_sql
    draft = trail.draft(rows, run(HEADS).all() if trail.needs_heads else ())
    try:
        for entry in draft.entries:
            run(INSERT_ENTRY, entry_values(entry))
    except IntegrityError as exc:  # no fault of the rows: none of them may be refused for it
        raise LedgerUnavailable(CHAIN_MOVED) from exc
    if draft.entries:
        run(SET_HEAD, head_values(draft.head))
    return draft


def with_rollup_trigger(connection: Connection) -> Connection:
    """`connection` with what keeps the rollups. Only its own temporary tables: this takes no lock."""
    driver = connection.connection.dbapi_connection
    if driver is not None:
        cursor = driver.cursor()
        for statement in prepare_sqlite():
            cursor.execute(statement)
        cursor.close()
    return connection


def _insert_row() -> str:
    insert = sqlite.insert(usage_record).on_conflict_do_nothing(index_elements=[usage_record.c.attempt_id])
    return str(insert.compile(dialect=sqlite.dialect(paramstyle="qmark"), column_keys=COLUMNS))


def _insert_slice() -> str:
    one = f"({', '.join('?' * len(COLUMNS))})"
    return INSERT_ROW.replace(one, ", ".join([one] * SLICE_ROWS))


INSERT_ROW = _insert_row()
INSERT_SLICE = _insert_slice()
DATE_LATE = DATE_LATE_ROWS.format(rows="usage_record", open="?") + " AND rowid > ?"
STATE = f"{SELECT_BOUNDS}, (SELECT coalesce(max(rowid), 0) FROM usage_record)"  # noqa: S608
