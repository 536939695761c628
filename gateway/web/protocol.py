"""HTTP/1.1 on the data port: uvicorn's server runs this class instead of its own ASGI cycle.

Rules:
- One answer at a time: a pipelined request waits its turn, and reading stops while too much of it waits.
- A head has a bound in bytes and in time; a body that stops arriving is given up.
- What cannot be parsed gets one error and the connection is closed, never a guess.
- The loss of the connection is told to the exchange at once: it cancels the work upstream.
"""

import asyncio
from collections import deque
from typing import Any, Protocol, cast

import httptools
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.core.envelope import envelope
from gateway.core.errors import InvalidRequest
from gateway.web.exchange import Exchange

MAX_HEAD_BYTES = 64 * 1024
MAX_WAITING_BYTES = 64 * 1024
MAX_PIPELINED = 16
STALL_SECONDS = 30.0
IDLE_SECONDS = 75.0
CHECK_SECONDS = 5.0


class Handler(Protocol):
    """Answers exchanges. It ends each one, and raises nothing but a cancellation that is not the client's."""

    async def handle(self, exchange: Exchange) -> None: ...


class HeadTooLarge(Exception):
    """The request's head has more than MAX_HEAD_BYTES."""


class DataProtocol(asyncio.Protocol):
    """One client connection. The constructor's signature is uvicorn's; the app is a `Handler`."""

    __slots__ = (
        "_active",
        "_arriving",
        "_began_at",
        "_drain",
        "_handler",
        "_head_bytes",
        "_headers",
        "_heard_at",
        "_loop",
        "_parser",
        "_reading",
        "_state",
        "_stopping",
        "_timer",
        "_transport",
        "_url",
        "_waiting",
        "is_congested",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._handler = cast("Handler", config.loaded_app)
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._active: Exchange | None = None
        self._arriving: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._url = b""
        self._head_bytes = 0
        self._began_at: float | None = None
        self._heard_at = 0.0
        self._reading = True
        self._stopping = False
        self._drain: asyncio.Future[None] | None = None
        self.is_congested = False

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that the server adds to every answer: the date, kept by its own tick."""
        return self._state.default_headers

    # --- the event loop's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # in place of uvicorn's own class
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(CHECK_SECONDS, self._check)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._transport.is_closing():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "This port speaks HTTP/1.1 only and does not upgrade connections.")
        except httptools.HttpParserError as exc:
            if isinstance(exc.__context__, HeadTooLarge):
                self._refuse(431, f"The request's head is larger than {MAX_HEAD_BYTES // 1024} KiB.")
            else:
                self._refuse(400, "This is not a well-formed HTTP/1.1 request.")

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        for exchange in (self._active, *self._waiting):
            if exchange is not None:
                exchange.lost()

    def pause_writing(self) -> None:
        self.is_congested = True

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    def shutdown(self) -> None:
        """The server drains: close when idle, else after the answer under way."""
        self._stopping = True
        if self._active is None:
            self._transport.close()
        else:
            self._active.keep_alive = False

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        self._headers = {}
        self._url = b""
        self._head_bytes = 0
        self._began_at = self._heard_at

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        self._headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._began_at = None
        path = self._url.partition(b"?")[0].decode("latin-1")
        exchange = Exchange(self, parser.get_method().decode("ascii"), path, self._headers)
        is_old = parser.get_http_version() == "1.0"
        exchange.keep_alive = parser.should_keep_alive() and not is_old and not self._stopping
        exchange.is_chunked = not is_old
        self._arriving = exchange
        if self._active is None:
            self._begin(exchange)
        else:
            self._queue(exchange)

    def on_body(self, body: bytes) -> None:
        if self._arriving is not None and self._arriving.feed(body) > MAX_WAITING_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self._arriving is not None:
            self._arriving.finish()
            self._arriving = None

    # --- what exchanges use ---

    def write(self, data: bytes) -> None:
        """Queue `data` for the client; nothing happens when it has gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Return once the client has read enough for more to be written, or has gone."""
        if self.is_congested and not self._transport.is_closing():
            self._drain = self._loop.create_future()
            await self._drain

    def read_on(self) -> None:
        """Somebody wants the rest of a body."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    # --- turns ---

    def _begin(self, exchange: Exchange) -> None:
        self._active = exchange
        exchange.task = task = self._loop.create_task(self._answer(exchange))
        self._state.tasks.add(task)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler.handle(exchange)
        finally:
            if exchange.task is not None:
                self._state.tasks.discard(exchange.task)
            self._turn(exchange)

    def _turn(self, exchange: Exchange) -> None:
        """An exchange is over: close the connection, or take the next request."""
        self._state.total_requests += 1
        self._active = None
        if not exchange.ended:
            self._transport.abort()  # half an answer must not look like a whole one
        elif not exchange.keep_alive:
            self._transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        self.read_on()

    def _queue(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        if len(self._waiting) >= MAX_PIPELINED:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request. An answer under way goes first, and nothing follows it."""
        self._pause_reading()
        if self._active is not None:
            self._active.keep_alive = False
            self._waiting.clear()
            if not self._active.complete:
                self._active.lost()
            return
        body = envelope(InvalidRequest(message, code="invalid_http"))
        self.write(
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self._transport.close()

    def _check(self) -> None:
        """Every few seconds: give up what does not move."""
        self._timer = self._loop.call_later(CHECK_SECONDS, self._check)
        now = self._loop.time()
        quiet = now - self._heard_at
        if self._arriving is not None and self._reading:
            if quiet > STALL_SECONDS:
                self._arriving.stalled(STALL_SECONDS)
        elif self._began_at is not None:
            # Counted from the head's first byte: dripping one at a time does not extend it.
            if now - self._began_at > STALL_SECONDS:
                self._refuse(408, f"The request's head took longer than {STALL_SECONDS:.0f} s.")
        elif self._active is None and quiet > IDLE_SECONDS:
            self._transport.close()
