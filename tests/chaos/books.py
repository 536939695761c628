"""What the load has cost, by whoever saw it: upstreams, ledger, shared counters, `tollway usage`.

An upstream's record of an attempt is the truth. Money in integer nano-USD.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import select

from gateway.ledger.tables import usage_record
from gateway.ledger.url import database_of
from tests.chaos.scenario import ORG, PRICES, Limit
from tests.chaos.upstream import Seen

# Ways in which an attempt can end in the ledger although no upstream has read it.
NEVER_READ = frozenset(
    {"presumed", "connect_error", "stale_connection", "client_disconnect", "shutdown", "upstream_error"}
)
SHOWN = 5


class Row(msgspec.Struct, frozen=True, gc=False):
    """One attempt as the ledger has it."""

    attempt_id: str
    request_id: str
    team: str
    feature: str
    key: str
    deployment: str
    outcome: str
    estimated: bool
    cost: int
    unseen: int
    held: int


class Counter4(msgspec.Struct, frozen=True):
    """A budget's shared counters."""

    spent: int
    held: int
    unseen: int


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """The shared state at rest."""

    counters: Mapping[str, Counter4]
    holds: int
    leases: int
    slots: int


class Account(msgspec.Struct, kw_only=True):
    """One hard budget: what it truly cost, what the ledger and the counters say."""

    limit: Limit
    true: int = 0
    cost: int = 0
    unseen: int = 0

    @property
    def overspend(self) -> int:
        return max(self.true - self.limit.nano, 0)


def read_rows(url: str) -> list[Row]:
    table = usage_record.c
    columns = (
        *(table.attempt_id, table.request_id, table.team, table.feature, table.key, table.deployment),
        *(table.outcome, table.estimated, table.cost_nano_usd, table.unseen_nano_usd, table.held_nano_usd),
    )
    with database_of(url).reading() as ledger:
        return [Row(*row) for row in ledger.fetch(select(*columns))]


def billed(seen: Seen, deployment: str) -> int:
    """What the provider asks for: nothing for a refusal, else the prompt and what was generated."""
    if seen.outcome.startswith("rejected") or (seen.status or 0) >= 400:
        return 0
    price = PRICES[deployment]
    plain = seen.prompt_tokens - seen.cached_tokens
    return (
        plain * price["input"]
        + seen.cached_tokens * price["cached_input"]
        + seen.completion_tokens * price["output"]
    )


