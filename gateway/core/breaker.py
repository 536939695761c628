"""A circuit breaker: closed, open for a while, then one trial decides."""

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Closed, open until a moment, then half-open: one trial decides.

    Only failures that are the upstream's own are reported here: connecting, 5xx, broken or aborted answers.
    Never a 4xx, and never a client that went away.

    `failures` are those since the last success, the latest at `failed_at`. `open_until` 0: it is closed, else
    it is open until then (monotonic seconds), for `pause_seconds`.

    `answers`: it is open, and what opened it were all answers of a server that is there. Such a one is the
    last resort, since it may be the requests that it cannot bear.
    """

    __slots__ = ("_answers_only", "_trial_until", "failed_at", "failures", "open_until", "pause_seconds")

    def __init__(self) -> None:
        self.failures = 0
        self.pause_seconds = FIRST_PAUSE_SECONDS
        self.open_until = self.failed_at = 0.0
        self._trial_until = 0.0
        self._answers_only = True

    @property
    def answers(self) -> bool:
        return self.open_until > 0 and self._answers_only

    def allows(self, now: float) -> bool:
        if not self.open_until:
            return True
        return now >= self.open_until and now >= self._trial_until

    def start(self, now: float) -> None:
        """A request was sent. In the half-open state it is the trial, and others wait for its result."""
        if self.open_until:
            self._trial_until = now + self.pause_seconds

    def succeeded(self) -> None:
        self.failures = 0
        self.pause_seconds = FIRST_PAUSE_SECONDS
        self.open_until = self._trial_until = 0.0
        self._answers_only = True

    def uncount_failure(self) -> None:
        """The last failure counted turned out to be that of the request."""
        self.failures = max(self.failures - 1, 0)
        self._answers_only |= not self.failures
        if self.failures < FAILURES_TO_OPEN:
            self.open_until = self._trial_until = 0.0

    def failed(self, now: float, *, weight: int = 1, answered: bool = False) -> None:
        """`weight` FAILURES_TO_OPEN opens at once: a refused connection leaves no doubt."""
        self.failures += weight
        self.failed_at = now
        self._answers_only &= answered
        if self.failures < FAILURES_TO_OPEN:
            return
        if self.open_until:
            if now < self.open_until:
                return  # sent before it opened: the same trouble, not another one
            self.pause_seconds = min(self.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self.open_until = now + self.pause_seconds
        self._trial_until = 0.0

    def retry_after_seconds(self, now: float) -> float:
        return max(self.open_until - now, 0.0)
