"""The charges of one month: what the ledger's rows say, and the bills of own GPUs split among them."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.core import calendar
from gateway.core.catalog import Provider
from gateway.core.focus import Allocated, Charge, ChargeTokens, CostType, Period
from gateway.core.money import nano_from_usd
from gateway.core.pool_cost import Idle, PoolTerms, Weights, allocate, share_out
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
        rows = usage_in(ledger, Grouping((*_BY, *tags)), span, zone, apart=False)
        by_consumer = Grouping((*Consumer._fields, Dimension.OUTCOME, *tags))
        usage = _work(usage_in(ledger, by_consumer, span, zone, apart=False))
        late = sum_late_corrections(ledger, span)
    charges = [_charge(row, sides, zone) for row in rows if row.group[Dimension.DEPLOYMENT] not in bills]
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


def _charge(row: UsageRow, sides: Sides, zone: dt.tzinfo) -> Charge:
    group = row.group
    deployment = group[Dimension.DEPLOYMENT]
    provider = sides.providers.get(deployment)
    nano = nano_from_usd(row.cost_usd)
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
        effective_nano=nano,
        ledger_nano=nano,
        tokens=_tokens(row),
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
        tokens=ChargeTokens(0, 0, 0, 0),
    )


def _names(deployment: str, provider: Provider | None, given: str | None) -> tuple[str, str]:
    """Who provides `deployment`, and what as. `given` is what the file calls the provider."""
    if provider is Provider.VLLM:
        return given or deployment, OWN_GPUS
    known = None if provider is None else HOSTED.get(provider)
    if known is None or given is not None:
        return given or deployment, f"{given or deployment} API"
    return known


def _tokens(row: UsageRow) -> ChargeTokens:
    return ChargeTokens(row.requests, row.input_tokens, row.cached_input_tokens, row.output_tokens, row.units)


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
            tokens=ChargeTokens() if used is None else _tokens(used),
            gpu_microseconds=microseconds,
            allocated=Allocated(
                f"tollway-weighted-tokens-idle-{idle}",
                ratio,
                work[whom] if whom is not None and cost_type is CostType.WORKLOAD else None,
            ),
            tags=None if whom is None else _tags(whom.tags),
            region=sides.regions.get(bill.deployment),
        )
