"""The hot path's HTTP/1.1 client: asyncio, httptools, and nothing that a request does not need."""

import asyncio

from gateway.core.endpoint import Endpoint
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.connection import Connection
from gateway.http.client.dialer import Dialer
from gateway.http.client.pool import ConnectionPool
from gateway.http.client.resolver import Lookup, Resolver, system_lookup
from gateway.http.client.response import ExchangeFailure, HttpResponse
from gateway.http.client.tls import TlsContexts
from gateway.http.flow_control import WriteCoalescer
from gateway.ports import UpstreamRequest

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
            connection, reused = await self._connection(pool, started, fresh=request.fresh)
        request.sent_to(connection.peer)
        response = connection.start(
            _encode(request), request.body, head_only=head.method == b"HEAD", started=started
        )
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
        self, pool: ConnectionPool, started: float, *, fresh: bool
    ) -> tuple[Connection, bool]:
        """A connection, and whether it has been used before. Raises UpstreamFailure."""
        timeouts = pool.endpoint.timeouts
        loop = asyncio.get_running_loop()
        total = started + timeouts.total_seconds
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
