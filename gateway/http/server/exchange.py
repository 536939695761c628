"""One request and its answer on a connection: the pipeline's `Inbound` and `Sink` in one object."""

import asyncio
import copy
from http import HTTPStatus
from typing import Protocol

from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import ClientDisconnected, GatewayError, PayloadTooLarge
from gateway.core.heads import NO_LINES, HeaderLines, header_lines
from gateway.http.flow_control import FlowControl
from gateway.http.server import cors
from gateway.http.server.body_bytes import COUNTED_BYTES, BodyBytes, HeldBody
from gateway.http.server.content_coding import decompressed
from gateway.http.server.port_state import PortState

MIB = 1024 * 1024
# Larger bodies are written apart from their head, because joining would copy them.
JOINED_BYTES = 64 * 1024
BODILESS = frozenset({204, 304})
# What every answer begins with.
VERSION = b"HTTP/1.1 "


class Exchange:
    """Made by its connection when a request's head is complete. `task` answers it.

    The body may still be arriving; `body` waits for it. What arrives before anybody asks is bounded by the
    connection, which stops reading.

    Many attributes: every request makes one of these, and a second object a request would cost more than it
    explains.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_failure",
        "_flow",
        "_head",
        "_is_silent",
        "_limit_bytes",
        "_port",
        "_size",
        "_waiter",
        "_watched",
        "complete",
        "disconnected",
        "ended",
        "headers",
        "held",
        "is_http10",
        "keep_alive",
        "method",
        "path",
        "query",
        "started",
        "status",
        "task",
    )

    def __init__(
        self,
        flow: FlowControl,
        port: PortState,
        method: str,
        path: str,
        query: bytes,
        headers: dict[bytes, bytes],
        is_http10: bool,
        keep_alive: bool,
        body_bytes: BodyBytes,
    ) -> None:
        """`is_http10`: the client speaks HTTP/1.0, so it knows neither chunks nor interim answers."""
        self._flow = flow
        self._port = port
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.is_http10 = is_http10
        self.keep_alive = keep_alive
        self._body: bytes | bytearray = b""
        self._size = 0
        self._body_bytes = body_bytes
        self.held: HeldBody | None = None
        self._limit_bytes: int | None = None
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watched = False
        self._head = b""
        self._is_silent: bool  # once started
        self.complete = False
        self.disconnected = False
        self.started = False
        self.status = 0  # of the answer, once it has started
        self.ended = False
        self.task: asyncio.Task[None] | None = None

    # --- Inbound ---

    @property
    def peer(self) -> str:
        return self._flow.peer

    @property
    def size(self) -> int:
        """Bytes of the body that have come."""
        return self._size

    async def body(self, limit_bytes: int, key: str) -> bytes | bytearray:
        self._limit_bytes = limit_bytes
        if self._size > COUNTED_BYTES or not self.complete:
            self._belong(key)
        if not self.complete or self._failure is not None or self._size > limit_bytes:
            await self._receive(limit_bytes)
        body, self._body = self._body, b""
        coding = self.headers.get(b"content-encoding")
        # In a thread: how long it takes says what comes out of it, and not the size that went in.
        if coding is None:
            return body
        self._belong(key)
        return await asyncio.to_thread(decompressed, coding, body, limit_bytes, self._hold_decompressed)

    def _belong(self, key: str) -> None:
        """The body, as much as will come of it, counts for `key` as well. Raises LimitExceeded."""
        if self.held is None:
            self.held = HeldBody()
        try:
            self._body_bytes.belong(self.held, key)
        except GatewayError as error:
            self.fail(error)
            raise

    def _hold_decompressed(self, size: int) -> None:
        """In a thread: `size` bytes came out of the body so far, which is there as well."""
        if self.held is not None and self._size + size > COUNTED_BYTES:
            self._body_bytes.grow(self.held, self._size + size)

    def release(self) -> None:
        """Nothing of the body is held any more."""
        if self.held is not None:
            self._body_bytes.close(self.held)

    async def _receive(self, limit_bytes: int) -> None:
        """Wait for the body. Raises what it will not come for."""
        # The parser has seen to it that it is a number below 2**64; but it may have any number of zeros.
        declared = self.headers.get(b"content-length", b"0").strip()[-20:]
        if self._size > limit_bytes or int(declared) > limit_bytes:
            self._refuse_size(limit_bytes)
        if not self.complete and self._failure is None:
            await self._arrival()
        if self._failure is not None:
            raise copy.copy(self._failure)  # its traceback would hold this exchange, and so itself

    def watch(self) -> None:
        if self.disconnected:
            raise ClientDisconnected
        self._watched = True

    async def left(self) -> None:
        """Return once the client has gone."""
        while not self.disconnected:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _arrival(self) -> None:
        """Wait until the body is complete, or will not be."""
        if not self.is_http10 and b"expect" in self.headers:
            self._flow.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._waiter = asyncio.get_running_loop().create_future()
        self._flow.resume_reading()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- what the connection reports ---

    def feed(self, data: bytes) -> int:
        """Take a piece of the body. Returns how many bytes wait here for somebody to ask for them."""
        if self._failure is not None:
            return 0
        self._size += len(data)
        if self._limit_bytes is not None and self._size > self._limit_bytes:
            self._refuse_size(self._limit_bytes)
            return 0
        if self._size > COUNTED_BYTES and not self._hold():
            return 0
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            # One array and no list of pieces: chunks of a byte or two would take thirty times their size.
            self._body = bytearray(self._body)
            self._body += data
        return self._size if self._limit_bytes is None else 0

    def _hold(self) -> bool:
        """Whether there is room for what has arrived; else the request has failed."""
        if self.held is None:
            self.held = HeldBody()
        try:
            self._body_bytes.grow(self.held, self._size)
        except GatewayError as error:
            self.fail(error)
            return False
        return True

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self, failure: Exception) -> None:
        """The rest of the body will not come, or is not wanted: `body` raises `failure`."""
        if self._failure is None:
            self._failure = failure
            self._body = b""
            self.release()
            self._wake()

    def client_gone(self) -> None:
        """The client has gone: nobody is left to answer."""
        if self.disconnected:
            return
        self.disconnected = True
        if not self.complete:
            self.fail(ClientDisconnected())
        self._wake()
        if self._watched and self.task is not None and not self.ended:
            self.task.cancel()

    def send_ahead(self) -> None:
        """Send the next byte that the client gets in any case, whatever the answer will be."""
        if self.ended:
            return
        if not self.started:
            self._flow.send_ahead(VERSION)
        elif self._head:
            self._flow.write(self._head[:1])
            self._head = self._head[1:]
        elif not (self.is_http10 or self._is_silent):
            self._flow.write(b"0")  # of the size of the chunk that comes next

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _refuse_size(self, limit_bytes: int) -> None:
        self.fail(PayloadTooLarge(f"The request body is larger than the limit of {limit_bytes // MIB} MiB."))

    # --- Sink ---

    async def answer(self, status: int, lines: HeaderLines, body: bytes) -> None:
        self.answer_now(status, lines, body)
        if self._flow.is_congested:
            await self._flow.drained()

    def answer_now(self, status: int, lines: HeaderLines, body: bytes) -> None:
        """As `answer`, without a wait for a client that takes too little."""
        framing = b"" if status in BODILESS else b"content-length: %d\r\n" % len(body)
        head = self._begin(status, lines, framing)
        self.ended = True
        flow = self._flow
        if self._is_silent:
            flow.write(head)
        elif len(body) <= JOINED_BYTES:
            flow.write(head + body)
        else:
            flow.write(head)
            flow.write(body)

    async def start(self, status: int, lines: HeaderLines, trailer: bytes = b"") -> None:
        # Kept for a moment: it leaves together with the first data.
        self._head = self._begin_stream(status, lines, trailer)

    def start_now(self, status: int, lines: HeaderLines, data: bytes, trailer: bytes = b"") -> None:
        head = self._begin_stream(status, lines, trailer)
        if data and not self._is_silent:
            head += data if self.is_http10 else b"%x\r\n%b\r\n" % (len(data), data)
        self._flow.write(head)

    async def send(self, data: bytes) -> None:
        if self.ended or not self.started:
            raise RuntimeError("data outside of an answer")
        if not data or self._is_silent:
            return  # an empty chunk would be read as the last one
        if not self.is_http10:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        flow = self._flow
        flow.write(data)
        if flow.is_congested:
            await flow.drained()

    def send_now(self, data: bytes) -> bool:
        flow = self._flow
        if flow.is_congested or self._head or self.is_http10 or self._is_silent or self.ended or not data:
            return False
        flow.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def end(self, trailers: HeaderLines = NO_LINES) -> None:
        if self.ended or not self.started:
            raise RuntimeError("the end of no answer")
        self.ended = True
        head, self._head = self._head, b""
        is_chunked = not (self.is_http10 or self._is_silent)
        self._flow.write(b"%b0\r\n%b\r\n" % (head, trailers) if is_chunked else head)

    def _begin_stream(self, status: int, lines: HeaderLines, trailer: bytes) -> bytes:
        framing = b""
        if not self.is_http10 and status not in BODILESS:
            framing = b"transfer-encoding: chunked\r\n"
            if trailer:
                framing += b"trailer: %b\r\n" % trailer
        return self._begin(status, lines, framing)

    def _begin(self, status: int, lines: HeaderLines, framing: bytes) -> bytes:
        """The answer's head."""
        if self.started:
            raise RuntimeError("a second answer to one request")
        self.started = True
        self.status = status
        self._is_silent = self.method == "HEAD" or status in BODILESS
        if not self.complete:
            self.keep_alive = False  # the rest of the body would be taken for the next request
        head = b"".join(
            (
                STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
                self._port.field_lines,
                lines,
                framing,
                cors.LINES if b"origin" in self.headers else b"",
                b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
            )
        )
        return head[self._flow.take_sent_ahead() :] if self._flow.sent_ahead else head


def refusal(error: GatewayError, field_lines: bytes) -> bytes:
    """The last answer on a connection, to what is no request."""
    body = envelope(error)
    return b"%b%b%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        STATUS_LINES[error.status],
        field_lines,
        header_lines(retry_headers(error)),
        len(body),
        body,
    )


class Handler(Protocol):
    """Answers exchanges. It ends each one, and raises nothing but a cancellation that is not the client's."""

    async def handle(self, exchange: Exchange) -> None: ...


STATUS_LINES = {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode("ascii")) for status in HTTPStatus
}
