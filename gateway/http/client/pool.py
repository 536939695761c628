"""The client for upstreams, and the connections that it keeps to each endpoint.

`HttpUpstream` has one `ConnectionPool` for each endpoint: idle connections last in, first out; a bound on all
of them; waiters in order. A slot is the right to hold one connection. `size` counts slots: idle, busy and
being dialled.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gateway.core.endpoint import Endpoint
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.connection import Connection
from gateway.http.client.dialer import Dialer
from gateway.http.client.resolver import Lookup, Resolver, system_lookup
from gateway.http.client.response import ExchangeFailure, HttpResponse
from gateway.http.client.tls import TlsContexts
from gateway.http.flow_control import WriteCoalescer
from gateway.ports import UpstreamRequest


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
        waiter = self._next_waiter() if self.waiters else None
        if waiter is not None:
            waiter.set_result(connection)
        else:
            if not self.idle:  # else what is idle for longer has asked for an earlier look
                self._on_idle(connection.idle_since + self.endpoint.idle_seconds)
            self.idle.append(connection)

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


_CLOSED = ExchangeFailure(FailureKind.CONNECT, "the client is closed")
_CLOSING_TURNS = 1000  # of the loop, which reports an aborted transport as lost within one or two
_CUT_OFF = ExchangeFailure(FailureKind.RESET, "the client was closed during the exchange")
_USUALLY_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS"})


class HttpUpstream:
    """Implements `Upstream`. One event loop for its whole life; it owns one timer while connections idle.

    `lookup` replaces the system's resolver.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._resolver = Resolver(lookup)
        self._dialer = Dialer(self._resolver, TlsContexts())
        self._pools: dict[Endpoint, ConnectionPool] = {}
        self._coalescer = WriteCoalescer()
        self._opening: set[asyncio.Timeout] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> HttpResponse:
        """See `Upstream.send`."""
        head = request.head
        pool = self._pools.get(head.endpoint) or self._add_pool(head.endpoint)
        loop = asyncio.get_running_loop()
        started = loop.time()
        reused = True
        if pool.idle and not request.fresh:
            connection = pool.idle.pop()
        else:
            total = math.inf if request.stream else started + pool.endpoint.timeouts.total_seconds
            connection, reused = await self._connection(pool, total, fresh=request.fresh)
        response = connection.start(
            _encode(request),
            request.body,
            head_only=head.method == b"HEAD",
            stream=request.stream,
            started=started,
        )
        request.goes_out(response)
        response.waiter = waiter = loop.create_future()
        try:
            await waiter
        except BaseException:
            response.abort()
            raise
        if response.status:
            return response
        failure = response.failure or _CUT_OFF
        lost_unseen = connection.lost and not connection.parser.seen and failure.kind is FailureKind.RESET
        raise failure.error(stale=reused and lost_unseen and not self._closed)

    async def close(self) -> None:
        """Close idle connections, abort busy ones, fail those who wait for one. Nothing runs afterwards."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        now = asyncio.get_running_loop().time()
        for opening in self._opening:
            if not opening.expired():
                opening.reschedule(now)
        await self._resolver.close()
        for pool in self._pools.values():
            for connection in list(pool.connections):
                connection.fail(_CUT_OFF)
        for _ in range(_CLOSING_TURNS):
            if not self._opening and not any(pool.connections for pool in self._pools.values()):
                break
            await asyncio.sleep(0)
        self._pools.clear()

    def counts(self) -> tuple[int, int, int]:
        """Connections busy or being opened, idle ones, and requests that wait for one."""
        pools = self._pools.values()
        idle = sum(len(pool.idle) for pool in pools)
        return sum(pool.size for pool in pools) - idle, idle, sum(len(pool.waiters) for pool in pools)

    def _add_pool(self, endpoint: Endpoint) -> ConnectionPool:
        if self._closed:
            raise _CLOSED.error()
        if endpoint.proxy is not None and endpoint.networks is not None:
            # The name is resolved by the proxy, so nothing here could tell where the bytes would go.
            detail = f"the address of {endpoint.host} cannot be checked behind a proxy"
            raise UpstreamFailure(FailureKind.ZONE, detail)
        pool = ConnectionPool(endpoint, asyncio.get_running_loop(), self._schedule_sweep, self._coalescer)
        self._pools[endpoint] = pool
        return pool

    async def _connection(
        self, pool: ConnectionPool, total: float, *, fresh: bool
    ) -> tuple[Connection, bool]:
        """A connection, and whether it was used before. `total`: loop time. Raises UpstreamFailure."""
        timeouts = pool.endpoint.timeouts
        loop = asyncio.get_running_loop()
        deadline = min(loop.time() + timeouts.connect_seconds, total)
        waited_for = f"one of {pool.endpoint.max_connections} connections"
        opening = asyncio.timeout_at(deadline)
        self._opening.add(opening)
        try:
            async with opening:
                connection = await pool.take(fresh=fresh)
                if connection is not None:
                    return connection, True
                waited_for = "a new connection"
                return await self._dial(pool, deadline), False
        except TimeoutError as error:
            if self._closed:
                raise _CLOSED.error() from error
            kind = FailureKind.TOTAL_TIMEOUT if deadline == total else FailureKind.CONNECT_TIMEOUT
            detail = f"waited for {waited_for} to {pool.endpoint.authority}{_via(pool.endpoint)}"
            raise UpstreamFailure(kind, detail) from error
        finally:
            self._opening.discard(opening)

    async def _dial(self, pool: ConnectionPool, deadline: float) -> Connection:
        try:
            return await self._dialer.dial(pool, deadline)
        except BaseException:
            pool.free_slot()
            raise

    def _schedule_sweep(self, due: float) -> None:
        """A connection became idle and is to be closed at `due`, unless something else is due before."""
        if self._sweeper is None or due < self._sweeper.when():
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._sweeper = asyncio.get_running_loop().call_at(due, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for endpoint, pool in list(self._pools.items()):
            idle_since = pool.close_idle(now - endpoint.idle_seconds)
            if idle_since is not None:
                self._schedule_sweep(max(idle_since + endpoint.idle_seconds, now + 0.01))
            elif not pool.size and not pool.waiters:
                del self._pools[endpoint]


def _encode(request: UpstreamRequest) -> bytes:
    """The whole head of `request`, with content-length."""
    head, length = request.head, len(request.body)
    if length or head.method not in _USUALLY_WITHOUT_BODY:
        return b"%b%bcontent-length: %d\r\n\r\n" % (head.block, request.own, length)
    return b"%b%b\r\n" % (head.block, request.own)


def _via(endpoint: Endpoint) -> str:
    return "" if endpoint.proxy is None else f" through the proxy {endpoint.proxy.authority}"
