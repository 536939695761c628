"""One attempt: what was sent where, what came back, and its row for the ledger.

Everything here runs without awaiting, so an attempt is recorded exactly once on every way out, a cancelled
task included.
"""

import functools
from collections.abc import Mapping

import msgspec

from gateway.core.admission import Settlement
from gateway.core.balancing import ReplicaSet, ReplicaState
from gateway.core.call import Call
from gateway.core.catalog import Deployment
from gateway.core.cost import cost, counterfactuals
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.estimate import Estimate
from gateway.core.liability import Seen, most_output, most_output_of_whole
from gateway.core.masking import Masked
from gateway.core.policy import Plan
from gateway.core.pricing import PriceBook
from gateway.core.record import Outcome, UsageRecord
from gateway.core.recorded import RecordedFacts
from gateway.core.screening import StandIn
from gateway.core.tenancy import Principal
from gateway.core.usage import NO_USAGE, Exact, Metered, UnderEstimate, Usage

_OUTCOMES: Mapping[FailureKind, Outcome] = {
    FailureKind.CONNECT: Outcome.CONNECT_ERROR,
    FailureKind.ZONE: Outcome.CONNECT_ERROR,
    FailureKind.CONNECT_TIMEOUT: Outcome.CONNECT_ERROR,
    FailureKind.FIRST_BYTE_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.BETWEEN_BYTES_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.TOTAL_TIMEOUT: Outcome.TIMEOUT,
}


