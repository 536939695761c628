"""What was taken in memory of each scope's limits, and why a limit refuses."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

from gateway.core.admission import (
    LONGEST_DEBT_SECONDS,
    Ask,
    BudgetCounter,
    GcraLimit,
    clamp_clock,
    least_output,
)
from gateway.core.errors import LimitExceeded
from gateway.core.refusals import too_fast, too_many_at_once
from gateway.core.tenancy import Budget, Limits, Scope


class RateBucket:
    """One rate of one scope. `drained_at` is the moment at which all that was taken will have drained.

    Moments are monotonic: setting the clock neither locks a scope out nor lets it through. Without a limit
    the moment stays, for a configuration that sets one again.
    """

    __slots__ = ("drained_at", "limit")

    def __init__(self) -> None:
        self.drained_at = 0.0
        self.limit: GcraLimit | None = None

    def adopt(self, per_minute: int | None) -> None:
        """Take over a changed limit and keep what was taken."""
        self.limit = GcraLimit(per_minute) if per_minute else None


class ScopeState:
    """What was taken of the limits and budgets of one scope."""

    __slots__ = ("budgets", "in_flight", "label", "limits", "requests", "tokens")

    def __init__(
        self, scope: Scope, zone: ZoneInfo, now: float, coming: Iterable[BudgetCounter] = ()
    ) -> None:
        self.label = scope.label
        self.in_flight = 0
        self.requests = RateBucket()
        self.tokens = RateBucket()
        self.budgets: list[BudgetCounter] = []
        self.adopt(scope, zone, now, coming)

    def adopt(self, scope: Scope, zone: ZoneInfo, now: float, coming: Iterable[BudgetCounter] = ()) -> None:
        """Take over limits and budgets of a changed configuration and keep what was counted."""
        limits = scope.limits
        self.limits: Limits = limits
        self.requests.adopt(limits.requests_per_minute)
        self.tokens.adopt(limits.tokens_per_minute)
        kept = {item.counted_as: item for item in (*coming, *self.budgets)}
        self.budgets = []
        for budget in scope.budgets:
            state = kept.get(budget.counted_as(zone)) or BudgetCounter(scope, budget, zone, now)
            state.set(budget, state.spent, state.unseen, now)
            self.budgets.append(state)

    def lacks(self, budget: Budget, zone: ZoneInfo) -> bool:
        """Whether nothing has been counted for `budget` so far."""
        return all(item.counted_as != budget.counted_as(zone) for item in self.budgets)

    def refusal(self, ask: Ask | None, now: float) -> LimitExceeded | None:
        """Why one of the limits has no room for `ask`; None when all have.

        None for `ask`: a request of which nothing is known yet, so one of a single token.
        `accounts.has_room` is asked first: a limit that is added here has to be added there.
        """
        limits, requests, tokens = self.limits, self.requests, self.tokens
        requests.drained_at = clamp_clock(requests.drained_at, now)
        tokens.drained_at = clamp_clock(tokens.drained_at, now, LONGEST_DEBT_SECONDS)
        if limits.concurrent is not None and self.in_flight >= limits.concurrent:
            return too_many_at_once(self.label, limits.concurrent)
        if requests.limit is not None:
            wait = requests.limit.wait_seconds(requests.drained_at, 1, now)
            if wait > 0:
                return too_fast(self.label, "requests_per_minute", requests.limit.per_minute, wait)
        if tokens.limit is not None:
            least = 1
            if ask is not None:
                least = ask.rate_tokens(least_output(ask, tokens.limit.per_minute, typical=limits.typical))
            wait = tokens.limit.wait_seconds(tokens.drained_at, least, now)
            if wait > 0:
                return too_fast(self.label, "tokens_per_minute", tokens.limit.per_minute, wait)
        return None
