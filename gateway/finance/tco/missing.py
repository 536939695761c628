"""What a report cannot know, in sentences that say what to do about it."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping

from gateway.core import calendar
from gateway.core.pool_cost import SECOND
from gateway.finance.tco.allocation import AllocatedPool, is_compared, tokens_of
from gateway.finance.tco.measured import Measured
from gateway.finance.tco.report import Uncertainty
from gateway.finance.tco.units import usd
from gateway.ledger.usage_sums import Consumer, UsageSums

# A running gateway books once a minute: that the last one is not there yet is no news.
BOOKED_WITHIN = 2 * 60 * SECOND


def missing(
    measured: Measured, whole: Mapping[Consumer, UsageSums], pools: Mapping[str, AllocatedPool]
) -> Iterator[str]:
    """What the report would need and has not. Empty: it is complete."""
    if not measured.pools:
        yield "no deployment has a `cost` section, so there is no pool to compare with: give one"
    for name in measured.pools:
        if name not in pools:
            yield f"{name}: nothing is booked for this period; a gateway that runs with its `cost` books it"
    for name, pool in pools.items():
        yield from _missing_of(measured, name, pool)
    unknown = {consumer.deployment for consumer in whole} - set(measured.pools) - set(measured.hosted)
    for name in sorted(unknown):
        yield f"{name}: not configured, or answers no chat: its cost counts, but is not compared"
    used = sorted(
        {consumer.deployment for consumer in whole if is_compared(measured, consumer)} | set(measured.hosted)
    )
    for name in used:
        if name not in measured.tokenizers:
            yield f"{name}: too few prompts of text to measure its tokenizer; counts are taken as they are"


def _missing_of(measured: Measured, name: str, pool: AllocatedPool) -> Iterator[str]:
    if pool.bill.starts > measured.since:
        yield f"{name}: booked only since {_moment(pool.bill.starts, measured)}"
    if pool.bill.ends < measured.until - BOOKED_WITHIN:
        yield f"{name}: booked only until {_moment(pool.bill.ends, measured)}"
    if pool.capacity is None:
        yield (
            f"{name}: `cost.saturation_tokens_per_second` is not configured, so idle time, utilisation and "
            "break-even are unknown: measure it and give it"
        )
    if not tokens_of(pool.usage).all:
        yield f"{name}: no tokens in this period, so there is no mix for a break-even"
    if pool.terms.learn and not measured.weights_are_learned[name]:
        yield f"{name}: too few streams to learn its weights from; the configured ones are used"


def _moment(at: int, measured: Measured) -> str:
    """Of UTC microseconds since 1970, to the second: a bill is booked once a minute."""
    return calendar.shown(dt.datetime.fromtimestamp(at // SECOND, measured.time_zone))


def uncertainty(measured: Measured, usage: UsageSums, pools: Iterable[AllocatedPool]) -> Uncertainty:
    """How far the report's numbers can be trusted."""
    pools = list(pools)
    notes = [
        f"{pool.terms.plan.deployment}: did {float(pool.allocation.utilisation):.2f} of what its "
        "`saturation_tokens_per_second` allows: measure that again"
        for pool in pools
        if pool.allocation.utilisation is not None and pool.allocation.utilisation > 1
    ]
    compared = [*measured.hosted, *(pool.terms.plan.deployment for pool in pools)]
    measured_all = all(name in measured.tokenizers for name in compared)
    if measured_all:
        notes.append("hosted counts of output tokens are converted by the tokenizers' ratio on prompts")
    notes.append("replicas for all traffic are those of the mean load; peaks need more")
    notes.append("saturation is configured, not observed; utilisation and break-even move with it")
    return Uncertainty(
        estimated_attempts_share=usage.estimated_attempts / usage.attempts if usage.attempts else 0.0,
        unseen_usd=usd(usage.unseen_nano_usd),
        pool_estimated_usd=usd(sum(pool.bill.estimated_nano_usd for pool in pools)),
        tokenizers_measured=measured_all,
        notes=notes,
    )
