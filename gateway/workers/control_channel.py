"""The socket pair between the supervisor and a worker: configuration and questions, then answers.

A worker without its supervisor stops, so that none is left serving for ever.
"""

import asyncio
import socket
from typing import TypeAlias, TypeVar

import msgspec

from gateway.message_channel import MessageChannel
from gateway.metrics.across import FamilySamples

Received = TypeVar("Received")


class WorkerConfig(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message to a worker: what it is, and what it serves."""

    number: int
    file: str
    text: str  # of the configuration that has been checked, whatever the file holds by now
    data_port: int
    joins: bool  # others serve already
    admin_path: str  # of the Unix socket on which it answers admin requests
    writer_path: str  # of the one on which the ledger's writer listens


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


class ControlChannel(MessageChannel[Received]):
    """One end."""


async def supervisor_channel(own: socket.socket) -> ControlChannel[ToSupervisor]:
    """The supervisor's end."""
    reader, writer = await asyncio.open_unix_connection(sock=own)
    return ControlChannel(reader, writer, msgspec.msgpack.Decoder(ToSupervisor))


async def worker_channel(own: socket.socket) -> ControlChannel[ToWorker]:
    """The worker's end."""
    reader, writer = await asyncio.open_unix_connection(sock=own)
    return ControlChannel(reader, writer, msgspec.msgpack.Decoder(ToWorker))
