"""What this worker knows of the counters from the last replies, and the specs that it made for them."""

from collections.abc import Collection, Iterable, Sequence
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from gateway.core.tenancy import Budget, Limits, Principal, Scope, changed_labels
from gateway.ports import BudgetView
from gateway.quota.redis.replies import CountersRow
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.specs import BudgetSpec, QuotaSpec, make_spec

_NOTHING = CountersRow(0, 0, 0, 0)


class CounterCache:
    """Start, spent, held and unseen of each budget, as the last replies said; specs by principal."""

    def __init__(self, clock: ServerClock, zone: ZoneInfo) -> None:
        self._clock = clock
        self.zone = zone
        self.scopes: tuple[Scope, ...] = ()
        # Workers that were alive when they were last counted, this one included.
        self.workers = 1
        self._by_label: dict[str, Scope] = {}
        self._specs: dict[Principal, QuotaSpec] = {}
        self._all: QuotaSpec | None = None
        self._counters: dict[str, CountersRow] = {}

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()) -> None:
        """Adopt `scopes`. Specs of the principals `wanted` stay where nothing about them changes."""
        scopes = tuple(scopes)
        changed = changed_labels(self.scopes, scopes)
        everybody = set() if zone != self.zone else set(wanted)
        for principal in list(self._specs):
            if principal not in everybody or not changed.isdisjoint(principal.labels):
                del self._specs[principal]
        self.scopes, self.zone = scopes, zone
        self._by_label = {scope.label: scope for scope in scopes}
        self._all = None

    def drop(self, principal: Principal) -> None:
        """Forget the spec of `principal`."""
        self._specs.pop(principal, None)

    def uncounted(self, scopes: Iterable[Scope], zone: ZoneInfo) -> list[Scope]:
        """Those of `scopes` with budgets that nothing has been counted for here, and only these budgets."""
        names = {budget.name for budget in self.spec_of_all().budgets}
        new: dict[str, list[Budget]] = {}
        for budget in make_spec(scopes, zone, self._clock.now()).budgets:
            if budget.name not in names:
                new.setdefault(budget.scope.label, []).append(budget.budget)
        return [
            replace(scope, budgets=tuple(new[scope.label]), limits=Limits())
            for scope in scopes
            if scope.label in new
        ]

    def lacking_slots(self, spec: QuotaSpec) -> list[str]:
        """The scopes that limit concurrency now and did not when `spec` was made."""
        had = {label for label, limits in spec.limits if limits.concurrent}
        scopes = [self._by_label[label] for label in spec.labels if label in self._by_label]
        return [scope.label for scope in scopes if scope.limits.concurrent and scope.label not in had]

    def spec(self, principal: Principal) -> QuotaSpec:
        """What the requests of `principal` count against now."""
        spec = self._specs.get(principal)
        now = self._clock.now()
        if spec is None or not spec.start <= now < spec.end:
            labels = principal.labels
            # The scopes as they are configured now, for requests too that came before.
            scopes = [self._by_label[label] for label in labels if label in self._by_label]
            spec = self._specs[principal] = make_spec(scopes, self.zone, now, labels)
        return spec

    def spec_of_all(self) -> QuotaSpec:
        """The spec with every configured budget."""
        now = self._clock.now()
        if self._all is None or not self._all.start <= now < self._all.end:
            self._all = make_spec(self.scopes, self.zone, now)
        return self._all

    def learn(self, spec: QuotaSpec, counters: Sequence[CountersRow], now: int) -> None:
        """Keep what a reply said; `now` is the server's, in microseconds."""
        self._clock.learn(now)
        for budget, row in zip(spec.budgets, counters, strict=True):
            self._counters[budget.name] = row

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal`, as a share of its limit."""
        share = 0.0
        for budget in self.spec(principal).budgets:
            counters = self._of(budget)
            share = max(share, (counters.spent + counters.held + counters.unseen) / budget.limit)
        return share

    def budgets(self) -> list[BudgetView]:
        """Every configured budget in its open window."""
        now = self._clock.now()
        return [budget.view(self._of(budget), now) for budget in self.spec_of_all().budgets]

    def _of(self, budget: BudgetSpec) -> CountersRow:
        counters = self._counters.get(budget.name, _NOTHING)
        # What was counted in a window that has ended says nothing of the open one.
        return counters if budget.budget.rolling or counters.start >= budget.window.start else _NOTHING
