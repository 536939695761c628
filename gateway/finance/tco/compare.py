"""From what was measured to the report: who paid what, and what the same would have cost elsewhere."""

import datetime as dt
import enum
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import msgspec

from gateway.core.money import NANO_PER_USD, TOKENS_PER_PRICE_UNIT
from gateway.core.pool_cost import HOUR, SECOND, Allocation, PoolTerms, Share, allocate
from gateway.core.tco import BreakEven, Full, Tokens, break_even, hosted_cost
from gateway.finance.tco.measured import Measured
from gateway.finance.tco.report import (
    AllTraffic,
    Cost,
    HostedSide,
    PoolSide,
    Row,
    TcoReport,
    Uncertainty,
    WorkShare,
)
from gateway.ledger.pool_costs import PoolSums
from gateway.ledger.usage_sums import NO_USAGE, Consumer, UsageSums

# A running gateway books once a minute: that the last one is not there yet is no news.
BOOKED_WITHIN = 2 * 60 * SECOND


class TcoRows(enum.StrEnum):
    """What the rows are."""

    FEATURE = "feature"
    TEAM = "team"
    MODEL = "model"


class _Sum:
    """What belongs to one row, in nano-USD."""

    def __init__(self) -> None:
        self.usage = NO_USAGE
        self.hosted = self.workload = self.idle = self.marginal = 0
        self.on: defaultdict[str, int] = defaultdict(int)

    def add(self, other: "_Sum") -> None:
        self.usage = self.usage.plus(other.usage)
        self.hosted += other.hosted
        self.workload += other.workload
        self.idle += other.idle
        self.marginal += other.marginal
        for name, nano in other.on.items():
            self.on[name] += nano

    def cost(self, apart: int = 0) -> Cost:
        return Cost(
            requests=self.usage.requests,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            hosted_usd=usd(self.hosted),
            pool_workload_usd=usd(self.workload),
            pool_idle_usd=usd(self.idle + apart),
            fully_loaded_usd=usd(self.hosted + self.workload + self.idle + apart),
            marginal_usd=usd(self.hosted + self.marginal),
            on={name: usd(nano) for name, nano in sorted(self.on.items())},
        )


class _Pool(msgspec.Struct, frozen=True):
    """A pool with its bill shared out, and with what all traffic would have needed of it."""

    terms: PoolTerms
    bill: PoolSums
    usage: UsageSums
    capacity: int | None
    allocation: Allocation
    all_traffic: tuple[AllTraffic, Mapping[Hashable, Share]] | None


def tokens_of(usage: UsageSums) -> Tokens:
    return Tokens(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)


def usd(nano: int) -> float:
    return nano / NANO_PER_USD


def compare(measured: Measured, by: TcoRows) -> TcoReport:
    """The report of what was measured."""
    whole = _whole(measured)
    pools = {name: _pool(measured, name, whole) for name in measured.pools if name in measured.bills}
    sums = _sums(measured, whole, pools)
    rows: defaultdict[str, _Sum] = defaultdict(_Sum)
    total = _Sum()
    for consumer, one in sums.items():
        rows[getattr(consumer, by)].add(one)
        total.add(one)
    apart = sum(pool.allocation.apart_nano for pool in pools.values())
    missing = list(_missing(measured, whole, pools))
    return TcoReport(
        since=_iso(measured.since),
        until=_iso(measured.until),
        by=by,
        totals=total.cost(apart),
        rows=[Row(name=name, cost=rows[name].cost()) for name in sorted(rows)],
        pools=[_pool_side(measured, pool) for pool in pools.values()],
        hosted=[_hosted_side(measured, name, whole) for name in measured.hosted],
        missing=missing,
        uncertainty=_uncertainty(measured, total.usage, pools.values()),
    )


# --- who pays, and what it would have been elsewhere ---


def _whole(measured: Measured) -> dict[Consumer, UsageSums]:
    found: dict[Consumer, UsageSums] = {}
    for segment in measured.segments:
        for consumer, usage in segment.usage.items():
            found[consumer] = found.get(consumer, NO_USAGE).plus(usage)
    return dict(sorted(found.items()))


def _pool(measured: Measured, name: str, whole: Mapping[Consumer, UsageSums]) -> _Pool:
    terms, bill = measured.pools[name], measured.bills[name]
    own = {consumer: usage for consumer, usage in whole.items() if consumer.deployment == name}
    capacity = terms.weights.capacity(bill.capacity_tokens)
    work = {consumer: tokens_of(usage).work(terms.weights) for consumer, usage in own.items()}
    return _Pool(
        terms=terms,
        bill=bill,
        usage=_total(own.values()),
        capacity=capacity,
        allocation=allocate(bill.nano_usd, work, capacity, terms.idle, lambda consumer: consumer.feature),
        all_traffic=_all_traffic(measured, name, whole, capacity),
    )


