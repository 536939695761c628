"""What this worker knows of the counters from the last replies, and the plans that it made for them."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

from gateway.adapters.redis.plans import Plan, PlannedBudget, counters_of, make_plan
from gateway.adapters.redis.replies import MICROSECONDS
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock

Counters = tuple[int, int, int, int]
_NOTHING: Counters = (0, 0, 0, 0)


class Known:
    """Start, spent, held and unseen of each budget; the server's clock; plans by principal."""

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self._clock = clock
        self._zone = zone
        self._scopes: tuple[Scope, ...] = ()
        self._plans: dict[Principal, Plan] = {}
        self._all: Plan | None = None
        # Seconds that the server's clock is ahead of ours.
        self._ahead = 0.0
        self._counters: dict[str, Counters] = {}

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        self._scopes = tuple(scopes)
        self._zone = zone
        self._plans.clear()
        self._all = None

    def now(self) -> float:
        """UTC seconds of the server's clock, as far as it is known."""
        return self._clock.now() + self._ahead

    def plan(self, principal: Principal) -> Plan:
        """What the requests of `principal` count against now."""
        plan = self._plans.get(principal)
        now = self.now()
        if plan is None or not plan.start <= now < plan.end:
            plan = self._plans[principal] = make_plan(principal.scopes, self._zone, now)
        return plan

    def plan_of_all(self) -> Plan:
        """The plan that holds every configured budget."""
        now = self.now()
        if self._all is None or not self._all.start <= now < self._all.end:
            self._all = make_plan(self._scopes, self._zone, now)
        return self._all

    def learn(self, plan: Plan, counters: list[int], now: int) -> None:
        """Keep what a reply said."""
        self.learn_clock(now)
        for index, budget in enumerate(plan.budgets):
            self._counters[budget.name] = counters_of(counters, index)

    def learn_clock(self, now: int) -> None:
        """`now` is the server's, in microseconds."""
        self._ahead = now / MICROSECONDS - self._clock.now()

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal`, as a share of its limit."""
        share = 0.0
        for budget in self.plan(principal).budgets:
            share = max(share, sum(self._of(budget)[1:]) / budget.limit)
        return share

    def budgets(self) -> list[BudgetView]:
        """Every configured budget in its open window."""
        now = self.now()
        return [budget.view(self._of(budget), now) for budget in self.plan_of_all().budgets]

    def _of(self, budget: PlannedBudget) -> Counters:
        counters = self._counters.get(budget.name, _NOTHING)
        # What was counted in a window that has ended says nothing of the open one.
        return counters if budget.budget.rolling or counters[0] >= budget.window.start else _NOTHING
