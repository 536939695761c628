"""The `Ledger` port with a memory that survives kill -9: a journal in front of the database's writer."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import msgspec
import structlog

from gateway.core.audit import EntryKind
from gateway.core.errors import Unavailable
from gateway.core.record import UsageRecord
from gateway.http.flow_control import WriteCoalescer
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim, JournalFolder
from gateway.ledger.journal.frames import Frame, FrameKind
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.reading import RecordReader
from gateway.ledger.journal.replay import Replay
from gateway.ledger.writer import LedgerWriter
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

BATCH_RECORDS = 256
REPLAYER_POLL_SECONDS = 0.1
TAKEN_UP_BY = "a running gateway with this folder, or the next start of one"

Sync = Literal["off", "batch"]


class JournalTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How often what is done, in seconds."""

    release_seconds: float = 0.5  # segments that are of no more use, and failed writes
    sync_seconds: float = 0.1  # with sync `batch`: the most that a power cut can take
    peers_seconds: float = 5.0  # journals of workers that died


class JournaledLedger:
    """The `Ledger` port over a writer, which commits rows in the order in which they are appended.

    All methods are called on the event loop's thread.

    Many attributes: those of its journal, of the ends that wait for it, and of the writer behind it.
    """

    def __init__(
        self,
        writer: LedgerWriter,
        folder: JournalFolder,
        *,
        sync: Sync = "off",
        coalescer: WriteCoalescer | None = None,
        files: Files | None = None,
        limits: JournalLimits | None = None,
        times: JournalTimes | None = None,
        tasks: TaskRegistry | None = None,
    ) -> None:
        """`coalescer` is that of the answers: how an attempt ended is noted before its client can know it.

        `tasks` hears of a loop that fails.
        """
        self._writer = writer
        self._folder = folder
        self._sync = sync
        self._coalescer = coalescer or WriteCoalescer()
        self._files = files
        self._limits = limits
        self._times = times or JournalTimes()
        self._journal: Journal | None = None
        self._appended = 0
        self._ended: list[tuple[str, bytes, int]] = []
        self._reader = RecordReader()
        self._commits_paused = False
        self._problem: str | None = None
        self._room = asyncio.Event()
        registry = tasks or TaskRegistry()
        seconds = self._times.release_seconds
        if sync == "batch":
            seconds = min(seconds, self._times.sync_seconds)
        self._loops = (
            SupervisedTask(
                "journal-maintenance", self._maintain, registry, wait=lambda: asyncio.sleep(seconds)
            ),
            SupervisedTask(
                "journal-peers",
                self._watch_peers,
                registry,
                wait=lambda: asyncio.sleep(self._times.peers_seconds),
            ),
        )

    async def start(self) -> None:
        """Open the database, put into it what dead workers left behind, and begin a journal.

        When it returns, the ledger knows every attempt that a worker sent before it died. Raises
        LedgerUnavailable when the database cannot be used now: it may then be called again, or `close`.
        Raises LedgerUnusable when the folder cannot be used.
        """
        await self._writer.start()
        try:
            await asyncio.to_thread(self._folder.prepare)
            await self._wait_and_replay()
            claim = await asyncio.to_thread(self._folder.claim_new)
            self._journal = self._begin(claim)
        except OSError as exc:
            await self._writer.close()
            raise LedgerUnusable(f"journal {self._folder.path}: {exc.strerror or exc}") from exc
        except BaseException:
            await self._writer.close()
            raise
        for loop in self._loops:
            loop.start()
        self._room.set()

    def has_room(self) -> bool:
        """False while the queue, or the journal, stands at its bound or cannot be written."""
        journal = self._journal
        return journal is not None and journal.has_room() and self._writer.has_room()

    async def wait_for_room(self) -> None:
        """Return once there is room in both."""
        while not self.has_room():
            await self._writer.wait_for_room()
            if not self.has_room():
                self._room.clear()
                await self._room.wait()

    def intend(self, attempt_id: str, half: bytes) -> None:
        """Note with the kernel that an attempt is about to be sent.

        Raises Unavailable when that fails: then it must not be sent.
        """
        if self._journal is None:
            raise Unavailable("The gateway is shutting down. Retry elsewhere.", retry_after_seconds=1.0)
        if self._ended:
            self._note_ended()  # in the order of events, so that a number is never skipped
        self._journal.intend(attempt_id, half)
        self._reader.take(Frame(FrameKind.INTENT, half))

    def append(self, attempt_id: str, half: bytes) -> None:
        """Take how an attempt ended. Never blocks for long, and never drops."""
        self._appended += 1
        if self._journal is not None:
            if not self._ended:
                # Those of one turn of the loop take one write, ahead of their answers' last bytes.
                self._coalescer.before(self._note_ended)
            self._ended.append((attempt_id, half, self._appended))
        record = self._reader.take(Frame(FrameKind.FINAL, half))
        if record is not None:
            self._writer.append(record)

    def note(self, kind: EntryKind, particulars: Mapping[str, Any]) -> None:
        """Enter something that is no attempt into the audit log, if there is one."""
        self._writer.note(kind, particulars)

    async def flush(self) -> None:
        """Return once everything appended so far is committed. Raises LedgerUnavailable."""
        await self._writer.flush()

    async def replay_dead_workers(self) -> None:
        """Bring in what workers that died have left; when a peer does it just now, return after it."""
        await self._wait_and_replay()

    def pause_commits(self) -> None:
        """Commit nothing that is appended from now on, until `resume_commits`. It waits in the journal."""
        self._commits_paused = True
        self._writer.pause_commits()

    def resume_commits(self) -> None:
        """Commit what has waited, and what comes."""
        self._commits_paused = False
        self._writer.resume_commits()

    async def close(self) -> None:
        """Flush and stop. What the database did not take is in the writer's spill file or stays journalled.

        Raises LedgerUnavailable when it did not even fit into a spill file; the journal then keeps it.
        """
        for loop in self._loops:
            await loop.close()
        try:
            await self._writer.close()
        except BaseException:
            self._leave(0)
            raise
        self._leave(self._committed())

    def lag_rows(self) -> int:
        """Rows appended and not yet committed."""
        return self._writer.lag_rows()

    def problem(self) -> str | None:
        """Why rows are not taken, None while they are."""
        journal = None if self._journal is None else self._journal.problem()
        return self._writer.problem() or journal or self._problem

    def _begin(self, claim: Claim) -> Journal:
        try:
            return Journal(claim, self._files, self._limits)
        except OSError:
            claim.give_up()
            raise

    def _note_ended(self) -> None:
        ended, self._ended = self._ended, []
        if ended and self._journal is not None:
            self._journal.append(ended)

    def _leave(self, committed: int) -> None:
        self._note_ended()
        journal, self._journal = self._journal, None
        if journal is None:
            return
        if left := self._writer.lag_rows():
            _log.error("journal.rows_left", rows=left, folder=str(self._folder.path), taken_up_by=TAKEN_UP_BY)
        if under_way := journal.close(committed):
            _log.warning(
                "journal.under_way",
                attempts=under_way,
                folder=str(self._folder.path),
                taken_up_by=f"{TAKEN_UP_BY}, as presumed unless their ends come first",
            )

    def _committed(self) -> int:
        """Number of the last final record that is in the database, with all before it; or in a spill file."""
        return self._appended - self._writer.lag_rows()

    async def _maintain(self) -> None:
        """Remove what is committed, write what failed, sync."""
        journal = self._journal
        if journal is None:
            return
        journal.release(self._committed())
        if journal.has_room():
            self._room.set()
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

    # --- those who died ---

    async def _wait_and_replay(self) -> None:
        """At start: also wait for a peer that replays just now, or its rows would be missing here."""
        if foreign := await asyncio.to_thread(self._folder.foreign):
            _log.warning("journal.foreign", folder=str(self._folder.path), ledgers=sorted(foreign))
        waited = False
        while not await self._replay_dead():
            if not waited:
                _log.info("journal.waiting_for_replay", folder=str(self._folder.path))
                waited = True
            await asyncio.sleep(REPLAYER_POLL_SECONDS)

    async def _watch_peers(self) -> None:
        if self._commits_paused:
            return  # the rows would wait, and with them whoever wants to replay
        try:
            await self._replay_dead()
        except (OSError, LedgerUnavailable) as exc:
            _log.error("journal.replay_failed", problem=str(exc))

    async def _replay_dead(self) -> bool:
        """Bring the journals of dead workers into the ledger. False when somebody else is doing it."""
        with self._folder.replaying() as alone:
            if not alone:
                return False
            for claim in self._folder.dead():
                try:
                    await self._replay(Replay(claim), claim)
                finally:
                    claim.give_up()
            return True

    async def _replay(self, replay: Replay, claim: Claim) -> None:
        records = replay.records()
        while batch := await asyncio.to_thread(_take, records):
            await self._writer.wait_for_room()
            for record in batch:
                self._appended += 1
                self._writer.append(record)
        last = self._appended
        await self._writer.flush()
        if self._committed() < last:
            # While commits are paused flush returns early: only the dead one's journal has the rows.
            _log.info("journal.replay_waits", worker=claim.worker)
            return
        await asyncio.to_thread(replay.finish)
        if replay.final or replay.presumed:
            _log.warning(
                "journal.replayed", worker=claim.worker, final=replay.final, presumed=replay.presumed
            )


def _take(records: Iterator[UsageRecord]) -> Sequence[UsageRecord]:
    return list(islice(records, BATCH_RECORDS))
