"""Connections to one endpoint: idle ones last in, first out; a bound on all of them; waiters in order.

A slot is the right to hold one connection. `size` counts slots: idle, busy and being dialled.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gateway.core.endpoint import Endpoint
from gateway.http.client.connection import Connection
from gateway.http.flow_control import WriteCoalescer
from gateway.ports import UpstreamRequest

_TARGET = re.compile(rb"/[!\"$-~]*").fullmatch
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
is_name = _TOKEN  # of a header, in lower case
_METHOD = re.compile(rb"[A-Z]{1,32}").fullmatch
_RESERVED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer"}
    | {b"upgrade", b"expect", b"proxy-connection"}
)
_USUALLY_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS"})
_CACHE_ENTRIES = 1024  # entries of each kind


class RequestHead:
    """Encodes heads for `endpoint`. Identity encoding is always asked for; callers cannot change that."""

    __slots__ = ("_fixed", "_prefixes", "_starts")

    def __init__(self, endpoint: Endpoint) -> None:
        authority = endpoint.authority.encode("ascii" if endpoint.authority.isascii() else "idna")
        if not re.fullmatch(rb"[!-~]+", authority):
            raise ValueError(f"not a host name: {endpoint.host!r}")
        self._fixed = b" HTTP/1.1\r\nhost: " + authority + b"\r\naccept-encoding: identity"
        # Pieces that have been checked before. A line is `\r\nname: ` and a value: its end is the next one's.
        self._starts: dict[bytes, bytes] = {}
        self._prefixes: dict[bytes, bytes] = {}

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head of `request`, with content-length. Raises ValueError for what could break framing."""
        start = request.method + b" " + request.target
        pieces = [self._starts.get(start) or self._admit_start(request)]
        prefixes = self._prefixes
        lines = 4  # start line, host, accept-encoding, the empty line
        for name, value in request.headers:
            prefix = prefixes.get(name)
            if prefix is None:
                prefix = self._admit(name)
            if prefix:
                pieces.append(prefix)
                pieces.append(value)
                lines += 1
        length = len(request.body)
        if length or request.method not in _USUALLY_WITHOUT_BODY:
            pieces.append(b"\r\ncontent-length: %d\r\n\r\n" % length)
            lines += 1
        else:
            pieces.append(b"\r\n\r\n")
        head = b"".join(pieces)
        # Counting beats a check per value: with as many CR and LF as lines, none came from outside.
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("CR, LF or NUL in a request header")
        return head

    def _admit_start(self, request: UpstreamRequest) -> bytes:
        """All up to the caller's own headers. Raises ValueError for a bad method or target."""
        if not _METHOD(request.method):
            raise ValueError(f"not a method: {request.method!r}")
        if not _TARGET(request.target):
            raise ValueError("the request target must be a path of visible ASCII without a fragment")
        prepared = request.method + b" " + request.target + self._fixed
        if len(self._starts) < _CACHE_ENTRIES:
            self._starts[request.method + b" " + request.target] = prepared
        return prepared

    def _admit(self, name: bytes) -> bytes:
        """The prepared `name: `; empty for a name that is left out. Raises ValueError for a bad one."""
        if name == b"accept-encoding":
            self._prefixes[name] = b""
            return b""
        if name in _RESERVED:
            raise ValueError(f"the client sets {name.decode()} itself")
        if not _TOKEN(name):
            raise ValueError(f"not a lower-case header name: {name!r}")
        prefix = b"\r\n" + name + b": "
        if len(self._prefixes) < _CACHE_ENTRIES:
            self._prefixes[name] = prefix
        return prefix


class ConnectionPool:
    """Bookkeeping only: dialling is `Dialer`, the order of events is `HttpUpstream`."""

    __slots__ = (
        "_loop",
        "_on_idle",
        "coalescer",
        "connections",
        "endpoint",
        "idle",
        "request_head",
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
        self.request_head = RequestHead(endpoint)
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
