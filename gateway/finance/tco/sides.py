"""Each side of the comparison by itself: a pool with its bill, a hosted deployment with its charges."""

from collections.abc import Mapping
from fractions import Fraction

from gateway.core.money import NANO_PER_USD, TOKENS_PER_PRICE_UNIT
from gateway.core.pool_cost import HOUR
from gateway.core.tco import BreakEven, Full, Tokens, break_even
from gateway.finance.tco.allocation import AllocatedPool, tokens_of, total_of
from gateway.finance.tco.measured import Measured
from gateway.finance.tco.report import HostedSide, PoolSide, WorkShare
from gateway.finance.tco.units import iso, usd
from gateway.ledger.usage_sums import Consumer, UsageSums


def pool_side(measured: Measured, pool: AllocatedPool) -> PoolSide:
    """One pool: its bill, how it was used, and from which traffic on it is the cheaper side."""
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
        booked_since=iso(bill.starts),
        booked_until=iso(bill.ends),
        all_traffic=None if pool.all_traffic is None else pool.all_traffic[0],
        break_even=_break_even(measured, pool),
        latency=measured.latencies.get(name),
        tokenizer=measured.tokenizers.get(name),
    )


def _break_even(measured: Measured, pool: AllocatedPool) -> list[BreakEven]:
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


def hosted_side(measured: Measured, name: str, whole: Mapping[Consumer, UsageSums]) -> HostedSide:
    """One hosted deployment: what it charged, at its latest prices."""
    usage = total_of(one for consumer, one in whole.items() if consumer.deployment == name)
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
