"""The ledger beside what the upstreams saw: the upstream's record of an attempt is the truth."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.upgrade.ledgers import Row
from tests.upgrade.prices import PRICES
from tests.upgrade.upstreams import Seen

# Ways in which an attempt can end in the ledger although no upstream has read it.
NEVER_READ = frozenset(
    {"presumed", "connect_error", "stale_connection", "client_disconnect", "shutdown", "upstream_error"}
)


def billed(seen: Seen) -> int:
    """What the provider asks for, in nano-USD: nothing for a refusal, else prompt and answer."""
    if seen.is_refused:
        return 0
    price = PRICES[seen.deployment]
    return (
        (seen.prompt_tokens - seen.cached_tokens) * price.input
        + seen.cached_tokens * price.cached_input
        + seen.completion_tokens * price.output
    )


def disagreements(seen: Sequence[Seen], rows: Sequence[Row], answered: Iterable[str]) -> list[str]:
    """Everything that is in one of them and not, or twice, or at another price, in the other."""
    by_attempt = {attempt.attempt_id: attempt for attempt in seen}
    booked = {row["attempt_id"]: row for row in rows}
    successes = Counter(row["request_id"] for row in rows if row["outcome"] == "success")
    return [
        *(f"{a} was sent {n} times" for a, n in Counter(s.attempt_id for s in seen).items() if n > 1),
        *(f"{a} is booked {n} times" for a, n in Counter(r["attempt_id"] for r in rows).items() if n > 1),
        *(f"{a} was seen and is not booked" for a in by_attempt if a not in booked),
        *(
            f"{a} is booked as {row['outcome']} and was seen by nobody"
            for a, row in booked.items()
            if a not in by_attempt and row["outcome"] not in NEVER_READ
        ),
        *(f"{r} was answered once and booked {successes[r]} times" for r in answered if successes[r] != 1),
        *(problem for a, row in booked.items() if (problem := _wrong(row, by_attempt.get(a)))),
    ]


def _wrong(row: Row, seen: Seen | None) -> str | None:
    """What is wrong with the money of a row."""
    true = 0 if seen is None else billed(seen)
    cost, unseen, held = row["cost_nano_usd"], row["unseen_nano_usd"], row["held_nano_usd"]
    said = f"{row['attempt_id']} {row['outcome']}: cost {cost}, unseen {unseen}, held {held}, truly {true}"
    if seen is not None and seen.deployment != row["deployment"]:
        return f"{said}: for {row['deployment']} instead of {seen.deployment}"
    if not row["estimated"] and cost != true:
        return f"{said}: an exact row is not exact"
    if cost + unseen < true:
        return f"{said}: an estimate is too low"
    return f"{said}: more than was held" if cost + unseen > held else None


def total(rows: Iterable[Row], column: str, **where: str) -> int:
    """The sum of a column over the rows that have these values."""
    return sum(row[column] for row in rows if all(row[name] == value for name, value in where.items()))
