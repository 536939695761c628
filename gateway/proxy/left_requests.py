"""Requests whose client has left, at an upstream that goes on: they are read to their end.

Such an upstream (`stops_when_left: never`) generates, and bills, the whole answer either way. Leaving it
would save nothing, and all that was held would be kept until the window ends, since nobody would ever learn
what it cost. Reading on costs a connection, and tells. Where leaving does stop the work, it is left at once.
"""

import asyncio

import structlog

from gateway.core.admission import Hold
from gateway.core.errors import GatewayError
from gateway.core.heads import NO_LINES, HeaderLines
from gateway.core.sent import Sent
from gateway.ports import Inbound, Sink
from gateway.proxy.failover import Relay

_log = structlog.get_logger("tollway.relay")

# More than these at a time are left as if the upstream stopped, and keep their holds.
MOST_READ_ON = 1_000
CLOSE_SECONDS = 2.0


class LeavableRelay:
    """A `Relay` that outlives the clients of upstreams that go on. `close` once the upstream is closed."""

    def __init__(self, relay: Relay) -> None:
        """`relay` is for requests whose route leads to no upstream that goes on."""
        self.relay = relay
        self._read_on: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Return when all have ended."""
        if self._read_on:
            await asyncio.wait(self._read_on, timeout=CLOSE_SECONDS)
        left = list(self._read_on)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def forward(self, sent: Sent, hold: Hold, inbound: Inbound, sink: Sink) -> None:
        """As `Relay.forward`."""
        leavable = _LeavableSink(sink)
        forward = self.relay.forward(sent, hold, inbound, leavable, leavable.note_attempt)
        task = asyncio.create_task(forward, name=f"relay {sent.request_id}")
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                if inbound.disconnected and leavable.goes_on and len(self._read_on) < MOST_READ_ON:
                    leavable.left = True
                    self._read_on.add(task)
                    task.add_done_callback(self._ended)
                else:
                    task.cancel()
                    await asyncio.wait({task})
            raise

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._read_on.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, GatewayError):
            _log.error("relay.read_on_failed", exc_info=error)


class _LeavableSink:
    """Implements Sink. Once `left`, nothing goes to the client any more."""

    __slots__ = ("_sink", "goes_on", "left")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.left = False
        self.goes_on = False  # the upstream of the attempt that is under way

    def note_attempt(self, sent: Sent) -> None:
        self.goes_on = sent.candidate.goes_on

    @property
    def started(self) -> bool:
        # So that nothing is tried again for nobody.
        return self.left or self._sink.started

    async def answer(self, status: int, lines: HeaderLines, body: bytes) -> None:
        if not self.left:
            await self._sink.answer(status, lines, body)

    async def start(self, status: int, lines: HeaderLines, trailer: bytes = b"") -> None:
        if not self.left:
            await self._sink.start(status, lines, trailer)

    def start_now(self, status: int, lines: HeaderLines, data: bytes, trailer: bytes = b"") -> None:
        if not self.left:
            self._sink.start_now(status, lines, data, trailer)

    async def send(self, data: bytes) -> None:
        if not self.left:
            await self._sink.send(data)

    def send_now(self, data: bytes) -> bool:
        return self.left or self._sink.send_now(data)

    async def end(self, trailers: HeaderLines = NO_LINES) -> None:
        if not self.left:
            await self._sink.end(trailers)
