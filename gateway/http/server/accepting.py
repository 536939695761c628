"""Takes the connections that arrive on one port, as many as its bound allows.

Rules:
- At the bound a new connection takes the place of those that wait: first of all of those that have asked for
  nothing for the longest time. A client that is being answered never has to give way.
- Where nothing can give way, or no file descriptor is left, accepting pauses. New clients then wait in the
  kernel's queue, and are taken as soon as there is room.
- A port that pauses costs nothing: its socket is not looked at meanwhile.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from gateway.http.server.connection import ServerConnection
from gateway.http.server.port_state import PauseReason, PortState

_log = structlog.get_logger("tollway.http")

BACKLOG = 2048
# In one turn of the loop, so that a flood of new clients does not hold up those that are here.
ACCEPTED_TOGETHER = 64
# Of the connections that wait, so many give way together: to look for them costs more than to close them.
EVICTED_SHARE = 32
# Descriptors are freed by others too, who tell nobody.
RETRY_SECONDS = 0.5
# One line a minute for each reason: an attack shall not fill the disk.
TOLD_AGAIN_SECONDS = 60.0

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Of one listening socket. `start`, then `close`."""

    def __init__(
        self, listener: socket.socket, state: PortState, new_connection: Callable[[], ServerConnection]
    ) -> None:
        """`listener` does not block, and may not listen yet."""
        self._listener = listener
        self._state = state
        self._new_connection = new_connection
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._is_accepting = False
        self._look_again_at = 0.0
        self._told_at: dict[PauseReason, float] = {}

    def start(self) -> None:
        self._listener.listen(BACKLOG)
        self._state.on_fewer = self._resume
        self._resume()

    async def close(self) -> None:
        """Take no more, and close the listening socket. What was taken is connected when this returns."""
        self._pause()
        self._listener.close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    # --- accepting ---

    def _accept(self) -> None:
        if self._state.is_full:  # and somebody waits: else nobody would have called this
            self._wait(PauseReason.FULL, gave_way=self._evict())
        for _ in range(ACCEPTED_TOGETHER):
            if self._state.is_full:
                return
            try:
                accepted, _address = self._listener.accept()
            except OSError as exc:
                if exc.errno in _NO_DESCRIPTORS:
                    self._wait(PauseReason.DESCRIPTORS, gave_way=self._evict())
                # All else is of the one connection, which is gone, or says that none is left.
                return
            accepted.setblocking(False)
            connection = self._new_connection()
            self._state.connecting.add(connection)
            task = self._loop.create_task(self._connect(connection, accepted), name="accept")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: ServerConnection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:
            accepted.close()  # it was reset before anybody could look at it
        finally:
            self._state.connecting.discard(connection)

    # --- room ---

    def _evict(self) -> bool:
        """Let some of those that wait give way, if any do. Each is heard of again when it has closed."""
        if self._loop.time() < self._look_again_at:
            return False
        waiting = [
            (since, id(connection), connection)
            for connection in self._state.connections
            if (since := connection.waits_since) is not None
        ]
        if not waiting:
            # To look at all of them for each client that comes would be an attack on ourselves.
            self._look_again_at = self._loop.time() + RETRY_SECONDS
        waiting.sort()
        for _, _, connection in waiting[: max(1, len(waiting) // EVICTED_SHARE)]:
            self._state.evicted += 1
            connection.give_way()
        return bool(waiting)

    # --- pauses ---

    def _wait(self, reason: PauseReason, *, gave_way: bool) -> None:
        """Take no more until one closes, or for a moment."""
        self._pause()
        self._retry = self._loop.call_later(RETRY_SECONDS, self._resume)
        if not gave_way:
            self._state.pauses[reason] += 1
        now = self._loop.time()
        if now - self._told_at.get(reason, -TOLD_AGAIN_SECONDS) >= TOLD_AGAIN_SECONDS:
            self._told_at[reason] = now
            _log.warning(
                "server.port_full",
                port=self._state.name,
                reason=reason,
                connections=len(self._state.connections),
                most_connections=self._state.most_connections,
            )

    def _pause(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._listener)

    def _resume(self) -> None:
        if not self._is_accepting and self._listener.fileno() >= 0:
            self._pause()
            self._is_accepting = True
            self._loop.add_reader(self._listener, self._accept)
