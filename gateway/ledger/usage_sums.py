"""What was used by whom, by the finest group that a pool's cost is shared among."""

from typing import NamedTuple

from gateway.ledger.database import ReadTransaction
from gateway.ledger.spans import Span, parts
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

    def plus(self, other: "UsageSums") -> "UsageSums":
        return UsageSums(*(one + another for one, another in zip(self, other, strict=True)))


NO_USAGE = UsageSums()


def sum_usage(ledger: ReadTransaction, span: Span) -> dict[Consumer, UsageSums]:
    """All usage of `span`, in the order of the consumers' names."""
    found: dict[Consumer, UsageSums] = {}
    for part in parts(span):
        for row in ledger.fetch(totals(ledger, part, Consumer._fields)):
            consumer = Consumer(*row[: len(Consumer._fields)])
            sums = UsageSums(*map(int, row[len(Consumer._fields) :]))
            found[consumer] = found.get(consumer, NO_USAGE).plus(sums)
    return dict(sorted(found.items()))
