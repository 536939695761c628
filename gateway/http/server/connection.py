"""HTTP/1.1 on both ports: one connection of a client.

Rules:
- One answer at a time: a pipelined request waits its turn, and reading stops while too much of it waits.
- Every wait for the client has a bound in time, and everything that it sends a bound in bytes
  (`ServerLimits`).
- What cannot be parsed gets one error and the connection is closed, never a guess.
- A client that closes its side has asked all that it will. It is answered as long as it is still there, which
  `half_closed.py` finds out: where it has gone, the work upstream stops at once.
"""

import asyncio
import enum
import functools
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast

import structlog

from gateway.core.errors import InvalidRequest
from gateway.http.flow_control import FlowControl, WriteCoalescer
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.exchange import Exchange, Handler, refusal
from gateway.http.server.half_closed import HalfClosed
from gateway.http.server.limits import ConnectionNeeded, RequestTimeout, ServerLimits
from gateway.http.server.parser import RequestParser
from gateway.http.server.port_state import PortState
from gateway.http.server.shedding import BODY, LINES, STATUS, LoadShedder

RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_log = structlog.get_logger("tollway.http")


class ConnectionState(enum.Enum):
    """How far a connection is from its end. It only ever goes down this list."""

    OPEN = enum.auto()
    """Requests are taken."""
    REFUSED = enum.auto()
    """Something was refused: nothing more is taken, what was asked before is still answered."""
    HALF_CLOSED = enum.auto()
    """The client sends no more. What it has asked is answered, as long as it is there."""
    LINGERING = enum.auto()
    """The last answer is written. What still comes is read and dropped, until the client closes."""
    CLOSED = enum.auto()
    """Closing, cut off, or left by the client."""


# Read for every segment: a module's name costs less than an attribute of the enum's class.
_OPEN = ConnectionState.OPEN


