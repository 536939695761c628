"""From what was measured to the report: who paid what, and what the same would have cost elsewhere."""

import enum
from collections import defaultdict

from gateway.finance.tco.allocation import ConsumerCost, allocated, costs_of, usage_by_consumer
from gateway.finance.tco.measured import Measured
from gateway.finance.tco.missing import missing, uncertainty
from gateway.finance.tco.report import Row, TcoReport
from gateway.finance.tco.sides import hosted_side, pool_side
from gateway.finance.tco.units import iso, usd


class TcoRows(enum.StrEnum):
    """What the rows are."""

    FEATURE = "feature"
    TEAM = "team"
    MODEL = "model"


def compare(measured: Measured, by: TcoRows) -> TcoReport:
    """The report of what was measured."""
    whole = usage_by_consumer(measured)
    pools = {name: allocated(measured, name, whole) for name in measured.pools if name in measured.bills}
    sums = costs_of(measured, whole, pools)
    rows: defaultdict[str, ConsumerCost] = defaultdict(ConsumerCost)
    total = ConsumerCost()
    for consumer, one in sums.items():
        rows[getattr(consumer, by)].add(one)
        total.add(one)
    apart = sum(pool.allocation.apart_nano for pool in pools.values())
    return TcoReport(
        since=iso(measured.since),
        until=iso(measured.until),
        by=by,
        totals=total.cost(apart),
        rows=[Row(name=name, cost=rows[name].cost()) for name in sorted(rows)],
        corrections_usd=usd(measured.late_corrections_nano),
        pools=[pool_side(measured, pool) for pool in pools.values()],
        hosted=[hosted_side(measured, name, whole) for name in measured.hosted],
        missing=list(missing(measured, whole, pools)),
        uncertainty=uncertainty(measured, total.usage, pools.values()),
    )
