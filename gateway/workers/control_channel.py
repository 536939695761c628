"""The socket pair between the supervisor and a worker: configuration and questions, then answers.

Each message is a msgpack array with its length before it. The end of the stream means that the other process
has gone, however that came: a worker without its supervisor stops, so that none is left serving for ever.
"""

import asyncio
import socket
import struct
from typing import Generic, TypeAlias, TypeVar

import msgspec

from gateway.metrics.across import FamilySamples

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode


class WorkerConfig(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message to a worker: what it is, and what it serves."""

    number: int
    file: str
    text: str  # of the configuration that has been checked, whatever the file holds by now
    data_port: int
    joins: bool  # others serve already
    admin_path: str  # of the Unix socket on which it answers admin requests


class ConditionRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Asks for a Condition with this number. Metrics are wanted less often: thousands take milliseconds."""

    number: int
    with_metrics: bool


class Started(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker takes requests."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker could not start, for a reason that is not its own."""

    problem: str


class ConfigInForce(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker has reloaded the configuration, which is now this."""

    text: str


class Condition(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How the worker is: why it wants no requests, what fails besides, and its metrics when asked for."""

    number: int
    unready: list[str]
    degraded: list[str]
    metrics: list[FamilySamples] | None


ToWorker: TypeAlias = WorkerConfig | ConditionRequest
ToSupervisor: TypeAlias = Started | Failed | ConfigInForce | Condition
FINAL = 0  # the number of a Condition that nobody asked for: the worker's last

Received = TypeVar("Received")


class ControlChannel(Generic[Received]):
    """One end. `receive` is called by one task only."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: "msgspec.msgpack.Decoder[Received]",
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    async def receive(self) -> Received | None:
        """The next message; None once the other end has gone."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            return self._decoder.decode(await self._reader.readexactly(*_LENGTH.unpack(head)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def send(self, message: ToWorker | ToSupervisor) -> None:
        """Queue a message. One that the other end does not live to read is lost."""
        if not self._writer.is_closing():
            payload = _encode(message)
            self._writer.write(_LENGTH.pack(len(payload)) + payload)

    async def close(self) -> None:
        """Send what is queued and hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


async def supervisor_channel(own: socket.socket) -> ControlChannel[ToSupervisor]:
    """The supervisor's end."""
    reader, writer = await asyncio.open_unix_connection(sock=own)
    return ControlChannel(reader, writer, msgspec.msgpack.Decoder(ToSupervisor))


async def worker_channel(own: socket.socket) -> ControlChannel[ToWorker]:
    """The worker's end."""
    reader, writer = await asyncio.open_unix_connection(sock=own)
    return ControlChannel(reader, writer, msgspec.msgpack.Decoder(ToWorker))
