"""Which times the ledger still takes rows for: closed periods are corrected elsewhere, pruned ones over."""

from collections.abc import Sequence

import msgspec

from gateway.ledger.rows import Row
from gateway.ledger.tables import COLUMNS

_AT = COLUMNS.index("at")

PRUNED = "its period was deleted; only the totals of that time are kept, and this row may be part of them"

SELECT_BOUNDS = (
    "SELECT (SELECT max(before) FROM period_end WHERE act = 'closed'), "
    "(SELECT max(before) FROM period_end WHERE act = 'pruned')"
)
# A late row is dated at the first moment of the open period, so that a second try dates it the same.
DATE_LATE_ROWS = "UPDATE {rows} SET kind = 'correction', occurred_at = at, at = {open} WHERE at < {open}"


class PeriodBounds(msgspec.Struct, frozen=True):
    """First moments, in UTC microseconds, of what is not `closed` and of what is not `pruned`; None: all."""

    closed: int | None
    pruned: int | None

    def takes(self, row: Row) -> bool:
        """Whether `row` can be kept at all."""
        at = row[_AT]
        return self.pruned is None or not isinstance(at, int) or at >= self.pruned

    def late(self, rows: Sequence[Row]) -> bool:
        """Whether some of `rows` belong to a closed period."""
        closed = self.closed
        return closed is not None and any(isinstance(at := row[_AT], int) and at < closed for row in rows)
