"""Writes of one turn of the event loop, made together at its end, to clients and to upstreams.

A system call leaves the processor's caches and predictors to the kernel, and the Python code after it runs
slowly for a while. With many requests at once, their preparation then runs back to back, and the calls after
it; measured at 32 connections, a request takes a quarter less time. A request alone waits for nothing.
"""

import asyncio
from collections.abc import Callable


class WriteCoalescer:
    """One for each server or client. Holds a turn's writes only, each bounded by its caller."""

    __slots__ = ("_first", "_pending", "turn")

    def __init__(self) -> None:
        self.turn = 0  # grows with every flush
        self._first: list[Callable[[], None]] = []
        self._pending: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` to `transport` before the loop waits for events again."""
        if not self._pending and not self._first:
            loop.call_soon(self.flush)
        self._pending.append((transport, data))

    def before(self, callback: Callable[[], None]) -> None:
        """Call `callback` ahead of this turn's writes."""
        if not self._pending and not self._first:
            asyncio.get_running_loop().call_soon(self.flush)
        self._first.append(callback)

    def flush(self) -> None:
        """Write everything now: what comes next on a connection would overtake it, such as its close."""
        self.turn += 1
        first, self._first = self._first, []
        for callback in first:
            callback()
        pending, self._pending = self._pending, []
        for transport, data in pending:
            if not transport.is_closing():
                transport.write(data)
