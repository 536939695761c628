"""Choose a replica: available means healthy and not tripped; the least outstanding one wins."""

from collections.abc import Iterable, Mapping, Sequence

from gateway.core.breaker import FAILURES_TO_OPEN, Breaker
from gateway.core.catalog import Deployment, Replica
from gateway.core.errors import UpstreamFailure
from gateway.core.liability import Pace

# How much one new observation moves a learned average.
SMOOTHING = 0.1
INITIAL_BYTES_PER_TOKEN = 4.0
# A learned ratio outside these bounds is an upstream's mistake, not a tokenizer.
LEAST_BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 1.0, 12.0
# A pool that was not measured for so long may have become another one: it is tried again, and learned anew.
MEASURED_FOR_SECONDS = 60.0
# Below this a prompt is mostly chat template, which says nothing about the tokenizer.
LEARN_FROM_TOKENS = 50


class ReplicaState:
    """One replica as it stands now. `outstanding` counts from the moment of choice until the attempt ends."""

    __slots__ = ("breaker", "is_up", "outstanding", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.breaker = Breaker()
        self.outstanding = 0
        self.is_up = True  # until the first probe says otherwise

    def available(self, now: float) -> bool:
        return self.is_up and self.breaker.allows(now)

    def failed(self, failure: UpstreamFailure, now: float) -> None:
        weight = FAILURES_TO_OPEN if failure.never_sent else 1
        self.breaker.failed(now, weight=weight, answered=failure.answered)


class Blame:
    """Whose failures they are, over the attempts of one request.

    What goes wrong alike on two servers is wrong with the request. It counts against neither:
    one poisonous request that is sent again and again would take every server away from everyone else.
    """

    __slots__ = ("_counted", "_own")

    def __init__(self) -> None:
        self._counted: list[tuple[ReplicaState, UpstreamFailure]] = []
        self._own: UpstreamFailure | None = None

    def failed(self, state: ReplicaState, failure: UpstreamFailure, now: float) -> None:
        if self._own is not None and failure.is_like(self._own):
            return
        for other, before in self._counted:
            if other is not state and failure.is_like(before):
                other.breaker.forgive()
                self._own = failure
                return
        state.failed(failure, now)
        self._counted.append((state, failure))


class ReplicaSet:
    """The replicas of one deployment, and what its answers have taught us."""

    __slots__ = (
        "_anew",
        "_turn",
        "answer_headers",
        "bytes_per_token",
        "deployment",
        "measured_at",
        "pace",
        "replicas",
        "tokens_per_second",
        "ttft_seconds",
    )

    def __init__(self, deployment: Deployment, replicas: tuple[ReplicaState, ...]) -> None:
        self.deployment = deployment
        self.answer_headers = (
            (b"x-tollway-deployment", deployment.name.encode()),
            (b"x-tollway-zone", deployment.zone.encode()),
        )
        self.replicas = replicas
        self.pace = Pace()
        self._turn = 0
        self._anew = False
        self.bytes_per_token = INITIAL_BYTES_PER_TOKEN
        self.measured_at = 0.0
        self.ttft_seconds: float | None = None
        self.tokens_per_second: float | None = None

    @property
    def outstanding(self) -> int:
        return sum(state.outstanding for state in self.replicas)

    def is_available(self, now: float) -> bool:
        # A plain loop: this runs for every deployment of every request, and a generator costs twice as much.
        for state in self.replicas:  # noqa: SIM110
            if state.is_up and state.breaker.allows(now):
                return True
        return False

    def answers(self, now: float) -> bool:
        """A replica is available, or at least there and answering, if badly: the last resort."""
        return self.is_available(now) or any(state.is_up and state.breaker.answers for state in self.replicas)

    def take(self, now: float, tried: Sequence[ReplicaState] = ()) -> ReplicaState | None:
        """Choose and count at once, so that requests of the same moment spread out. None: nothing available.

        Replicas in `tried` are not chosen again. The caller gives back through `give_back`.
        """
        best: ReplicaState | None = None
        count = len(self.replicas)
        self._turn += 1
        for step in range(count):
            state = self.replicas[(self._turn + step) % count]
            if state in tried or not state.available(now):
                continue
            if best is None or state.outstanding < best.outstanding:
                best = state
        if best is not None:
            best.outstanding += 1
            best.breaker.start(now)
            if self._is_out_of_date(now):
                self.measured_at, self._anew = now, True  # this one tries; the others wait and see
        elif not tried:
            best = self._take_last_resort()
        return best

    def _take_last_resort(self) -> ReplicaState | None:
        answering = [state for state in self.replicas if state.is_up and state.breaker.answers]
        best = min(answering, key=lambda state: state.outstanding, default=None)
        if best is not None:
            best.outstanding += 1
        return best

    @staticmethod
    def take_again(state: ReplicaState) -> None:
        """Count the same replica once more, for a second try that says nothing about its health."""
        state.outstanding += 1

    @staticmethod
    def give_back(state: ReplicaState) -> None:
        state.outstanding -= 1

    def _is_out_of_date(self, now: float) -> bool:
        return self.ttft_seconds is not None and now - self.measured_at > MEASURED_FOR_SECONDS

    def learn_speed(self, ttft_seconds: float, tokens_per_second: float | None, now: float) -> None:
        """Averages over recent answers; what was known before a long pause counts no more."""
        if self._anew:
            self._anew = False
            self.ttft_seconds = self.tokens_per_second = None
        self.measured_at = now
        self.ttft_seconds = _smooth(self.ttft_seconds, ttft_seconds)
        if tokens_per_second is not None:
            self.tokens_per_second = _smooth(self.tokens_per_second, tokens_per_second)

    def learn_tokenizer(self, text_bytes: int, tokens: int) -> None:
        """`text_bytes` of prompt were reported as `tokens`."""
        if tokens < LEARN_FROM_TOKENS:
            return
        ratio = min(max(text_bytes / tokens, LEAST_BYTES_PER_TOKEN), MOST_BYTES_PER_TOKEN)
        self.bytes_per_token = _smooth(self.bytes_per_token, ratio)

    def expected_seconds(self, output_tokens: int, now: float) -> float:
        """Time to the last token as observed of late; 0 where nothing is known, so that it gets tried."""
        if self.ttft_seconds is None or self._is_out_of_date(now):
            return 0.0
        return self.ttft_seconds + output_tokens / (self.tokens_per_second or 50.0)


class Fleet:
    """All replica sets by deployment name."""

    __slots__ = ("replica_sets",)

    def __init__(
        self, deployments: Iterable[Deployment], previous: Mapping[str, ReplicaSet] | None = None
    ) -> None:
        """Replica sets for `deployments`; what `previous` ones know of the same replicas is kept."""
        known = previous or {}
        self.replica_sets = {item.name: _replica_set(item, known.get(item.name)) for item in deployments}


def _replica_set(deployment: Deployment, previous: ReplicaSet | None) -> ReplicaSet:
    states = {state.replica: state for state in previous.replicas} if previous else {}
    pool = ReplicaSet(
        deployment, tuple(states.get(item) or ReplicaState(item) for item in deployment.replicas)
    )
    if previous is not None and previous.deployment.model == deployment.model:
        pool.pace = previous.pace
        pool.bytes_per_token = previous.bytes_per_token
        pool.measured_at = previous.measured_at
        pool.ttft_seconds = previous.ttft_seconds
        pool.tokens_per_second = previous.tokens_per_second
    return pool


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
