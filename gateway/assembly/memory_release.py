"""Gives memory back to the system after large bodies, seldom and beside the event loop."""

import asyncio

from gateway.garbage import give_memory_back
from gateway.supervised import SupervisedTask, TaskRegistry

# Bodies come in bursts, and what the next one needs is not worth giving back before it.
PAUSE_SECONDS = 5.0


class MemoryRelease:
    """`start`, then `close`. Made, started and closed in the event loop's thread."""

    def __init__(self, tasks: TaskRegistry) -> None:
        self._due = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task = SupervisedTask("memory-release", self._release, tasks, wait=self._wait)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task.start()

    async def close(self) -> None:
        await self._task.close()
        self._loop = None

    def soon(self) -> None:
        """Much has been freed. May be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._due.set)

    async def _wait(self) -> None:
        await self._due.wait()
        await asyncio.sleep(PAUSE_SECONDS)

    async def _release(self) -> None:
        self._due.clear()
        await asyncio.to_thread(give_memory_back)
