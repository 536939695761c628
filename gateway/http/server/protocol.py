"""HTTP/1.1 on the data port: uvicorn's server runs this class instead of its own ASGI cycle.

Rules:
- One answer at a time: a pipelined request waits its turn, and reading stops while too much of it waits.
- Every wait for the client has a bound in time, and everything that it sends a bound in bytes
  (`ServerLimits`).
- What cannot be parsed gets one error and the connection is closed, never a guess.
- A client that closes its side has gone, also when it only meant to say that it has asked all: there is no
  other sign of a client that has left, and the work upstream must then stop at once.
"""

import asyncio
import socket
import struct
from collections import deque
from typing import Any, ClassVar, cast

import structlog
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.core.errors import InvalidRequest
from gateway.http.server.body import RequestReader
from gateway.http.server.exchange import Exchange, Handler, refusal
from gateway.http.server.limits import RequestTimeout, ServerLimits
from gateway.http.write_coalescer import WriteCoalescer

RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_log = structlog.get_logger("tollway.http")


class DataProtocol(asyncio.Protocol):
    """One client connection. The constructor's signature is uvicorn's; the app is a `Handler`."""

    limits: ClassVar[ServerLimits] = ServerLimits()

    __slots__ = (
        "_active",
        "_coalescer",
        "_discarded_bytes",
        "_drain",
        "_handler",
        "_heard_at",
        "_idle_since",
        "_input_closed",
        "_is_reading",
        "_is_stopping",
        "_lingering_since",
        "_loop",
        "_reader",
        "_refusal",
        "_server_fields",
        "_server_headers",
        "_state",
        "_timer",
        "_transport",
        "_unread_bytes",
        "_unread_since",
        "_waiting",
        "_written_in",
        "is_congested",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        coalescer: WriteCoalescer,
    ) -> None:
        """`coalescer` is shared by all connections of the server."""
        self._handler = cast("Handler", config.loaded_app)
        self._state = server_state
        self._coalescer = coalescer
        self._written_in = -1
        self._loop = _loop or asyncio.get_running_loop()
        now = self._loop.time()
        self._reader = RequestReader(self, self.limits, self._take, self._pause_reading, now)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._active: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._refusal: InvalidRequest | None = None
        self._heard_at = self._idle_since = self._unread_since = now
        self._lingering_since: float | None = None
        self._unread_bytes = self._discarded_bytes = 0
        self._server_headers: list[tuple[bytes, bytes]] = []
        self._server_fields = b""
        self._is_reading = True
        self._input_closed = False
        self._is_stopping = False
        self._drain: asyncio.Future[None] | None = None
        self.is_congested = False

    # --- the event loop's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # uvloop's own low mark is 16 bytes: a large answer would stop and start with every buffer.
        self._transport.set_write_buffer_limits(high=64 * 1024, low=16 * 1024)
        self._state.connections.add(self)  # type: ignore[arg-type]  # in place of uvicorn's own class
        self._timer = self._loop.call_later(self.limits.check_seconds, self._check)

    def data_received(self, data: bytes) -> None:
        self._heard_at = now = self._loop.time()
        if self._input_closed:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > self.limits.linger_bytes:
                self._transport.abort()
            return
        try:
            self._reader.feed(data, now)
        except InvalidRequest as error:
            self._refuse(error)

    def eof_received(self) -> None:
        if self._active is not None:
            self._lose()
            # Not a mere close: that would wait for a client which reads no more.
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._lose()
        self.resume_writing()
        self._reader.close()

    def pause_writing(self) -> None:
        self.is_congested = True

    def resume_writing(self) -> None:
        self.is_congested = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    def shutdown(self) -> None:
        """The server drains: close when idle, else after the answer under way."""
        self._is_stopping = True
        if self._active is None:
            self._coalescer.flush()
            self._transport.close()
        else:
            self._active.keep_alive = False

    @property
    def transport(self) -> asyncio.Transport:
        """For the server, which closes what is left in the end."""
        return self._transport

    # --- what exchanges use ---

    def server_fields(self) -> bytes:
        """The header lines that the server adds to every answer: the date, kept by its own tick."""
        headers = self._state.default_headers
        if headers is not self._server_headers:
            self._server_headers = headers
            self._server_fields = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return self._server_fields

    def write(self, data: bytes) -> None:
        """Queue `data` for the client, if it is still there."""
        coalescer, transport = self._coalescer, self._transport
        if transport.is_closing():
            self.is_congested = True
        elif self._written_in != coalescer.turn:
            self._written_in = coalescer.turn
            coalescer.write(self._loop, transport, data)
        else:
            # Whoever writes on and on must hear of a congestion before the turn is over.
            coalescer.flush()
            transport.write(data)

    async def drained(self) -> None:
        """Return once the client has read enough for more to be written, or has gone."""
        if self._transport.is_closing():
            await asyncio.sleep(0)  # who only writes would never let the loop tell that the client has gone
        elif self.is_congested:
            self._drain = self._loop.create_future()
            await self._drain

    def read_on(self) -> None:
        """Somebody wants what comes next."""
        if self._is_reading:
            return
        self._is_reading = True
        self._heard_at = self._loop.time()
        if self._reader.began_at is not None:
            self._reader.began_at = self._heard_at  # it was us who did not listen
        self._transport.resume_reading()

    # --- turns ---

    def _take(self, exchange: Exchange) -> None:
        if self._active is None:
            self._begin(exchange)
            return
        self._waiting.append(exchange)
        if len(self._waiting) >= self.limits.waiting_requests:
            self._pause_reading()  # what its segment still brings is taken all the same

    def _begin(self, exchange: Exchange) -> None:
        self._active = exchange
        exchange.task = task = self._loop.create_task(self._answer(exchange))
        self._state.tasks.add(task)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler.handle(exchange)
        except Exception as exc:
            # Its name only: the text of an error could hold the prompt.
            _log.error("handler.defect", kind=type(exc).__name__)
        except asyncio.CancelledError:
            self._coalescer.flush()
            self._transport.abort()  # the time to stop is over, also for what the client has yet to read
            raise
        finally:
            if exchange.task is not None:
                self._state.tasks.discard(exchange.task)
                exchange.task = None  # once cancelled it would hold the exchange
            self._turn(exchange)

    def _turn(self, exchange: Exchange) -> None:
        """An exchange is over: close the connection, or take the next request."""
        self._state.total_requests += 1
        self._active = None
        if not exchange.ended:
            self._cut_off(exchange)
        elif not exchange.keep_alive:
            self._hang_up()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        elif self._refusal is not None:
            self._tell(self._refusal)
        if not self._is_reading:
            self.read_on()

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    # --- ways out ---

    def _refuse(self, error: InvalidRequest) -> None:
        """Nothing more is taken from this client. What it asked before is answered, then comes `error`."""
        self._input_closed = True
        self.read_on()  # only to notice when it leaves
        if self._reader.arriving is not None:
            self._reader.arriving.fail(error)  # which then is the answer to that request
            self._reader.arriving = None
        elif self._active is not None:
            self._refusal = error
        else:
            self._tell(error)

    def _tell(self, error: InvalidRequest) -> None:
        self.write(refusal(error, self.server_fields()))
        self._hang_up()

    def _hang_up(self) -> None:
        """Close after the last answer, and read on for a while where more of the client's may be on its way.

        Closing with bytes unread would reset the connection, and the client could lose the answer.
        """
        reader = self._reader
        is_midway = self._input_closed or self._waiting or not self._is_reading
        self._input_closed = True
        self._waiting.clear()
        if self._transport.is_closing():
            return
        self._coalescer.flush()
        if not is_midway and reader.began_at is None and reader.arriving is None:
            self._transport.close()
        else:
            self._lingering_since = self._loop.time()
            self._transport.write_eof()

    def _cut_off(self, exchange: Exchange) -> None:
        """End the connection in a way that half an answer cannot pass for a whole one."""
        self._input_closed = True
        self._coalescer.flush()
        if exchange.is_http10 and exchange.started and not self._transport.is_closing():
            # No length and no chunks: only a reset differs from the proper end.
            own = self._transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def _lose(self) -> None:
        """The client has gone."""
        self._input_closed = True
        for exchange in (self._active, *self._waiting):
            if exchange is not None:
                exchange.lost()
        self._waiting.clear()
        self._refusal = None

    def _check(self) -> None:
        """Every few seconds: give up what does not move."""
        limits, reader, now = self.limits, self._reader, self._loop.time()
        self._timer = self._loop.call_later(limits.check_seconds, self._check)
        unread = self._transport.get_write_buffer_size()
        if not unread or unread != self._unread_bytes:
            self._unread_bytes, self._unread_since = unread, now
        elif now - self._unread_since > limits.unread_seconds:
            self._transport.abort()
        if self._lingering_since is not None:
            if self._is_stopping or now - self._lingering_since > limits.linger_seconds:
                self._transport.abort()
        elif self._input_closed or not self._is_reading:
            return
        elif reader.arriving is not None:
            if now - self._heard_at > limits.body_seconds:
                self._refuse(RequestTimeout(f"No more of the request's body for {limits.body_seconds:g} s."))
        elif reader.began_at is not None:
            if now - reader.began_at > limits.head_seconds:
                self._refuse(RequestTimeout(f"The request's head took over {limits.head_seconds:g} s."))
        elif self._active is not None:
            self._idle_since = now
        elif now - max(self._idle_since, reader.last_began_at) > limits.idle_seconds:
            self._transport.close()
