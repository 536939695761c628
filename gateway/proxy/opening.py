"""The beginning of a stream, until it is committed to its candidate.

Rules:
- Nothing reaches the client until something of the answer is there: until then another candidate may answer.
- Not for ever. After a while the head and what was held go out, so that the client sees that it is being
  answered while a model thinks. Then, and when more is held than MAX_HELD_BYTES, it is committed as well.
"""

import asyncio

from gateway.core.heads import HeaderLines
from gateway.ports import Sink

# Of empty deltas: a server that sends so many of them makes the client wait for nothing.
MAX_HELD_BYTES = 64 * 1024


class StreamOpening:
    """Holds back what comes before the first content of one stream. `close` it on every way out."""

    __slots__ = ("_held", "_held_bytes", "_lines", "_sink", "_timer", "_trailer")

    def __init__(self, sink: Sink, lines: HeaderLines, trailer: bytes, seconds_left: float) -> None:
        """`lines` begin the answer, and a line named `trailer` is to end it.

        In `seconds_left` it is committed, if nothing else does it before.
        """
        self._sink = sink
        self._lines = lines
        self._trailer = trailer
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._timer = asyncio.get_running_loop().call_later(max(seconds_left, 0.0), self._commit_late)

    async def admit(self, passed: bytes, *, has_content: bool) -> bytes:
        """What is to be sent now that the upstream said `passed`: nothing while it is held back."""
        self._held.append(passed)
        self._held_bytes += len(passed)
        if has_content or self._held_bytes > MAX_HELD_BYTES:
            return await self.commit()
        return b""

    async def commit(self) -> bytes:
        """Begin the answer. Returns what was held, which goes out first."""
        self.close()
        await self._sink.start(200, self._lines, self._trailer)
        return self._taken()

    def close(self) -> None:
        """Nothing is to be begun any more."""
        self._timer.cancel()

    def _commit_late(self) -> None:
        # Called by the loop, so never in the middle of anything that the attempt does.
        self._sink.start_now(200, self._lines, self._taken(), self._trailer)

    def _taken(self) -> bytes:
        held, self._held = b"".join(self._held), []
        return held
