"""Choose a replica: available means healthy and not tripped; the one with the fewest attempts wins.

One that has just said to be full is available too, and comes last.
"""

from collections.abc import Iterable, Mapping, Sequence

from gateway.core.catalog import Api, Deployment, Replica
from gateway.core.estimate import Pace
from gateway.core.heads import RequestHead, header_lines, request_head
from gateway.core.output_sizes import OutputSizes
from gateway.core.replica_state import ReplicaState
from gateway.core.stated_limits import StatedLimits
from gateway.core.text_size import LEARN_FROM_TOKENS, TokenRatios
from gateway.dialects.refusals import Remedy
from gateway.dialects.table import ServerDialect

# How much one new observation moves a learned average.
SMOOTHING = 0.1
INITIAL_BYTES_PER_TOKEN = 4.0
# A learned ratio outside these bounds is an upstream's mistake, not a tokenizer.
LEAST_BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 1.0, 12.0
# A pool that was not measured for so long may have become another one: it is tried again, and learned anew.
MEASURED_FOR_SECONDS = 60.0

_BEHIND_ALL = 1 << 32  # more attempts than one replica ever has in flight


class ReplicaSet:
    """The replicas of one deployment, and what its answers have taught us.

    `answer_lines` begin the header of each answer; `heads` is what each request to a replica begins with.
    `dialect` is the deployment's, with what its servers have refused.
    Raises ValueError where the deployment's names or headers cannot stand in one.
    """

    __slots__ = (
        "_measures_anew",
        "_turn",
        "answer_lines",
        "bytes_per_token",
        "deployment",
        "dialect",
        "heads",
        "measured_at",
        "pace",
        "ratios",
        "replicas",
        "stated_limits",
        "tokens_per_second",
        "ttft_seconds",
    )

    def __init__(self, deployment: Deployment, replicas: tuple[ReplicaState, ...]) -> None:
        self.deployment = deployment
        self.answer_lines = header_lines(
            [
                (b"x-tollway-deployment", deployment.name.encode()),
                (b"x-tollway-zone", deployment.zone.encode()),
            ]
        )
        self.replicas = replicas
        # Not of the replica's state, which outlives a change of the deployment's credentials.
        self.heads = {state: request_heads(deployment, state.replica) for state in replicas}
        self.dialect: ServerDialect = deployment.server_dialect
        self.pace = Pace()
        self.ratios = TokenRatios()
        self._turn = 0
        self._measures_anew = False
        self.bytes_per_token = INITIAL_BYTES_PER_TOKEN
        self.measured_at = 0.0
        self.stated_limits: StatedLimits | None = None  # of the latest refusal that stated any
        self.ttft_seconds: float | None = None
        self.tokens_per_second: float | None = None

    @property
    def in_flight(self) -> int:
        return sum(state.in_flight for state in self.replicas)

    def is_available(self, now: float, key: str = "") -> bool:
        """A request of `key` may go to one of its replicas; without a key, that of one that fails nowhere."""
        # A plain loop: this runs for every deployment of every request, and a generator costs twice as much.
        for state in self.replicas:
            if state.is_up and (not state.breaker.is_open or state.breaker.allows(now, key)):
                return True
        return False

    def answers(self, now: float, key: str = "") -> bool:
        """A replica is available, or at least there and answering, if badly: the last resort."""
        return self.is_available(now, key) or any(
            state.is_up and state.breaker.answers(key) for state in self.replicas
        )

    def choose(self, now: float, tried: Sequence[ReplicaState] = (), key: str = "") -> ReplicaState | None:
        """The replica that the next attempt, of `key`, goes to. None: nothing is available.

        Those that have said to be full come after all others. Replicas in `tried` are not chosen again.
        """
        best: ReplicaState | None = None
        replicas, least = self.replicas, 0
        count = len(replicas)
        self._turn += 1
        for step in range(self._turn, self._turn + count):
            state = replicas[step % count]
            if not state.is_up or (state.breaker.is_open and not state.breaker.allows(now, key)):
                continue
            load = state.in_flight
            if state.busy_until > now:
                load += _BEHIND_ALL
            if (best is None or load < least) and state not in tried:
                best, least = state, load
        if best is not None:
            if best.breaker.is_open:
                best.breaker.start(now, key)
            if self.ttft_seconds is not None and now - self.measured_at > MEASURED_FOR_SECONDS:
                self.measured_at, self._measures_anew = now, True  # this one tries; the others wait and see
        elif not tried:
            best = self._last_resort(key)
        return best

    def _last_resort(self, key: str) -> ReplicaState | None:
        answering = [state for state in self.replicas if state.is_up and state.breaker.answers(key)]
        return min(answering, key=lambda state: state.in_flight, default=None)

    def _is_out_of_date(self, now: float) -> bool:
        return self.ttft_seconds is not None and now - self.measured_at > MEASURED_FOR_SECONDS

    def learn_speed(self, ttft_seconds: float, tokens_per_second: float | None, now: float) -> None:
        """Averages over recent answers; what was known before a long pause counts no more."""
        if self._measures_anew:
            self._measures_anew = False
            self.ttft_seconds = self.tokens_per_second = None
        self.measured_at = now
        known = self.ttft_seconds
        # `_smooth` written out: it runs for every answer.
        self.ttft_seconds = ttft_seconds if known is None else known + SMOOTHING * (ttft_seconds - known)
        if tokens_per_second is not None:
            self.tokens_per_second = _smooth(self.tokens_per_second, tokens_per_second)

    def learn_tokenizer(self, text_bytes: int, tokens: int) -> None:
        """`text_bytes` of prompt were reported as `tokens`."""
        if tokens < LEARN_FROM_TOKENS:
            return
        ratio = min(max(text_bytes / tokens, LEAST_BYTES_PER_TOKEN), MOST_BYTES_PER_TOKEN)
        self.bytes_per_token += SMOOTHING * (ratio - self.bytes_per_token)

    def learn_dialect(self, remedy: Remedy) -> bool:
        """A request went through with `remedy`. Returns whether that was news."""
        if remedy.refused is None:
            return False
        known = self.dialect
        self.dialect = known.learned(remedy.dialect, remedy.where)
        return self.dialect != known

    def expected_seconds(self, output_tokens: int, now: float) -> float:
        """Time to the last token as observed of late; 0 where nothing is known, so that it gets tried."""
        if self.ttft_seconds is None or self._is_out_of_date(now):
            return 0.0
        return self.ttft_seconds + output_tokens / (self.tokens_per_second or 50.0)


