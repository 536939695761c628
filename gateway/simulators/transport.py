"""The connection that ASGI hides: to notice its loss at once, reset it or write garbage.

One `SimulatedConnection` lives as long as the TCP connection. The app gets it in the scope's extensions.
"""

import asyncio
import socket
import struct
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "tollway.connection"


class SimulatedConnection:
    """One client connection. `lost` turns true in the same loop iteration in which the socket closes."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self.lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._transport = transport
        self._flow = flow

    def lose(self) -> None:
        self.lost = True
        self.wake()

    def listen(self) -> None:
        """Keep reading after a large body: uvicorn pauses, and a paused socket hides the client's close."""
        self._flow.resume_reading()

    def wake(self) -> None:
        """End a pause early."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pause(self, seconds: float | None) -> bool:
        """Wait so long (None: until woken). Returns false as soon as the client is gone."""
        if self.lost:
            return False
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return not self.lost

    async def until_lost(self) -> None:
        while await self.pause(None):
            pass

    async def reset(self) -> None:
        """Close with RST instead of FIN, as a crashed process does."""
        await self.pause(0.005)  # what was written before must leave first
        raw: Any = self._transport.get_extra_info("socket")
        if raw is not None and not self.lost:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self.until_lost()

    async def write_and_close(self, raw: bytes) -> None:
        """Write bytes past HTTP and close."""
        self._transport.write(raw)
        self._transport.close()
        await self.until_lost()


class SimulatorProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the connection put into every scope."""

    connection: SimulatedConnection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connection = SimulatedConnection(transport, self.flow)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.connection.lose()

    def on_headers_complete(self) -> None:
        self.scope["extensions"] = {EXTENSION: self.connection}  # type: ignore[dict-item]
        super().on_headers_complete()
