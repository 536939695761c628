"""ASGI at the edge: an inbound request and a sink for the pipeline, which knows no ASGI itself."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.core.errors import ClientDisconnected, InvalidRequest, PayloadTooLarge
from gateway.ports import Headers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MIB = 1024 * 1024
MAX_DISCARDED_BYTES = 256 * MIB
BODY_STALL_SECONDS = 30.0
WATCH_AFTER_SECONDS = 0.01


class AsgiInbound:
    """The request of one ASGI scope. Once the body is read, `watch` cancels the task when the client goes."""

    __slots__ = ("_headers", "_receive", "_timer", "_watch", "disconnected", "path")

    def __init__(self, scope: Message, receive: Receive) -> None:
        raw = scope.get("raw_path") or scope["path"].encode("utf-8")
        self.path: str = raw.decode("latin-1")
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self.disconnected = False

    def header(self, name: bytes) -> str | None:
        for found, value in self._headers:
            if found == name:
                return value.decode("latin-1")
        return None

    async def body(self, limit_bytes: int) -> bytes:
        declared = self.header(b"content-length")
        if declared is not None and _length(declared) > limit_bytes:
            if self.header(b"expect") is None:
                await self._discard(_length(declared))
            raise _too_large(limit_bytes)
        message = await self._receive()
        data: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False):
            return data
        return await self._rest(message, bytearray(data), limit_bytes)

    async def _rest(self, message: Message, gathered: bytearray, limit_bytes: int) -> bytes:
        while message.get("more_body", False):
            message = await self._next()
            gathered += message.get("body", b"")
            if len(gathered) > limit_bytes:
                await self._discard(limit_bytes)
                raise _too_large(limit_bytes)
        if message["type"] == "http.disconnect":
            self.disconnected = True
            raise ClientDisconnected
        return bytes(gathered)

    async def _discard(self, expected_bytes: int) -> None:
        """Read on and throw away, within bounds: a client that is still sending would miss the answer."""
        left = min(expected_bytes, MAX_DISCARDED_BYTES)
        while left > 0:
            message = await self._next()
            left -= max(len(message.get("body", b"")), 1)
            if not message.get("more_body", False):
                return

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(BODY_STALL_SECONDS):
                return await self._receive()
        except TimeoutError as exc:
            raise InvalidRequest(
                f"The request body stopped arriving for {BODY_STALL_SECONDS:.0f} s.", code="request_timeout"
            ) from exc

    def watch(self) -> None:
        # A task for each request is dear, and most that end within this time have nobody to wait for.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._start_watch, asyncio.current_task(loop))

    def unwatch(self) -> None:
        """Stop watching; must follow `watch` once the answer is complete."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _start_watch(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._watch = task.get_loop().create_task(self._wait_for_disconnect(task))

    async def _wait_for_disconnect(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        task.cancel()


class AsgiSink:
    """Writes the answer of one ASGI scope."""

    __slots__ = ("_send", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


def _length(declared: str) -> int:
    # More than 19 digits are too much in any case, and Python refuses to read more than 4,300.
    return int(declared[:19]) if declared.isdigit() else 0


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than the limit of {limit_bytes // MIB} MiB.")
