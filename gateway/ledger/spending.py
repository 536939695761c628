"""What the open windows of budgets have already cost, so that a restart does not forget it.

A budget counts what was charged while its window was open: that is what its counters saw, and what they must
hold again after a restart. So no correction counts, up or down, and no late row whose own window has ended.
"""

from collections.abc import Sequence

from sqlalchemy import func, select

from gateway.ledger.database import ReadTransaction
from gateway.ledger.dimensions import Dimension
from gateway.ledger.spans import Span, parts
from gateway.ledger.tables import CORRECTIONS, MONEY, SUMS, period_end, usage_record
from gateway.ledger.url import database_of
from gateway.ledger.usage_queries import totals
from gateway.ports import BudgetView

_MICROSECONDS = 1_000_000
_COST, _UNSEEN = (SUMS.index(name) - len(SUMS) for name in MONEY)  # the sums come last


def spent_in_windows(url: str, budgets: Sequence[BudgetView]) -> list[tuple[int, int]]:
    """(spent, unseen) nano-USD of each budget's scope since its window began, in the order given, exactly.

    Raises LedgerUnavailable.
    """
    if not budgets:
        return []
    with database_of(url).reading() as ledger:
        return [_spent(ledger, budget) for budget in budgets]


def _spent(ledger: ReadTransaction, budget: BudgetView) -> tuple[int, int]:
    since = int(budget.window.start * _MICROSECONDS)
    only = {budget.kind: budget.name}
    rows = [
        row
        for part in parts(Span(since, None))
        for outcome, *row in ledger.fetch(totals(ledger, part, (Dimension.OUTCOME,), **only))
        if outcome not in CORRECTIONS
    ]
    late_cost, late_unseen = _late(ledger, since, only)
    return sum(int(row[_COST]) for row in rows) - late_cost, sum(
        int(row[_UNSEEN]) for row in rows
    ) - late_unseen


def _late(ledger: ReadTransaction, since: int, only: dict[str, str]) -> tuple[int, int]:
    """What is dated after `since` and was used before: its period was closed when it came."""
    row = usage_record.c
    # It is dated at the very moment up to which a period was closed: found there, without reading the span.
    closed = select(period_end.c.before).where(period_end.c.act == "closed", period_end.c.before >= since)
    sums = (func.coalesce(func.sum(row[name]), 0) for name in MONEY)
    query = select(*sums).where(row.at.in_(closed), row.occurred_at < since, row.corrects.is_(None))
    for dimension, name in only.items():
        query = query.where(row[dimension] == name)
    ((cost, unseen),) = ledger.fetch(query)
    return int(cost), int(unseen)
