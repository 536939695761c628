"""One TCP or TLS connection to an upstream: bytes to the wire, bytes to the response, deadlines.

Rules:
- A connection carries one exchange at a time. `response` is that exchange, or None while idle.
- Bytes while idle, or behind a complete response, close the connection; no later response can see them.
- One timer a connection, re-armed only when it fires: moving a deadline is the store of a float.
- Closing is always `abort()`: an answer is complete by then, or worthless, and nothing may linger.
"""

import asyncio
import math
from typing import Protocol, cast

from gateway.core.endpoint import Endpoint
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.heads import BodyInParts
from gateway.http.client.decoding import BodyDecoder
from gateway.http.client.parser import ResponseParser
from gateway.http.client.response import ExchangeFailure, HttpResponse
from gateway.http.flow_control import WriteCoalescer

UNREAD_LIMIT_BYTES = 256 * 1024
_SINGLE_WRITE_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
_TIMER_SLACK_SECONDS = 0.001  # uvloop's timers count whole milliseconds and may fire this much early


class ConnectionOwner(Protocol):
    """What a connection, and who opens it, need of the pool that it belongs to."""

    endpoint: Endpoint
    coalescer: WriteCoalescer
    connections: "set[Connection]"

    def release(self, connection: "Connection") -> None:
        """It is free again."""

    def closed(self, connection: "Connection") -> None:
        """It has been aborted, and gives up its slot."""

    def lost(self, connection: "Connection") -> None:
        """The loop reports that it is no more."""


