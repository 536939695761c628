"""Connections to one endpoint: idle ones last in, first out; a bound on all of them; waiters in order.

A slot is the right to hold one connection. `size` counts slots: idle, busy and being dialled.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gateway.core.endpoint import Endpoint
from gateway.http.client.connection import Connection
from gateway.http.flow_control import WriteCoalescer


class ConnectionPool:
    """Bookkeeping only: dialling is `Dialer`, the order of events is `HttpUpstream`."""

    __slots__ = (
        "_loop",
        "_on_idle",
        "coalescer",
        "connections",
        "endpoint",
        "idle",
        "size",
        "waiters",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[float], None],
        coalescer: WriteCoalescer,
    ) -> None:
        self.endpoint = endpoint
        self.coalescer = coalescer
        self.idle: deque[Connection] = deque()
        self.connections: set[Connection] = set()  # until the loop reports them lost
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()
        self.size = 0
        self._loop = loop
        self._on_idle = on_idle

    async def take(self, *, fresh: bool) -> Connection | None:
        """An idle connection, or None with a slot to fill. Waits in order while all slots are taken.

        With `fresh` the result is always None: an idle connection gives its slot up, and the caller, who is
        here for the second time, goes to the head of the queue.
        """
        while True:
            connection = await self._take_any(fresh=fresh)
            if connection is None:
                return None
            if fresh and not connection.closed:
                connection.holds_slot = False  # it is the caller's now
                connection.close()
                return None
            if not connection.closed:
                return connection

    def release(self, connection: Connection) -> None:
        """`connection` is free again."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
        else:
            self.idle.append(connection)
            self._on_idle(connection.idle_since + self.endpoint.idle_seconds)

    def free_slot(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self.size -= 1

    def closed(self, connection: Connection) -> None:
        """`connection` has been aborted."""
        if connection.response is None:
            with suppress(ValueError):  # it may be on its way to a waiter, who will find it closed
                self.idle.remove(connection)
        self.free_slot()

    def lost(self, connection: Connection) -> None:
        """The loop reports that `connection` is no more."""
        self.connections.discard(connection)

    def close_idle(self, until: float) -> float | None:
        """Close what has been idle since before `until`; when the next one became idle, or None."""
        while self.idle and self.idle[0].idle_since <= until:
            self.idle.popleft().close()
        return self.idle[0].idle_since if self.idle else None

    async def _take_any(self, *, fresh: bool) -> Connection | None:
        if self.idle:
            return self.idle.popleft() if fresh else self.idle.pop()
        if self.size < self.endpoint.max_connections:
            self.size += 1
            return None
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        if fresh:
            self.waiters.appendleft(waiter)
        else:
            self.waiters.append(waiter)
        try:
            return await waiter
        except BaseException:
            self._give_back(waiter)
            raise

    def _give_back(self, waiter: "asyncio.Future[Connection | None]") -> None:
        """The waiter's caller was cancelled, perhaps after it had been served."""
        if not waiter.done() or waiter.cancelled():
            waiter.cancel()
            if waiter in self.waiters:
                self.waiters.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self.free_slot()
            elif not connection.closed:
                self.release(connection)

    def _next_waiter(self) -> "asyncio.Future[Connection | None] | None":
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                return waiter
        return None
