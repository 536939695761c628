"""How soon a worker that died is started again, and when that has become pointless. Pure."""

from collections import deque

DEATHS = 5
WITHIN_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Restarts:
    """The deaths of one worker in the last WITHIN_SECONDS."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> float | None:
        """Seconds to wait before it is started again; None when it has died too often."""
        self._deaths.append(now)
        while now - self._deaths[0] > WITHIN_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) >= DEATHS:
            return None
        return min(FIRST_PAUSE_SECONDS * 2.0 ** (len(self._deaths) - 1), LONGEST_PAUSE_SECONDS)
