"""How an attempt ended: what came back, what it cost, and its row for the ledger.

Everything here runs without awaiting, so an attempt is recorded exactly once on every way out, a cancelled
task included.
"""

import functools
from collections.abc import Mapping

import msgspec

from gateway.core.admission import Settlement
from gateway.core.answer import NO_USAGE, Exact, Metered, UnderEstimate, Usage
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.estimate import Seen, most_output, most_output_of_whole
from gateway.core.pricing import cost, counterfactuals
from gateway.core.record import Outcome, UsageRecord
from gateway.proxy.target import Target

NOTHING_USED = Settlement(spent_nano=0)

_OUTCOMES: Mapping[FailureKind, Outcome] = {
    FailureKind.CONNECT: Outcome.CONNECT_ERROR,
    FailureKind.ZONE: Outcome.CONNECT_ERROR,
    FailureKind.CONNECT_TIMEOUT: Outcome.CONNECT_ERROR,
    FailureKind.FIRST_BYTE_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.BETWEEN_BYTES_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.TOTAL_TIMEOUT: Outcome.TIMEOUT,
}


class Progress:
    """What has come of an attempt so far. Times are monotonic seconds; `status` 0: no answer has begun.

    `quiet_until`: when the first text came. `blocked_seconds`: how long the client was slow to take it.
    """

    __slots__ = (
        "address",
        "blocked_seconds",
        "finish_reason",
        "first_token_at",
        "held_nano",
        "last_seen_at",
        "quiet_until",
        "reported_model",
        "sent_at",
        "status",
        "text_bytes",
        "text_chunks",
        "upstream_request_id",
    )

    def __init__(self, sent_at: float, held_nano: int) -> None:
        self.sent_at = self.last_seen_at = self.quiet_until = sent_at
        self.held_nano = held_nano
        self.address = ""
        self.status = 0
        self.blocked_seconds = 0.0
        self.first_token_at: float | None = None
        self.text_chunks = 0
        self.text_bytes = 0
        self.finish_reason: str | None = None
        self.reported_model: str | None = None
        self.upstream_request_id: str | None = None

    def note_address(self, address: str) -> None:
        """Bytes are about to go out to `address`, `ip:port`."""
        self.address = address


class Ended(msgspec.Struct, frozen=True, eq=False):
    """How an attempt ended: its row, and what it takes from the budgets.

    `failure` is set where the upstream failed: another replica may be tried.
    """

    record: UsageRecord
    settlement: Settlement
    failure: UpstreamFailure | None = None


def ended(record: UsageRecord, failure: UpstreamFailure | None) -> Ended:
    """The attempt of `record`. It takes from the budgets what was seen, and what it may have cost unseen."""
    usage = record.usage
    tokens = None if record.estimated else usage.input_tokens + usage.output_tokens
    settlement = Settlement(
        spent_nano=record.cost_nano_usd, unseen_nano=record.unseen_nano_usd, rate_tokens=tokens
    )
    return Ended(record, settlement, failure)


def under_estimate(target: Target, progress: Progress) -> UnderEstimate:
    """Usage of an attempt that broke: its prompt as estimated, and the chunks of text that were seen."""
    estimate = target.estimate
    prompt = min(estimate.prompt, estimate.prompt_bound)
    return UnderEstimate(Usage(input_text=prompt, output_text=progress.text_chunks))


