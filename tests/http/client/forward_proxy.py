"""A real forward proxy on loopback: opens tunnels by CONNECT and records what it saw."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator

from gateway.core.endpoint import Endpoint, Proxy
from tests.http.client.upstream_stage import Stage

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ForwardProxy:
    """`routes`: where each `host:port` leads; others are refused. `credentials`: what it asks for, if any."""

    def __init__(self, routes: dict[str, int], credentials: bytes | None = None) -> None:
        self.routes = routes
        self.credentials = credentials
        self.heads: list[bytes] = []
        self.carried = bytearray()  # what clients sent through the tunnels, as it passed
        self.port = 0
        self._tasks: list[asyncio.Task[None]] = []

    def proxy(self, scheme: str = "http", **changes: object) -> Proxy:
        fields: dict[str, object] = {"scheme": scheme, "host": "127.0.0.1", "port": self.port}
        return Proxy(**(fields | changes))  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["ForwardProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    async def cut(self) -> None:
        """End all tunnels."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def targets(self) -> list[str]:
        """`host:port` of each CONNECT, in order."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            status = self._status(head)
            if status != 200:
                writer.write(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\nno" % status)
                await writer.drain()
            else:
                await self._tunnel(head.split(b" ")[1].decode(), reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    def _status(self, head: bytes) -> int:
        method, target, _ = head.split(b" ", 2)
        if self.credentials is not None:
            expected = b"proxy-authorization: Basic " + base64.b64encode(self.credentials) + b"\r\n"
            if expected not in head:
                return 407
        return 200 if method == b"CONNECT" and target.decode() in self.routes else 403

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.routes[target])
        try:
            writer.write(ESTABLISHED)
            async with asyncio.TaskGroup() as group:
                back = group.create_task(_pump(far_reader, writer))
                while data := await reader.read(65536):
                    self.carried += data
                    far_writer.write(data)
                    await far_writer.drain()
                back.cancel()
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


def far(stage: Stage, proxy: Proxy, **changes: object) -> Endpoint:
    """An endpoint whose name only a proxy can resolve."""
    return stage.endpoint(**({"host": "far.test", "port": 8000, "proxy": proxy} | changes))


def scripted(stage: Stage, **changes: object) -> Endpoint:
    """An endpoint whose proxy is the stage's own server, which says what its script says."""
    return far(stage, Proxy(scheme="http", host="127.0.0.1", port=stage.server.port), **changes)
