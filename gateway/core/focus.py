"""Charges as rows of FOCUS, the FinOps open cost and usage specification, versions 1.3 and 1.4.

A hosted service is a charge for each day and group: what is billed is what it cost. Own GPUs are one bill a
month that is split: a charge for each group's work, one for its share of what was idle, and one for what
nobody was charged with; nobody sends an invoice for them, so their BilledCost is 0 and EffectiveCost counts.

Each unit of usage is a meter with a charge of its own. ListUnitPrice times PricingQuantity is ListCost; what
was booked, BilledCost and EffectiveCost, is the same unless it was rounded up or bounded.
"""

import datetime as dt
import enum
import json
import operator
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.core.money import usd_decimal
from gateway.core.table import Cell, Column, ColumnKind, Table
from gateway.core.usage import REQUESTS, SEARCH_QUERIES, is_input, is_output


class Version(enum.StrEnum):
    V1_3 = "1.3"
    V1_4 = "1.4"


class CostType(enum.StrEnum):
    """Value of x_CostType."""

    HOSTED = "Hosted"  # a service that sends an invoice
    LOCAL = "Local"  # own servers without a configured cost: at their transfer price
    WORKLOAD = "Workload"  # own GPUs while they worked
    IDLE = "Idle"  # own GPUs while they had nothing to do


class Period(msgspec.Struct, frozen=True, order=True):
    """From `start` to before `end`."""

    start: dt.datetime
    end: dt.datetime


class Meter(msgspec.Struct, frozen=True):
    """A unit of usage, and its price in nano-USD per million; None: not known."""

    unit: str | None = None
    rate: int | None = None

    @property
    def name(self) -> str:
        """As price lists have it: `Cached Text Tokens`."""
        if self.unit is None:
            return "Tokens"
        words = self.unit.replace("_", " ").title()
        return f"{words} Tokens" if self.counts == "Tokens" else words

    @property
    def counts(self) -> str:
        """What it counts, in the plural."""
        if self.unit is None or is_input(self.unit) or is_output(self.unit):
            return "Tokens"
        return _COUNTED.get(self.unit, "Units")

    @property
    def block(self) -> int:
        """How many of these have one price."""
        return 1000 if self.unit in _COUNTED else 1_000_000

    @property
    def block_usd(self) -> Decimal | None:
        """The price of a block."""
        return None if self.rate is None else (self.block * Decimal(self.rate)).scaleb(-15).quantize(_NANO)


_COUNTED = {REQUESTS: "Requests", SEARCH_QUERIES: "Searches"}
_NANO = Decimal("1e-9")


