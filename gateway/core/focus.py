"""Charges as rows of FOCUS, the FinOps open cost and usage specification, versions 1.3 and 1.4.

A hosted service is a charge for each day and group: what is billed is what it cost. Own GPUs are one bill a
month that is split: a charge for each group's work, one for its share of what was idle, and one for what
nobody was charged with; nobody sends an invoice for them, so their BilledCost is 0 and EffectiveCost counts.
"""

import datetime as dt
import enum
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.core.money import usd_decimal
from gateway.core.table import Cell, Column, ColumnKind, Table


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


class ChargeTokens(msgspec.Struct, frozen=True):
    """Usage of one charge. Cached tokens are part of the input. `units` is all of it by unit, where known."""

    requests: int = 0
    input: int = 0
    cached_input: int = 0
    output: int = 0
    units: Mapping[str, int] = {}


class Allocated(msgspec.Struct, frozen=True):
    """How a charge was split off a pool's bill: its part in billionths, and the work that it was split by."""

    method: str
    billionths: int
    work: int | None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Money in nano-USD. `ledger_nano` is what the ledger's own rows add up to.

    `team`, `feature` and `model` are None for what nobody is charged with. `is_correction`: it corrects a
    period that had been closed. `gpu_microseconds` only for own GPUs. `tags` are those of its requests, as a
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
    tokens: ChargeTokens
    gpu_microseconds: int | None = None
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
        "ContractedCost": effective,
        "EffectiveCost": effective,
        "HostProviderName": issuer,
        "InvoiceDetailId": None if charge.invoice is None else f"{charge.invoice}/{charge.deployment}",
        "InvoiceId": charge.invoice,
        "InvoiceIssuerName": issuer,
        "ListCost": effective,
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
        "SkuId": f"{charge.service}/{charge.served_model or charge.deployment}",
        "SkuPriceId": _sku_price(charge),
        "SubAccountId": charge.team,
        "SubAccountName": charge.team,
        "SubAccountType": None if charge.team is None else "Team",
        "Tags": _tags(charge),
        **_quantities(charge),
        "x_CachedInputTokens": charge.tokens.cached_input,
        "x_CostType": charge.cost_type.value,
        "x_Feature": charge.feature,
        "x_InputTokens": charge.tokens.input,
        "x_LedgerCost": usd_decimal(charge.ledger_nano),
        "x_Model": charge.model,
        "x_OutputTokens": charge.tokens.output,
        "x_PriceVersion": charge.price_version,
        "x_RequestCount": charge.tokens.requests,
        "x_UsageByUnit": _json(charge.tokens.units),
        "x_Tags": charge.tags,
    }


def _quantities(charge: Charge) -> dict[str, Cell]:
    """Own GPUs are priced by the hour, which a pool pays for; services by the token."""
    tokens = Decimal(charge.tokens.input + charge.tokens.output)
    by_hour = charge.gpu_microseconds is not None
    hours = (Decimal(charge.gpu_microseconds or 0) / 3_600_000_000).quantize(Decimal("1e-9"))
    return {
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "ChargeTokens",
        "PricingQuantity": hours if by_hour else tokens,
        "PricingUnit": "Hours" if by_hour else "ChargeTokens",
    }


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
        CostType.HOSTED: "ChargeTokens",
        CostType.LOCAL: "ChargeTokens at their transfer price",
        CostType.WORKLOAD: "GPUs at work",
        CostType.IDLE: "Idle GPUs",
    }[charge.cost_type]
    whom = "nobody" if charge.feature is None else charge.feature
    return f"{what} of {charge.deployment} for {whom}"


def _sku_price(charge: Charge) -> str:
    served = charge.served_model or charge.deployment
    return f"{charge.service}/{served}@{charge.price_version or charge.deployment}"


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
    "EffectiveCost": ColumnKind.MONEY,
    "HostProviderName": ColumnKind.TEXT,
    "InvoiceDetailId": ColumnKind.TEXT,
    "InvoiceId": ColumnKind.TEXT,
    "InvoiceIssuerName": ColumnKind.TEXT,
    "ListCost": ColumnKind.MONEY,
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
    "x_UsageByUnit": ColumnKind.TEXT,
    "x_Tags": ColumnKind.TEXT,
}
COLUMNS = tuple(_KINDS)
