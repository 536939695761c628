"""Finds out whether a client that has closed its side is still there to read its answer.

A client that has asked all, as `nc -N` does, and one that has left send the same: FIN. Only to what is
written afterwards they answer differently: who has left sends RST, and who reads says nothing. So a byte of
the answer is sent at once, one that comes in any case and tells nothing: the next of `HTTP/1.1 `, or a zero
in front of a chunk's size. A reader sees an answer that began a little early.

Rules:
- Work for a client that has left stops within one round trip, and the time of the first look at the socket.
- Who half-closes and leaves later sends nothing more. So a byte follows from time to time, ever more seldom.
- A stream to a client of HTTP/1.0 has no such byte. What it brings next tells.
"""

import asyncio
import socket
from collections.abc import Callable

FIRST_LOOK_SECONDS = 0.02
LONGEST_LOOK_SECONDS = 1.0
SECOND_BYTE_SECONDS = 5.0

_TCP_CLOSE = 7  # of the kernel's enum tcp_state, the first byte of struct tcp_info


class HalfClosed:
    """Watches one connection until `close`."""

    __slots__ = (
        "_left",
        "_loop",
        "_next_at",
        "_pause_seconds",
        "_send_ahead",
        "_since",
        "_timer",
        "_transport",
    )

    def __init__(
        self, transport: asyncio.Transport, send_ahead: Callable[[], None], left: Callable[[], None]
    ) -> None:
        """`send_ahead` sends a byte of the answer, if there is one; `left` is called once nobody reads it.

        `transport` is one of those that `can_watch` names.
        """
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._send_ahead = send_ahead
        self._left = left
        self._since = self._loop.time()
        self._next_at = SECOND_BYTE_SECONDS  # since then
        self._pause_seconds = FIRST_LOOK_SECONDS
        send_ahead()
        self._timer = self._loop.call_later(FIRST_LOOK_SECONDS, self._look)

    @staticmethod
    def can_watch(transport: asyncio.Transport) -> bool:
        """Whether this system tells what became of the connection."""
        own = transport.get_extra_info("socket")
        return own is not None and (own.family == socket.AF_UNIX or hasattr(socket, "TCP_INFO"))

    def close(self) -> None:
        """The connection is over."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._is_reset():
            self._left()
            return
        passed = self._loop.time() - self._since
        if passed >= self._next_at:
            self._next_at = 2 * passed
            self._send_ahead()
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_LOOK_SECONDS)
        self._timer = self._loop.call_later(self._pause_seconds, self._look)

    def _is_reset(self) -> bool:
        own = self._transport.get_extra_info("socket")
        if own is None or own.family == socket.AF_UNIX:
            return False  # there a write fails at once
        # The loop listens no more to a socket whose end it has read, and would learn of it by the next write.
        state: int = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state == _TCP_CLOSE
