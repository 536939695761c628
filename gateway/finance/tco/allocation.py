"""Who pays for what was measured, and what the same usage would have cost elsewhere."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction

import msgspec

from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.pool_cost import Allocation, PoolTerms, Share, allocate
from gateway.core.tco import Tokens, hosted_cost
from gateway.finance.tco.measured import Measured
from gateway.finance.tco.report import AllTraffic, Cost
from gateway.finance.tco.units import usd
from gateway.ledger.pool_costs import PoolSums
from gateway.ledger.usage_sums import NO_USAGE, Consumer, UsageSums


class ConsumerCost:
    """What one consumer, or one row of the report, costs, in nano-USD. `on`: had it all been there."""

    def __init__(self) -> None:
        self.usage = NO_USAGE
        self.hosted = self.workload = self.idle = self.marginal = 0
        self.on: defaultdict[str, int] = defaultdict(int)

    def add(self, other: "ConsumerCost") -> None:
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


class AllocatedPool(msgspec.Struct, frozen=True):
    """A pool with its bill shared out, and with what all traffic would have needed of it."""

    terms: PoolTerms
    bill: PoolSums
    usage: UsageSums
    capacity: int | None
    allocation: Allocation
    all_traffic: tuple[AllTraffic, Mapping[Hashable, Share]] | None


def tokens_of(usage: UsageSums) -> Tokens:
    return Tokens(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)


def usage_by_consumer(measured: Measured) -> dict[Consumer, UsageSums]:
    """All segments added up, in the order of the consumers' names."""
    found: dict[Consumer, UsageSums] = {}
    for segment in measured.segments:
        for consumer, usage in segment.usage.items():
            found[consumer] = found.get(consumer, NO_USAGE).plus(usage)
    return dict(sorted(found.items()))


def allocated(measured: Measured, name: str, whole: Mapping[Consumer, UsageSums]) -> AllocatedPool:
    """The pool `name` with its bill shared out among the consumers of `whole`."""
    terms, bill = measured.pools[name], measured.bills[name]
    own = {consumer: usage for consumer, usage in whole.items() if consumer.deployment == name}
    capacity = terms.weights.capacity(bill.capacity_tokens)
    work = {consumer: tokens_of(usage).work(terms.weights) for consumer, usage in own.items()}
    return AllocatedPool(
        terms=terms,
        bill=bill,
        usage=total_of(own.values()),
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
        if is_compared(measured, consumer)
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


def costs_of(
    measured: Measured, whole: Mapping[Consumer, UsageSums], pools: Mapping[str, AllocatedPool]
) -> dict[Consumer, ConsumerCost]:
    """What each consumer cost, and would have on each deployment, at the prices of each segment."""
    sums = {consumer: _cost_of(measured, consumer, usage, pools) for consumer, usage in whole.items()}
    for segment in measured.segments:
        for consumer, usage in segment.usage.items():
            for name, rates in segment.rates.items():
                elsewhere = usage.cost_nano_usd
                if consumer.deployment != name and is_compared(measured, consumer):
                    there = tokens_of(usage).times(measured.ratio(consumer.deployment, name))
                    elsewhere = hosted_cost(rates, there)
                sums[consumer].on[name] += elsewhere
    return sums


def _cost_of(
    measured: Measured, consumer: Consumer, usage: UsageSums, pools: Mapping[str, AllocatedPool]
) -> ConsumerCost:
    """What `consumer` cost, and would have on each pool."""
    one = ConsumerCost()
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
            stays = 0 if is_compared(measured, consumer) else usage.cost_nano_usd
            one.on[name] = stays + pool.all_traffic[1].get(consumer, Share(0, 0)).nano_usd
    return one


def is_compared(measured: Measured, consumer: Consumer) -> bool:
    """Whether it could have been elsewhere: embeddings, and what is not configured any more, stay."""
    return consumer.deployment in measured.pools or consumer.deployment in measured.hosted


def total_of(parts: Iterable[UsageSums]) -> UsageSums:
    total = NO_USAGE
    for one in parts:
        total = total.plus(one)
    return total
