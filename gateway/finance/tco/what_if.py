"""`usd_per_gpu_hour=2.5,gpt4o.output=8,share.local=0.7`: the same traffic under other assumptions."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec

from gateway.core.money import nano_from_usd
from gateway.core.pool_cost import HOUR, MILLI, SECOND, PoolTerms
from gateway.core.rates import Rates
from gateway.core.tco import Tokens, hosted_cost
from gateway.finance.tco.allocation import tokens_of
from gateway.finance.tco.measured import Measured, PriceSegment
from gateway.ledger.pool_costs import PoolSums
from gateway.ledger.usage_sums import Consumer, UsageSums

POOL_KEYS = ("usd_per_gpu_hour", "replicas", "overhead_usd_per_month", "saturation_tokens_per_second")
RATE_KEYS = ("input", "cached_input", "output")
LOCAL = "local"
_FORMS = (
    f"write {', '.join(POOL_KEYS)} (with `POOL.` before it for one of several), "
    f"NAME.{{{','.join(RATE_KEYS)}}} in USD per million tokens, or share.local from 0 to 1"
)


class WrongWhatIf(Exception):
    """An assumption that cannot be made. The message says what to write."""


class Assumptions(msgspec.Struct, frozen=True):
    """`pools` and `rates` by deployment and key, and the share of all work that a pool takes."""

    given: Mapping[str, str]
    pools: Mapping[str, Mapping[str, Decimal]]
    rates: Mapping[str, Mapping[str, Decimal]]
    share: tuple[str, Decimal] | None


def parse(text: str, measured: Measured) -> Assumptions:
    """Raises WrongWhatIf."""
    given: dict[str, str] = {}
    pools: dict[str, dict[str, Decimal]] = {}
    rates: dict[str, dict[str, Decimal]] = {}
    share: tuple[str, Decimal] | None = None
    for item in filter(None, map(str.strip, text.split(","))):
        key, found, value = item.partition("=")
        if not found:
            raise WrongWhatIf(f"{item}: has no value; {_FORMS}")
        number = _number(item, value)
        given[key] = value
        owner, _, last = key.rpartition(".")
        if owner == "share":
            share = (_pool_named(item, "" if last == LOCAL else last, measured), _share(item, number))
        elif last in POOL_KEYS:
            pools.setdefault(_pool_named(item, owner, measured), {})[last] = number
        elif last in RATE_KEYS and owner:
            rates.setdefault(_named(item, owner, measured.hosted), {})[last] = number
        else:
            raise WrongWhatIf(f"{item}: is no assumption; {_FORMS}")
    return Assumptions(given, pools, rates, share)


def supposed(measured: Measured, assumptions: Assumptions) -> Measured:
    """What would have been measured. Raises WrongWhatIf where the period does not tell enough."""
    found = msgspec.structs.replace(
        measured,
        bills={
            name: _bill(bill, measured.pools[name], assumptions.pools.get(name, {}))
            for name, bill in measured.bills.items()
        },
        segments=[_priced(segment, assumptions.rates) for segment in measured.segments],
    )
    if assumptions.share is None:
        return found
    pool, share = assumptions.share
    shifted = [_shifted(found, segment, pool, Fraction(share), assumptions) for segment in found.segments]
    return msgspec.structs.replace(found, segments=shifted)


# --- reading the text ---


def _number(item: str, value: str) -> Decimal:
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise WrongWhatIf(f"{item}: is no number") from None
    if not number.is_finite() or number < 0 or number > 10**12:
        raise WrongWhatIf(f"{item}: must be a number from 0 on")
    return number


def _share(item: str, number: Decimal) -> Decimal:
    if number > 1:
        raise WrongWhatIf(f"{item}: a share is from 0 to 1")
    return number


def _pool_named(item: str, name: str, measured: Measured) -> str:
    if name:
        return _named(item, name, measured.pools)
    if len(measured.pools) != 1:
        raise WrongWhatIf(f"{item}: name one of the pools: {', '.join(measured.pools) or 'there is none'}")
    return next(iter(measured.pools))


def _named(item: str, name: str, names: Iterable[str]) -> str:
    """The one of `names` that is `name`, but for punctuation: `gpt4o` is `gpt-4o`."""
    found = [one for one in names if one == name] or [one for one in names if _bare(one) == _bare(name)]
    if len(found) != 1:
        raise WrongWhatIf(f"{item}: {name} is none of {', '.join(names)}")
    return found[0]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# --- the other world ---


def _bill(bill: PoolSums, terms: PoolTerms, changes: Mapping[str, Decimal]) -> PoolSums:
    if not changes or not bill.replica_microseconds:
        return bill
    factor = Fraction(1)
    if "replicas" in changes:
        factor = Fraction(changes["replicas"]) * bill.microseconds / bill.replica_microseconds
    gpu_time = round(bill.gpu_microseconds * factor)
    gpu_nano = round(bill.gpu_nano_usd * factor)
    if "usd_per_gpu_hour" in changes:
        gpu_nano = round(Fraction(gpu_time * nano_from_usd(changes["usd_per_gpu_hour"]), HOUR))
    overhead = bill.overhead_nano_usd
    if "overhead_usd_per_month" in changes:
        overhead = _overhead(bill, terms, changes["overhead_usd_per_month"])
    replica_time = round(bill.replica_microseconds * factor)
    return msgspec.structs.replace(
        bill,
        replica_microseconds=replica_time,
        gpu_microseconds=gpu_time,
        gpu_nano_usd=gpu_nano,
        overhead_nano_usd=overhead,
        capacity_tokens=_capacity(bill, factor, replica_time, changes.get("saturation_tokens_per_second")),
    )


def _overhead(bill: PoolSums, terms: PoolTerms, usd_per_month: Decimal) -> int:
    before = terms.plan.overhead_nano_per_month
    if not before:
        raise WrongWhatIf("overhead_usd_per_month: there was none in this period that could be another")
    return round(Fraction(bill.overhead_nano_usd * nano_from_usd(usd_per_month), before))


def _capacity(bill: PoolSums, factor: Fraction, replica_time: int, saturation: Decimal | None) -> int | None:
    if saturation is not None:
        return int(replica_time * int(saturation * MILLI) // (MILLI * SECOND))
    return None if bill.capacity_tokens is None else round(bill.capacity_tokens * factor)


def _priced(segment: PriceSegment, changes: Mapping[str, Mapping[str, Decimal]]) -> PriceSegment:
    """Other prices for what was served there, and for what might have been."""
    rates = dict(segment.rates)
    for name, given in changes.items():
        rates[name] = _rates(rates[name], given)
    usage = {
        consumer: one
        if consumer.deployment not in changes
        else one._replace(cost_nano_usd=hosted_cost(rates[consumer.deployment], tokens_of(one)))
        for consumer, one in segment.usage.items()
    }
    return PriceSegment(rates, usage)


def _rates(rates: Rates, given: Mapping[str, Decimal]) -> Rates:
    return msgspec.structs.replace(rates, **{name: nano_from_usd(usd) for name, usd in given.items()})


def _shifted(
    measured: Measured, segment: PriceSegment, pool: str, share: Fraction, assumptions: Assumptions
) -> PriceSegment:
    """`share` of the work of each group on `pool`, the rest on one hosted deployment."""
    other = _other_side(measured, assumptions)
    groups: dict[tuple[str, str, str], list[tuple[Consumer, UsageSums]]] = {}
    usage: dict[Consumer, UsageSums] = {}
    for consumer, one in segment.usage.items():
        if consumer.deployment in measured.pools or consumer.deployment in measured.hosted:
            groups.setdefault(consumer[1:], []).append((consumer, one))
        else:
            usage[consumer] = one
    for group, parts in groups.items():
        tokens = Tokens()
        for consumer, one in parts:
            tokens = tokens.plus(tokens_of(one).times(measured.ratio(consumer.deployment, pool)))
        attempts = UsageSums(*(sum(values) for values in zip(*(one for _, one in parts), strict=True)))
        own, rest = tokens.times(share), tokens.times((1 - share) * measured.ratio(pool, other))
        usage[Consumer(pool, *group)] = _moved(attempts, share, own, 0)
        usage[Consumer(other, *group)] = _moved(
            attempts, 1 - share, rest, hosted_cost(segment.rates[other], rest)
        )
    return PriceSegment(segment.rates, usage)


def _other_side(measured: Measured, assumptions: Assumptions) -> str:
    """Where the rest goes: the hosted deployment whose price is supposed, or the one that was used most."""
    candidates = list(assumptions.rates) or list(measured.hosted)
    if not candidates:
        raise WrongWhatIf("share: there is no hosted deployment to share with")
    return max(candidates, key=lambda name: _attempts_at(measured, name))


def _attempts_at(measured: Measured, deployment: str) -> int:
    return sum(
        one.attempts
        for segment in measured.segments
        for consumer, one in segment.usage.items()
        if consumer.deployment == deployment
    )


def _moved(whole: UsageSums, share: Fraction, tokens: Tokens, cost: int) -> UsageSums:
    return UsageSums(
        attempts=round(whole.attempts * share),
        requests=round(whole.requests * share),
        estimated_attempts=round(whole.estimated_attempts * share),
        input_tokens=tokens.input,
        cached_input_tokens=tokens.cached,
        output_tokens=tokens.output,
        cost_nano_usd=cost,
    )
