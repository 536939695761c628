"""One request and its answer on a connection: the pipeline's `Inbound` and `Sink` in one object."""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.core.errors import ClientDisconnected, InvalidRequest, PayloadTooLarge
from gateway.ports import Headers

if TYPE_CHECKING:
    from gateway.web.protocol import DataProtocol

MIB = 1024 * 1024
MAX_DISCARDED_BYTES = 256 * MIB
# Larger bodies are written apart from their head, because joining would copy them.
JOINED_BYTES = 64 * 1024


class Exchange:
    """Made by `DataProtocol` when a request's head is complete. `task` answers it.

    The body may still be arriving; `body` waits for it. What arrives before anybody asks is bounded by the
    connection, which stops reading.
    """

    __slots__ = (
        "_body",
        "_discarded",
        "_head",
        "_headers",
        "_limit_bytes",
        "_protocol",
        "_size",
        "_waiter",
        "_watched",
        "complete",
        "disconnected",
        "ended",
        "is_chunked",
        "keep_alive",
        "method",
        "path",
        "started",
        "task",
    )

    def __init__(self, protocol: "DataProtocol", method: str, path: str, headers: dict[bytes, bytes]) -> None:
        self._protocol = protocol
        self.method = method
        self.path = path
        self._headers = headers
        self._body: list[bytes] = []
        self._size = 0
        self._discarded = 0
        self._limit_bytes: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watched = False
        self._head: bytes | None = None
        self.complete = False
        self.disconnected = False
        self.keep_alive = True
        self.is_chunked = True
        self.started = False
        self.ended = False
        self.task: asyncio.Task[None] | None = None

    # --- Inbound ---

    def header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit_bytes: int) -> bytes:
        declared = self._headers.get(b"content-length", b"")
        # The parser has refused what is no number; more than 19 digits are too much in any case.
        too_large = len(declared) > 19 or int(declared or 0) > limit_bytes
        self._limit_bytes = 0 if too_large else limit_bytes
        if not self.complete:
            await self._arrival(too_large)
        if too_large or self._size > limit_bytes:
            raise PayloadTooLarge(f"The request body is larger than the limit of {limit_bytes // MIB} MiB.")
        chunks, self._body = self._body, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def watch(self) -> None:
        if self.disconnected:
            raise ClientDisconnected
        self._watched = True

    async def _arrival(self, too_large: bool) -> None:
        """Wait until the body is complete, or as much of one that is too large as we care to throw away.

        A client that is still sending would miss an answer that comes earlier.
        """
        if b"expect" in self._headers:
            if too_large:
                return
            self._protocol.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.disconnected:
            raise ClientDisconnected
        self._waiter = asyncio.get_running_loop().create_future()
        self._protocol.read_on()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- what the connection reports ---

    def feed(self, data: bytes) -> int:
        """Take a piece of the body. Returns how many bytes wait here unread."""
        self._size += len(data)
        if self._limit_bytes is None or self._size <= self._limit_bytes:
            self._body.append(data)
            return self._size if self._limit_bytes is None else 0
        self._body.clear()
        self._discarded += len(data)
        if self._discarded > MAX_DISCARDED_BYTES:
            self.keep_alive = False
            self._wake()
        return 0

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def stalled(self, seconds: float) -> bool:
        """The body stopped arriving. Returns whether somebody waited for it and will answer."""
        if self._waiter is None or self._waiter.done():
            return False
        self.keep_alive = False
        message = f"The request body stopped arriving for {seconds:.0f} s."
        self._waiter.set_exception(InvalidRequest(message, code="request_timeout"))
        return True

    def lost(self) -> None:
        """The client has gone: nobody is left to answer."""
        self.disconnected = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientDisconnected())
        elif self._watched and self.task is not None and not self.ended:
            self.task.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- Sink ---

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self.ended = True
        head = self._encode_head(status, headers)
        if status != 204:
            head.append(b"content-length: %d\r\n\r\n" % len(body))
        else:
            head.append(b"\r\n")
        protocol = self._protocol
        if self.method == "HEAD":
            protocol.write(b"".join(head))
        elif len(body) <= JOINED_BYTES:
            head.append(body)
            protocol.write(b"".join(head))
        else:
            protocol.write(b"".join(head))
            protocol.write(body)
        if protocol.is_congested:
            await protocol.drained()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        head = self._encode_head(status, headers)
        head.append(b"transfer-encoding: chunked\r\n\r\n" if self.is_chunked else b"\r\n")
        # Kept for a moment: it leaves together with the first data.
        self._head = b"".join(head)

    async def send(self, data: bytes) -> None:
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head is not None:
            data, self._head = self._head + data, None
        protocol = self._protocol
        protocol.write(data)
        if protocol.is_congested:
            await protocol.drained()

    async def end(self) -> None:
        self.ended = True
        last = self._head or b""
        self._head = None
        self._protocol.write(last + b"0\r\n\r\n" if self.is_chunked else last)

    def _encode_head(self, status: int, headers: Headers) -> list[bytes]:
        if not self.complete:
            self.keep_alive = False  # the rest of the body would be taken for the next request
        head = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in self._protocol.default_headers:
            head.append(b"%b: %b\r\n" % (name, value))
        for name, value in headers:
            head.append(b"%b: %b\r\n" % (name, value))
        if b"origin" in self._headers:
            head.append(CORS)
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        return head


STATUS_LINES = {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode("ascii")) for status in HTTPStatus
}

CORS = (
    b"access-control-allow-origin: *\r\n"
    b"access-control-expose-headers: x-request-id, retry-after, x-tollway-deployment, x-tollway-decision, "
    b"x-tollway-cost-usd, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
    b"x-ratelimit-reset-tokens\r\n"
)
