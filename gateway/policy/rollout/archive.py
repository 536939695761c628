"""Writes what came into force to the ledger's database, in the background and until it is there."""

import asyncio
from collections import deque

import structlog

from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.policies import InForce, PolicyText, put_in_force
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.reload")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class PolicyArchive:
    """Writes to the ledger at `url`, in order, and tries again while the database is unavailable."""

    def __init__(self, url: str, tasks: TaskRegistry) -> None:
        self._url = url
        self._waiting: deque[tuple[PolicyText, InForce]] = deque()
        self._more = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task = SupervisedTask("policy-archive", self._write_all, tasks, wait=self._more.wait)

    def start(self) -> None:
        self._task.start()

    def note(self, text: PolicyText, change: InForce) -> None:
        """Never blocks: serving a version does not wait for the database that remembers it."""
        self._waiting.append((text, change))
        self._more.set()

    async def flush(self) -> None:
        """Write what waits. Raises LedgerUnavailable, and then it goes on waiting."""
        async with self._turn:
            while self._waiting:
                text, change = self._waiting[0]
                await asyncio.to_thread(put_in_force, self._url, text, change)
                self._waiting.popleft()

    async def close(self) -> None:
        """Stop, with one last try for what waits."""
        await self._task.close()
        try:
            await self.flush()
        except LedgerUnavailable as exc:
            _log.error(
                "policy.not_archived", problem=str(exc), versions=[text.version for text, _ in self._waiting]
            )

    async def _write_all(self) -> None:
        self._more.clear()
        pause = FIRST_PAUSE_SECONDS
        while self._waiting:
            try:
                await self.flush()
            except LedgerUnavailable as exc:
                _log.warning("policy.not_archived_yet", problem=str(exc), retry_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
