"""An upstream that says what it is told to, byte for byte."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class LyingUpstream:
    """Answers each request with `answer`, and closes. `{authorization}` in it becomes that header's value."""

    def __init__(self) -> None:
        self.answer = b""
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                sent = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")), b""
                )
                writer.write(self.answer.replace(b"{authorization}", sent.partition(b":")[2].strip()))
            else:  # a probe
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()
        self._writers.discard(writer)


@asynccontextmanager
async def lying_upstream() -> AsyncIterator[LyingUpstream]:
    liar = LyingUpstream()
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    liar.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield liar
