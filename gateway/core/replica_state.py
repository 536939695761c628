"""What is known of one replica at the moment, and whose fault a failure is."""

from collections.abc import Sequence
from typing import Protocol

from gateway.core.breaker import FAILURES_TO_OPEN
from gateway.core.catalog import Replica
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.shared_breaker import MOST_FROM_ONE_KEY, MOST_KEYS, SharedBreaker

# How long a server counts as busy that says so, where it does not say how long; and the most, where it does.
BUSY_SECONDS = 1.0
LONGEST_BUSY_SECONDS = 30.0


class UnderWay(Protocol):
    """An attempt under way, as it looks from its replica."""

    @property
    def is_stream(self) -> bool: ...

    @property
    def last_seen_at(self) -> float | None:
        """When something of the answer came last (monotonic seconds); None: nothing has come yet."""
        ...

    @property
    def is_waiting(self) -> bool:
        """It waits for the replica; False while it waits for its client, or for a connection."""
        ...

    def break_off(self, kind: FailureKind, detail: str) -> None:
        """End it as a failure of the replica."""
        ...


class ReplicaState:
    """One replica as it stands now. Who attempts something there counts in `in_flight` for as long.

    No await between `ReplicaSet.choose` and counting: requests of the same moment are to spread out.

    Methods that take a `key` are told whose request it was; empty for nobody's, such as a probe.

    `is_up`: requests may go there, by what the probe and the watch for progress say. `is_stuck`: it answers
    probes and makes no tokens. `is_gone`: nobody listens there. `under_way` are the attempts in flight.
    `answered_at` is when the last good answer ended, and until `busy_until` it counts as full (monotonic
    seconds; 0: never). `shared_failures` are those of `shared_failure` since the last success.
    """

    __slots__ = (
        "_shared_by",
        "answered_at",
        "breaker",
        "busy_until",
        "in_flight",
        "is_gone",
        "is_stuck",
        "is_up",
        "replica",
        "shared_failures",
        "shared_since",
        "under_way",
    )

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.breaker = SharedBreaker()
        self.in_flight = 0
        self.is_up = True  # until the first probe says otherwise
        self.is_gone = False
        self.is_stuck = False
        self.under_way: set[UnderWay] = set()
        self.answered_at = 0.0
        self.busy_until = 0.0
        self.shared_failures = 0
        self.shared_since = 0.0
        self._shared_by: dict[str, int] = {}  # by key

    def available(self, now: float) -> bool:
        """Whether a request may go there, of a key whose own requests have not failed there."""
        return self.is_up and self.breaker.allows(now)

    def failed(self, failure: UpstreamFailure, now: float, key: str = "") -> None:
        if failure.is_of_server:
            key = ""
        weight = FAILURES_TO_OPEN if failure.never_sent else 1
        self.breaker.failed(now, key=key, weight=weight, answered=failure.answered)

    def succeeded(self, key: str = "", now: float = 0.0) -> None:
        """It gave a good answer: what was held against it is forgotten, but for what other keys alone met."""
        self.breaker.succeeded(key, now)
        self.shared_failures = 0
        self._shared_by.clear()

    def told_busy(self, now: float, retry_after_seconds: float | None, key: str = "") -> None:
        """It is alive, and full for now: requests go elsewhere first, and here when there is nothing else."""
        if self.breaker.is_open:
            self.breaker.succeeded(key, now)
        wait = BUSY_SECONDS if retry_after_seconds is None else retry_after_seconds
        self.busy_until = now + min(max(wait, 0.0), LONGEST_BUSY_SECONDS)

    def shared_failure(self, now: float, siblings: "Sequence[ReplicaState]", key: str = "") -> None:
        """It failed as another server did for the same request. `siblings` are the replicas of its set.

        Once that can be the request. When it fails so again and again, never well in between, while a sibling
        does answer, it is the replica: for requests of several keys, else for the one key alone. As a last
        resort it stays, since that is no proof.
        """
        if not self.shared_failures:
            self.shared_since = now
        counted = self._shared_by.get(key, 0) + 1
        if key in self._shared_by or (key and len(self._shared_by) < MOST_KEYS):
            self._shared_by[key] = counted
        if not key or counted <= MOST_FROM_ONE_KEY:
            self.shared_failures += 1
        if not any(other.answered_at >= self.shared_since for other in siblings if other is not self):
            return
        if self.shared_failures >= FAILURES_TO_OPEN:
            self.breaker.failed(now, weight=FAILURES_TO_OPEN, answered=True)
        elif counted >= FAILURES_TO_OPEN:
            self.breaker.bar(now, key)


class FailureAttribution:
    """Whose failures they are, over the attempts of one request.

    What goes wrong alike on two servers is wrong with the request. It counts against neither, but as
    `ReplicaState.shared_failure`: one poisonous request that is sent again and again would take every server
    away from everyone else.
    """

    __slots__ = ("_counted", "_key", "_own")

    def __init__(self, key: str = "") -> None:
        """`key` is that of the request."""
        self._key = key
        self._counted: list[tuple[ReplicaState, UpstreamFailure, Sequence[ReplicaState]]] = []
        self._own: UpstreamFailure | None = None

    def failed(
        self, state: ReplicaState, failure: UpstreamFailure, now: float, siblings: Sequence[ReplicaState] = ()
    ) -> None:
        """The attempt at `state`, one of the replicas `siblings`, ended in `failure`."""
        if self._own is not None and failure.is_like(self._own):
            state.shared_failure(now, siblings, self._key)
            return
        for other, before, others in self._counted:
            if other is not state and failure.is_like(before):
                other.breaker.uncount_failure(self._key)
                other.shared_failure(now, others, self._key)
                state.shared_failure(now, siblings, self._key)
                self._own = failure
                return
        state.failed(failure, now, self._key)
        self._counted.append((state, failure, siblings))