class Connection(asyncio.Protocol):
    """Made by `Dialer`, lent out by `ConnectionPool`. Not for use outside this package.

    Many attributes: moving bytes and watching deadlines read the same ones. In two objects every segment
    would pay for the way between them.
    """

    __slots__ = (
        "_backlog_bytes",
        "_is_stream",
        "_loop",
        "_now",
        "_overall_deadline",
        "_owner",
        "_quiet_since",
        "_sent_at",
        "_tick_seconds",
        "_timeouts",
        "_timer",
        "_timer_due",
        "_unread_bytes",
        "_unsent",
        "_write_paused",
        "closed",
        "connected",
        "holds_slot",
        "idle_since",
        "lost",
        "parser",
        "paused",
        "peer",
        "response",
        "transport",
    )

    def __init__(self, owner: ConnectionOwner, peer: str, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self.peer = peer
        self.connected = False
        self.holds_slot = False
        self.lost = False
        self.parser = ResponseParser()
        self.response: HttpResponse | None = None
        self.transport: asyncio.Transport
        self.closed = False
        self.idle_since = 0.0
        self._loop = loop
        self._now = loop.time
        self._timeouts = timeouts = owner.endpoint.timeouts
        self._tick_seconds = min(
            timeouts.first_byte_seconds, timeouts.between_bytes_seconds, timeouts.total_seconds
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0  # never later than anything that may be late: a phase lasts a tick or longer
        self._overall_deadline = 0.0
        self._is_stream = False
        self._quiet_since = 0.0
        self._sent_at = 0.0
        self._backlog_bytes = 0
        self._unsent: memoryview | None = None
        self._unread_bytes = 0
        self.paused = False
        self._write_paused = False

    # The exchange, from the client's side.

    def start(
        self, head: bytes, body: bytes | BodyInParts, *, head_only: bool, stream: bool, started: float
    ) -> HttpResponse:
        """Begin an exchange that was asked for at `started` (loop time). Never waits."""
        self.response = response = HttpResponse(self, self._loop)
        self.parser.begin(head_only=head_only)
        self._is_stream = stream
        self._overall_deadline = math.inf if stream else started + self._timeouts.total_seconds
        self._quiet_since = self._sent_at = now = self._now()
        if isinstance(body, BodyInParts):
            self.transport.write(head + body.begin)
            self._unsent = body.rest
            self._pump()
        elif len(body) < _SINGLE_WRITE_BYTES:
            self._owner.coalescer.write(self._loop, self.transport, head + body)
        else:
            self.transport.write(head)
            self._unsent = memoryview(body)
            self._pump()
        if self._timer is None or self._timer_due > self._overall_deadline:
            self._arm(min(now + self._tick_seconds, self._overall_deadline))
        return response

    def collected(self) -> None:
        """The reader took what had been waiting for it: read on, and the upstream's clock runs again."""
        self._unread_bytes = 0
        self._quiet_since = self._now()
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def fail(self, failure: ExchangeFailure) -> None:
        """End the exchange with a failure, and the connection with it."""
        response = self.response
        self.close()
        if response is not None:
            self.response = None
            response.connection = None
            response.failure = failure
            _wake(response)

    def close(self) -> None:
        """Abort the transport and give up the slot in the pool. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._unsent = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport.abort()
        if self.holds_slot:
            self.holds_slot = False
            self._owner.closed(self)

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.connected = True

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            self.close()  # unsolicited
            return
        self._quiet_since = self._now()
        if not response.parts:
            self._unread_bytes = 0
        parser = self.parser
        try:
            parser.feed(data)
        except UpstreamFailure as failure:
            self._deliver(response)
            self.fail(ExchangeFailure(failure.kind, failure.detail, failure.__cause__))
            return
        self._deliver(response)
        if parser.complete:
            self._finish(response)
        elif response.parts:
            self._unread_bytes += len(data)
            if self._unread_bytes > UNREAD_LIMIT_BYTES and not self.paused:
                self.paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.lost = True
        response = self.response
        if response is None:
            self.close()
        elif self.parser.end():
            self._finish(response)
            _wake(response)
        else:
            self.fail(self._broken("closed"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.fail(self._broken("reset" if exc else "closed", exc))
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._unsent is not None:
            self._quiet_since = self._sent_at = self._now()
            self._pump()

    # Inside.

    def _deliver(self, response: HttpResponse) -> None:
        """Hand over what the parser has, and wake the reader if there is something for it."""
        parser = self.parser
        if parser.head_complete and not response.status:
            response.status = parser.status
            response.headers = parser.headers
            if parser.coding is not None:
                response.decoder = BodyDecoder(parser.coding)
            if self._unsent is not None:
                # An answer before the request was read: the rest of the request is of no use to anyone.
                self._unsent = None
                parser.reusable = False
        elif not parser.parts and not parser.complete:
            return
        parts, taker = parser.parts, response.taker
        # Straight through where the reader waits for just this: no future, and no turn of the loop.
        is_awaited = taker is not None and response.waiter is not None and not parser.complete
        if is_awaited and taker is not None and taker(b"".join(parts)):
            parts.clear()
            return
        response.parts += parts
        parts.clear()
        waiter = response.waiter
        if waiter is not None:
            response.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _finish(self, response: HttpResponse) -> None:
        response.complete = True
        response.connection = None
        self.response = None
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if self.parser.reusable and not self.transport.get_write_buffer_size():
            self.idle_since = self._quiet_since
            self._owner.release(self)
        else:
            self.close()

    def _pump(self) -> None:
        """Write the body in pieces for as long as the transport takes them; `resume_writing` goes on."""
        while self._unsent is not None and not self._write_paused:
            piece = self._unsent[:_PIECE_BYTES]
            rest = self._unsent[_PIECE_BYTES:]
            self._unsent = rest or None
            self.transport.write(piece)

    def _broken(self, what: str, cause: Exception | None = None) -> ExchangeFailure:
        parser = self.parser
        stage = (
            "in the body" if parser.head_complete else "in the head" if parser.seen else "before an answer"
        )
        return ExchangeFailure(FailureKind.RESET, f"connection to {self.peer} {what} {stage}", cause)

    def _check_deadlines(self) -> None:
        """The timer fired: fail the exchange that is late, else sleep until something can be late again."""
        self._timer = None
        response = self.response
        if response is None:
            return  # idle; the next exchange arms the timer
        now = self._now() + _TIMER_SLACK_SECONDS
        due, kind, detail = self._next_deadline(response, now)
        if self._overall_deadline <= due:
            due, kind = self._overall_deadline, FailureKind.TOTAL_TIMEOUT
            detail = f"not complete after {self._timeouts.total_seconds:g} s"
        if due <= now:
            self.fail(ExchangeFailure(kind, f"{detail}, {self.peer}"))
        else:
            self._arm(min(due, now + self._tick_seconds))

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed:
            self._timer_due = due
            self._timer = self._loop.call_at(due, self._check_deadlines)

    def _next_deadline(self, response: HttpResponse, now: float) -> tuple[float, FailureKind, str]:
        timeouts = self._timeouts
        if self._unsent is not None:
            backlog_bytes = self.transport.get_write_buffer_size()
            if backlog_bytes != self._backlog_bytes:  # slow, yet alive
                self._backlog_bytes = backlog_bytes
                self._quiet_since = now
            due = self._quiet_since + timeouts.between_bytes_seconds
            detail = f"took no byte of the request for {timeouts.between_bytes_seconds:g} s"
            return due, FailureKind.BETWEEN_BYTES_TIMEOUT, detail
        if not self._is_stream:
            # It is generated before its first byte leaves: only the whole of it can be late.
            return math.inf, FailureKind.TOTAL_TIMEOUT, ""
        if not response.status:
            due = self._sent_at + timeouts.first_byte_seconds
            detail = f"no response head after {timeouts.first_byte_seconds:g} s"
            return due, FailureKind.FIRST_BYTE_TIMEOUT, detail
        # While bytes wait for a slow reader the upstream is not the one who is late.
        quiet_since = now if response.parts or self.paused else self._quiet_since
        detail = f"no byte of the body for {timeouts.between_bytes_seconds:g} s"
        return quiet_since + timeouts.between_bytes_seconds, FailureKind.BETWEEN_BYTES_TIMEOUT, detail


def _wake(response: HttpResponse) -> None:
    waiter = response.waiter
    if waiter is not None:
        response.waiter = None
        if not waiter.done():
            waiter.set_result(None)
