"""The breaker of a replica that many keys use: whose requests fail decides for whom it opens.

Rules:
- What no request can have caused (nobody listens, no connection) opens it for everybody at once.
- What a request may have caused itself (a time-out, a 5xx, a broken answer) counts for its key. In a row it
  opens for that key alone, and all others go on.
- It opens for everybody when such failures come from several keys, with no success of anybody between them. A
  key counts for fewer than it takes.
- Half-open, each key may have a trial. One that fails is held against its key. Those of several keys open it
  for everybody again, for twice as long.
"""

from gateway.core.breaker import FAILURES_TO_OPEN, Breaker

MOST_FROM_ONE_KEY = FAILURES_TO_OPEN - 1
KEYS_TO_OPEN_AGAIN = 2
TRIALS_AT_ONCE = 3
# Of so many keys the failures are told apart; the one that failed first is forgotten.
MOST_KEYS = 64
# A key that has not failed for so long is forgotten when another one succeeds.
FORGET_SECONDS = 60.0


class SharedBreaker:
    """Where a `key` is asked for, the empty one stands for nobody's: a probe, or what no request caused.

    `failures` are the most that are remembered, of everybody or of one key. `is_open`: for everybody or for
    some key, or half-open. Both are plain values: every request reads them. Times are monotonic seconds.
    """

    __slots__ = ("_by_key", "_everybody", "_failed_trials", "_suspects", "_trials", "failures", "is_open")

    def __init__(self) -> None:
        self._everybody = Breaker()
        self._by_key: dict[str, Breaker] = {}
        self._suspects: dict[str, int] = {}  # failures by key since anybody's last success
        self._trials: dict[str, float] = {}  # until when the result of each is waited for
        self._failed_trials: set[str] = set()  # keys, since it opened
        self.failures = 0
        self.is_open = False

    def allows(self, now: float, key: str = "") -> bool:
        everybody = self._everybody
        if everybody.open_until:
            if now < everybody.open_until or self._trials.get(key, 0.0) > now:
                return False
            if sum(until > now for until in self._trials.values()) >= TRIALS_AT_ONCE:
                return False
        own = self._by_key.get(key)
        return own is None or own.allows(now)

    def answers(self, key: str = "") -> bool:
        """It is open for `key`, and what opened it were all answers of a server that is there."""
        found = (self._everybody, self._by_key.get(key))
        closed_to = [breaker for breaker in found if breaker is not None and breaker.open_until]
        return bool(closed_to) and all(breaker.answers for breaker in closed_to)

    def start(self, now: float, key: str = "") -> None:
        """A request of `key` was sent. In the half-open state it is a trial."""
        everybody, own = self._everybody, self._by_key.get(key)
        if everybody.open_until:
            self._trials = {one: until for one, until in self._trials.items() if until > now}
            self._trials[key] = now + everybody.pause_seconds
        if own is not None:
            own.start(now)

    def succeeded(self, key: str = "", now: float = 0.0) -> None:
        """A request of `key` went well. Nobody's, such as a probe, clears every key."""
        self._everybody.succeeded()
        self._suspects.clear()
        self._forget_trials()
        self._by_key.pop(key, None)
        by_key = self._by_key
        self._by_key = (
            {one: own for one, own in by_key.items() if now - own.failed_at < FORGET_SECONDS} if key else {}
        )
        self._sum_up()

    def failed(self, now: float, *, key: str = "", weight: int = 1, answered: bool = False) -> None:
        """A request of `key` failed, in a way that it may have caused. Without a key nobody did.

        `weight` FAILURES_TO_OPEN opens at once: for everybody, or for `key`.
        """
        if key:
            self._suspect(now, key, weight, answered=answered)
        else:
            self._everybody.failed(now, weight=weight, answered=answered)
            self._forget_trials()
        self._sum_up()

    def bar(self, now: float, key: str) -> None:
        """Open it for `key` alone: what fails so is most likely its requests. The server does answer."""
        self._own(key).failed(now, weight=FAILURES_TO_OPEN, answered=True)
        self._sum_up()

    def uncount_failure(self, key: str = "") -> None:
        """The last failure counted for `key` turned out to be that of the request."""
        own, counted = self._by_key.get(key), self._suspects.get(key, 0)
        if own is not None:
            own.uncount_failure()
            if not own.failures:
                del self._by_key[key]
        if key in self._failed_trials:
            self._failed_trials.discard(key)
        else:
            if not key or 0 < counted <= MOST_FROM_ONE_KEY:
                self._everybody.uncount_failure()
            if counted:
                self._suspects[key] = counted - 1
        self._sum_up()

    def retry_after_seconds(self, now: float, key: str = "") -> float:
        own = self._by_key.get(key)
        wait = self._everybody.retry_after_seconds(now)
        return wait if own is None else max(wait, own.retry_after_seconds(now))

    def barred_keys(self, now: float) -> int:
        """For how many keys alone it is open."""
        return sum(not own.allows(now) for own in self._by_key.values())

    def _suspect(self, now: float, key: str, weight: int, *, answered: bool) -> None:
        everybody = self._everybody
        is_trial = self._trials.pop(key, 0.0) > 0
        self._own(key).failed(now, weight=FAILURES_TO_OPEN if is_trial else weight, answered=answered)
        if is_trial:
            self._failed_trials.add(key)
            if len(self._failed_trials) >= KEYS_TO_OPEN_AGAIN:
                everybody.failed(now, answered=answered)
                self._forget_trials()
        elif everybody.open_until and now >= everybody.open_until:
            return  # sent before it opened, or as the last resort: no news of how it is now
        elif key in self._suspects or len(self._suspects) < MOST_KEYS:
            self._suspects[key] = counted = self._suspects.get(key, 0) + 1
            if counted <= MOST_FROM_ONE_KEY:
                everybody.failed(now, answered=answered)
                self._forget_trials()

    def _own(self, key: str) -> Breaker:
        """That of `key`, the latest to be forgotten."""
        own = self._by_key.pop(key, None) or Breaker()
        if len(self._by_key) >= MOST_KEYS:
            del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = own
        return own

    def _forget_trials(self) -> None:
        self._trials = {}
        self._failed_trials.clear()

    def _sum_up(self) -> None:
        found = (self._everybody, *self._by_key.values())
        self.failures = max(breaker.failures for breaker in found)
        self.is_open = any(breaker.open_until for breaker in found)
