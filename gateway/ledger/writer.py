"""What waits to be committed, and the task that commits it, in the process of the ledger's writer.

Entries stay in the queue until they are committed: whatever fails in between, nothing is lost and the order
is kept. What a stop leaves uncommitted is in the journals that it came from.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from gateway.core.histogram import Histogram
from gateway.core.refused_request import RefusedRequest
from gateway.ledger.database import Advance, Batch, JournalMoved, RefusedRow, RowsRefused, RowStore
from gateway.ledger.errors import LedgerDiskFull, LedgerUnavailable, LedgerUnusable
from gateway.ledger.journal.frames import Note, Told
from gateway.ledger.journal.tail import LedgerEntry
from gateway.ledger.process.telemetry import COMMIT_SECONDS
from gateway.ledger.rows import ATTEMPT_ID, Row
from gateway.ledger.spill import Spill
from gateway.supervised import SupervisedTask, TaskRegistry

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0  # between two looks at a store to which nothing is written
QUEUED_SLICES = 2  # what is read ahead of the slice that is being written


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the writer."""

    linger_seconds: float = 0.2  # what gathers in this time is written together
    retry_seconds: float = 0.05  # the first wait after a failure; doubles up to the ceiling
    retry_ceiling_seconds: float = 1.0
    close_timeout_seconds: float = 5.0


class JournalPosition:
    """How far the journal of `worker` is in the ledger, as far as is known here.

    `queued` of its entries wait. There is one position for each worker, or a number would advance twice.
    """

    __slots__ = ("committed", "queued", "worker")

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.committed = 0
        self.queued = 0


class _Queued(NamedTuple):
    """`position` is that of the journal in which the entry has a `number`."""

    row: Row | None
    told: Told | None
    number: int
    position: JournalPosition | None


