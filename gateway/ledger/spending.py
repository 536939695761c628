"""What the open windows of budgets have already cost, so that a restart does not forget it."""

from collections.abc import Sequence

from gateway.ledger.database import ReadTransaction
from gateway.ledger.spans import Span, parts
from gateway.ledger.tables import MONEY, SUMS
from gateway.ledger.url import database_of
from gateway.ledger.usage_queries import totals
from gateway.ports import BudgetView

_MICROSECONDS = 1_000_000
_COST, _UNSEEN = (1 + SUMS.index(name) for name in MONEY)  # after the label


def spent_in_windows(url: str, budgets: Sequence[BudgetView]) -> list[tuple[int, int]]:
    """(spent, unseen) nano-USD of each budget's scope since its window began, in the order given, exactly.

    Raises LedgerUnavailable.
    """
    if not budgets:
        return []
    with database_of(url).reading() as ledger:
        return [_spent(ledger, budget) for budget in budgets]


def _spent(ledger: ReadTransaction, budget: BudgetView) -> tuple[int, int]:
    span = Span(int(budget.window.start * _MICROSECONDS), None)
    rows = [
        row
        for part in parts(span)
        for row in ledger.fetch(totals(ledger, part, (budget.kind,), **{budget.kind: budget.name}))
    ]
    return sum(int(row[_COST]) for row in rows), sum(int(row[_UNSEEN]) for row in rows)