class ChargeUsage(msgspec.Struct, frozen=True):
    """Usage of one charge. `amount` is in what its meter counts, the others are tokens, and `requests`.

    Cached tokens are part of the input. Charges for the meters of one group share its requests: the first has
    them all, so that they add up.
    """

    amount: int = 0
    requests: int = 0
    input: int = 0
    cached_input: int = 0
    output: int = 0

    def plus(self, other: "ChargeUsage") -> "ChargeUsage":
        """The sum of both."""
        return ChargeUsage(*map(operator.add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class Allocated(msgspec.Struct, frozen=True):
    """How a charge was split off a pool's bill: its part in billionths, and the work that it was split by."""

    method: str
    billionths: int
    work: int | None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Money in nano-USD. `ledger_nano` is what the ledger's own rows add up to.

    `team`, `feature` and `model` are None for what nobody is charged with. `is_correction`: it corrects a
    period that had been closed. `gpu_microseconds` and `gpu_hour_nano`, the price of an hour, only for own
    GPUs. `tags` are those of its requests, as a
    JSON object. `region` is where it runs, as its provider calls that.

    Many attributes: one for each fact that the columns of FOCUS are made of.
    """

    period: Period
    deployment: str
    provider: str
    service: str
    cost_type: CostType
    team: str | None
    feature: str | None
    model: str | None
    served_model: str | None
    price_version: str | None
    is_correction: bool
    effective_nano: int
    ledger_nano: int
    usage: ChargeUsage
    meter: Meter = Meter()
    gpu_microseconds: int | None = None
    gpu_hour_nano: int = 0
    allocated: Allocated | None = None
    invoice: str | None = None
    tags: str | None = None
    region: str | None = None

    @property
    def billed_nano(self) -> int:
        return self.effective_nano if self.cost_type is CostType.HOSTED else 0

    @property
    def order(self) -> tuple[str, ...]:
        """Charges stand in this order: the same charges make the same file."""
        names = (self.deployment, self.team, self.feature, self.model, self.served_model, self.price_version)
        return (
            self.period.start.astimezone(dt.UTC).isoformat(),
            *(name or "" for name in names),
            self.cost_type,
            str(self.is_correction),
            self.tags or "",
            self.meter.unit or "",
            f"{self.meter.rate or 0:020}",
        )


def focus_table(charges: Sequence[Charge], version: Version, org: str, billing: Period) -> Table:
    """The dataset Cost and Usage of one billing period."""
    rows = [_row(charge, org, billing) for charge in sorted(charges, key=lambda charge: charge.order)]
    names = [name for name in _KINDS if name not in _MISSING[version]]
    columns = [Column(name, _KINDS[name]) for name in names]
    return Table(columns, [[row[name] for name in names] for row in rows])


def _row(charge: Charge, org: str, billing: Period) -> dict[str, Cell]:
    effective = usd_decimal(charge.effective_nano)
    issuer = charge.provider if charge.cost_type is CostType.HOSTED else org
    return {
        **_allocated(charge),
        "BilledCost": usd_decimal(charge.billed_nano),
        "BillingAccountId": org,
        "BillingAccountName": org,
        "BillingAccountType": "Organisation",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": billing.end,
        "BillingPeriodStart": billing.start,
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if charge.is_correction else None,
        "ChargeDescription": _description(charge),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": charge.period.end,
        "ChargePeriodStart": charge.period.start,
        "EffectiveCost": effective,
        "HostProviderName": issuer,
        "InvoiceDetailId": None if charge.invoice is None else f"{charge.invoice}/{charge.deployment}",
        "InvoiceId": charge.invoice,
        "InvoiceIssuerName": issuer,
        "PricingCategory": "Standard",
        "ProviderName": issuer,
        "PublisherName": issuer,
        "RegionId": charge.region,
        "RegionName": charge.region,
        "ResourceId": charge.deployment,
        "ResourceName": charge.served_model,
        "ResourceType": "GPU pool" if charge.gpu_microseconds is not None else "Model deployment",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": charge.service,
        "ServiceProviderName": issuer,
        "ServiceSubcategory": "Generative AI",
        "SkuId": _sku(charge),
        "SkuMeter": "GPU Hours" if charge.gpu_microseconds is not None else charge.meter.name,
        "SkuPriceId": _sku_price(charge),
        "SubAccountId": charge.team,
        "SubAccountName": charge.team,
        "SubAccountType": None if charge.team is None else "Team",
        "Tags": _tags(charge),
        **_quantities(charge),
        "x_CachedInputTokens": charge.usage.cached_input,
        "x_CostType": charge.cost_type.value,
        "x_Feature": charge.feature,
        "x_InputTokens": charge.usage.input,
        "x_LedgerCost": usd_decimal(charge.ledger_nano),
        "x_Model": charge.model,
        "x_OutputTokens": charge.usage.output,
        "x_PriceVersion": charge.price_version,
        "x_RequestCount": charge.usage.requests,
        "x_Tags": charge.tags,
        "x_Unit": charge.meter.unit,
    }


def _quantities(charge: Charge) -> dict[str, Cell]:
    """What was used, and what it costs by its list: own GPUs by the hour, services by their meters."""
    meter = charge.meter
    unit_price: Decimal | None
    if charge.gpu_microseconds is not None:
        quantity, unit = (Decimal(charge.gpu_microseconds) / 3_600_000_000).quantize(_NANO), "Hours"
        unit_price = usd_decimal(charge.gpu_hour_nano)
    else:
        quantity, unit = Decimal(charge.usage.amount) / meter.block, f"{meter.block} {meter.counts}"
        unit_price = _average(charge, quantity) if meter.block_usd is None else meter.block_usd
    effective = usd_decimal(charge.effective_nano)
    listed = effective if unit_price is None else (quantity * unit_price).quantize(_NANO)
    return {
        "ConsumedQuantity": Decimal(charge.usage.amount),
        "ConsumedUnit": meter.counts,
        "ContractedCost": listed,
        "ContractedUnitPrice": unit_price,
        "ListCost": listed,
        "ListUnitPrice": unit_price,
        "PricingQuantity": quantity,
        "PricingUnit": unit,
    }


def _average(charge: Charge, quantity: Decimal) -> Decimal | None:
    """The price that a charge without a known one comes to; None for one that is below zero."""
    if not quantity:
        return Decimal(0)
    found = (usd_decimal(charge.effective_nano) / quantity).quantize(_NANO)
    return None if found < 0 else found


def _allocated(charge: Charge) -> dict[str, Cell]:
    allocated = charge.allocated
    if allocated is None:
        return dict.fromkeys(_ALLOCATED)
    ratio = f"{usd_decimal(allocated.billionths):f}"
    work = (
        ""
        if allocated.work is None
        else f', "UsageUnit": "Weighted Tokens", "UsageQuantity": {allocated.work}'
    )
    return {
        "AllocatedMethodDetails": f'{{"Elements": [{{"AllocatedRatio": {ratio}{work}}}]}}',
        "AllocatedMethodId": allocated.method,
        "AllocatedResourceId": charge.feature,
        "AllocatedResourceName": charge.feature,
        "AllocatedTags": None,
    }


def _description(charge: Charge) -> str:
    what = {
        CostType.HOSTED: charge.meter.name,
        CostType.LOCAL: f"{charge.meter.name} at their transfer price",
        CostType.WORKLOAD: "GPUs at work",
        CostType.IDLE: "Idle GPUs",
    }[charge.cost_type]
    whom = "nobody" if charge.feature is None else charge.feature
    return f"{what} of {charge.deployment} for {whom}"


def _sku(charge: Charge) -> str:
    served = f"{charge.service}/{charge.served_model or charge.deployment}"
    return served if charge.meter.unit is None else f"{served}/{charge.meter.unit}"


def _sku_price(charge: Charge) -> str:
    """One version has several prices of a unit: by tier, by how much was read, by the hour."""
    price = f"{_sku(charge)}@{charge.price_version or charge.deployment}"
    usd = charge.meter.block_usd
    return price if usd is None else f"{price}/{usd.normalize():f}"


def _tags(charge: Charge) -> str | None:
    """Keys have a prefix, since it was not the user who has set them."""
    named = {"tollway/feature": charge.feature, "tollway/model": charge.model, "tollway/team": charge.team}
    found = {name: value for name, value in named.items() if value is not None}
    return _json(found)


def _json(found: Mapping[str, Any]) -> str | None:
    return json.dumps(found, ensure_ascii=False) if found else None


_ALLOCATED = (
    "AllocatedMethodDetails",
    "AllocatedMethodId",
    "AllocatedResourceId",
    "AllocatedResourceName",
    "AllocatedTags",
)
# 1.3 has the names of providers that 1.2 had beside the new ones, and 1.4 has them no longer.
_MISSING = {Version.V1_3: {"InvoiceDetailId"}, Version.V1_4: {"ProviderName", "PublisherName"}}

_KINDS: dict[str, ColumnKind] = {
    **dict.fromkeys(_ALLOCATED, ColumnKind.TEXT),
    "BilledCost": ColumnKind.MONEY,
    "BillingAccountId": ColumnKind.TEXT,
    "BillingAccountName": ColumnKind.TEXT,
    "BillingAccountType": ColumnKind.TEXT,
    "BillingCurrency": ColumnKind.TEXT,
    "BillingPeriodEnd": ColumnKind.MOMENT,
    "BillingPeriodStart": ColumnKind.MOMENT,
    "ChargeCategory": ColumnKind.TEXT,
    "ChargeClass": ColumnKind.TEXT,
    "ChargeDescription": ColumnKind.TEXT,
    "ChargeFrequency": ColumnKind.TEXT,
    "ChargePeriodEnd": ColumnKind.MOMENT,
    "ChargePeriodStart": ColumnKind.MOMENT,
    "ConsumedQuantity": ColumnKind.MONEY,
    "ConsumedUnit": ColumnKind.TEXT,
    "ContractedCost": ColumnKind.MONEY,
    "ContractedUnitPrice": ColumnKind.MONEY,
    "EffectiveCost": ColumnKind.MONEY,
    "HostProviderName": ColumnKind.TEXT,
    "InvoiceDetailId": ColumnKind.TEXT,
    "InvoiceId": ColumnKind.TEXT,
    "InvoiceIssuerName": ColumnKind.TEXT,
    "ListCost": ColumnKind.MONEY,
    "ListUnitPrice": ColumnKind.MONEY,
    "PricingCategory": ColumnKind.TEXT,
    "PricingQuantity": ColumnKind.MONEY,
    "PricingUnit": ColumnKind.TEXT,
    "ProviderName": ColumnKind.TEXT,
    "PublisherName": ColumnKind.TEXT,
    "RegionId": ColumnKind.TEXT,
    "RegionName": ColumnKind.TEXT,
    "ResourceId": ColumnKind.TEXT,
    "ResourceName": ColumnKind.TEXT,
    "ResourceType": ColumnKind.TEXT,
    "ServiceCategory": ColumnKind.TEXT,
    "ServiceName": ColumnKind.TEXT,
    "ServiceProviderName": ColumnKind.TEXT,
    "ServiceSubcategory": ColumnKind.TEXT,
    "SkuId": ColumnKind.TEXT,
    "SkuMeter": ColumnKind.TEXT,
    "SkuPriceId": ColumnKind.TEXT,
    "SubAccountId": ColumnKind.TEXT,
    "SubAccountName": ColumnKind.TEXT,
    "SubAccountType": ColumnKind.TEXT,
    "Tags": ColumnKind.TEXT,
    "x_CachedInputTokens": ColumnKind.INTEGER,
    "x_CostType": ColumnKind.TEXT,
    "x_Feature": ColumnKind.TEXT,
    "x_InputTokens": ColumnKind.INTEGER,
    "x_LedgerCost": ColumnKind.MONEY,
    "x_Model": ColumnKind.TEXT,
    "x_OutputTokens": ColumnKind.INTEGER,
    "x_PriceVersion": ColumnKind.TEXT,
    "x_RequestCount": ColumnKind.INTEGER,
    "x_Tags": ColumnKind.TEXT,
    "x_Unit": ColumnKind.TEXT,
}
COLUMNS = tuple(_KINDS)
