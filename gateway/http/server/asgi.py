"""An ASGI application behind a port of ours: one exchange becomes one HTTP scope.

Rules:
- What a client may send, and for how long, is the connection's matter, as on every port. `max_body_bytes` is
  this one's. What the connection refuses (too large, damaged, gone) is raised where the application reads.
- A body is handed over whole and decompressed, so the headers that describe its coding are left out.
- The framing of the answer is the connection's: length, chunks and closing.
- Nothing is cancelled when a client leaves: what it asked to be changed is changed.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from gateway.core.errors import ClientDisconnected
from gateway.core.heads import HeaderLines, header_lines
from gateway.http.server.exchange import Exchange

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]

_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
NOBODYS = ""  # the key that bodies count for
_CODING = frozenset({b"content-encoding", b"content-length"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})


class AsgiHandler:
    """A `Handler` that asks an application of ASGI 3, without lifespan and websockets."""

    def __init__(self, app: Application, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def handle(self, exchange: Exchange) -> None:
        cycle = _Cycle(exchange, self._max_body_bytes)
        await self._app(scope_of(exchange), cycle.receive, cycle.send)


def scope_of(exchange: Exchange) -> dict[str, Any]:
    """The scope of ASGI's HTTP protocol, with each header once."""
    raw_path = exchange.path.encode("latin-1")
    left_out = _CODING if b"content-encoding" in exchange.headers else frozenset()
    return {
        "type": "http",
        "asgi": _VERSIONS,
        "http_version": "1.0" if exchange.is_http10 else "1.1",
        "method": exchange.method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": exchange.query,
        "root_path": "",
        "headers": [pair for pair in exchange.headers.items() if pair[0] not in left_out],
        "client": _address(exchange.peer),
        "server": None,
    }


class _Cycle:
    """One request and its answer, as the application sees them."""

    __slots__ = ("_exchange", "_is_read", "_lines", "_max_body_bytes", "_status")

    def __init__(self, exchange: Exchange, max_body_bytes: int) -> None:
        self._exchange = exchange
        self._max_body_bytes = max_body_bytes
        self._is_read = False
        self._status: int | None = None  # of the answer, once the application has said it
        self._lines: HeaderLines

    async def receive(self) -> Message:
        """The whole body, once; then word that the client has left."""
        if not self._is_read:
            self._is_read = True
            try:
                body = bytes(await self._exchange.body(self._max_body_bytes, NOBODYS))
            except ClientDisconnected:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": False}
        await self._exchange.left()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Raises OSError when nobody is there any more."""
        exchange = self._exchange
        if exchange.disconnected:
            raise ConnectionResetError("the client has left")
        if message["type"] == "http.response.start":
            if self._status is not None:
                raise RuntimeError("a second start of one answer")
            fields = [(name.lower(), value) for name, value in message["headers"]]
            self._lines = header_lines(pair for pair in fields if pair[0] not in _FRAMING)
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        exchange = self._exchange
        if self._status is None:
            raise RuntimeError("a body without the start of an answer")
        if not exchange.started and not more:
            await exchange.answer(self._status, self._lines, body)
            return
        if not exchange.started:
            await exchange.start(self._status, self._lines)
        await exchange.send(body)
        if not more:
            await exchange.end()


def _address(peer: str) -> tuple[str, int] | None:
    """`ip:port` in two; None where the transport knows no peer, as on a Unix socket."""
    host, _, port = peer.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None
