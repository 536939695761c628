"""A machine that tries everything with limits and budgets in memory."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per, Window, window_at
from gateway.ports import BudgetView
from gateway.quota.memory import MemoryAdmission
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.memory_stage import DAY, TOKYO, R, at_once

LABELS = ("feature", "team")


class Open:
    """A hold as the machine knows it: what it may really come to cost, and the window of each budget."""

    def __init__(self, hold: Hold, actual: int, windows: dict[str, Window]) -> None:
        self.hold = hold
        self.nano = hold.nano
        self.actual = actual
        self.windows = windows


class Admissions(RuleBasedStateMachine):
    """Two scopes with a daily and a monthly budget; requests, attempts, clocks and reloads in any order.

    `ended` is what requests that are over really cost, by budget and window. `spent` is what was booked.
    """

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ToldClock()
        self.limits = {"feature": 6 * R, "team": 9 * R}
        self.concurrent = 6
        self.store = MemoryAdmission(self.clock)
        self.open: list[Open] = []
        self.window = dict.fromkeys(LABELS, Window(0.0, 0.0))
        self.spent: dict[tuple[str, Window], int] = {}
        self.cost: dict[tuple[str, Window], int] = {}
        self.set_aside: dict[tuple[str, Window], int] = {}
        self.reload()
        self.roll()

    def reload(self) -> None:
        feature = scope("feature", "a", concurrent=self.concurrent, budgets={Per.DAY: self.limits["feature"]})
        team = scope("team", "a", budgets={Per.MONTH: self.limits["team"]})
        self.payer = principal(feature, team)
        self.store.configure([feature, team], TOKYO)

    def roll(self) -> None:
        """Windows only ever move forward, whatever the clock says."""
        for label, per in zip(LABELS, (Per.DAY, Per.MONTH), strict=True):
            if self.clock.now() >= self.window[label].end:
                self.window[label] = window_at(per, self.clock.now(), TOKYO)

    def views(self) -> dict[str, BudgetView]:
        self.roll()
        return {view.kind: view for view in self.store.budgets()}

    def book(self, item: Open, spent: int, unseen: int) -> None:
        for label, window in item.windows.items():
            key = (label, window)
            self.spent[key] = self.spent.get(key, 0) + spent
            self.cost[key] = self.cost.get(key, 0) + item.actual
            self.set_aside[key] = self.set_aside.get(key, 0) + unseen

    @rule(
        target=holds,
        output=st.integers(0, 3000),
        explicit=st.booleans(),
        share=st.integers(0, 100),
    )
    def admit(self, output: int, explicit: bool, share: int) -> Open | None:
        before = self.views()
        try:
            hold = at_once(
                self.store.admit(ask(self.payer, output_tokens=output, output_is_explicit=explicit))
            )
        except LimitExceeded as error:
            assert error.limit == "concurrent"
            assert len(self.open) >= self.concurrent
            assert self.views() == before
            return None
        except BudgetExceeded as error:
            label = error.scope.partition(":")[0]
            left = before[label].limit_nano - sum(self.counters(before[label]))
            assert left < 100_000 + min(output, 16) * 1000
            assert self.views() == before
            return None
        assert len(self.open) < self.concurrent
        for view in self.views().values():
            assert sum(self.counters(view)) <= view.limit_nano
        item = Open(hold, hold.nano * share // 100, dict(self.window))
        self.open.append(item)
        return item

    @rule(item=consumes(holds))
    def settle_exactly(self, item: Open | None) -> None:
        if item is not None:
            self.settle(item, item.actual, 0)

    @rule(item=consumes(holds), seen=st.integers(0, 100), margin=st.integers(0, 1000))
    def settle_an_under_estimate(self, item: Open | None, seen: int, margin: int) -> None:
        if item is not None:
            spent = item.actual * seen // 100
            most = min(item.actual + margin, item.nano)
            self.settle(item, spent, max(most - spent, 0))

    def settle(self, item: Open, spent: int, unseen: int) -> None:
        settlement = Settlement(spent_nano=spent, unseen_nano=unseen, rate_tokens=None)
        self.roll_store()
        self.store.settle(item.hold, settlement)
        self.open.remove(item)
        self.book(item, spent, unseen)
        before = self.views()
        self.store.settle(item.hold, settlement)
        assert self.views() == before

    def roll_store(self) -> None:
        self.views()

    @rule(target=holds, item=consumes(holds), share=st.integers(0, 100))
    def renew(self, item: Open | None, share: int) -> Open | None:
        if item is None:
            return None
        self.roll_store()
        settlement = Settlement(spent_nano=item.actual)
        self.open.remove(item)
        self.book(item, item.actual, 0)
        try:
            hold = at_once(self.store.renew(item.hold, settlement))
        except BudgetExceeded:
            assert not item.hold.open
            return None
        again = Open(hold, hold.nano * share // 100, dict(self.window))
        self.open.append(again)
        return again

    @rule(seconds=st.sampled_from([1, 600, 7200, DAY, 31 * DAY]))
    def time_passes(self, seconds: int) -> None:
        self.clock.forward(seconds)

    @rule(seconds=st.sampled_from([-3 * DAY, -7200, -1, 1, 7200]))
    def the_clock_is_set(self, seconds: int) -> None:
        self.clock.jump(seconds)

    @rule(label=st.sampled_from(LABELS), limit=st.integers(1, 12 * R), concurrent=st.integers(1, 8))
    def configuration_changes(self, label: str, limit: int, concurrent: int) -> None:
        self.limits[label] = limit
        self.concurrent = concurrent
        before = self.views()
        self.reload()
        after = self.views()
        assert [self.counters(view) for view in after.values()] == [
            self.counters(view) for view in before.values()
        ]
        assert {name: view.limit_nano for name, view in after.items()} == self.limits

    @precondition(lambda self: not self.open)
    @rule()
    def nothing_is_in_flight(self) -> None:
        assert all(view.held_nano == 0 for view in self.views().values())
        assert all(state.in_flight == 0 for state in self.store._scopes.values())

    @staticmethod
    def counters(view: BudgetView) -> tuple[int, int, int]:
        return view.spent_nano, view.held_nano, view.unseen_nano

    @invariant()
    def counters_are_those_of_the_open_windows(self) -> None:
        for label, view in self.views().items():
            key = (label, self.window[label])
            held = sum(item.nano for item in self.open if item.windows[label] == self.window[label])
            assert view.window == self.window[label]
            assert self.counters(view) == (self.spent.get(key, 0), held, self.set_aside.get(key, 0))
            assert min(self.counters(view)) >= 0

    @invariant()
    def what_is_counted_is_never_below_the_true_liability(self) -> None:
        for label, view in self.views().items():
            window = self.window[label]
            in_flight = sum(item.actual for item in self.open if item.windows[label] == window)
            assert sum(self.counters(view)) >= self.cost.get((label, window), 0) + in_flight


TestAdmissions = Admissions.TestCase
TestAdmissions.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
