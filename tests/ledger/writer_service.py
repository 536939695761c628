"""The ledger's writer within a test's event loop, behind the same socket as its process."""

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.ledger.process.messages import WriterSettings
from gateway.ledger.process.service import WriterService


def listening_at(path: Path) -> socket.socket:
    """A Unix socket at `path`."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    return listening


@asynccontextmanager
async def writer_service(
    settings: WriterSettings, *, peers_seconds: float = 5.0
) -> AsyncIterator[tuple[WriterService, Path]]:
    """A service that serves, and where. Starting one takes a second less than starting a process."""
    folder = Path(tempfile.mkdtemp(prefix="tollway-"))  # a socket's path has to be short
    service = WriterService(settings, peers_seconds=peers_seconds)
    await service.listen(listening_at(folder / "writer.sock"))
    try:
        yield service, folder / "writer.sock"
    finally:
        await service.close()
        shutil.rmtree(folder)