def request_heads(deployment: Deployment, replica: Replica) -> dict[Api, RequestHead]:
    """What requests to `replica` begin with. Raises ValueError for what cannot stand in a head."""
    return {
        api: request_head(replica.endpoint, b"POST", replica.target(api), deployment.headers) for api in Api
    }


class Fleet:
    """All replica sets by deployment name, and how long the answers are that come from them."""

    __slots__ = ("output_sizes", "replica_sets")

    def __init__(self, deployments: Iterable[Deployment], previous: "Fleet | None" = None) -> None:
        """Replica sets for `deployments`; what the `previous` fleet knows of the same replicas is kept."""
        known: Mapping[str, ReplicaSet] = {} if previous is None else previous.replica_sets
        self.output_sizes: OutputSizes = OutputSizes() if previous is None else previous.output_sizes
        self.replica_sets: dict[str, ReplicaSet] = {
            item.name: _replica_set(item, known.get(item.name)) for item in deployments
        }


def _replica_set(deployment: Deployment, previous: ReplicaSet | None) -> ReplicaSet:
    states = {state.replica: state for state in previous.replicas} if previous else {}
    replica_set = ReplicaSet(
        deployment, tuple(states.get(item) or ReplicaState(item) for item in deployment.replicas)
    )
    if previous is not None and previous.deployment.model == deployment.model:
        replica_set.pace = previous.pace
        replica_set.ratios = previous.ratios
        if previous.deployment.dialect == deployment.dialect:
            replica_set.dialect = previous.dialect
        replica_set.bytes_per_token = previous.bytes_per_token
        replica_set.measured_at = previous.measured_at
        replica_set.stated_limits = previous.stated_limits
        replica_set.ttft_seconds = previous.ttft_seconds
        replica_set.tokens_per_second = previous.tokens_per_second
    return replica_set


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