class Books:
    """Compares. `problems` is empty when everything agrees."""

    def __init__(
        self, seen: Mapping[str, Sequence[Seen]], rows: Sequence[Row], limits: Iterable[Limit]
    ) -> None:
        self.rows = {row.attempt_id: row for row in rows}
        self.seen = {
            attempt.attempt_id or "": (attempt, deployment)
            for deployment, attempts in seen.items()
            for attempt in attempts
        }
        self.accounts = [Account(limit=limit) for limit in limits]
        self.problems: list[str] = []
        self.unread: Counter[str] = Counter()
        self.outcomes = Counter(row.outcome for row in rows)
        self._match([item.attempt_id or "" for items in seen.values() for item in items], rows)
        self._price()

    @property
    def overspend(self) -> int:
        return sum(account.overspend for account in self.accounts)

    @property
    def cost(self) -> int:
        return sum(row.cost for row in self.rows.values())

    def _say(self, problem: str, found: Iterable[object] = ()) -> None:
        listed = list(found)
        more = f": {len(listed)}, as {', '.join(map(str, listed[:SHOWN]))}" if listed else ""
        self.problems.append(problem + more)

    def _expect_none(self, problem: str, found: Iterable[object]) -> None:
        if listed := list(found):
            self._say(problem, listed)

    # --- one to one ---

    def _match(self, seen: Sequence[str], rows: Sequence[Row]) -> None:
        self._expect_none(
            "upstreams still at work on", (i for i, s in self.seen.items() if s[0].outcome == "running")
        )
        self._expect_none("seen twice by upstreams", (i for i, n in Counter(seen).items() if n > 1))
        booked = Counter(row.attempt_id for row in rows)
        self._expect_none("in the ledger twice", (i for i, n in booked.items() if n > 1))
        self._expect_none("seen and not in the ledger", set(seen) - set(booked))
        unread = [row for row in rows if row.attempt_id not in self.seen]
        self.unread = Counter(row.outcome for row in unread)
        self._expect_none(
            "booked as read by an upstream that did not read it",
            (f"{row.attempt_id} {row.outcome}" for row in unread if row.outcome not in NEVER_READ),
        )

    def check_answers(self, answered: Iterable[str]) -> None:
        """Each request that was answered whole was answered by exactly one attempt."""
        by_request = Counter(row.request_id for row in self.rows.values() if row.outcome == "success")
        self._expect_none("answered and not booked so once", (i for i in answered if by_request[i] != 1))

    # --- money ---

    def _price(self) -> None:
        for row in self.rows.values():
            attempt = self.seen.get(row.attempt_id)
            true = 0 if attempt is None else billed(*attempt)
            if attempt is not None and attempt[1] != row.deployment:
                self._say(f"{row.attempt_id} was seen by {attempt[1]} and is booked for {row.deployment}")
            self._check_row(row, true)
            for account in self.accounts:
                if _charges(account.limit, row):
                    account.true += true
                    account.cost += row.cost
                    account.unseen += row.unseen
        self._expect_none(
            "budgets overspent",
            (f"{a.limit.name} by {a.overspend} nano-USD" for a in self.accounts if a.overspend),
        )

    def _check_row(self, row: Row, true: int) -> None:
        what = f"{row.attempt_id} {row.outcome}: cost {row.cost}, unseen {row.unseen}, truly {true}"
        if row.estimated and row.cost + row.unseen < true:
            self._say(f"an estimate is too low: {what}")
        if not row.estimated and row.cost != true:
            self._say(f"an exact row is not exact: {what}")
        if row.cost + row.unseen > row.held:
            self._say(f"more than was held ({row.held}): {what}")

    # --- the shared counters ---

    def check_at_rest(self, shared: Shared, *, exactly: bool) -> None:
        """Nothing is held any more, and the counters have forgotten nothing that was spent.

        Both counters and ledger may have more than that, of attempts of gateways that died. `exactly`: none
        died, and both say the same.
        """
        if shared.holds or shared.leases or shared.slots:
            self._say(f"left held: {shared.holds} holds, {shared.leases} leases, {shared.slots} slots")
        for account in self.accounts:
            name, counter = account.limit.name, shared.counters[account.limit.name]
            if counter.held:
                self._say(f"{name} still holds {counter.held} nano-USD")
            counted, known = counter.spent + counter.unseen, account.cost + account.unseen
            if counted < account.true or (exactly and counted != known):
                self._say(
                    f"{name}: the counters say {counter.spent} + {counter.unseen}, "
                    f"the ledger {account.cost} + {account.unseen}, the upstreams {account.true}"
                )

    def check_rebuilt(self, shared: Shared) -> None:
        """Rebuilt from the ledger the counters are its sums, to the nano-dollar."""
        for account in self.accounts:
            counter = shared.counters[account.limit.name]
            if (counter.spent, counter.held, counter.unseen) != (account.cost, 0, account.unseen):
                self._say(
                    f"{account.limit.name}: rebuilt as {counter}, not {account.cost}, 0, {account.unseen}"
                )

    def check_usage(self, nano: int) -> None:
        """`tollway usage` adds up to the rows."""
        if nano != self.cost:
            self._say(f"tollway usage says {nano} nano-USD, the rows {self.cost}")


def _charges(limit: Limit, row: Row) -> bool:
    """Whether `row` counts against `limit`."""
    owner = ORG if limit.scope == "org" else getattr(row, limit.scope)
    return bool(limit.owner == owner)