def record_of(
    target: Target, progress: Progress, outcome: Outcome, metered: Metered, now: float
) -> UsageRecord:
    """The ledger row. `now` is monotonic seconds."""
    request, deployment, price = target.request, target.deployment, target.price
    call, principal, model = request.call, request.principal, request.plan.model
    usage = metered.usage
    is_exact = isinstance(metered, Exact)
    tier = metered.service_tier if isinstance(metered, Exact) else None
    spent = cost(price.standard if tier is None else price.rates(tier), usage)
    first = progress.first_token_at
    return UsageRecord(
        attempt_id=target.attempt_id,
        request_id=request.id,
        at=target.at,
        org=request.org,
        team=principal.team,
        feature=principal.feature,
        key=principal.key,
        model=model.name,
        dispatched_model=deployment.model,
        reported_model=progress.reported_model,
        endpoint=call.api,
        deployment=deployment.name,
        replica=target.replica.replica.name,
        zone=deployment.zone,
        privacy=target.privacy,
        modalities=_listed(call.modalities),
        decision=target.decision,
        stream=call.stream,
        status=progress.status,
        outcome=outcome,
        finish_reason=progress.finish_reason,
        usage=usage,
        estimated=not is_exact,
        service_tier=tier,
        price_version=price.version if tier is None else price.version_of(tier),
        cost_nano_usd=spent,
        counterfactual_nano_usd=counterfactuals(model.use, deployment.name, usage, request.prices, target.at),
        held_nano_usd=progress.held_nano,
        unseen_nano_usd=0 if is_exact else max(_most_nano(target, progress, outcome, now) - spent, 0),
        ttft_ms=None if first is None else (first - progress.sent_at) * 1000,
        duration_ms=(now - progress.sent_at) * 1000,
        upstream_request_id=progress.upstream_request_id,
        tags=request.tags,
        policy_version=request.policy_version,
        facts=request.facts,
        address=progress.address,
    )


def learn(target: Target, progress: Progress, record: UsageRecord) -> None:
    """What a whole answer shows of its deployment: its speed, its pace, its tokenizer."""
    call, replica_set, usage = target.request.call, target.replica_set, record.usage
    output = usage.output_tokens
    if progress.first_token_at is not None:
        seconds = progress.last_seen_at - progress.first_token_at
        speed = output / seconds if call.stream and seconds > 0 and output > 1 else None
        replica_set.learn_speed(progress.first_token_at - progress.sent_at, speed, progress.last_seen_at)
    if record.estimated:
        return
    seconds = progress.last_seen_at - (progress.quiet_until if call.stream else progress.sent_at)
    if progress.blocked_seconds <= seconds / 2:  # else it was the client's pace
        replica_set.pace.learn(output, progress.text_chunks, seconds)
    if not call.media.bytes:
        replica_set.learn_tokenizer(call.text_bytes, usage.input_tokens)


def _most_nano(target: Target, progress: Progress, outcome: Outcome, now: float) -> int:
    """What an attempt without usage may have cost at most."""
    if outcome is Outcome.PRESUMED:
        return progress.held_nano  # nobody was there to see how long the upstream went on
    call, pace = target.request.call, target.replica_set.pace
    cap = target.estimate.output * call.choices
    last, quiet, blocked = progress.last_seen_at, progress.quiet_until, progress.blocked_seconds
    seen = Seen(
        text_chunks=progress.text_chunks,
        text_bytes=progress.text_bytes,
        watched_seconds=last - quiet - blocked,
        silent_seconds=quiet - progress.sent_at + blocked + now - last,
    )
    if outcome is Outcome.SUCCESS:
        output = most_output_of_whole(seen, pace, call, cap)
    else:
        output = most_output(seen, pace, call, target.deployment, cap)
    input_rate, output_rate = target.price.dearest(call.service_tier)
    most = -(-(target.estimate.prompt_bound * input_rate + output * output_rate) // 1_000_000)
    return min(progress.held_nano, most)


@functools.lru_cache(maxsize=64)
def _listed(modalities: frozenset[str]) -> str:
    return ",".join(sorted(modalities))


def outcome_of(failure: UpstreamFailure) -> Outcome:
    """How a failed attempt is booked."""
    if failure.stale:
        return Outcome.STALE_CONNECTION
    if failure.status == 429:
        return Outcome.RATE_LIMITED
    return _OUTCOMES.get(failure.kind, Outcome.UPSTREAM_ERROR)


def metered_failure(target: Target, progress: Progress, failure: UpstreamFailure) -> Metered:
    """Usage of a failed attempt: nothing if it was never sent or was refused, else what was seen of it."""
    if failure.never_sent or failure.kind is FailureKind.STATUS:
        return Exact(NO_USAGE)
    if failure.stale:
        return UnderEstimate(NO_USAGE)
    return under_estimate(target, progress)
