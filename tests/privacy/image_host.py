"""A web server with images, some of which are none, and some of which lead elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000d49444154789c6364f8cf500f000386"
    "018001683 47d6b0000000049454e44ae426082".replace(" ", "")
)


class Answer(NamedTuple):
    status: int = 200
    content_type: str = "image/png"
    body: bytes = PNG
    location: str = ""
    says_length: bool = True
    waits: bool = False


class ImageHost:
    """`answers` by path; `asked` are the request lines that came, `heads` their header lines."""

    def __init__(self, port: int, answers: dict[str, Answer]) -> None:
        self.port = port
        self.answers = answers
        self.asked: list[str] = []
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                line, _, rest = head.partition("\r\n")
                self.asked.append(line)
                self.heads.append(rest)
                answer = self.answers.get(line.split(" ")[1].partition("?")[0], Answer(404))
                if answer.waits:
                    await reader.read()
                    return
                writer.write(_written(answer))
                if not answer.says_length:
                    return
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


def _written(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} x", f"content-type: {answer.content_type}"]
    if answer.location:
        lines.append(f"location: {answer.location}")
    if answer.says_length:
        lines.append(f"content-length: {len(answer.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body


@asynccontextmanager
async def image_host(make: Callable[[int], dict[str, Answer]]) -> AsyncIterator[ImageHost]:
    """`make` gives the answers for the port that it listens on, on loopback."""
    host = ImageHost(0, {})
    async with await asyncio.start_server(host.serve, "127.0.0.1", 0) as server:
        host.port = server.sockets[0].getsockname()[1]
        host.answers = make(host.port)
        yield host
