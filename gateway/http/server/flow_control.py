"""Flow control of one client connection: when reading pauses, and when writing has to wait.

Rules:
- Reading pauses while too much of what the client sent waits here; whoever wants it resumes reading.
- Writing never waits by itself. `is_congested` says that the client takes too little: then await `drained`.
- Times are those of the event loop, in seconds.
"""

import asyncio

from gateway.http.write_coalescer import WriteCoalescer


class FlowControl:
    """Both directions of one transport. `attach` comes before everything else.

    `resumed_at` is when reading last went on: until then it was the server that did not listen.
    """

    __slots__ = (
        "_coalescer",
        "_drain",
        "_loop",
        "_transport",
        "_unread_bytes",
        "_unread_since",
        "_written_in",
        "is_congested",
        "is_reading",
        "resumed_at",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, coalescer: WriteCoalescer, now: float) -> None:
        """`coalescer` is shared by all connections of the server."""
        self._loop = loop
        self._coalescer = coalescer
        self._written_in = -1
        self._transport: asyncio.Transport
        self._drain: asyncio.Future[None] | None = None
        self._unread_bytes = 0
        self._unread_since = self.resumed_at = now
        self.is_reading = True
        self.is_congested = False

    def attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # uvloop's own low mark is 16 bytes: a large answer would stop and start with every buffer.
        transport.set_write_buffer_limits(high=64 * 1024, low=16 * 1024)

    # --- writing ---

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

    def flush(self) -> None:
        """Hand queued writes to the transport: its end would overtake them."""
        self._coalescer.flush()

    async def drained(self) -> None:
        """Return once the client has read enough for more to be written, or has gone."""
        if self._transport.is_closing():
            await asyncio.sleep(0)  # who only writes would never let the loop tell that the client has gone
        elif self.is_congested:
            self._drain = self._loop.create_future()
            await self._drain

    def resume_writing(self) -> None:
        """The client has read enough, or there is nobody left to wait for."""
        self.is_congested = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    def unread_seconds(self, now: float) -> float:
        """How long the client has taken nothing of what waits for it, as far as earlier calls can tell."""
        unread = self._transport.get_write_buffer_size()
        if not unread or unread != self._unread_bytes:
            self._unread_bytes, self._unread_since = unread, now
        return now - self._unread_since

    # --- reading ---

    def pause_reading(self) -> None:
        if self.is_reading:
            self.is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Somebody wants what comes next."""
        if not self.is_reading:
            self.is_reading = True
            self.resumed_at = self._loop.time()
            self._transport.resume_reading()
