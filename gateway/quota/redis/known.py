"""What this worker knows of the counters from the last replies, and the plans that it made for them."""

from collections.abc import Iterable
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from gateway.core.tenancy import Budget, Limits, Principal, Scope
from gateway.ports import BudgetView, Clock
from gateway.quota.redis.replies import MICROSECONDS
from gateway.quota.redis.specs import PlannedBudget, QuotaSpec, counters_of, make_plan

Counters = tuple[int, int, int, int]
_NOTHING: Counters = (0, 0, 0, 0)


class Known:
    """Start, spent, held and unseen of each budget; the server's clock; plans by principal."""

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self._clock = clock
        self.zone = zone
        self.scopes: tuple[Scope, ...] = ()
        self._by_label: dict[str, Scope] = {}
        self._plans: dict[Principal, QuotaSpec] = {}
        self._all: QuotaSpec | None = None
        # Seconds that the server's clock is ahead of ours.
        self._ahead = 0.0
        self._counters: dict[str, Counters] = {}

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        self.scopes = tuple(scopes)
        self.zone = zone
        self._by_label = {scope.label: scope for scope in self.scopes}
        self._plans.clear()
        self._all = None

    def uncounted(self, scopes: Iterable[Scope], zone: ZoneInfo) -> list[Scope]:
        """Those of `scopes` with budgets that nothing has been counted for here, and only these budgets."""
        names = {budget.name for budget in self.plan_of_all().budgets}
        new: dict[str, list[Budget]] = {}
        for budget in make_plan(scopes, zone, self.now()).budgets:
            if budget.name not in names:
                new.setdefault(budget.scope.label, []).append(budget.budget)
        return [
            replace(scope, budgets=tuple(new[scope.label]), limits=Limits())
            for scope in scopes
            if scope.label in new
        ]

    def lacking_places(self, plan: QuotaSpec) -> list[str]:
        """The scopes that limit concurrency now and did not when `plan` was made."""
        had = {label for label, limits in plan.limits if limits.concurrent}
        scopes = [self._by_label[label] for label in plan.labels if label in self._by_label]
        return [scope.label for scope in scopes if scope.limits.concurrent and scope.label not in had]

    def now(self) -> float:
        """UTC seconds of the server's clock, as far as it is known."""
        return self._clock.now() + self._ahead

    def plan(self, principal: Principal) -> QuotaSpec:
        """What the requests of `principal` count against now."""
        plan = self._plans.get(principal)
        now = self.now()
        if plan is None or not plan.start <= now < plan.end:
            labels = principal.labels
            # The scopes as they are configured now, for requests too that came before.
            scopes = [self._by_label[label] for label in labels if label in self._by_label]
            plan = self._plans[principal] = make_plan(scopes, self.zone, now, labels)
        return plan

    def plan_of_all(self) -> QuotaSpec:
        """The plan that holds every configured budget."""
        now = self.now()
        if self._all is None or not self._all.start <= now < self._all.end:
            self._all = make_plan(self.scopes, self.zone, now)
        return self._all

    def learn(self, plan: QuotaSpec, counters: list[int], now: int) -> None:
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
