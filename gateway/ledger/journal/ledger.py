"""The `Ledger` port: what is about to be sent and how it ended goes to the journal, and no further from here.

The process of the ledger's writer reads the journal and tells how far it has committed it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from gateway.core.audit import EntryKind, json_text
from gateway.core.errors import Unavailable
from gateway.core.refused_request import RefusedRequest
from gateway.http.flow_control import WriteCoalescer
from gateway.ledger.errors import LedgerDiskFull, LedgerUnavailable, file_failure
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim, JournalFolder
from gateway.ledger.journal.frames import Note, final_frame, note_frame, refused_frame
from gateway.ledger.journal.journal import Journal, JournalEntry, JournalLimits
from gateway.ledger.process.client import WriterClient
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

QUEUE_ROWS = 50_000
EARLY_NOTES = 1_000
FULL_RETRY_SECONDS = 10.0  # a person has to make room
TAKEN_UP_BY = "a running gateway with this folder, or the next start of one"

Sync = Literal["off", "batch"]


class JournalTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How often what is done, in seconds."""

    release_seconds: float = 0.5  # segments that are of no more use, and failed writes
    sync_seconds: float = 0.1  # with sync `batch`: the most that a power cut can take
    close_timeout_seconds: float = 5.0  # for the database to take what is left at a stop


