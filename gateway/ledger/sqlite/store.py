"""The `RowStore` in an SQLite file: one connection, on one thread of its own.

The thread is there for the file system, which may take its time: the process goes on answering meanwhile.
"""

import asyncio
import concurrent.futures
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, CursorResult
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError

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
from gateway.ledger.periods import DATE_LATE_ROWS, PRUNED, SELECT_BOUNDS, PeriodBounds
from gateway.ledger.positions import ADVANCE, BEGIN, COMMITTED, FORGET, committed_in
from gateway.ledger.refused_requests import INSERT_REFUSED, refused_values
from gateway.ledger.rollups import KEEP_ON_SQLITE, prepare_sqlite
from gateway.ledger.rows import Row, careful_row
from gateway.ledger.sqlite.engine import create_folder, open_writer, unavailable
from gateway.ledger.sqlite.migrate import upgrade_file
from gateway.ledger.sqlite.open_file import OpenFile
from gateway.ledger.tables import COLUMNS, usage_record

STATEMENT_VALUES = 32_766  # that SQLite takes as it comes; some distributions allow more
STATEMENT_ROWS = STATEMENT_VALUES // len(COLUMNS)
SLICE_ROWS = 4 * STATEMENT_ROWS
CLOSE_TIMEOUT_SECONDS = 2.0

T = TypeVar("T")
Run: TypeAlias = Callable[..., CursorResult[Any]]
Insert: TypeAlias = Callable[[Run, Sequence[Row]], list[RefusedRow]]

# The row itself is at fault, and would be again.
ROW_FAULTS = (
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
        self._file = OpenFile(path)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def open(self) -> None:
        """Create or migrate the file, and connect."""
        await self._on_thread(self._connected)

    async def write(self, batch: Batch) -> None:
        await self._on_thread(lambda: self._write(batch))

    async def committed(self, worker: str) -> int:
        return await self._on_thread(lambda: self._run(lambda run: committed_in(run(COMMITTED, (worker,)))))

    async def forget(self, worker: str) -> None:
        await self._on_thread(lambda: self._run(lambda run: run(FORGET, (worker,))))

    async def check(self) -> None:
        await self._on_thread(self._file.check)

    async def close(self) -> None:
        """Disconnect for good. A thread stuck in the file system is left behind after two seconds."""
        if self._closed:
            return
        self._closed = True
        job = asyncio.wrap_future(self._thread.submit(self._disconnect))
        await asyncio.wait({job}, timeout=CLOSE_TIMEOUT_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        waiter = asyncio.wrap_future(self._thread.submit(work))
        try:
            await asyncio.wait({waiter})
            return waiter.result()
        finally:
            waiter.cancel()  # nobody is left to hear of a failure when this call was cancelled

    def _write(self, batch: Batch) -> None:
        try:
            self._commit(batch, _insert_over)
        except ROW_FAULTS:
            self._commit(batch, _insert_one_by_one)

    def _commit(self, batch: Batch, insert: Insert) -> None:
        """Commit `batch`. Raises RowsRefused and JournalMoved."""
        trail, draft = self._trail, None

        def transact(run: Run) -> None:
            nonlocal draft
            for advance in batch.advances:
                _advance(run, advance)
            if batch.rows and (refused := insert(run, batch.rows)):
                raise RowsRefused(refused)
            if batch.refused:
                run(INSERT_REFUSED, [refused_values(one) for one in batch.refused])
            if trail is not None:
                draft = _keep_receipts(run, trail, batch)
                trail.pledge(draft)

        self._run(transact)
        if trail is not None and draft is not None:
            trail.adopt(draft)

    def _run(self, transact: Callable[[Run], T]) -> T:
        """What `transact` returns, in a transaction."""
        if self._file.has_lost_log:
            self._disconnect()  # which puts what is there into the database; the next connection has a log
        connection = self._connected()
        self._file.check()
        try:
            with connection.begin():
                found = transact(connection.exec_driver_sql)
            self._file.note()
            return found
        except ROW_FAULTS:
            raise
        except SQLAlchemyError as exc:
            self._disconnect()
            raise unavailable(self._path, exc) from exc

    def _connected(self) -> Connection:
        """The connection, made anew after a failure. Raises LedgerUnavailable."""
        if self._connection is None:
            self._file.check()
            try:
                create_folder(self._path)
                upgrade_file(self._path)
                self._connection = with_rollup_trigger(self._engine.connect())
            except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
                self._disconnect()
                raise unavailable(self._path, exc) from exc
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._file.forget_log()
        if connection is not None:
            connection.invalidate()  # closes without the rollback that a broken disk would refuse too
            connection.close()


def _insert_over(run: Run, rows: Sequence[Row]) -> list[RefusedRow]:
    """Insert `rows`, but for those of a pruned period, which are returned."""
    closed, pruned, newest = tuple(run(STATE).one())
    bounds = PeriodBounds(closed, pruned)
    kept = rows if pruned is None else [row for row in rows if bounds.takes(row)]
    whole = len(kept) - len(kept) % STATEMENT_ROWS
    for start in range(0, whole, STATEMENT_ROWS):
        run(INSERT_MANY, tuple(chain.from_iterable(kept[start : start + STATEMENT_ROWS])))
    if whole < len(kept):
        run(INSERT_ROW, list(kept[whole:]))
    # Whatever was inserted stands after the newest row of before: this transaction holds the only write lock.
    if bounds.late(kept):
        run(DATE_LATE, (closed, closed, newest))
    run(KEEP_ON_SQLITE, (newest,))
    return [] if pruned is None else [RefusedRow(row, PRUNED) for row in rows if not bounds.takes(row)]


def _insert_one_by_one(run: Run, rows: Sequence[Row]) -> list[RefusedRow]:
    """As `_insert_over`, when one of `rows` is at fault: those that can never be kept come back."""
    refused = []
    for row in rows:
        run("SAVEPOINT one")
        try:
            refused += [RefusedRow(row, reason) for _, reason in _insert_over(run, [careful_row(row)])]
        except ROW_FAULTS as exc:
            run("ROLLBACK TO one")
            refused.append(RefusedRow(row, f"{type(exc).__name__}: {exc}"))
        run("RELEASE one")
    return refused


def _advance(run: Run, advance: Advance) -> None:
    """Raises JournalMoved."""
    worker, before, after = advance
    if run(ADVANCE, (after, worker, before)).rowcount:
        return
    if before or not run(BEGIN, (worker, after)).rowcount:
        raise JournalMoved


def _keep_receipts(run: Run, trail: AuditTrail, batch: Batch) -> Draft:
    """Raises LedgerUnavailable when the chain in the database has come further than `trail` knows."""
    draft = trail.draft(batch.rows, run(HEADS).all() if trail.needs_heads else (), batch.notes)
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


def _insert_many() -> str:
    one = f"({', '.join('?' * len(COLUMNS))})"
    return INSERT_ROW.replace(one, ", ".join([one] * STATEMENT_ROWS))


INSERT_ROW = _insert_row()
INSERT_MANY = _insert_many()
DATE_LATE = DATE_LATE_ROWS.format(rows="usage_record", open="?") + " AND rowid > ?"
STATE = f"{SELECT_BOUNDS}, (SELECT coalesce(max(rowid), 0) FROM usage_record)"  # noqa: S608
