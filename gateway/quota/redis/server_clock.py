"""The clock of the server that holds the counters: it decides which windows are open."""

from gateway.ports import Clock

MICROSECONDS = 1_000_000


class ServerClock:
    """Our clock, moved by what the last reply said of the server's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_seconds = 0.0

    def now(self) -> float:
        """UTC seconds of the server's clock, as far as it is known."""
        return self._clock.now() + self._ahead_seconds

    def learn(self, now: int) -> None:
        """`now` is the server's, in microseconds."""
        self._ahead_seconds = now / MICROSECONDS - self._clock.now()
