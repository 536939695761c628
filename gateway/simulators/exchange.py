"""One HTTP request, read whole, and the ways to answer it. The only place that speaks ASGI."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gateway.simulators.refusals import Header
from gateway.simulators.transport import EXTENSION, SimulatedConnection

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON_TYPE = b"application/json"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `prompt_tokens` is what it will be billed for."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON_TYPE
    headers: tuple[Header, ...] = ()
    prompt_tokens: int = 0


class SimulatedExchange:
    """A request and its connection. After `start` come `send`s and one `end`, or a connection fault."""

    def __init__(self, scope: Scope, body: bytes, connection: SimulatedConnection, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: list[Header] = scope["headers"]
        self.body = body
        self.connection = connection
        self._query: bytes = scope["query_string"]
        self._send = send

    def header(self, name: bytes) -> str | None:
        """Value of a request header, by its lower-case name."""
        for known, value in self.headers:
            if known == name:
                return value.decode("latin-1")
        return None

    def query(self, name: str) -> str | None:
        return parse_qs(self._query.decode("latin-1")).get(name, [None])[0]

    async def reply(self, reply: Reply, headers: Iterable[Header] = ()) -> None:
        length = (b"content-length", b"%d" % len(reply.body))
        await self.start(reply.status, reply.content_type, [*headers, *reply.headers, length])
        await self._send({"type": "http.response.body", "body": reply.body})

    async def start(self, status: int, content_type: bytes, headers: Iterable[Header]) -> None:
        listed = [(b"content-type", content_type), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": listed})

    async def send(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


async def received(scope: Scope, receive: Receive, send: Send) -> SimulatedExchange | None:
    """The request once its body is whole; None when the client left before that."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        more = message["more_body"]
    connection: SimulatedConnection = scope["extensions"][EXTENSION]
    connection.listen()
    return SimulatedExchange(scope, parts[0] if len(parts) == 1 else b"".join(parts), connection, send)
