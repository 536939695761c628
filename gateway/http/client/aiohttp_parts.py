"""What aiohttp has to do differently for us: connect to checked addresses only, notice unsolicited bytes.

`_factory`, `_release`, `_conns` and `_buffer` are private names of aiohttp; the contract suite fails when a
release changes them.
"""

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, cast

from aiohttp import ClientRequest, ClientResponse, TCPConnector, helpers
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from gateway.core.endpoint import Endpoint, Timeouts
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.parser import HEAD_LIMIT_BYTES
from gateway.http.client.resolver import PeerAddress, Resolver, inside, unwrapped

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

_NO_CAUSE = helpers._EXC_SENTINEL
_PIECE_BYTES = 64 * 1024


class Exchange:
    """Follows one request through aiohttp's phases and moves its deadline from one to the next."""

    __slots__ = (
        "endpoint",
        "handler",
        "head_arrived",
        "kind",
        "peer",
        "reused",
        "sent_to",
        "timer",
        "total",
        "transport",
    )

    def __init__(self, endpoint: Endpoint, total: float, sent_to: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.sent_to = sent_to
        self.total = total  # loop time
        self.kind = FailureKind.CONNECT_TIMEOUT
        self.timer = asyncio.timeout(None)
        self.handler: WatchedHandler | None = None
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.reused = False
        self.head_arrived = False

    @property
    def timeouts(self) -> Timeouts:
        return self.endpoint.timeouts

    @property
    def answered(self) -> bool:
        """True once any byte of a response has come."""
        return self.handler is not None and self.handler.received_bytes > 0

    def enter(self, kind: FailureKind, seconds: float) -> None:
        """From now on the exchange may take `seconds` until it enters the next phase."""
        due = asyncio.get_running_loop().time() + seconds
        self.kind = kind
        if self.total <= due:
            due, self.kind = self.total, FailureKind.TOTAL_TIMEOUT
        self.timer.reschedule(due)

    def connected(self, connection: "Connection", body_bytes: int) -> None:
        """aiohttp has a connection and is about to write to it. Raises UpstreamFailure(ZONE)."""
        self.handler = cast("WatchedHandler", connection.protocol)
        self.transport = connection.transport
        self.reused = self.handler.begin()
        peername = self.transport.get_extra_info("peername") if self.transport else None
        if peername is None:
            raise ConnectionResetError("closed before the request was sent")
        self.peer = PeerAddress(0, peername).label
        networks = self.endpoint.networks
        if networks is not None and not inside(unwrapped(peername[0]), networks):
            raise UpstreamFailure(FailureKind.ZONE, f"reached {peername[0]}, outside the zone")
        self.sent_to(self.peer)
        if body_bytes < _PIECE_BYTES:
            self.enter(FailureKind.FIRST_BYTE_TIMEOUT, self.timeouts.first_byte_seconds)
        else:
            self.enter(FailureKind.BETWEEN_BYTES_TIMEOUT, self.timeouts.between_bytes_seconds)

    def abort(self) -> None:
        """Close the connection now, whatever is still to be written."""
        if self.transport is not None:
            self.transport.abort()


CURRENT: ContextVar[Exchange] = ContextVar("exchange")


class Pieces:
    """A large request body in pieces; each one that is taken shows that the upstream still reads."""

    def __init__(self, body: bytes, exchange: Exchange) -> None:
        self._rest = memoryview(body)
        self._exchange = exchange

    @staticmethod
    def needed(body: bytes) -> bool:
        return len(body) >= _PIECE_BYTES

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> memoryview:
        exchange = self._exchange
        if exchange.head_arrived:
            # Answered before it was read: the rest is of no use. aiohttp cancels this when the answer ends.
            await asyncio.get_running_loop().create_future()
        if not self._rest:
            exchange.enter(FailureKind.FIRST_BYTE_TIMEOUT, exchange.timeouts.first_byte_seconds)
            raise StopAsyncIteration
        exchange.enter(FailureKind.BETWEEN_BYTES_TIMEOUT, exchange.timeouts.between_bytes_seconds)
        piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
        return piece


class WatchedHandler(ResponseHandler):
    """aiohttp's protocol, which by itself would queue an answer to nothing for the next request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.idle = False
        self.used = False
        self.head_pending = False
        self.received_bytes = 0
        self.last_byte_at = 0.0

    def begin(self) -> bool:
        """A request is about to be written. True when the connection has carried one before."""
        if self.should_close:
            self._should_close = True
            raise ConnectionResetError("bytes came before the request")
        used, self.used = self.used, True
        self.idle = False
        self.head_pending = True
        self.received_bytes = 0
        self.last_byte_at = self._loop.time()
        return used

    def data_received(self, data: bytes) -> None:
        if data and self.idle and self.transport is not None:
            self.transport.abort()
            return
        if data:
            self.received_bytes += len(data)
            self.last_byte_at = self._loop.time()
        super().data_received(data)
        too_much = self.head_pending and self.received_bytes > HEAD_LIMIT_BYTES
        if too_much and not any(message.code >= 200 for (message, _), _ in self._buffer):
            self.set_exception(HttpProcessingError(message=f"header larger than {HEAD_LIMIT_BYTES} bytes"))

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        # Without this a body that turns malformed leaves its reader waiting for ever.
        payload = self._payload
        super().set_exception(exc, exc_cause)
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        # A reset is no end of a body that ends with the connection.
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(exc)
        super().connection_lost(exc)


class WatchedRequest(ClientRequest):
    """Tells the exchange that its connection is there."""

    async def send(self, conn: "Connection") -> ClientResponse:
        length = self.headers.get("content-length", "0")
        CURRENT.get().connected(conn, int(length))
        return await super().send(conn)


class ZoneResolver(AbstractResolver):
    """Gives aiohttp only addresses inside the endpoint's networks; a proxy's own name resolves freely."""

    def __init__(self, endpoint: Endpoint, resolver: Resolver) -> None:
        self._endpoint = endpoint
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.lookup(host, port, self._endpoint.networks)
        return [
            ResolveResult(
                hostname=host,
                host=str(address.sockaddr[0]),
                port=port,
                family=address.family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        pass


class WatchedConnector(TCPConnector):
    """One endpoint's connections. Addresses in order, no cache of its own."""

    def __init__(self, endpoint: Endpoint, resolver: Resolver, ssl_context: ssl.SSLContext | bool) -> None:
        super().__init__(
            limit=endpoint.max_connections,
            keepalive_timeout=endpoint.idle_seconds,
            resolver=ZoneResolver(endpoint, resolver),
            use_dns_cache=False,
            happy_eyeballs_delay=None,
            ssl=ssl_context,
        )
        self._factory = functools.partial(WatchedHandler, loop=self._loop)  # type: ignore[assignment]

    def counts(self) -> tuple[int, int, int]:
        """Busy, idle, waiting."""
        idle = sum(map(len, self._conns.values()))
        return len(self._acquired), idle, sum(map(len, self._waiters.values()))

    def drop_idle(self) -> None:
        """Close what may be stale, so that the next request gets a fresh connection."""
        for connections in self._conns.values():
            for protocol, _ in connections:
                protocol.close()
        self._conns.clear()

    def _release(
        self, key: "ConnectionKey", protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        cast("WatchedHandler", protocol).idle = True
        super()._release(key, protocol, should_close=should_close)
