"""Booking what own GPUs cost: spans without gaps, by whichever gateway comes first."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.pool_cost import PoolPlan, PoolSpan, spans
from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.pool_costs import ACCRUAL_LOCK, add_pool_span, last_end
from gateway.ledger.url import database_of

# A shorter silence is another gateway's turn, or a restart; what was up before it was up during it.
KNOWN_GAP = 5 * 60 * 1_000_000


class Accruing(msgspec.Struct, frozen=True):
    """A plan and since when this gateway has it. `is_new`: nothing before that belongs to it."""

    plan: PoolPlan
    since: int
    is_new: bool = False


def accrue(url: str, pools: Iterable[Accruing], now: int, zone: ZoneInfo) -> list[PoolSpan]:
    """Book what `pools` have cost since it was last done, until `now` (UTC microseconds).

    Returns what this call booked. One after the other: a second gateway goes on where the first has ended.
    Raises LedgerUnavailable, and then nothing was booked.
    """
    with (
        database_of(url).maintenance(is_quick=True) as maintenance,
        maintenance.begin(exclusive=False) as ledger,
    ):
        ledger.lock(ACCRUAL_LOCK)
        return [span for pool in pools for span in _accrue(ledger, pool, now, zone)]


def _accrue(ledger: MaintenanceTransaction, pool: Accruing, now: int, zone: ZoneInfo) -> list[PoolSpan]:
    last = last_end(ledger, pool.plan.deployment)
    since = pool.since if last is None else max(last, pool.since) if pool.is_new else last
    present_from = pool.since if pool.since - since > KNOWN_GAP else since
    booked = list(spans(pool.plan, since, now, zone, present_from=present_from))
    for span in booked:
        add_pool_span(ledger, span, now)
    return booked
