"""The stage: a raw scripted server, a client under test, and what must be true when a test is over."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import uvloop

from gateway.core.endpoint import Endpoint, Timeouts
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.heads import NO_LINES, HeaderLines, request_head
from gateway.http.client.pool import HttpUpstream
from gateway.http.client.resolver import PeerAddress
from gateway.ports import UpstreamRequest, UpstreamResponse

PATIENCE_SECONDS = 60.0  # a hang fails the test; nothing is measured against it
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.requests = 0

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises IncompleteReadError when there is none."""
        head = await self.head()
        return head, await self.reader.readexactly(_length(head))

    async def head(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        return head

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError  # uvloop raises RuntimeError from write()
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes, pause_seconds: float = 0) -> None:
        """One byte at a time, each in a segment of its own as far as that can be had."""
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(pause_seconds)

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def until_gone(self) -> None:
        """Until the client has closed its end."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self.reader.read(65536):
                pass
        self.gone.set()


class Server:
    """Runs one script for each connection; scripts[n] for the n-th, the last one for all that follow."""

    def __init__(self) -> None:
        self.scripts: list[Script] = [until_gone]
        self.peers: list[Peer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.errors: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        options = {"ssl_shutdown_timeout": 0.1} if tls else {}
        self._server = await asyncio.start_server(
            self._accept, host, 0, ssl=tls, limit=2**18, backlog=2048, **options
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def plays(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        script = self.scripts[min(len(self.peers), len(self.scripts) - 1)]
        self.peers.append(peer)
        self.tasks.append(asyncio.ensure_future(self._play(script, peer)))

    async def _play(self, script: Script, peer: Peer) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                await script(peer)
            await peer.until_gone()
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.writer.transport.abort()

    async def all_gone(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*self.tasks)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self._server.wait_closed()


class Stage:
    """One client on one kind of loop. `names` is the DNS of the test: name to addresses, in order."""

    def __init__(self, loop: str) -> None:
        self.loop = loop
        self.names: dict[str, list[str]] = {"upstream.test": ["127.0.0.1"]}
        self.lookups = 0
        self.server = Server()
        self.upstream: HttpUpstream

    @property
    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        return uvloop.new_event_loop if self.loop == "uvloop" else asyncio.new_event_loop

    async def lookup(self, host: str, port: int) -> list[PeerAddress]:
        self.lookups += 1
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            PeerAddress(socket.AF_INET6, (ip, port, 0, 0))
            if ":" in ip
            else PeerAddress(socket.AF_INET, (ip, port))
            for ip in self.names[host]
        ]

    def endpoint(self, **changes: object) -> Endpoint:
        fields: dict[str, object] = {"scheme": "http", "host": "127.0.0.1", "port": self.server.port}
        return Endpoint(**(fields | changes))  # type: ignore[arg-type]

    def request(
        self,
        endpoint: Endpoint | None = None,
        *,
        body: bytes = b"{}",
        method: bytes = b"POST",
        target: bytes = b"/v1/chat/completions",
        headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),),
        own: HeaderLines = NO_LINES,
        stream: bool = False,
    ) -> UpstreamRequest:
        head = request_head(endpoint or self.endpoint(), method, target, headers)
        return UpstreamRequest(head=head, own=own, body=body, stream=stream)

    async def send(self, endpoint: Endpoint | None = None, **options: object) -> UpstreamResponse:
        """As the relay does it: a stale connection is followed by one more try, on a fresh one."""
        request = self.request(endpoint, **options)  # type: ignore[arg-type]
        try:
            return await self.upstream.send(request)
        except UpstreamFailure as failure:
            if not failure.stale:
                raise
        return await self.upstream.send(msgspec.structs.replace(request, fresh=True))

    async def ask(self, endpoint: Endpoint | None = None, **options: object) -> tuple[int, bytes]:
        response = await self.send(endpoint, **options)
        return response.status, await response.read(2**26)

    async def failure(self, awaitable: Awaitable[object]) -> UpstreamFailure:
        """The UpstreamFailure that `awaitable` must end with."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                result = await awaitable
        except UpstreamFailure as failure:
            return failure
        raise AssertionError(f"no failure but {result!r}")

    async def fails(self, kind: FailureKind, awaitable: Awaitable[object]) -> UpstreamFailure:
        failure = await self.failure(awaitable)
        assert failure.kind is kind, failure
        return failure

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """The server and the client for the time of one test; then nothing of either may be left."""
        loop = asyncio.get_running_loop()
        reports: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        before = asyncio.all_tasks()
        if not self.server.port:
            await self.server.start()
        self.upstream = HttpUpstream(self.lookup)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield
            await self._settled()
        finally:
            await self.upstream.close()
            if not self.server.errors:
                await self.server.all_gone()
            await self.server.stop()
        await asyncio.sleep(0)
        assert self.upstream.counts() == (0, 0, 0)
        # The server's half of a broken TLS handshake is a task of the loop's own.
        await self.until(lambda: asyncio.all_tasks() <= before)
        assert [repr(error) for error in self.server.errors] == []
        gc.collect()
        await asyncio.sleep(0)
        assert [str(report) for report in reports] == []
        self._no_timers(loop)

    async def _settled(self) -> None:
        """Nothing is busy once the test has read or aborted all it asked for."""
        await self.until(lambda: self.upstream.counts()[0] == self.upstream.counts()[2] == 0)

    async def until(self, holds: Callable[[], object]) -> None:
        """Return once `holds()`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                await asyncio.sleep(0.005)

    async def connected(self, count: int = 1) -> None:
        """Return once the server has so many connections, those that have ended included."""
        await self.until(lambda: len(self.server.peers) >= count)

    async def gone(self, index: int = 0) -> None:
        """Return once the client has closed its end of a connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.server.peers[index].gone.wait()

    def _no_timers(self, loop: asyncio.AbstractEventLoop) -> None:
        scheduled = getattr(loop, "_scheduled", ())  # uvloop does not tell
        left = [handle for handle in scheduled if not handle.cancelled()]
        # asyncio's own: TLS shutdown of the server's side, and the guard of this test
        ours = [handle for handle in left if "gateway" in repr(handle)]
        assert ours == []


async def until_gone(peer: Peer) -> None:
    """A server that accepts and says nothing."""
    await peer.until_gone()


def answers(*responses: bytes) -> Script:
    """Answer request after request on one connection, then wait for its end."""

    async def script(peer: Peer) -> None:
        for response in responses:
            await peer.request()
            await peer.send(response)

    return script


def answers_always(response: bytes) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(response)

    return script


def with_length(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def chunked(*chunks: bytes, headers: tuple[bytes, ...] = (), end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"transfer-encoding: chunked", b"", b""])
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def timeouts(**seconds: float) -> Timeouts:
    return Timeouts(**{f"{name}_seconds": value for name, value in seconds.items()})


async def chunks_of(response: UpstreamResponse) -> list[bytes]:
    chunks = []
    while chunk := await response.next_chunk():
        chunks.append(chunk)
    return chunks


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
