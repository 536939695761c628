"""What the open windows of budgets have already cost, so that a restart does not forget it."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DatabaseError

from gateway.adapters.ledger.engine import database_path, open_reader
from gateway.adapters.ledger.errors import LedgerUnavailable
from gateway.adapters.ledger.tables import usage_record
from gateway.ports import BudgetView

_MICROSECONDS = 1_000_000


def spent_in_windows(url: str, budgets: Sequence[BudgetView]) -> list[tuple[int, int]]:
    """(spent, unseen) nano-USD of each budget's scope since its window began, in the order given.

    Raises LedgerUnavailable.
    """
    if not budgets:
        return []
    path = database_path(url)
    try:
        with open_reader(path).connect() as connection:
            return [_spent(connection, budget) for budget in budgets]
    except DatabaseError as exc:
        raise LedgerUnavailable(f"ledger {path}: {exc.orig}") from exc


def _spent(connection: Connection, budget: BudgetView) -> tuple[int, int]:
    row = usage_record.c
    sums = (func.coalesce(func.sum(column), 0) for column in (row.cost_nano_usd, row.unseen_nano_usd))
    query = select(*sums).where(
        row[budget.kind] == budget.name, row.at >= int(budget.window.start * _MICROSECONDS)
    )
    spent, unseen = connection.execute(query).one()
    return int(spent), int(unseen)
