"""What the connections of one port share: who is connected, within which bound, and what became of it."""

import asyncio
import enum
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from gateway.core.heads import HeaderLines, header_lines


class PauseReason(enum.StrEnum):
    """Why a port takes no new connection for a while."""

    FULL = "full"
    """It has as many as it may have, and none of them can give way."""
    DESCRIPTORS = "descriptors"
    """The process, or the machine, has no file descriptor left."""


class OpenConnection(Protocol):
    """One of the connections, as far as who may close it is concerned."""

    @property
    def waits_since(self) -> float | None:
        """Since when nothing is owed to its client (seconds of the loop); None while something is."""
        ...

    def give_way(self) -> None:
        """Close it: a new connection needs its place."""
        ...

    def shutdown(self) -> None:
        """Close it when idle, else after the answer under way."""
        ...

    def abort(self) -> None:
        """Close it now, whatever is unsent."""
        ...


def _nobody_waits() -> None:
    """For a port that has room."""


class PortState:
    """Of one port. `field_lines` are the header lines that all of its answers have at this moment.

    `connections` and `tasks` are those that are open; `on_fewer` is called when a connection has closed.
    `pauses` and `evicted` count since the start, for metrics.
    """

    __slots__ = (
        "accepted",
        "connecting",
        "connections",
        "evicted",
        "field_lines",
        "most_connections",
        "name",
        "on_fewer",
        "pauses",
        "tasks",
    )

    def __init__(self, name: str, most_connections: int) -> None:
        """`name` is the port's in logs and metrics."""
        self.name = name
        self.most_connections = most_connections
        self.connecting: set[OpenConnection] = set()  # accepted, and not open yet
        self.connections: set[OpenConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.evicted = 0
        self.pauses = dict.fromkeys(PauseReason, 0)
        self.on_fewer: Callable[[], None] = _nobody_waits
        self.field_lines: HeaderLines
        self.tick()

    def tick(self) -> None:
        """Bring `field_lines` up to date; the date in them changes once a second."""
        date = formatdate(usegmt=True).encode()
        # The latter whoever wrote the answer's text.
        self.field_lines = header_lines([(b"date", date), (b"x-content-type-options", b"nosniff")])

    @property
    def is_full(self) -> bool:
        return len(self.connections) + len(self.connecting) >= self.most_connections

    def opened(self, connection: OpenConnection) -> None:
        self.connecting.discard(connection)
        self.connections.add(connection)
        self.accepted += 1

    def closed(self, connection: OpenConnection) -> None:
        self.connections.discard(connection)
        self.on_fewer()
