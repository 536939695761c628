"""What was used by whom, by the finest group that a pool's cost is shared among."""

from typing import NamedTuple

from gateway.ledger.database import ReadTransaction
from gateway.ledger.dimensions import Dimension
from gateway.ledger.spans import Span, parts
from gateway.ledger.tables import LATE_CORRECTION
from gateway.ledger.usage_queries import totals


class Consumer(NamedTuple):
    """Whom work was done for, and where. Each field is a dimension."""

    deployment: str
    team: str
    feature: str
    model: str


class UsageSums(NamedTuple):
    """Sums of usage, in the order of tables.SUMS. Cached tokens are part of input, reasoning of output."""

    attempts: int = 0
    requests: int = 0
    estimated_attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    unseen_nano_usd: int = 0
    input_nano_usd: int = 0
    cached_input_nano_usd: int = 0
    output_nano_usd: int = 0
    reasoning_nano_usd: int = 0

    def plus(self, other: "UsageSums") -> "UsageSums":
        return UsageSums(*(one + another for one, another in zip(self, other, strict=True)))


NO_USAGE = UsageSums()


def sum_usage(ledger: ReadTransaction, span: Span) -> dict[Consumer, UsageSums]:
    """All usage of `span`, in the order of the consumers' names.

    With the corrections of its rows; without those that are only dated there, because their own period was
    closed: see `sum_late_corrections`.
    """
    return _sums(ledger, span, late=False)


def sum_late_corrections(ledger: ReadTransaction, span: Span) -> dict[Consumer, UsageSums]:
    """What is dated in `span` and corrects rows of periods that were closed by then."""
    return _sums(ledger, span, late=True)


def _sums(ledger: ReadTransaction, span: Span, *, late: bool) -> dict[Consumer, UsageSums]:
    labels = (*Consumer._fields, Dimension.OUTCOME)
    found: dict[Consumer, UsageSums] = {}
    for part in parts(span):
        for row in ledger.fetch(totals(ledger, part, labels)):
            *names, outcome = row[: len(labels)]
            if (outcome == LATE_CORRECTION) is late:
                consumer, sums = Consumer(*names), UsageSums(*map(int, row[len(labels) :]))
                found[consumer] = found.get(consumer, NO_USAGE).plus(sums)
    return dict(sorted(found.items()))
