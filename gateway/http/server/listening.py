"""HTTP servers inside a running event loop, on sockets of our own."""

import asyncio
import socket
from collections.abc import Callable

from gateway.http.addresses import host_port
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.accepting import BACKLOG, Acceptor
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.connection import ServerConnection
from gateway.http.server.exchange import Handler
from gateway.http.server.port_state import OpenConnection, PortState
from gateway.http.server.shedding import LoadShedder

CANCELLED_WAIT_SECONDS = 5.0
# For what was complete, to reach clients that read.
DELIVERY_SECONDS = 1.0
TICK_SECONDS = 1.0


class PortTaken(RuntimeError):
    """The address cannot be listened on. The message is one line for a person."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises PortTaken."""
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # With SO_REUSEADDR two programs can bind the same port as long as neither listens: only this decides.
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise _taken(host, port, exc) from exc
    listener.setblocking(False)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen, and whose port `join` can listen on; port 0 takes a free one.

    The port is free of every other program when this returns. Raises PortTaken.
    """
    if port:
        # Any program of this user could share such a port. Only a socket that does not share finds it taken.
        listen(host, port).close()
    return _bind(host, port)


def join(host: str, port: int) -> socket.socket:
    """One of several sockets on a reserved port. The kernel gives it its share once it listens."""
    return _bind(host, port)


def _bind(host: str, port: int) -> socket.socket:
    shared = socket.socket(_family(host), socket.SOCK_STREAM)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        shared.bind((host, port))
    except OSError as exc:
        shared.close()
        raise _taken(host, port, exc) from exc
    shared.setblocking(False)
    return shared


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _taken(host: str, port: int, exc: OSError) -> PortTaken:
    return PortTaken(
        f"cannot listen on {host}:{port}: {exc.strerror}. Choose another port or stop what uses it."
    )


def url_of(host: str, port: int) -> str:
    """Where a client reaches what listens there."""
    return f"http://{host_port(host, port)}"


class Listening:
    """One server. `stop` drains: no new connections, open requests go on for a while, then are cancelled."""

    def __init__(
        self,
        handler: Handler,
        listener: socket.socket,
        state: PortState,
        *,
        drain_seconds: float,
        coalescer: WriteCoalescer,
        body_bytes: BodyBytes,
        idle_seconds: float | None = None,
        shedder: LoadShedder | None = None,
        connection: type[ServerConnection] = ServerConnection,
    ) -> None:
        """`listener` does not block, and may not listen yet. `idle_seconds` None: as in the limits.

        `shedder` None: every request is answered by `handler`.
        """
        self._listener = listener
        self._state = state
        self._drain_seconds = drain_seconds
        self.new_connection: Callable[[], ServerConnection] = lambda: connection(
            handler,
            state,
            coalescer=coalescer,
            body_bytes=body_bytes,
            idle_seconds=idle_seconds,
            shedder=shedder,
        )
        self._acceptor: Acceptor | None = None
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Of a TCP listener."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        self._tick()
        self._acceptor = Acceptor(self._listener, self._state, self.new_connection)
        self._acceptor.start()

    async def stop(self) -> None:
        """Return when nothing is open any more."""
        if self._acceptor is None:
            self._listener.close()
            return
        await self._acceptor.close()
        for connection in self._connections():
            connection.shutdown()
        state = self._state
        await self._until_closed(self._drain_seconds)
        late = set(state.tasks)
        for task in late:
            task.cancel()
        if late:  # their last act, booking, must still happen
            await asyncio.wait(late, timeout=CANCELLED_WAIT_SECONDS)
            await self._until_closed(DELIVERY_SECONDS)
        # An answer may be complete and yet unread: then nobody is left to cancel, and its client could keep
        # the connection for ever.
        for connection in self._connections():
            connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    def _connections(self) -> list[OpenConnection]:
        return list(self._state.connections)

    async def _until_closed(self, seconds: float) -> None:
        """Wait for all connections to close and all tasks to end, `seconds` at most."""
        state, fewer = self._state, asyncio.Event()
        state.on_fewer = fewer.set
        try:
            async with asyncio.timeout(seconds):
                while state.connections:
                    fewer.clear()
                    await fewer.wait()
                if state.tasks:
                    await asyncio.wait(state.tasks)
        except TimeoutError:
            return

    def _tick(self) -> None:
        self._state.tick()
        self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
