"""The life of the writer's process: settings, service, end."""

import asyncio
import socket
from collections.abc import Callable

import msgspec
import structlog

from gateway.garbage import collect_seldom
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.process.messages import FromOwner, Stop, WriterSettings
from gateway.ledger.process.service import WriterService
from gateway.ledger.process.telemetry import WriterTelemetry
from gateway.message_channel import MessageChannel
from gateway.supervised import SupervisedTask

_log = structlog.get_logger("tollway.journal")

# What a gateway that was killed left is committed within this time, or by the next start.
ORPHAN_SECONDS = 30.0
RETRY_SECONDS = 0.5
TELL_SECONDS = 1.0  # between two reports of what was counted
LEAVE_SECONDS = 5.0


async def run(
    owner_socket: socket.socket, listening: socket.socket, configure_logs: Callable[[str], object]
) -> None:
    """Serve until the owner says to stop, or has gone. `configure_logs` is told the level."""
    reader, writer = await asyncio.open_unix_connection(sock=owner_socket)
    owner = MessageChannel(reader, writer, msgspec.msgpack.Decoder(FromOwner))
    settings = await owner.receive()
    if not isinstance(settings, WriterSettings):
        return
    configure_logs(settings.log_level)
    service = WriterService(settings)
    collect_seldom()
    await service.listen(listening)
    telling = _tell_telemetry(service, owner)
    telling.start(is_due=True)
    try:
        if isinstance(await owner.receive(), Stop):
            async with asyncio.timeout(LEAVE_SECONDS):
                await service.left()
        else:
            await _end_as_orphan(service)
    except TimeoutError:
        pass
    finally:
        await service.close()
        await telling.close()
        await owner.close()


def _tell_telemetry(service: WriterService, owner: MessageChannel[FromOwner]) -> SupervisedTask:
    """A loop that tells the owner what was counted, whenever that is new."""
    told: WriterTelemetry | None = None

    async def tell() -> None:
        nonlocal told
        if (now := service.telemetry()) != told:
            told = now
            owner.send(now)

    return SupervisedTask(
        "ledger-writer-telemetry", tell, service.tasks, wait=lambda: asyncio.sleep(TELL_SECONDS)
    )


async def _end_as_orphan(service: WriterService) -> None:
    """Workers may live a little longer than their supervisor. What the dead ones left is committed."""
    _log.warning("ledger.writer_orphaned")
    await service.left()
    problem: Exception | None = None
    try:
        async with asyncio.timeout(ORPHAN_SECONDS):
            while True:
                try:
                    return await service.replay_dead_workers()
                except (LedgerUnavailable, OSError) as exc:
                    problem = exc
                await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError:
        _log.error("ledger.writer_gave_up", problem=str(problem), taken_up_by="the next start of a gateway")