def _all_traffic(
    measured: Measured, name: str, whole: Mapping[Consumer, UsageSums], capacity: int | None
) -> tuple[AllTraffic, Mapping[Hashable, Share]] | None:
    """The pool with everything on it: more replicas where it does not fit, never fewer. None: unknown."""
    bill, weights = measured.bills[name], measured.pools[name].weights
    if not capacity or not bill.replica_microseconds:
        return None
    work = {
        consumer: tokens_of(usage).times(measured.ratio(consumer.deployment, name)).work(weights)
        for consumer, usage in whole.items()
        if _is_compared(measured, consumer)
    }
    provisioned = Fraction(bill.replica_microseconds, bill.microseconds)
    needed = Fraction(sum(work.values()), capacity) * provisioned
    replicas = max(
        -(-needed.numerator // needed.denominator), -(-provisioned.numerator // provisioned.denominator)
    )
    grown = max(Fraction(replicas) / provisioned, Fraction(1))
    nano = round(bill.gpu_nano_usd * grown) + bill.overhead_nano_usd
    found = AllTraffic(replicas=replicas, utilisation=float(needed / (provisioned * grown)), usd=usd(nano))
    return found, allocate(nano, work, None, measured.pools[name].idle).shares


def _sums(
    measured: Measured, whole: Mapping[Consumer, UsageSums], pools: Mapping[str, _Pool]
) -> dict[Consumer, _Sum]:
    sums = {consumer: _sum(measured, consumer, usage, pools) for consumer, usage in whole.items()}
    for segment in measured.segments:
        for consumer, usage in segment.usage.items():
            for name, rates in segment.rates.items():
                elsewhere = usage.cost_nano_usd
                if consumer.deployment != name and _is_compared(measured, consumer):
                    there = tokens_of(usage).times(measured.ratio(consumer.deployment, name))
                    elsewhere = hosted_cost(rates, there)
                sums[consumer].on[name] += elsewhere
    return sums


def _sum(measured: Measured, consumer: Consumer, usage: UsageSums, pools: Mapping[str, _Pool]) -> _Sum:
    """What `consumer` cost, and would have on each pool."""
    one = _Sum()
    one.usage = usage
    if consumer.deployment not in measured.pools:
        one.hosted = usage.cost_nano_usd
    elif consumer.deployment in pools:
        pool = pools[consumer.deployment]
        share = pool.allocation.shares.get(consumer, Share(0, 0))
        one.workload, one.idle = share.workload_nano, share.idle_nano
        tokens = max(tokens_of(usage).all, 0)
        one.marginal = -(-tokens * pool.terms.marginal_rate // TOKENS_PER_PRICE_UNIT)
    for name, pool in pools.items():
        if pool.all_traffic is not None:
            stays = 0 if _is_compared(measured, consumer) else usage.cost_nano_usd
            one.on[name] = stays + pool.all_traffic[1].get(consumer, Share(0, 0)).nano_usd
    return one


def _is_compared(measured: Measured, consumer: Consumer) -> bool:
    """Whether it could have been elsewhere: embeddings, and what is not configured any more, stay."""
    return consumer.deployment in measured.pools or consumer.deployment in measured.hosted


def _total(parts: Iterable[UsageSums]) -> UsageSums:
    total = NO_USAGE
    for one in parts:
        total = total.plus(one)
    return total


# --- the sides ---


def _pool_side(measured: Measured, pool: _Pool) -> PoolSide:
    terms, bill, usage, shared = pool.terms, pool.bill, pool.usage, pool.allocation
    name, weights = terms.plan.deployment, terms.weights
    tokens = tokens_of(usage)
    read = Tokens(tokens.input, tokens.cached, 0)
    work = tokens.work(weights)
    return PoolSide(
        deployment=name,
        gpu=terms.plan.gpu,
        replicas=bill.replica_microseconds / bill.microseconds if bill.microseconds else 0.0,
        gpu_hours=bill.gpu_microseconds / HOUR,
        gpu_usd=usd(bill.gpu_nano_usd),
        overhead_usd=usd(bill.overhead_nano_usd),
        bill_usd=usd(bill.nano_usd),
        estimated_usd=usd(bill.estimated_nano_usd),
        workload_usd=usd(bill.nano_usd - shared.idle_nano),
        idle_usd=usd(shared.idle_nano),
        idle_policy=terms.idle,
        idle_apart_usd=usd(shared.apart_nano),
        marginal_usd=usd(-(-tokens.all * terms.marginal_rate // TOKENS_PER_PRICE_UNIT)),
        transfer_usd=usd(usage.cost_nano_usd),
        requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        utilisation=None if shared.utilisation is None else float(shared.utilisation),
        usd_per_million_tokens=_each(bill.nano_usd, 1, 1, tokens.all),
        usd_per_million_input_tokens=_each(bill.nano_usd, read.work(weights), work, tokens.input),
        usd_per_million_output_tokens=_each(bill.nano_usd, work - read.work(weights), work, tokens.output),
        weights=WorkShare(
            prefill=weights.prefill,
            cached=weights.cached,
            decode=weights.decode,
            learned=measured.weights_are_learned[name],
        ),
        booked_since=_iso(bill.starts),
        booked_until=_iso(bill.ends),
        all_traffic=None if pool.all_traffic is None else pool.all_traffic[0],
        break_even=_break_even(measured, pool),
        latency=measured.latencies.get(name),
        tokenizer=measured.tokenizers.get(name),
    )


def _break_even(measured: Measured, pool: _Pool) -> list[BreakEven]:
    """Against each hosted deployment, at its latest prices, for the mix of the pool's own traffic."""
    terms, tokens = pool.terms, tokens_of(pool.usage)
    if not pool.capacity or not pool.bill.nano_usd or tokens.all <= 0 or not tokens.work(terms.weights):
        return []
    full = Full(
        bill_nano=pool.bill.nano_usd,
        capacity=pool.capacity,
        microseconds=pool.bill.microseconds,
        mix=tokens,
        weights=terms.weights,
        marginal_rate=terms.marginal_rate,
    )
    name, rates = terms.plan.deployment, measured.segments[-1].rates
    return [break_even(full, other, rates[other], measured.ratio(name, other)) for other in measured.hosted]


def _hosted_side(measured: Measured, name: str, whole: Mapping[Consumer, UsageSums]) -> HostedSide:
    usage = _total(one for consumer, one in whole.items() if consumer.deployment == name)
    rates = measured.segments[-1].rates[name]
    return HostedSide(
        deployment=name,
        requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=usd(usage.cost_nano_usd),
        usd_per_million_tokens=_each(usage.cost_nano_usd, 1, 1, tokens_of(usage).all),
        usd_per_million_input_tokens=usd(rates.input),
        usd_per_million_output_tokens=usd(rates.output),
        latency=measured.latencies.get(name),
        tokenizer=measured.tokenizers.get(name),
    )


def _each(nano: int, part: int, whole: int, tokens: int) -> float | None:
    """USD for a million of `tokens`, which are to bear `part` of `whole` of `nano`."""
    if tokens <= 0 or whole <= 0:
        return None
    return float(Fraction(nano * part * TOKENS_PER_PRICE_UNIT, whole * tokens * NANO_PER_USD))


# --- what is not known ---


def _missing(
    measured: Measured, whole: Mapping[Consumer, UsageSums], pools: Mapping[str, _Pool]
) -> Iterator[str]:
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
        {consumer.deployment for consumer in whole if _is_compared(measured, consumer)} | set(measured.hosted)
    )
    for name in used:
        if name not in measured.tokenizers:
            yield f"{name}: too few prompts of text to measure its tokenizer; counts are taken as they are"


def _missing_of(measured: Measured, name: str, pool: _Pool) -> Iterator[str]:
    if pool.bill.starts > measured.since:
        yield f"{name}: booked only since {_iso(pool.bill.starts)}"
    if pool.bill.ends < measured.until - BOOKED_WITHIN:
        yield f"{name}: booked only until {_iso(pool.bill.ends)}"
    if pool.capacity is None:
        yield (
            f"{name}: `cost.saturation_tokens_per_second` is not configured, so idle time, utilisation and "
            "break-even are unknown: measure it and give it"
        )
    if not tokens_of(pool.usage).all:
        yield f"{name}: no tokens in this period, so there is no mix for a break-even"
    if pool.terms.learn and not measured.weights_are_learned[name]:
        yield f"{name}: too few streams to learn its weights from; the configured ones are used"


def _uncertainty(measured: Measured, usage: UsageSums, pools: Iterable[_Pool]) -> Uncertainty:
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


def _iso(at: int) -> str:
    moment: Any = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
    text: str = moment.isoformat()
    return text.replace("+00:00", "Z")
