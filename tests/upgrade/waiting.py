"""Waiting for what must come. Only a hang fails a test: nothing is measured against these bounds."""

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60.0
TEST_SECONDS = 300.0


async def until(holds: Callable[[], bool]) -> None:
    """Return once `holds()`."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


async def until_true(asks: Callable[[], Awaitable[bool]]) -> None:
    """The same where one has to ask somebody else."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asks():
            await asyncio.sleep(0.05)
