"""HTTP servers inside a running event loop: uvicorn without its signal handlers, on sockets of our own."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn

from gateway.http.addresses import host_port

CANCELLED_WAIT_SECONDS = 5.0
BACKLOG = 2048


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
        app: Any,
        listener: socket.socket,
        *,
        drain_seconds: float,
        protocol: Callable[..., asyncio.Protocol] | None = None,
    ) -> None:
        """`app` is an ASGI application, or what `protocol` takes instead of one."""
        config = uvicorn.Config(
            app,
            interface="asgi3",
            loop="none",
            http=cast("Any", protocol) or "httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[("x-content-type-options", "nosniff")],  # of every answer, whoever wrote its text
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            backlog=BACKLOG,
        )
        self._listener = listener
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Of a TCP listener."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="server")
        # uvicorn tells that it listens by a flag only.
        while not self._server.started and not self._task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        # uvicorn cancels what is left but does not wait: their last act, booking, must still happen.
        if tasks := set(self._server.server_state.tasks):
            await asyncio.wait(tasks, timeout=CANCELLED_WAIT_SECONDS)
        # An answer may be complete and yet unread: then nobody is left to cancel, and its client could keep
        # the connection for ever.
        for connection in list(self._server.server_state.connections):
            _transport_of(connection).abort()


def _transport_of(connection: Any) -> asyncio.Transport:
    transport: asyncio.Transport = connection.transport
    return transport


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program, which has two servers and a ledger to close in order."""
        yield
