"""Between a gateway and PostgreSQL: a network that can lose the answer to a COMMIT that was carried out."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT;\0"


class LostAnswers:
    """Passes everything on, until `lose` was called: then a COMMIT is the connection's last word."""

    def __init__(self, server: Path) -> None:
        """`server` is the server's socket."""
        self._server = server
        self._commits_left: int | None = None  # None: no answer is to be lost
        self.lost = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    def lose(self, *, after: int = 0) -> None:
        """Lose the answer to the next COMMIT, or pass on so many before it."""
        self._commits_left = after

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end, or until `close`."""
        self._serving.add(own := asyncio.create_task(self._serve(reader, writer)))
        await asyncio.wait({own})
        self._serving.discard(own)

    async def close(self) -> None:
        """End every connection."""
        while self._serving:
            for one in self._serving:
                one.cancel()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_unix_connection(self._server)
        answering = asyncio.create_task(self._copy(answers, writer))
        try:
            while sent := await reader.read(65536):
                if self._is_last(sent):
                    answering.cancel()
                    await asyncio.wait({answering})
                    server.write(sent)
                    await answers.read(65536)  # it is committed now
                    self.lost.set()
                    return
                server.write(sent)
        except OSError:
            return
        finally:
            answering.cancel()
            for one in (server, writer):
                one.transport.abort()
            await asyncio.wait({answering})

    def _is_last(self, sent: bytes) -> bool:
        if self._commits_left is None or not sent.endswith(COMMIT):
            return False
        self._commits_left = self._commits_left - 1 if self._commits_left else None
        return self._commits_left is None

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while answer := await reader.read(65536):
                writer.write(answer)


@asynccontextmanager
async def lost_answers(url: str) -> AsyncIterator[tuple[LostAnswers, str]]:
    """Such a network before the server at `url`, which has a Unix socket, and its own URL."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    network = LostAnswers(Path(query["host"][0]) / SOCKET)
    with tempfile.TemporaryDirectory(prefix="tollway-net-") as folder:  # a socket's path has to be short
        listening = await asyncio.start_unix_server(network.serve, Path(folder) / SOCKET)
        try:
            yield network, url.replace(quote(query["host"][0], safe=""), quote(folder, safe=""))
        finally:
            listening.close()
            await network.close()
