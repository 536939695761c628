"""A clock that a test moves, to make an overload and to let it end without any load."""

import asyncio

from gateway.http.server.shedding import LoadShedder

PATIENCE_SECONDS = 60.0  # a hang fails the test; nothing is measured against it


class MovedClock:
    """Stands still until it is moved. What has passed was work."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def worked(self) -> float:
        return self.seconds

    def now(self) -> float:
        return 1_800_000_000.0 + self.seconds


async def begin_overload(shedder: LoadShedder, clock: MovedClock) -> None:
    """While `clock` then stands still, batch has no room, and the first interactive request of a turn has."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not shedder.is_shedding:
            clock.seconds += 5.0
            await asyncio.sleep(0.01)


async def end_overload(shedder: LoadShedder, clock: MovedClock) -> None:
    """Time goes by without long turns."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while shedder.is_shedding:
            clock.seconds += 0.01
            await asyncio.sleep(0.01)