class ServerConnection(asyncio.Protocol):
    """One client connection.

    Many attributes: what it is made with, the parts of a connection (parser, flow control, the exchanges in
    their order), and the times and counts that its limits are checked against.
    """

    limits: ClassVar[ServerLimits] = ServerLimits()

    __slots__ = (
        "_active",
        "_begun",
        "_body_bytes",
        "_checked_at",
        "_discarded_bytes",
        "_flow",
        "_half_closed",
        "_handler",
        "_heard_at",
        "_idle_seconds",
        "_idle_since",
        "_linger_seconds",
        "_lingering_since",
        "_loop",
        "_new_task",
        "_parser",
        "_pipelined",
        "_port",
        "_refusal",
        "_shedder",
        "_state",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        handler: Handler,
        port: PortState,
        *,
        coalescer: WriteCoalescer,
        body_bytes: BodyBytes,
        idle_seconds: float | None = None,
        shedder: LoadShedder | None = None,
    ) -> None:
        """`coalescer`, `body_bytes` and `shedder` are shared by all connections of the server.

        `idle_seconds` None: as in `limits`. `shedder` None: every request is answered by the handler.
        """
        self._body_bytes = body_bytes
        self._handler = handler
        self._port = port
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._flow = FlowControl(self._loop, coalescer, now)
        self._new_task = _eager_task(self._loop)
        self._shedder = shedder
        self._parser = RequestParser(self.limits, self._new_exchange, self._flow.pause_reading, now)
        self._state = _OPEN
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._half_closed: HalfClosed | None = None
        self._active: Exchange | None = None
        self._begun: Exchange | None = None  # the active one, until its segment has been read
        self._pipelined: deque[Exchange] = deque()
        self._refusal: InvalidRequest | None = None
        self._heard_at = self._idle_since = self._checked_at = self._lingering_since = now
        self._linger_seconds = self.limits.linger_seconds
        self._idle_seconds = self.limits.idle_seconds if idle_seconds is None else idle_seconds
        self._discarded_bytes = 0

    # --- the event loop's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flow.attach(self._transport)
        self._port.opened(self)
        self._timer = self._loop.call_later(self.limits.check_seconds, self._check)

    def data_received(self, data: bytes) -> None:
        self._heard_at = now = self._loop.time()
        if self._state is not _OPEN:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > self.limits.linger_bytes:
                self._transport.abort()
            return
        try:
            self._parser.feed(data, now)
        except InvalidRequest as error:
            self._refuse(error)
        if self._begun is not None:
            # In no variable here: a failure of the reading would hold the exchange by its traceback.
            self._start(self._begun)

    def eof_received(self) -> bool:
        """True: the client may still read. See `HalfClosed`, and what becomes of a request cut off."""
        active, arriving = self._active, self._parser.arriving
        if active is None:
            return False
        if arriving is active or not HalfClosed.can_watch(self._transport):
            self._left()
            return True  # aborted already: a mere close would wait for a client which reads no more
        if arriving is not None:
            self._pipelined.remove(arriving)  # never whole, so never begun
            self._parser.arriving = None
        if self._refusal is None:
            last = self._pipelined[-1] if self._pipelined else active
            last.keep_alive = False
        self._state = ConnectionState.HALF_CLOSED
        self._half_closed = HalfClosed(self._transport, self._send_ahead, self._left)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.closed(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._half_closed is not None:
            self._half_closed.close()
            self._half_closed = None
        self._client_gone()
        self._flow.resume_writing()
        self._parser.close()

    def pause_writing(self) -> None:
        self._flow.is_congested = True

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def shutdown(self) -> None:
        """The server drains: close when idle, else after the answer under way, and linger no more."""
        self._linger_seconds = 0.0
        if self._active is None:
            self._flow.flush()
            self._transport.close()
        else:
            self._active.keep_alive = False

    def abort(self) -> None:
        """Close it now, whatever is unsent."""
        self._transport.abort()

    @property
    def waits_since(self) -> float | None:
        """Since when nothing is owed to its client (seconds of the loop); None while something is."""
        if self._active is not None or self._transport.is_closing() or self.unsent_bytes:
            return None
        return self._parser.last_began_at

    @property
    def unsent_bytes(self) -> int:
        """What the client has yet to take."""
        return self._transport.get_write_buffer_size()

    def give_way(self) -> None:
        """Close it: a new connection needs its place."""
        if self._state is _OPEN and self._parser.began_at is not None:
            self._flow.write(
                refusal(
                    ConnectionNeeded("Others need this connection. Send the request again."),
                    self._port.field_lines,
                )
            )
        self._state = ConnectionState.CLOSED
        self._flow.flush()
        self._transport.close()

    # --- turns ---

    def _new_exchange(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: dict[bytes, bytes],
        is_http10: bool,
        keep_alive: bool,
    ) -> Exchange:
        """A request's head is complete: answer it now, or after those before it."""
        exchange = Exchange(
            self._flow,
            self._port,
            method,
            path,
            query,
            headers,
            is_http10,
            keep_alive,
            self._body_bytes,
        )
        if self._active is None:
            # Answered when its segment has been read: then its body is most likely there.
            self._active = self._begun = exchange
        else:
            self._pipelined.append(exchange)
            if len(self._pipelined) >= self.limits.waiting_requests:
                self._flow.pause_reading()  # what its segment still brings is taken all the same
        return exchange

    def _start(self, exchange: Exchange) -> None:
        """Begin to answer, at once where Python can."""
        self._begun = None
        shedder = self._shedder
        if shedder is not None:
            shedder.unasked -= 1
            if shedder.unasked < 0:
                admitted = self._shed(exchange, shedder)
                if admitted is None:
                    return
                exchange = admitted
        task = self._new_task(self._answer(exchange))
        if not task.done():
            exchange.task = task
            self._port.tasks.add(task)

    def _shed(self, exchange: Exchange, shedder: LoadShedder) -> Exchange | None:
        """Refuse `exchange`, and those that wait behind it, up to one that may begin: that is returned."""
        while shedder.refuses(exchange.headers):
            if self._flow.is_congested:  # it asks on and takes no answers
                exchange.keep_alive = False
            exchange.answer_now(STATUS, LINES, BODY)
            if not (exchange.keep_alive and self._pipelined):
                self._exchange_over(exchange)
                return None
            # Not by way of `_exchange_over`: a segment can hold thousands, and each would be a call deeper.
            self._active = exchange = self._pipelined.popleft()
        return exchange

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler.handle(exchange)
        except Exception as exc:
            # Its name only: the text of an error could hold the prompt.
            _log.error("handler.defect", kind=type(exc).__name__)
        except asyncio.CancelledError:
            self._flow.flush()
            if not exchange.ended:
                self._transport.abort()  # the time to stop is over
            raise
        finally:
            if exchange.task is not None:
                self._port.tasks.discard(exchange.task)
                exchange.task = None  # once cancelled it would hold the exchange
            self._exchange_over(exchange)

    def _exchange_over(self, exchange: Exchange) -> None:
        """An exchange is over: close the connection, or take the next request."""
        self._active = None
        if exchange.held is not None:
            exchange.release()
        if not exchange.ended:
            self._abort_answer(exchange)
        elif not exchange.keep_alive:
            self._close_after_answer()
        elif self._pipelined:
            self._active = exchange = self._pipelined.popleft()
            self._start(exchange)
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        if not self._flow.is_reading:
            self._flow.resume_reading()

    # --- ways out ---

    def _refuse(self, error: InvalidRequest) -> None:
        """Nothing more is taken from this client. What it asked before is answered, then comes `error`."""
        self._state = ConnectionState.REFUSED
        self._flow.resume_reading()  # only to notice when it leaves
        if self._parser.arriving is not None:
            self._parser.arriving.fail(error)  # which then is the answer to that request
            self._parser.arriving = None
        elif self._active is not None:
            self._refusal = error
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: InvalidRequest) -> None:
        self._flow.write(refusal(error, self._port.field_lines)[self._flow.take_sent_ahead() :])
        self._close_after_answer()

    def _close_after_answer(self) -> None:
        """Close after the last answer, and read on for a while where more of the client's may be on its way.

        Closing with bytes unread would reset the connection, and the client could lose the answer.
        """
        parser = self._parser
        is_midway = self._state is not _OPEN or self._pipelined or not self._flow.is_reading
        self._forget_pipelined()
        if self._transport.is_closing():
            self._state = ConnectionState.CLOSED
            return
        self._flow.flush()
        if self._half_closed is not None or (
            not is_midway and parser.began_at is None and parser.arriving is None
        ):
            self._state = ConnectionState.CLOSED
            self._transport.close()
        else:
            self._state = ConnectionState.LINGERING
            self._lingering_since = self._loop.time()
            self._transport.write_eof()

    def _abort_answer(self, exchange: Exchange) -> None:
        """End the connection in a way that half an answer cannot pass for a whole one."""
        self._state = ConnectionState.CLOSED
        self._flow.flush()
        if exchange.is_http10 and exchange.started and not self._transport.is_closing():
            # No length and no chunks: only a reset differs from the proper end.
            own = self._transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def _forget_pipelined(self) -> None:
        """Nobody will answer the requests that wait their turn."""
        for exchange in self._pipelined:
            exchange.release()
        self._pipelined.clear()

    def _send_ahead(self) -> None:
        if self._active is not None:
            self._active.send_ahead()

    def _left(self) -> None:
        """The client has gone, and the connection with it."""
        self._client_gone()
        self._transport.abort()

    def _client_gone(self) -> None:
        """The client has gone."""
        self._state = ConnectionState.CLOSED
        for exchange in (self._active, *self._pipelined):
            if exchange is not None:
                exchange.client_gone()
        self._forget_pipelined()
        self._refusal = None

    def _check(self) -> None:
        """Give up what does not move, and look again when something can be due.

        That is every few seconds while there is an answer to write. Connections that only wait are many, and
        to look at each of them as often took 3% of a core for 9,500 (measured).
        """
        now, limits = self._loop.time(), self.limits
        pause = limits.check_seconds
        if self._flow.unread_seconds(now) > limits.unread_seconds:
            self._transport.abort()
        if self._state is ConnectionState.LINGERING:
            if now - self._lingering_since > self._linger_seconds:
                self._transport.abort()
        elif self._state is _OPEN and self._flow.is_reading:
            left = self._check_input(now)
            if self._active is None or not self._active.started:
                # What begins just after this cannot be due before the next look.
                pause = max(pause, min(left, limits.head_seconds, limits.body_seconds))
        self._checked_at = now
        self._timer = self._loop.call_later(pause, self._check)

    def _check_input(self, now: float) -> float:
        """Refuse a request that does not arrive, close a connection that is not used.

        Returns the seconds after which that can be due, as things are.
        """
        limits, parser, resumed_at = self.limits, self._parser, self._flow.resumed_at
        if parser.arriving is not None:
            silent_left = max(self._heard_at, resumed_at) + limits.body_seconds - now
            within = limits.body_within(parser.arriving.size)
            left = min(silent_left, max(parser.last_began_at, resumed_at) + within - now)
            if silent_left < 0:
                self._refuse(RequestTimeout(f"No more of the request's body for {limits.body_seconds:g} s."))
            elif left < 0:
                self._refuse(RequestTimeout("The request's body comes too slowly."))
        elif parser.began_at is not None:
            left = max(parser.began_at, resumed_at) + limits.head_seconds - now
            if left < 0:
                self._refuse(RequestTimeout(f"The request's head took over {limits.head_seconds:g} s."))
        else:
            if self._active is not None or parser.last_began_at > self._checked_at:
                self._idle_since = now
            left = self._idle_since + self._idle_seconds - now
            if left < 0:
                self._transport.close()
        return left


def _eager_task(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]:
    """What makes a task that runs at once, up to its first wait, where Python can do that."""
    if sys.version_info >= (3, 12):
        return functools.partial(asyncio.Task, loop=loop, eager_start=True)
    return loop.create_task