class LedgerWriter:
    """A queue over a store, on one event loop.

    Many attributes: the queue, whoever waits for it, and why the store does not take what is in it.
    """

    def __init__(
        self,
        store: RowStore,
        spill: Spill,
        limits: WriterLimits | None = None,
        tasks: TaskRegistry | None = None,
        *,
        fill: Callable[[int], Awaitable[None]] | None = None,
        committed: Callable[[], None] | None = None,
    ) -> None:
        """`fill` is asked to `put` at most so many entries, again and again.

        `committed` is called after each commit, and when that begins or ends to fail. `tasks` hears of a loop
        that fails.
        """
        self._store = store
        self._spill = spill
        self._limits = limits or WriterLimits()
        self._fill = fill
        self._on_commit = committed
        self._pending: list[_Queued] = []  # oldest first, the slice that is being written included
        self.commits = Histogram(COMMIT_SECONDS)  # how long they took
        self._put = 0
        self._done = 0
        self._hurry = asyncio.Event()
        self._progress: asyncio.Future[None] | None = None
        self._failure: LedgerUnavailable | None = None
        self._look_is_due = 0.0  # monotonic seconds
        self._seen: LedgerUnavailable | None = None  # the failure that the latest look has found
        self._closed = False
        self._loop = SupervisedTask(
            "ledger-writer",
            self._turn,
            tasks or TaskRegistry(),
            is_essential=True,
            longest_pause_seconds=self._limits.retry_ceiling_seconds,
        )

    async def start(self) -> None:
        """Open the store, put into it what a stop of release 0.1.0 left in files, and begin to write.

        Raises LedgerUnavailable when the store cannot be opened; it may then be called again, or `close`.
        Raises LedgerUnusable after `close`: it would take rows and write none.
        """
        if self._closed:
            raise LedgerUnusable(self.problem() or "ledger: the writer was closed")
        try:
            await self._store.open()
            await self._replay_files()
        except LedgerUnavailable as exc:
            self._failure = exc
            self._announce_progress()
            raise
        self._failure = None
        self.begin()

    def begin(self) -> None:
        """Write what comes, whether the store can be opened now or not. Does nothing the second time."""
        self._loop.start()

    def put(self, entries: Iterable[LedgerEntry], position: JournalPosition | None = None) -> None:
        """Queue `entries` of the journal at `position`, or of none."""
        queued = [
            _Queued(row, told, number or 0, position if number else None) for row, told, number in entries
        ]
        self._pending += queued
        self._put += len(queued)
        for one in queued:
            if one.position is not None:
                one.position.queued += 1

    def has_room(self) -> bool:
        """False while more waits than should be in memory."""
        return len(self._pending) < QUEUED_SLICES * self._store.slice_rows

    async def wait_for_room(self) -> None:
        """Return once there is room. Raises LedgerUnavailable when nothing is written any more."""
        self._hurry.set()
        while not self.has_room():
            await self._next_commit()

    async def flush(self) -> None:
        """Return once everything that was put so far is committed, however long that takes.

        Raises LedgerUnavailable when the writer was stopped or fails by a defect, now or meanwhile.
        """
        goal = self._put
        self._hurry.set()
        while self._done < goal:
            await self._next_commit()

    async def advance(self, is_there: Callable[[], bool]) -> None:
        """Return once `is_there`, which is asked after each commit. Raises as `flush`."""
        self._hurry.set()
        while not is_there():
            await self._next_commit()

    async def close(self) -> None:
        """Flush and stop. What the store has not taken in time stays where it came from."""
        if self._closed:
            return
        try:
            async with asyncio.timeout(self._limits.close_timeout_seconds):
                await self.flush()
        except (TimeoutError, LedgerUnavailable):
            pass
        finally:
            self._closed = True
            await self._loop.close()
            self._announce_progress()
            await self._store.close()

    def lag_rows(self) -> int:
        """Entries put and not yet committed."""
        return len(self._pending)

    def problem(self) -> str | None:
        """Why the store does not take rows, None while it does."""
        if self._failure is not None:
            return str(self._failure)
        return self._why_nothing_is_written() if self._loop.error is not None else None

    def is_disk_full(self) -> bool:
        """Whether that is because there is no room on the store's disk."""
        return isinstance(self._failure, LedgerDiskFull)

    def defect(self) -> str | None:
        """Why waiting for a commit is of no use now."""
        return self._why_nothing_is_written()

    async def _turn(self) -> None:
        await self._linger()
        try:
            await self._gather()
            size = self._store.slice_rows
            while self._pending:
                await self._write_slice(self._pending[:size])
                await self._gather()
                if len(self._pending) < size and not self._hurry.is_set():
                    return  # a part of a slice waits until it is part of a cheaper one
            await self._look()
        except Exception:
            self._announce_progress()  # whoever waits learns that there will be none for now
            raise

    async def _look(self) -> None:
        """Notice also without a commit that the store would lose what is written."""
        if (now := time.monotonic()) < self._look_is_due:
            return
        self._look_is_due = now + LOOK_SECONDS
        try:
            await self._store.check()
        except LedgerUnavailable as exc:
            self._note_failure(exc)
            self._seen = exc
        else:
            if self._failure is not None and self._failure is self._seen:
                self._note_success()
                self._announce_progress()

    def _why_nothing_is_written(self) -> str | None:
        if not self._loop.is_running:
            return "ledger: the writer has stopped; what is not committed stays in the journal"
        if self._loop.error is not None:
            return f"ledger: the writer fails ({self._loop.error}); the log says why, it is tried again"
        return None

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(self._limits.linger_seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _gather(self) -> None:
        if self._fill is None:
            return
        pause = self._limits.retry_seconds
        while (room := QUEUED_SLICES * self._store.slice_rows - len(self._pending)) > 0:
            try:
                await self._fill(room)
            except LedgerUnavailable as exc:  # it asks the store where a journal begins
                self._note_failure(exc)
                pause = await self._back_off(pause)
            else:
                self._announce_progress()  # what was asked for may be there already
                return

    async def _write_slice(self, queued: list[_Queued]) -> None:
        pause = self._limits.retry_seconds
        while not await self._try_write(queued):
            pause = await self._back_off(pause)
            queued = self._pending[: self._store.slice_rows]

    async def _back_off(self, pause: float) -> float:
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers, hides nothing
        return min(2 * pause, self._limits.retry_ceiling_seconds)

    async def _try_write(self, queued: list[_Queued]) -> bool:
        batch, moves = _batch_of(queued)
        try:
            try:
                began = time.monotonic()
                await self._store.write(batch)
                self.commits.observe(time.monotonic() - began)
            except JournalMoved:
                await self._look_again(moves)
                return not self._pending
            except RowsRefused as exc:
                await self._put_aside(exc.refused)
                return False
        except LedgerUnavailable as exc:
            self._note_failure(exc)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from exc  # a driver may make a failure of it: stop all the same
            return False
        self._note_success()
        for position, number in moves.items():
            position.committed = number
        self._drop(queued, self._pending[len(queued) :])
        return True

    async def _put_aside(self, refused: Sequence[RefusedRow]) -> None:
        """Keep rows in a file that no database takes. The others are committed after that.

        In this order: once they are, no journal has the row any more. Raises LedgerUnavailable.
        """
        for row, reason in refused:
            path = await asyncio.to_thread(self._spill.refuse, row, reason)
            log.error("ledger.row_refused", attempt=str(row[ATTEMPT_ID]), reason=reason, file=str(path))
            self._pending = [one._replace(row=None) if one.row is row else one for one in self._pending]

    async def _look_again(self, moves: Iterable[JournalPosition]) -> None:
        """A commit in doubt was carried out, or another writer has brought in a part of a journal."""
        for position in moves:
            position.committed = await self._store.committed(position.worker)
        self._note_success()
        kept = [one for one in self._pending if one.position is None or one.number > one.position.committed]
        there = [
            one for one in self._pending if one.position is not None and one.number <= one.position.committed
        ]
        self._drop(there, kept)

    def _drop(self, done: Sequence[_Queued], rest: list[_Queued]) -> None:
        """`done` are in the ledger, `rest` wait."""
        self._pending = rest
        self._done += len(done)
        for one in done:
            if one.position is not None:
                one.position.queued -= 1
        self._announce_progress()

    def _note_failure(self, failure: LedgerUnavailable) -> None:
        before, self._failure = self._failure, failure
        if before is None:  # one line for each change of state, not for each try
            log.error("ledger.write_failed", problem=str(failure), rows=len(self._pending))
        if type(before) is not type(failure):
            self._announce_progress()

    def _note_success(self) -> None:
        if self._failure is not None:
            log.info("ledger.write_recovered", rows=len(self._pending))
        self._failure = None

    async def _next_commit(self) -> None:
        """Wait until something was committed. Raises LedgerUnavailable when that will not happen."""
        if (why := self._why_nothing_is_written()) is not None:
            raise LedgerUnavailable(why)
        # One future serves everyone who waits.
        if self._progress is None or self._progress.done():
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._progress)

    def _announce_progress(self) -> None:
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)
        if self._on_commit is not None:
            self._on_commit()

    # --- files of release 0.1.0 ---

    async def _replay_files(self) -> None:
        for path in await asyncio.to_thread(self._spill.files):
            await self._replay_file(path)

    async def _replay_file(self, path: Path) -> None:
        unreadable: list[str] = []
        rows = self._spill.rows(path, unreadable)
        count = 0
        while rows_read := list(islice(rows, self._store.slice_rows)):
            try:
                await self._store.write(Batch(rows_read))
            except RowsRefused as exc:
                unreadable += (repr(row) for row, _ in exc.refused)
                rows_read = exc.others(rows_read)
                await self._store.write(Batch(rows_read))
            count += len(rows_read)
        self._spill.done(path, unreadable)
        log.info("ledger.replayed", rows=count, unreadable=len(unreadable), file=str(path))


def _batch_of(queued: Sequence[_Queued]) -> tuple[Batch, dict[JournalPosition, int]]:
    """What one transaction takes, and how far each journal then is."""
    rows = [one.row for one in queued if one.row is not None]
    notes = [one.told for one in queued if isinstance(one.told, Note)]
    refused = [one.told for one in queued if isinstance(one.told, RefusedRequest)]
    moves: dict[JournalPosition, int] = {}
    for one in queued:
        if one.position is not None:
            moves[one.position] = one.number
    advances = [Advance(position.worker, position.committed, number) for position, number in moves.items()]
    return Batch(rows, notes, advances, refused), moves
