"""The report in dollars, as `tollway tco` and the admin API print it. Described in docs/tco.md; stable."""

import msgspec

from gateway.core.tco import BreakEven
from gateway.finance.tco.measured import Latency, TokenizerRatio


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What traffic cost: `hosted_usd` is what providers bill, workload and idle are shares of pools' bills.

    `on` is what the same traffic would have cost on each deployment alone, idle GPUs included; without those
    for which something is missing.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    hosted_usd: float
    pool_workload_usd: float
    pool_idle_usd: float
    fully_loaded_usd: float
    marginal_usd: float
    on: dict[str, float]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One feature, team or model."""

    name: str
    cost: Cost


class WorkShare(msgspec.Struct, frozen=True, kw_only=True):
    """What a token counts for. `learned`: from the timings of this period."""

    prefill: int
    cached: int
    decode: int
    learned: bool


class AllTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """The pool with all of the period's traffic: how many replicas it needs on the whole, and their bill."""

    replicas: int
    utilisation: float
    usd: float


class PoolSide(msgspec.Struct, frozen=True, kw_only=True):
    """A pool over the period. `transfer_usd` is what budgets were charged; None is unknown.

    Many attributes: one for each figure of the report, in its order.
    """

    deployment: str
    gpu: str
    replicas: float
    gpu_hours: float
    gpu_usd: float
    overhead_usd: float
    bill_usd: float
    estimated_usd: float
    workload_usd: float
    idle_usd: float
    idle_policy: str
    idle_apart_usd: float
    marginal_usd: float
    transfer_usd: float
    requests: int
    input_tokens: int
    output_tokens: int
    utilisation: float | None
    usd_per_million_tokens: float | None
    usd_per_million_input_tokens: float | None
    usd_per_million_output_tokens: float | None
    weights: WorkShare
    booked_since: str
    booked_until: str
    all_traffic: AllTraffic | None
    break_even: list[BreakEven]
    latency: Latency | None
    tokenizer: TokenizerRatio | None


class HostedSide(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted deployment over the period."""

    deployment: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    usd_per_million_tokens: float | None
    usd_per_million_input_tokens: float
    usd_per_million_output_tokens: float
    latency: Latency | None
    tokenizer: TokenizerRatio | None


class Uncertainty(msgspec.Struct, frozen=True, kw_only=True):
    """How far to trust it. Shares from 0 to 1."""

    estimated_attempts_share: float
    unseen_usd: float
    pool_estimated_usd: float
    tokenizers_measured: bool
    notes: list[str]


class TcoReport(msgspec.Struct, frozen=True, kw_only=True):
    """One period, as it was or as it might have been. `missing` says what was not known, and what to do.

    `corrections_usd` corrects hosted costs of earlier periods, which were closed, and is in no other number.
    """

    since: str
    until: str
    by: str
    totals: Cost
    rows: list[Row]
    corrections_usd: float
    pools: list[PoolSide]
    hosted: list[HostedSide]
    missing: list[str]
    uncertainty: Uncertainty


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The same period under other assumptions. A negative difference is money saved."""

    given: dict[str, str]
    difference_usd: float
    report: TcoReport


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    actual: TcoReport
    what_if: WhatIf | None = None
