"""The charges of one month: what the ledger's rows say, and the bills of own GPUs split among them."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.core import calendar
from gateway.core.catalog import Provider
from gateway.core.focus import Allocated, Charge, ChargeUsage, CostType, Meter, Period
from gateway.core.money import nano_from_usd, share_out
from gateway.core.pool_cost import HOUR, Idle, PoolTerms, Weights, allocate
from gateway.core.usage import CACHED, is_input, is_output
from gateway.ledger.dimensions import Dimension, Grouping
from gateway.ledger.pool_costs import PoolSums, pool_sums
from gateway.ledger.reports import UsageRow, span_of, usage_in
from gateway.ledger.tables import LATE_CORRECTION
from gateway.ledger.url import database_of
from gateway.ledger.usage_sums import Consumer, UsageSums, sum_late_corrections

# Who sends the invoice, and what the service is called on it.
HOSTED = {Provider.OPENAI: ("OpenAI", "OpenAI API"), Provider.AZURE: ("Microsoft", "Azure OpenAI")}
OWN_GPUS = "LLM inference on own GPUs"
# Of a pool that is configured no longer: as the configuration's defaults have it.
FORMER_WEIGHTS = Weights(prefill=1, cached=1, decode=4)
BILLIONTHS = 10**9

_BY = (
    Dimension.DAY,
    Dimension.TEAM,
    Dimension.FEATURE,
    Dimension.MODEL,
    Dimension.DEPLOYMENT,
    Dimension.DISPATCHED_MODEL,
    Dimension.PRICE_VERSION,
    Dimension.LATE,
)
NO_TAGS = "{}"


class _Consumer(NamedTuple):
    """Whom work of a pool was done for. Each field is a dimension; `tags` only where charges have them."""

    deployment: str
    team: str
    feature: str
    model: str
    tags: str = NO_TAGS


class Sides(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration knows of deployments: who provides them, which model they serve, their pools.

    `invoices` are the numbers of invoices that were reconciled with the month, `names` those of providers
    where the file says them, and `regions` where the service runs, all by deployment.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, str]
    pools: Mapping[str, PoolTerms]
    invoices: Mapping[str, str] = {}
    names: Mapping[str, str] = {}
    regions: Mapping[str, str] = {}


def charges_of(
    url: str, month: dt.date, zone: dt.tzinfo, sides: Sides, *, with_tags: bool = True
) -> list[Charge]:
    """Every charge of `month`, those of requests with other tags apart, if `with_tags`.

    The ledger's costs add up to their `ledger_nano`; what was spent, services and the bills of pools, to
    their `effective_nano`. Raises RowsDeleted, LedgerUnavailable.
    """
    period = period_of(calendar.month(month), zone)
    span = span_of(period.start, period.end)
    with database_of(url).reading() as ledger:
        bills = pool_sums(ledger, span)
        tags = (Dimension.TAGS,) if with_tags else ()
        rows = usage_in(ledger, Grouping((*_BY, *tags, Dimension.RATES)), span, zone, apart=False)
        by_consumer = Grouping((*Consumer._fields, Dimension.OUTCOME, *tags))
        usage = _work(usage_in(ledger, by_consumer, span, zone, apart=False))
        late = sum_late_corrections(ledger, span)
    metered = _metered([row for row in rows if row.group[Dimension.DEPLOYMENT] not in bills])
    charges = [
        _charge(dict(group), meter, line, sides, zone)
        for group, lines in metered.items()
        for meter, line in lines.items()
    ]
    for name, bill in sorted(bills.items()):
        own = {consumer: one for consumer, one in usage.items() if consumer.deployment == name}
        charges.extend(_split(bill, own, sides, period))
    charges.extend(
        _late_correction(consumer, sums, sides, period)
        for consumer, sums in late.items()
        if consumer.deployment in bills and sums.cost_nano_usd
    )
    return charges


def _work(rows: Sequence[UsageRow]) -> dict[_Consumer, UsageRow]:
    """What was done for whom. What is only dated there, because its own period was closed, is none of it."""
    found: dict[_Consumer, UsageRow] = {}
    for row in rows:
        group = dict(row.group)
        if group.pop(Dimension.OUTCOME) != LATE_CORRECTION:
            consumer = _Consumer(**group)
            before = found.get(consumer)
            found[consumer] = row if before is None else before.plus(row)
    return found


def period_of(days: calendar.Days, zone: dt.tzinfo) -> Period:
    return Period(*days.bounds(zone))


class _Line(NamedTuple):
    """What one meter of a group has counted, and what that cost."""

    usage: ChargeUsage = ChargeUsage()
    nano: int = 0

    def plus(self, other: "_Line") -> "_Line":
        return _Line(self.usage.plus(other.usage), self.nano + other.nano)


# The names and values of dimensions.
_Group = tuple[tuple[str, str], ...]


def _metered(rows: Sequence[UsageRow]) -> dict[_Group, dict[Meter, _Line]]:
    """`rows` by what they are grouped by beside their rates, and by meter."""
    requests: defaultdict[_Group, int] = defaultdict(int)
    found: dict[_Group, dict[Meter, _Line]] = {}
    for row in rows:
        group = tuple((name, value) for name, value in row.group.items() if name != Dimension.RATES)
        requests[group] += row.requests
        lines = found.setdefault(group, {})
        for meter, line in _lines(row, json.loads(row.group[Dimension.RATES])):
            lines[meter] = lines.get(meter, _Line()).plus(line)
    for group, lines in found.items():
        used = {meter: line for meter, line in lines.items() if line != _Line()}
        found[group] = used or {Meter(): _Line()}
        first = min(found[group], key=lambda meter: (meter.unit or "", meter.rate or 0))
        found[group][first] = found[group][first].plus(_Line(ChargeUsage(requests=requests[group])))
    return found


def _lines(row: UsageRow, rates: Mapping[str, int]) -> Iterator[tuple[Meter, _Line]]:
    """What `row` has used by meter. What has no rates was booked as a whole."""
    if not rates:
        tokens = row.input_tokens + row.output_tokens
        usage = ChargeUsage(tokens, 0, row.input_tokens, row.cached_input_tokens, row.output_tokens)
        yield Meter(), _Line(usage, nano_from_usd(row.cost_usd))
        return
    for unit in {*row.units, *row.unit_costs}:
        amount = row.units.get(unit, 0)
        usage = ChargeUsage(
            amount,
            0,
            amount if is_input(unit) else 0,
            amount if unit.startswith(CACHED) else 0,
            amount if is_output(unit) else 0,
        )
        yield Meter(unit, rates.get(unit)), _Line(usage, nano_from_usd(row.unit_costs.get(unit, 0)))


def _charge(group: Mapping[str, str], meter: Meter, line: _Line, sides: Sides, zone: dt.tzinfo) -> Charge:
    deployment = group[Dimension.DEPLOYMENT]
    provider = sides.providers.get(deployment)
    is_own = provider is Provider.VLLM
    named, service = _names(deployment, provider, sides.names.get(deployment))
    return Charge(
        period=period_of(calendar.day(dt.date.fromisoformat(group[Dimension.DAY])), zone),
        deployment=deployment,
        provider=named,
        service=service,
        cost_type=CostType.LOCAL if is_own else CostType.HOSTED,
        team=group[Dimension.TEAM],
        feature=group[Dimension.FEATURE],
        model=group[Dimension.MODEL],
        served_model=group[Dimension.DISPATCHED_MODEL],
        price_version=group[Dimension.PRICE_VERSION],
        is_correction=group[Dimension.LATE] == "true",
        effective_nano=line.nano,
        ledger_nano=line.nano,
        usage=line.usage,
        meter=meter,
        invoice=None if is_own else sides.invoices.get(deployment),
        tags=_tags(group.get(Dimension.TAGS, NO_TAGS)),
        region=sides.regions.get(deployment),
    )


def _late_correction(consumer: Consumer, sums: UsageSums, sides: Sides, period: Period) -> Charge:
    """What budgets should have been charged for a pool in months closed by then; no part of a bill."""
    return Charge(
        period=period,
        deployment=consumer.deployment,
        provider=consumer.deployment,
        service=OWN_GPUS,
        cost_type=CostType.LOCAL,
        team=consumer.team,
        feature=consumer.feature,
        model=consumer.model,
        served_model=sides.models.get(consumer.deployment),
        price_version=None,
        is_correction=True,
        effective_nano=0,
        ledger_nano=sums.cost_nano_usd,
        usage=ChargeUsage(),
    )


def _names(deployment: str, provider: Provider | None, given: str | None) -> tuple[str, str]:
    """Who provides `deployment`, and what as. `given` is what the file calls the provider."""
    if provider is Provider.VLLM:
        return given or deployment, OWN_GPUS
    known = None if provider is None else HOSTED.get(provider)
    if known is None or given is not None:
        return given or deployment, f"{given or deployment} API"
    return known


def _pool_usage(row: UsageRow) -> ChargeUsage:
    tokens = row.input_tokens + row.output_tokens
    return ChargeUsage(tokens, row.requests, row.input_tokens, row.cached_input_tokens, row.output_tokens)


def _tags(text: str) -> str | None:
    return None if text == NO_TAGS else text


def _split(
    bill: PoolSums, usage: Mapping[_Consumer, UsageRow], sides: Sides, period: Period
) -> Iterator[Charge]:
    """The bill of a pool as charges that add up to it, and the usage that it was split by."""
    terms = sides.pools.get(bill.deployment)
    weights = FORMER_WEIGHTS if terms is None else terms.weights
    idle = Idle.APART if terms is None else terms.idle
    work = {
        consumer: weights.work(one.input_tokens, one.cached_input_tokens, one.output_tokens)
        for consumer, one in usage.items()
    }
    capacity = weights.capacity(bill.capacity_tokens)
    found = allocate(bill.nano_usd, work, capacity, idle, lambda consumer: consumer.feature)
    parts: list[tuple[CostType, _Consumer | None, int]] = []
    for consumer in usage:
        share = found.shares.get(consumer)
        parts.append((CostType.WORKLOAD, consumer, 0 if share is None else share.workload_nano))
        if share is not None and share.idle_nano:
            parts.append((CostType.IDLE, consumer, share.idle_nano))
    if found.apart_nano:
        parts.append((CostType.IDLE, None, found.apart_nano))
    nanos = [nano for _, _, nano in parts]
    ratios = share_out(BILLIONTHS if bill.nano_usd else 0, nanos)
    times = share_out(bill.gpu_microseconds if bill.nano_usd else 0, nanos)
    hour_nano = bill.nano_usd * HOUR // bill.gpu_microseconds if bill.gpu_microseconds else 0
    for (cost_type, whom, nano), ratio, microseconds in zip(parts, ratios, times, strict=True):
        used = usage[whom] if whom is not None and cost_type is CostType.WORKLOAD else None
        yield Charge(
            period=period,
            deployment=bill.deployment,
            provider=sides.names.get(bill.deployment, bill.deployment),
            service=OWN_GPUS,
            cost_type=cost_type,
            team=None if whom is None else whom.team,
            feature=None if whom is None else whom.feature,
            model=None if whom is None else whom.model,
            served_model=sides.models.get(bill.deployment),
            price_version=None,
            is_correction=False,
            effective_nano=nano,
            ledger_nano=0 if used is None else nano_from_usd(used.cost_usd),
            usage=ChargeUsage() if used is None else _pool_usage(used),
            gpu_microseconds=microseconds,
            gpu_hour_nano=hour_nano,
            allocated=Allocated(
                f"tollway-weighted-tokens-idle-{idle}",
                ratio,
                work[whom] if whom is not None and cost_type is CostType.WORKLOAD else None,
            ),
            tags=None if whom is None else _tags(whom.tags),
            region=sides.regions.get(bill.deployment),
        )
