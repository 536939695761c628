"""The ledger's queue and the task that empties it.

Every attempt goes through `append` on the hot path, so that is a list append and a look at a flag. Rows stay
in the queue until they are committed: whatever fails in between, nothing is lost and the order is kept.
"""

import asyncio
import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway.core.audit import EntryKind
from gateway.core.record import UsageRecord
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.database import RowStore
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.spill import Spill
from gateway.supervised import SupervisedTask, TaskRegistry

log = structlog.get_logger(__name__)


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the writer. A queued row takes about 1.2 KB."""

    queue_rows: int = 50_000
    linger_seconds: float = 0.05  # what gathers in this time is written together
    retry_seconds: float = 0.05  # the first wait after a failure; doubles up to the ceiling
    retry_ceiling_seconds: float = 1.0
    close_timeout_seconds: float = 5.0  # then the rest goes to the spill file


class LedgerWriter:
    """The `Ledger` port over a store. All methods are called on the event loop's thread.

    Many attributes: one queue has three who wait on it, which are appends, flushes and the task that writes.
    """

    def __init__(
        self,
        store: RowStore,
        spill: Spill,
        limits: WriterLimits | None = None,
        trail: AuditTrail | None = None,
        tasks: TaskRegistry | None = None,
    ) -> None:
        """`trail` is the one that `store` writes. `tasks` hears of a loop that fails."""
        self._store = store
        self._trail = trail
        self._spill = spill
        self._limits = limits or WriterLimits()
        self._pending: list[UsageRecord] = []  # oldest first, the slice that is being written included
        self._committed = 0
        self._paused_at: int | None = None  # rows beyond this number wait
        self._idle = False
        self._hurried = 0  # flushes under way
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._progress: asyncio.Future[None] | None = None
        self._problem: str | None = None
        self._closed = False
        self._loop = SupervisedTask(
            "ledger-writer",
            self._turn,
            tasks or TaskRegistry(),
            is_essential=True,
            longest_pause_seconds=self._limits.retry_ceiling_seconds,
        )

    async def start(self) -> None:
        """Open the store, replay what an earlier run could not save, and begin to write.

        Raises LedgerUnavailable when the store cannot be opened; it may then be called again, or `close`.
        Raises LedgerUnusable after `close`: it would take rows and write none.
        """
        if self._closed:
            raise LedgerUnusable(self._problem or "ledger: the writer was closed")
        try:
            await self._store.open()
            await self._replay()
        except LedgerUnavailable as exc:
            self._problem = str(exc)
            raise
        self._problem = None
        self._loop.start()

    def has_room(self) -> bool:
        """False while the queue stands at its bound."""
        return len(self._pending) < self._limits.queue_rows

    async def wait_for_room(self) -> None:
        """Return once the queue is below its bound."""
        while not self.has_room():
            await self._next_progress()

    def append(self, record: UsageRecord) -> None:
        """Take `record`. Never blocks and never drops, even at the bound.

        After `close` it does block, to put the record into a spill file. Raises LedgerUnavailable only then.
        """
        self._pending.append(record)
        if self._idle:
            self._rouse()

    def note(self, kind: EntryKind, particulars: Mapping[str, Any]) -> None:
        """Enter something that is no attempt into the audit log, if there is one."""
        if self._trail is not None:
            self._trail.note(kind, particulars)
            if self._idle and not self._closed:
                self._rouse()

    async def flush(self) -> None:
        """Return once everything appended or noted so far is committed, however long that takes.

        While commits are paused: everything appended before the pause.

        Raises LedgerUnavailable when the writer was stopped or fails by a defect, now or meanwhile.
        """
        goal = self._committed + self._writable()
        self._hurried += 1
        self._hurry.set()
        try:
            while self._committed < goal or self._has_notes():
                if (why := self._why_nothing_is_written()) is not None:
                    raise LedgerUnavailable(why)
                await self._next_progress()
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._hurry.clear()

    def pause_commits(self) -> None:
        """Commit nothing that is appended from now on; it waits in the queue until `resume_commits`."""
        self._paused_at = self._committed + len(self._pending)

    def resume_commits(self) -> None:
        """Commit what has waited, and what comes."""
        self._paused_at = None
        self._wake.set()

    async def close(self) -> None:
        """Flush and stop. What an unavailable store has not taken in time goes to the spill file.

        Raises LedgerUnavailable only when that file cannot be written either. Cancelling it shortens the wait
        for the store, and still saves every row.
        """
        if self._closed:
            return
        try:
            await self._drain()
        finally:
            await self._stop()
            self._tell_of_notes()
            try:
                await self._save_pending()
            finally:
                await self._store.close()

    def lag_rows(self) -> int:
        """Rows appended and not yet committed."""
        return len(self._pending)

    def problem(self) -> str | None:
        """Why the store does not take rows, None while it does."""
        if self._problem is None and self._loop.error is not None:
            return self._why_nothing_is_written()
        return self._problem

    async def _turn(self) -> None:
        await self._first_row()
        await self._linger()
        try:
            await self._write_gathered()
        except Exception:
            self._announce_progress()  # whoever waits learns that there will be none for now
            raise

    def _why_nothing_is_written(self) -> str | None:
        if not self._loop.is_running:
            return "ledger: the writer has stopped; unsaved rows go to the spill file"
        if self._loop.error is not None:
            return f"ledger: the writer fails ({self._loop.error}); the log says why, it is tried again"
        return None

    def _has_notes(self) -> bool:
        return self._trail is not None and bool(self._trail.notes)

    def _rouse(self) -> None:
        if self._closed:
            records = self._take_pending()
            try:
                self._save(records)
            except LedgerUnavailable:
                self._put_back(records)
                raise
        self._idle = self._closed  # a closed writer is roused by every row
        self._wake.set()

    async def _first_row(self) -> None:
        while not self._writable() and not self._has_notes():
            self._wake.clear()
            self._idle = True
            await self._wake.wait()

    def _writable(self) -> int:
        """How many rows of the queue may be committed now."""
        if self._paused_at is None:
            return len(self._pending)
        return min(self._paused_at - self._committed, len(self._pending))

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(self._limits.linger_seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _write_gathered(self) -> None:
        """Write the rows that are there now, in slices.

        Under load an incomplete last slice stays for the next round, where it will be part of a cheaper one.
        """
        size = self._store.slice_rows
        rest = self._writable()
        if not rest and self._has_notes():
            await self._write_slice([])
        while rest > 0:
            await self._write_slice(self._pending[: min(size, self._writable())])
            rest -= size
            if 0 < rest < size and not self._hurried:
                return

    async def _write_slice(self, records: list[UsageRecord]) -> None:
        pause = self._limits.retry_seconds
        while not await self._try_write(records):
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers, hides nothing
            pause = min(2 * pause, self._limits.retry_ceiling_seconds)
        del self._pending[: len(records)]
        self._committed += len(records)
        self._announce_progress()

    async def _try_write(self, records: list[UsageRecord]) -> bool:
        try:
            refused = await self._store.write(records)
            for row in refused:
                path = await asyncio.to_thread(self._spill.refuse, row.record, row.reason)
                log.error(
                    "ledger.row_refused", attempt=row.record.attempt_id, reason=row.reason, file=str(path)
                )
        except LedgerUnavailable as exc:
            self._note_failure(str(exc))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from exc  # a driver may make a failure of it: stop all the same
            return False
        self._note_success()
        return True

    def _note_failure(self, problem: str) -> None:
        if self._problem is None:  # one line for each change of state, not for each try
            log.error("ledger.write_failed", problem=problem, rows=len(self._pending))
        self._problem = problem

    def _note_success(self) -> None:
        if self._problem is not None:
            log.info("ledger.write_recovered", rows=len(self._pending))
        self._problem = None

    async def _next_progress(self) -> None:
        """Wait until rows were committed or the writer ended. One future serves everyone who waits."""
        if self._progress is None or self._progress.done():
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._progress)

    def _announce_progress(self) -> None:
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    async def _drain(self) -> None:
        self.resume_commits()
        try:
            async with asyncio.timeout(self._limits.close_timeout_seconds):
                while self._pending or self._has_notes():  # appends may go on while requests end
                    await self.flush()
        except (TimeoutError, LedgerUnavailable):
            return

    async def _stop(self) -> None:
        await self._loop.close()
        self._closed = self._idle = True
        self._announce_progress()

    def _take_pending(self) -> list[UsageRecord]:
        records, self._pending = self._pending, []
        return records

    def _put_back(self, records: list[UsageRecord]) -> None:
        """What no file took is still not committed: `lag_rows` must say so."""
        self._pending[:0] = records

    async def _save_pending(self) -> None:
        if not self._pending:
            return
        records = self._take_pending()
        try:
            await asyncio.to_thread(self._save, records)
        except LedgerUnavailable:
            self._put_back(records)
            raise

    def _save(self, records: list[UsageRecord]) -> None:
        problem = (
            self._problem or f"not committed within {self._limits.close_timeout_seconds:g} s of the stop"
        )
        try:
            path = self._spill.save(records)
        except LedgerUnavailable as exc:
            log.critical("ledger.not_spilled", rows=len(records), why=str(exc), problem=problem)
            raise
        log.error(
            "ledger.spilled",
            rows=len(records),
            file=str(path),
            problem=problem,
            taken_up_by="the next start of a gateway with this ledger and folder",
        )

    def _tell_of_notes(self) -> None:
        """Notes are in no file: those that a stop leaves unwritten are gone, and not in silence."""
        if self._trail is not None and self._trail.notes:
            log.error("audit.notes_lost", notes=len(self._trail.notes), problem=self._problem)

    async def _replay(self) -> None:
        for path in await asyncio.to_thread(self._spill.files):
            await self._replay_file(path)

    async def _replay_file(self, path: Path) -> None:
        unreadable: list[str] = []
        rows = self._spill.rows(path, unreadable)
        count = 0
        while batch := list(islice(rows, self._store.slice_rows)):
            refused = await self._store.replay(batch)
            unreadable += map(repr, refused)
            count += len(batch) - len(refused)
        self._spill.done(path, unreadable)
        log.info("ledger.replayed", rows=count, unreadable=len(unreadable), file=str(path))
