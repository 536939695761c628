"""What the open windows of budgets have already cost, so that a restart does not forget it."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from gateway.adapters.ledger.engine import database_path, open_reader
from gateway.adapters.ledger.tables import usage_record
from gateway.ports import BudgetView

_MICROSECONDS = 1_000_000


def spent_in_windows(url: str, budgets: Sequence[BudgetView]) -> list[int]:
    """Nano-USD spent by each budget's scope since its window began, in the order given."""
    if not budgets:
        return []
    with open_reader(database_path(url)).connect() as connection:
        return [_spent(connection, budget) for budget in budgets]


def _spent(connection: Connection, budget: BudgetView) -> int:
    row = usage_record.c
    query = select(func.coalesce(func.sum(row.cost_nano_usd), 0)).where(
        row[budget.kind] == budget.name, row.at >= int(budget.window.start * _MICROSECONDS)
    )
    return int(connection.execute(query).scalar_one())
