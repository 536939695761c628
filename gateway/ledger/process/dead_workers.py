"""Bringing into the ledger what workers that died have left in their journals."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from gateway.ledger.database import RowStore
from gateway.ledger.journal.folder import Claim, JournalFolder
from gateway.ledger.journal.tail import JournalTail, LedgerEntry
from gateway.ledger.process.source import JournalSource
from gateway.ledger.writer import JournalPosition, LedgerWriter

_log = structlog.get_logger("tollway.journal")

BATCH_ENTRIES = 256
POLL_SECONDS = 0.1


class _Paused(Exception):
    """Commits were paused: what is not in the ledger stays in the journals."""


class DeadWorkers:
    """Replays journals through `writer`. One replay at a time, over all processes with the folder."""

    def __init__(
        self,
        folder: JournalFolder,
        store: RowStore,
        writer: LedgerWriter,
        *,
        position_of: Callable[[str], JournalPosition],
        forget: Callable[[str], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when `problem` says something else."""
        self._folder = folder
        self._store = store
        self._writer = writer
        self._position_of = position_of
        self._forget = forget
        self._changed = changed
        self._waiting = 0

    async def wait_and_replay(self, may_commit: Callable[[], bool]) -> None:
        """Replay, and if somebody else does just now, return after it.

        Raises LedgerUnavailable and OSError.
        """
        if foreign := self._folder.foreign():
            _log.warning("journal.foreign", folder=str(self._folder.path), ledgers=sorted(foreign))
        if await self.replay(may_commit):
            return
        _log.info("journal.waiting_for_replay", folder=str(self._folder.path))
        self._count_waiting(1)
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                if await self.replay(may_commit):
                    return
        finally:
            self._count_waiting(-1)

    def problem(self) -> str | None:
        """What a start waits for; None while it waits for nobody."""
        if not self._waiting:
            return None
        return f"journal {self._folder.path}: waits until another process has brought in what the dead left"

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        self._changed()

    async def replay(self, may_commit: Callable[[], bool]) -> bool:
        """Bring the journals of dead workers into the ledger. False when somebody else is doing it."""
        with self._folder.replaying() as alone:
            if not alone:
                return False
            claims = list(self._folder.dead())
            try:
                if claims:
                    await self._replay(claims, may_commit)
            except _Paused:
                _log.info("journal.replay_waits", workers=[claim.worker for claim in claims])
            finally:
                for claim in claims:
                    claim.give_up()
            return True

    async def _replay(self, claims: list[Claim], may_commit: Callable[[], bool]) -> None:
        """All ends before what is presumed: an end may stand in a journal that was begun later."""
        await self._writer.flush()  # what was read of them while they lived
        tails = [await self._begin(claim) for claim in claims]
        try:
            for tail in tails:
                while entries := tail.read(BATCH_ENTRIES):
                    await self._put(tail, entries, may_commit)
            await self._writer.flush()
            presumed = {tail.worker: tail.presumed() for tail in tails}
            for tail in tails:
                await self._put(tail, presumed[tail.worker], may_commit)
            await self._writer.flush()
            for tail in tails:
                await self._finish(tail, len(presumed[tail.worker]))
        finally:
            for tail in tails:
                tail.close()

    async def _begin(self, claim: Claim) -> JournalTail:
        position = self._position_of(claim.worker)
        return JournalSource(claim.folder, position).begin(await self._store.committed(claim.worker))

    async def _put(
        self, tail: JournalTail, entries: Sequence[LedgerEntry], may_commit: Callable[[], bool]
    ) -> None:
        await self._writer.wait_for_room()
        if not may_commit():
            raise _Paused
        self._writer.put(entries, self._position_of(tail.worker))

    async def _finish(self, tail: JournalTail, presumed: int) -> None:
        await asyncio.to_thread(tail.finish)
        await self._forget(tail.worker)
        if tail.final or presumed:
            _log.warning("journal.replayed", worker=tail.worker, final=tail.final, presumed=presumed)