class Request(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """A request that was admitted: the facts that all its attempts share. `started` is monotonic seconds.

    `stand_in` is what is sent in its place, except to the zones that get the request as it is.
    """

    id: str
    org: str
    principal: Principal
    call: Call
    plan: Plan
    policy_version: str
    tags: Mapping[str, str]
    facts: RecordedFacts
    started: float
    prices: PriceBook
    stand_in: StandIn | None = None

    def masked_in(self, zone: str) -> Masked | None:
        """What a deployment in `zone` gets in place of the body; None where it gets the body itself."""
        stand_in = self.stand_in
        return None if stand_in is None or zone in stand_in.zones else stand_in.masked

    def privacy_in(self, zone: str) -> str:
        """The class of what a deployment in `zone` gets."""
        stand_in = self.stand_in
        return self.plan.privacy if stand_in is None or zone not in stand_in.zones else stand_in.privacy


class Attempt:
    """One dispatch of a request to one replica."""

    __slots__ = (
        "_request",
        "address",
        "at",
        "blocked_seconds",
        "deployment",
        "estimate",
        "finish_reason",
        "first_token_at",
        "fresh",
        "held_nano",
        "id",
        "last_seen_at",
        "number",
        "pool",
        "price",
        "quiet_until",
        "reported_model",
        "sent_at",
        "stale",
        "state",
        "status",
        "text_bytes",
        "text_chunks",
        "upstream_request_id",
    )

    def __init__(
        self,
        request: Request,
        number: int,
        pool: ReplicaSet,
        state: ReplicaState,
        estimate: Estimate,
        *,
        fresh: bool = False,
    ) -> None:
        """`fresh`: the one before found a stale connection, so this one must not reuse any."""
        self._request = request
        self.fresh = fresh
        self.stale = False
        self.number = number
        self.id = f"{request.id}:{number}"
        self.pool = pool
        self.state = state
        self.deployment: Deployment = pool.deployment
        self.estimate = estimate
        self.price = self.deployment.price
        self.address = ""
        self.at = 0
        self.sent_at = 0.0
        self.last_seen_at = 0.0
        self.quiet_until = 0.0
        self.blocked_seconds = 0.0
        self.first_token_at: float | None = None
        self.held_nano = 0
        self.status = 0
        self.text_chunks = 0
        self.text_bytes = 0
        self.finish_reason: str | None = None
        self.reported_model: str | None = None
        self.upstream_request_id: str | None = None

    def begin(self, *, at: float, monotonic: float, held_nano: int) -> None:
        """The request goes out now: `at` is UTC seconds, `monotonic` the clock of durations.

        From here on its price is fixed, whatever comes into force before the answer ends.
        """
        self.at = int(at * 1_000_000)
        self.price = self._request.prices.price_of(self.deployment, self.at)
        self.sent_at = self.last_seen_at = self.quiet_until = monotonic
        self.held_nano = held_nano

    def went_to(self, address: str) -> None:
        """Bytes are about to go out to `address`, `ip:port`."""
        self.address = address

    def under_estimate(self) -> UnderEstimate:
        """Usage of an attempt that broke: its prompt as estimated, and the pieces of text that were seen."""
        prompt = min(self.estimate.prompt, self.estimate.prompt_bound)
        return UnderEstimate(Usage(input_text=prompt, output_text=self.text_chunks))

    def record(self, outcome: Outcome, metered: Metered, now: float) -> UsageRecord:
        """The ledger row. `now` is monotonic seconds."""
        request = self._request
        call, plan, deployment = request.call, request.plan, self.deployment
        usage = metered.usage
        is_exact = isinstance(metered, Exact)
        tier = metered.service_tier if isinstance(metered, Exact) else None
        spent = cost(self.price.rates(tier), usage)
        first = self.first_token_at
        return UsageRecord(
            attempt_id=self.id,
            request_id=request.id,
            at=self.at,
            org=request.org,
            team=request.principal.team,
            feature=request.principal.feature,
            key=request.principal.key,
            model=plan.model.name,
            dispatched_model=deployment.model,
            reported_model=self.reported_model,
            endpoint=call.api,
            deployment=deployment.name,
            replica=self.state.replica.name,
            zone=deployment.zone,
            privacy=request.privacy_in(deployment.zone),
            modalities=_listed(call.modalities),
            decision=self.decision,
            stream=call.stream,
            status=self.status,
            outcome=outcome,
            finish_reason=self.finish_reason,
            usage=usage,
            estimated=not is_exact,
            service_tier=tier,
            price_version=self.price.version_of(tier),
            cost_nano_usd=spent,
            counterfactual_nano_usd=counterfactuals(
                plan.model.use, deployment.name, usage, request.prices, self.at
            ),
            held_nano_usd=self.held_nano,
            unseen_nano_usd=0 if is_exact else max(self._most_nano(outcome, now) - spent, 0),
            ttft_ms=None if first is None else (first - self.sent_at) * 1000,
            duration_ms=(now - self.sent_at) * 1000,
            upstream_request_id=self.upstream_request_id,
            tags=request.tags,
            policy_version=request.policy_version,
            facts=request.facts,
            address=self.address,
        )

    @property
    def decision(self) -> str:
        """Why this deployment: the plan's reason for the first candidate, `failover` for the others."""
        plan = self._request.plan
        return plan.decision if plan.candidates[0] is self.deployment else "failover"

    def teach_pace(self, tokens: int) -> None:
        """The answer is complete, and its usage says that it has `tokens`."""
        written_from = self.quiet_until if self._request.call.stream else self.sent_at
        seconds = self.last_seen_at - written_from
        if self.blocked_seconds <= seconds / 2:  # else it was the client's pace
            self.pool.pace.learn(tokens, self.text_chunks, seconds)

    def _most_nano(self, outcome: Outcome, now: float) -> int:
        """What an attempt without usage may have cost at most."""
        if outcome is Outcome.PRESUMED:
            return self.held_nano  # nobody was there to see how long the upstream went on
        call, pace = self._request.call, self.pool.pace
        cap = self.estimate.output * call.choices
        seen = Seen(
            text_chunks=self.text_chunks,
            text_bytes=self.text_bytes,
            watched_seconds=self.last_seen_at - self.quiet_until - self.blocked_seconds,
            silent_seconds=self.quiet_until - self.sent_at + self.blocked_seconds + now - self.last_seen_at,
        )
        if outcome is Outcome.SUCCESS:
            output = most_output_of_whole(seen, pace, call, cap)
        else:
            output = most_output(seen, pace, call, self.deployment, cap)
        input_rate, output_rate = self.price.dearest(call.service_tier)
        most = -(-(self.estimate.prompt_bound * input_rate + output * output_rate) // 1_000_000)
        return min(self.held_nano, most)


def settlement_of(record: UsageRecord) -> Settlement:
    """What an attempt takes from the budgets: what was seen, and what it may have cost unseen."""
    usage = record.usage
    tokens = None if record.estimated else usage.input_tokens + usage.output_tokens
    return Settlement(spent_nano=record.cost_nano_usd, unseen_nano=record.unseen_nano_usd, rate_tokens=tokens)


@functools.lru_cache(maxsize=64)
def _listed(modalities: frozenset[str]) -> str:
    return ",".join(sorted(modalities))


def outcome_of(failure: UpstreamFailure, status: int) -> Outcome:
    """How a failed attempt is booked."""
    if failure.stale:
        return Outcome.STALE_CONNECTION
    if failure.kind is FailureKind.STATUS and status == 429:
        return Outcome.RATE_LIMITED
    return _OUTCOMES.get(failure.kind, Outcome.UPSTREAM_ERROR)


def metered_failure(attempt: Attempt, failure: UpstreamFailure) -> Metered:
    """Usage of a failed attempt: nothing if it was never sent or was refused, else what was seen of it."""
    if failure.never_sent or failure.kind is FailureKind.STATUS:
        return Exact(NO_USAGE)
    if failure.stale:
        return UnderEstimate(NO_USAGE)
    return attempt.under_estimate()