class JournaledLedger:
    """The `Ledger` port over a journal. All methods are called on the event loop's thread.

    Many attributes: entries on their way to the journal, the journal, and the writer that follows it.
    """

    def __init__(
        self,
        folder: JournalFolder,
        address: Callable[[], Path],
        *,
        queue_rows: int = QUEUE_ROWS,
        sync: Sync = "off",
        coalescer: WriteCoalescer | None = None,
        files: Files | None = None,
        limits: JournalLimits | None = None,
        times: JournalTimes | None = None,
        tasks: TaskRegistry | None = None,
    ) -> None:
        """`address` is where the writer listens. Admission waits while `queue_rows` wait for it.

        `coalescer` is that of the answers: how an attempt ended is noted before its client can know it.
        `tasks` hears of a loop that fails.
        """
        registry = tasks or TaskRegistry()
        self._folder = folder
        self._writer = WriterClient(address, self._look_for_room, registry)
        self._queue_rows = queue_rows
        self._sync = sync
        self._coalescer = coalescer or WriteCoalescer()
        self._files = files
        self._limits = limits
        self._times = times or JournalTimes()
        self._journal: Journal | None = None
        self._unjournalled: list[JournalEntry] = []  # of this turn of the loop, or from before the start
        self._dropped_notes = 0
        self._left = 0
        self._outliving: dict[str, bytes] = {}  # halves of what was under way when the journal was closed
        self._problem: str | None = None
        self._start_is_blocked = False  # by a disk that has no room for a journal
        self._room = asyncio.Event()
        self._turned = asyncio.Event()  # maintenance has run
        seconds = self._times.release_seconds
        if sync == "batch":
            seconds = min(seconds, self._times.sync_seconds)
        self._maintenance = SupervisedTask(
            "journal-maintenance", self._maintain, registry, wait=lambda: asyncio.sleep(seconds)
        )

    async def start(self) -> None:
        """Have the writer open the database and put into it what dead workers left; then begin a journal.

        When it returns, the ledger knows every attempt that a worker sent before it died. Raises
        LedgerUnavailable when the database cannot be used now, or the disk is full: it may then be called
        again, or `close`.
        Raises LedgerUnusable when the folder cannot be used.
        """
        self._writer.start()
        await self._writer.ask("open")
        try:
            await asyncio.to_thread(self._folder.prepare)
            claim = await asyncio.to_thread(self._folder.claim_new)
            self._journal = self._begin(claim)
        except OSError as exc:
            failure = file_failure(f"journal {self._folder.path}", self._folder.path, exc)
            self._start_is_blocked = isinstance(failure, LedgerDiskFull)
            self._look_for_room()
            raise failure from exc
        self._writer.attach(claim.worker)
        self._note_ended()
        self._maintenance.start()
        self._room.set()

    def has_room(self) -> bool:
        """False while too much waits for the writer, or the journal is full or cannot be written."""
        journal = self._journal
        if journal is None or not journal.has_space:
            return False
        taken = journal.written + len(journal.unwritten) + len(self._unjournalled)
        return taken - self._writer.committed < self._queue_rows

    async def wait_for_room(self) -> None:
        """Return once there is room. Raises Unavailable, and at once, while the disk is full."""
        while not self.has_room():
            if self._is_blocked():
                raise Unavailable(
                    "The disk of the usage ledger is full. Retry later.",
                    retry_after_seconds=FULL_RETRY_SECONDS,
                )
            self._room.clear()
            await self._room.wait()

    def intend(self, attempt_id: str, half: bytes) -> None:
        """Note with the kernel that an attempt is about to be sent.

        Raises Unavailable when that fails: then it must not be sent.
        """
        if self._journal is None:
            raise Unavailable("The gateway is shutting down. Retry elsewhere.", retry_after_seconds=1.0)
        if self._unjournalled:
            self._note_ended()  # in the order of events
        self._journal.intend(attempt_id, half)

    def append(self, attempt_id: str, half: bytes) -> None:
        """Take how an attempt ended. Never blocks for long, and never drops."""
        if self._journal is None:
            self._keep_late(attempt_id, half)
            return
        if not self._unjournalled:
            # Those of one turn of the loop take one write, ahead of their answers' last bytes.
            self._coalescer.before(self._note_ended)
        self._unjournalled.append(JournalEntry(attempt_id, final_frame(half)))

    def note(self, kind: EntryKind, particulars: Mapping[str, Any]) -> None:
        """Enter something that is no attempt into the audit log, if there is one."""
        if not self._takes_notes():
            if not self._dropped_notes:
                _log.error("audit.notes_dropped", kind=kind)
            self._dropped_notes += 1
            return
        if self._dropped_notes:
            particulars = {**particulars, "dropped_before": self._dropped_notes}
            self._dropped_notes = 0
        note = Note(kind.value, time.time_ns() // 1000, json_text(particulars))
        self._take_note(note_frame(note))

    def keep_refused(self, refused: RefusedRequest) -> bool:
        """Have a record of a refused request written. False when there is no room for it."""
        if not self._takes_notes():
            return False
        self._take_note(refused_frame(refused))
        return True

    async def flush(self) -> None:
        """Return once everything appended or noted so far is committed. Raises LedgerUnavailable.

        While commits are paused: everything appended before the pause.
        """
        self._note_ended()
        goal = self._taken()
        while (journal := self._journal) is not None and journal.written < goal:
            self._turned.clear()
            await self._turned.wait()  # a disk that is full: `release` tries again
        await self._writer.ask("flush", goal)

    async def replay_dead_workers(self) -> None:
        """Bring in what workers that died have left; when a peer does it just now, return after it."""
        await self._writer.ask("replay")

    def pause_commits(self) -> None:
        """Commit nothing that is appended from now on, until `resume_commits`. It waits in the journal."""
        self._note_ended()
        self._writer.pause(self._taken())

    def resume_commits(self) -> None:
        """Commit what has waited, and what comes."""
        self._writer.resume()

    async def close(self) -> None:
        """Flush and stop. What the database did not take stays in the journal."""
        await self._maintenance.close()
        try:
            self.resume_commits()
            async with asyncio.timeout(self._times.close_timeout_seconds):
                while self._journal is not None and self.lag_rows():  # appends may go on while requests end
                    await self.flush()
        except (TimeoutError, LedgerUnavailable):
            pass
        finally:
            self._leave()
            await self._writer.close()

    def lag_rows(self) -> int:
        """Rows, and entries of the audit log, that are not committed yet."""
        if self._journal is None:
            return self._left
        return max(self._taken() - self._writer.committed, 0)

    def problem(self) -> str | None:
        """Why rows are not taken, None while they are."""
        journal = None if self._journal is None else self._journal.problem()
        return self._writer.problem() or journal or self._problem

    def degraded(self) -> list[str]:
        """What fails in the writer and keeps no row from the ledger."""
        return [f"ledger's writer: {reason}" for reason in self._writer.degraded]

    def _begin(self, claim: Claim) -> Journal:
        try:
            return Journal(claim, self._files, self._limits)
        except OSError:
            claim.give_up()
            raise

    def _taken(self) -> int:
        """The number of the last entry, the ones of this turn of the loop included."""
        return (0 if self._journal is None else self._journal.taken) + len(self._unjournalled)

    def _takes_notes(self) -> bool:
        if self._journal is None:
            return len(self._unjournalled) < EARLY_NOTES
        return self._journal.has_space and self.lag_rows() < 2 * self._queue_rows

    def _take_note(self, frame: bytes) -> None:
        if not self._unjournalled and self._journal is not None:
            self._coalescer.before(self._note_ended)
        self._unjournalled.append(JournalEntry(None, frame))

    def _note_ended(self) -> None:
        if self._journal is not None and self._unjournalled:
            entries, self._unjournalled = self._unjournalled, []
            self._journal.append(entries)

    def _keep_late(self, attempt_id: str, half: bytes) -> None:
        """The end of a request that outlived the stop: in a journal of its own, for the next start."""
        try:
            journal = self._begin(self._folder.claim_new())
            if (intent := self._outliving.pop(attempt_id, None)) is not None:
                journal.intend(attempt_id, intent)
            journal.append([JournalEntry(attempt_id, final_frame(half))])
            journal.close(0)
        except (OSError, Unavailable) as exc:
            _log.critical("journal.ends_lost", attempts=1, booked="as presumed", problem=str(exc))

    def _leave(self) -> None:
        self._note_ended()
        if self._unjournalled:
            _log.error("audit.notes_lost", notes=len(self._unjournalled), problem=self.problem())
        self._left = left = self.lag_rows()
        journal, self._journal = self._journal, None
        self._turned.set()
        if journal is None:
            return
        self._outliving = journal.intents()
        if left:
            _log.error(
                "journal.rows_left",
                rows=left,
                folder=str(self._folder.path),
                problem=self._writer.problem(),
                taken_up_by=TAKEN_UP_BY,
            )
        if under_way := journal.close(self._writer.committed):
            _log.warning(
                "journal.under_way",
                attempts=under_way,
                folder=str(self._folder.path),
                taken_up_by=f"{TAKEN_UP_BY}, as presumed unless their ends come first",
            )
        self._writer.detach(is_empty=not journal.segment_count())

    def _is_blocked(self) -> bool:
        """Whether who waits for room waits for a person: no outage ends by itself that a full disk causes."""
        journal = self._journal
        is_blocked = self._start_is_blocked if journal is None else journal.is_blocked
        return is_blocked or self._writer.is_disk_full

    def _look_for_room(self) -> None:
        if self.has_room() or self._is_blocked():
            self._room.set()

    async def _maintain(self) -> None:
        """Remove what is committed, write what failed, sync."""
        journal = self._journal
        if journal is None:
            return
        journal.release(self._writer.committed)
        self._turned.set()
        self._look_for_room()
        if self._sync == "batch":
            await self._sync_now(journal)

    async def _sync_now(self, journal: Journal) -> None:
        syncing = asyncio.ensure_future(asyncio.to_thread(journal.sync))
        try:
            await asyncio.shield(syncing)
        except asyncio.CancelledError:
            # The thread goes on with a file that is closed next: a close waits for it.
            await asyncio.wait({syncing})
            raise
        except OSError as exc:
            if self._problem is None:
                _log.error("journal.sync_failed", problem=exc.strerror)
            self._problem = f"journal: cannot sync: {exc.strerror}"
        else:
            self._problem = None
