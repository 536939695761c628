"""Limits and budgets of one process: how others failed, each as a test, and a machine that tries all."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Principal, Scope
from gateway.core.windows import Per, Window, window_at
from gateway.ports import BudgetView
from gateway.quota.memory import MemoryAdmission
from tests.core.builders import NOVEMBER, ToldClock, ask, principal, run, scope

T = TypeVar("T")

UTC = ZoneInfo("UTC")
TOKYO = ZoneInfo("Asia/Tokyo")
DAY = 86_400
USD = 10**9
R = 1_100_000  # what `ask` holds: 100 prompt and 1,000 output tokens at a micro-dollar each
NOTHING = Settlement(spent_nano=0, rate_tokens=0)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that may not wait: nothing else may happen between its check and its hold."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


class Stage:
    """A store with a clock, and the scopes of one principal."""

    def __init__(self, *scopes: Scope, zone: ZoneInfo = UTC) -> None:
        self.clock = ToldClock()
        self.store = MemoryAdmission(self.clock)
        self.store.configure(scopes, zone)
        self.payer = principal(*scopes)

    def admit(self, payer: Principal | None = None, **changes: Any) -> Hold:
        return at_once(self.store.admit(ask(payer or self.payer, **changes)))

    def refused(self, payer: Principal | None = None, **changes: Any) -> LimitExceeded | BudgetExceeded:
        before = self.store.budgets()
        with pytest.raises((LimitExceeded, BudgetExceeded)) as caught:
            self.admit(payer, **changes)
        assert self.store.budgets() == before
        return caught.value

    def settle(self, hold: Hold, spent: int, *, unseen: int = 0, tokens: int | None = None) -> None:
        self.store.settle(hold, Settlement(spent_nano=spent, unseen_nano=unseen, rate_tokens=tokens))

    def view(self, kind: str = "feature", per: Per = Per.DAY) -> BudgetView:
        return next(view for view in self.store.budgets() if (view.kind, view.per) == (kind, per))

    def counters(self, kind: str = "feature", per: Per = Per.DAY) -> tuple[int, int, int]:
        view = self.view(kind, per)
        return view.spent_nano, view.held_nano, view.unseen_nano


def budget(nano: int, per: Per = Per.DAY, kind: str = "feature", **limits: Any) -> Scope:
    return scope(kind, "a", budgets={per: nano}, **limits)


# --- money ---


def test_a_hold_is_replaced_by_what_was_used():
    stage = Stage(budget(10 * R))
    hold = stage.admit()
    assert (hold.nano, hold.output_tokens, hold.is_capped) == (R, 1000, False)
    assert stage.counters() == (0, R, 0)
    stage.settle(hold, 400_000)
    assert stage.counters() == (400_000, 0, 0)


def test_every_budget_of_key_feature_team_and_org_holds_and_is_charged():
    scopes = [budget(10 * R, per, kind) for kind, per in (("key", Per.DAY), ("feature", Per.MONTH))]
    scopes += [budget(10 * R, Per.LIFETIME, "team"), budget(10 * R, Per.WEEK, "org")]
    stage = Stage(*scopes)
    hold = stage.admit()
    assert all(view.held_nano == R for view in stage.store.budgets())
    stage.settle(hold, 5)
    assert [(view.spent_nano, view.held_nano) for view in stage.store.budgets()] == [(5, 0)] * 4


@pytest.mark.parametrize("kind", ["key", "feature", "team", "org"])
def test_the_budget_of_any_scope_alone_refuses(kind: str):
    others = [budget(10 * R, kind=item) for item in ("key", "feature", "team", "org") if item != kind]
    stage = Stage(*others, budget(100, kind=kind))
    error = stage.refused()
    assert isinstance(error, BudgetExceeded)
    assert error.scope == f"{kind}:a"
    assert all(view.held_nano == 0 for view in stage.store.budgets())


def test_the_last_nano_dollar_can_be_held_and_the_next_one_not():
    stage = Stage(budget(2 * R))
    stage.admit()
    stage.admit()
    assert stage.counters() == (0, 2 * R, 0)
    assert stage.refused(prompt_nano=1, output_tokens=0, output_nano_per_million=0)


def test_an_explicit_cap_is_lowered_to_what_is_left_and_the_hold_with_it():
    stage = Stage(budget(600_000))
    hold = stage.admit()
    assert (hold.output_tokens, hold.nano, hold.is_capped) == (500, 600_000, True)


def test_a_default_cap_leaves_room_for_others():
    stage = Stage(budget(100 * R))
    hold = stage.admit(output_tokens=100_000, output_is_explicit=False)
    assert hold.nano < 30 * R
    assert hold.is_capped


def test_a_refusal_names_scope_window_and_when_it_resets():
    stage = Stage(budget(R))
    stage.settle(stage.admit(), R)
    error = stage.refused()
    assert isinstance(error, BudgetExceeded)
    assert (error.scope, error.limit, error.only_held) == ("feature:a", "budget_day", False)
    assert error.resets_at == window_at(Per.DAY, NOVEMBER, UTC).end
    assert "0.000000000 USD left" in error.message


def test_a_lifetime_budget_never_resets():
    stage = Stage(budget(R, Per.LIFETIME))
    stage.settle(stage.admit(), R)
    error = stage.refused()
    assert isinstance(error, BudgetExceeded)
    assert error.resets_at is None
    stage.clock.forward(400 * DAY)
    assert stage.refused()


def test_money_that_is_only_held_is_said_to_be_so():
    stage = Stage(budget(R))
    hold = stage.admit()
    error = stage.refused()
    assert isinstance(error, BudgetExceeded)
    assert error.only_held
    stage.settle(hold, 1)
    assert stage.admit()


def test_a_new_day_begins_at_midnight_in_the_orgs_time_zone():
    stage = Stage(budget(R), zone=TOKYO)
    stage.settle(stage.admit(), R)
    end = stage.view().window.end
    assert end == window_at(Per.DAY, NOVEMBER, TOKYO).end
    stage.clock.forward(end - stage.clock.now() - 1)
    assert stage.refused()
    stage.clock.forward(1)
    assert stage.admit()


def test_a_hold_of_yesterday_settles_into_nothing_of_today():
    stage = Stage(budget(2 * R))
    hold = stage.admit()
    stage.clock.forward(DAY)
    assert stage.counters() == (0, 0, 0)
    stage.settle(hold, R, unseen=5)
    assert stage.counters() == (0, 0, 0)


def test_a_clock_that_is_set_back_over_midnight_does_not_forget_what_was_spent():
    stage = Stage(budget(R))
    stage.clock.forward(stage.view().window.end - stage.clock.now() + 1)
    stage.settle(stage.admit(), R)
    stage.clock.jump(-5)
    assert stage.counters() == (R, 0, 0)
    assert stage.refused()
    stage.clock.forward(10)
    assert stage.counters() == (R, 0, 0)
    assert stage.refused()


def test_settling_twice_does_nothing_the_second_time():
    stage = Stage(budget(10 * R, tokens=100_000, concurrent=1))
    hold = stage.admit()
    stage.settle(hold, 300, tokens=1_100)
    stage.settle(hold, 900, unseen=900, tokens=0)
    assert stage.counters() == (300, 0, 0)
    again = stage.admit()
    assert isinstance(stage.refused(), LimitExceeded)
    stage.settle(hold, 0)
    assert isinstance(stage.refused(), LimitExceeded)
    stage.settle(again, 0)


def test_an_attempt_that_cost_more_than_its_hold_is_booked_in_full():
    stage = Stage(budget(2 * R))
    stage.settle(stage.admit(), 3 * R)
    assert stage.counters() == (3 * R, 0, 0)
    assert stage.store.used_share(stage.payer) == 1.5
    error = stage.refused()
    assert isinstance(error, BudgetExceeded)
    assert not error.only_held
    assert "0.000000000 USD left" in error.message


def test_a_hold_of_another_store_is_a_mistake_of_ours():
    stage = Stage(budget(10 * R))
    hold = stage.admit()
    hold.token = object()
    with pytest.raises(TypeError):
        stage.settle(hold, 1)


# --- attempts of one request ---


def test_each_further_attempt_has_a_hold_of_its_own():
    stage = Stage(budget(10 * R, concurrent=1))
    hold = stage.admit()
    renewed = at_once(stage.store.renew(hold, Settlement(spent_nano=200, unseen_nano=300)))
    assert stage.counters() == (200, R, 300)
    stage.settle(renewed, 50)
    assert stage.counters() == (250, 0, 300)
    stage.settle(stage.admit(), 0)


def test_a_further_attempt_gets_the_cap_that_still_fits():
    stage = Stage(budget(R))
    hold = stage.admit()
    renewed = at_once(stage.store.renew(hold, Settlement(spent_nano=500_000)))
    assert renewed.nano == R - 500_000
    assert renewed.output_tokens == 500
    assert renewed.is_capped


def test_a_further_attempt_without_room_ends_the_request_and_gives_its_slot_back():
    stage = Stage(budget(R, concurrent=1))
    hold = stage.admit()
    with pytest.raises(BudgetExceeded):
        at_once(stage.store.renew(hold, Settlement(spent_nano=R - 10)))
    assert not hold.open
    assert stage.counters() == (R - 10, 0, 0)
    stage.settle(hold, 99)
    assert stage.counters() == (R - 10, 0, 0)
    assert isinstance(stage.refused(), BudgetExceeded)


def test_a_further_attempt_after_midnight_is_held_in_the_new_day():
    stage = Stage(budget(2 * R))
    hold = stage.admit()
    stage.clock.forward(DAY)
    renewed = at_once(stage.store.renew(hold, Settlement(spent_nano=R)))
    assert stage.counters() == (0, R, 0)
    stage.settle(renewed, 7)
    assert stage.counters() == (7, 0, 0)


# --- how others failed ---


def test_litellm_18730_663_tokens_do_not_pass_a_limit_of_100_a_minute():
    stage = Stage(scope(tokens=100))
    too_long = stage.refused(prompt_tokens=663, output_is_explicit=False)
    assert isinstance(too_long, LimitExceeded)
    assert math.isinf(too_long.retry_after_seconds)
    assert math.isinf(stage.refused(prompt_tokens=20, output_tokens=643).retry_after_seconds)  # type: ignore[union-attr]
    hold = stage.admit(prompt_tokens=20, output_is_explicit=False, output_tokens=643)
    assert hold.output_tokens == 80
    assert isinstance(stage.refused(tokens=1), LimitExceeded)


def test_litellm_18730_tokens_beyond_the_reservation_are_a_debt_that_has_to_drain():
    stage = Stage(scope(tokens=100))
    stage.settle(stage.admit(tokens=50), 0, tokens=663)
    error = stage.refused(tokens=1)
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_seconds == pytest.approx((663 + 1 - 100) * 0.6)
    stage.clock.forward(error.retry_after_seconds)
    assert stage.admit(tokens=1)


def test_litellm_29191_a_default_estimate_does_not_refuse_the_first_request_of_a_small_limit():
    stage = Stage(scope(tokens=100))
    assert stage.admit(output_is_explicit=False, prompt_tokens=10, output_tokens=16_384)


def test_litellm_27639_reservations_never_leak_into_phantom_refusals():
    stage = Stage(budget(R, requests=1000, tokens=10**6, concurrent=1))
    for _ in range(300):
        stage.settle(stage.admit(), 0, tokens=0)
    assert stage.counters() == (0, 0, 0)


def test_litellm_34732_requests_of_the_same_moment_do_not_race_past_a_budget():
    stage = Stage(budget(5 * R))

    async def burst() -> list[Hold | BaseException]:
        asks = [stage.store.admit(ask(stage.payer)) for _ in range(50)]
        return await asyncio.gather(*asks, return_exceptions=True)

    granted = [found for found in run(burst()) if isinstance(found, Hold)]
    assert len(granted) == 5
    assert sum(hold.nano for hold in granted) == 5 * R


def test_litellm_37558_a_cancelled_stream_is_not_free():
    stage = Stage(budget(R))
    stage.settle(stage.admit(), 150_000, unseen=80_000)
    assert stage.counters() == (150_000, 0, 80_000)
    assert stage.admit().nano == R - 230_000


def test_litellm_38647_a_budget_is_not_pinned_while_nothing_is_spent():
    stage = Stage(budget(25 * USD))
    holds = [stage.admit(prompt_nano=5 * USD, output_tokens=0) for _ in range(5)]
    assert isinstance(stage.refused(), BudgetExceeded)
    assert stage.store.used_share(stage.payer) == 1.0
    for hold in holds:
        stage.settle(hold, 0)
    assert stage.store.used_share(stage.payer) == 0.0
    assert stage.admit()


def test_litellm_26672_a_key_never_gets_past_its_budget():
    stage = Stage(budget(10 * R, kind="key"))
    spent = 0
    for number in range(200):
        try:
            hold = stage.admit(output_tokens=1000 + number)
        except BudgetExceeded:
            break
        spent += hold.nano
        stage.settle(hold, hold.nano)
    assert spent == stage.counters("key")[0] <= 10 * R
    assert 10 * R - spent < 100_000 + 16_000


def test_litellm_20256_concurrency_slots_come_back_on_every_way_out():
    stage = Stage(budget(2 * R, concurrent=2))
    for _ in range(20):
        first, second = stage.admit(), stage.admit(output_tokens=100)
        assert isinstance(stage.refused(), LimitExceeded)
        stage.settle(first, 0, tokens=None)
        with pytest.raises(BudgetExceeded):
            at_once(stage.store.renew(second, Settlement(spent_nano=0, unseen_nano=2 * R)))
        stage.clock.forward(DAY)
    assert stage.admit()
    assert stage.admit()


def test_litellm_39309_refused_requests_consume_nothing():
    stage = Stage(
        scope("key", "a", requests=3, tokens=10_000, budgets={Per.DAY: 10 * R}),
        scope("team", "a", requests=2, budgets={Per.DAY: 10 * R}),
    )
    stage.admit()
    stage.admit()
    for _ in range(100):
        error = stage.refused()
        assert isinstance(error, LimitExceeded)
        assert error.scope == "team:a"
    stage.clock.forward(30)
    hold = stage.admit()
    assert hold.requests is not None
    assert (hold.requests.limit, hold.requests.remaining) == (2, 0)


def test_litellm_21894_one_request_is_charged_once_in_each_scope():
    team = budget(10 * R, kind="team")
    stage = Stage(team)
    payers = [principal(team, feature=name) for name in ("a", "b", "c")]
    for payer in payers:
        stage.settle(stage.admit(payer), 100)
    assert stage.counters("team") == (300, 0, 0)


def test_litellm_sliding_window_no_second_burst_at_the_turn_of_the_minute():
    stage = Stage(scope(requests=60))
    admitted = 0
    for _ in range(2):
        for _ in range(100):
            try:
                stage.admit()
                admitted += 1
            except LimitExceeded:
                break
        stage.clock.forward(1)
    assert admitted == 61


def test_new_api_5235_missing_usage_refunds_nothing_of_the_rate_and_not_all_of_the_money():
    stage = Stage(budget(10 * R, tokens=1100))
    stage.settle(stage.admit(), 300_000, unseen=R - 300_000, tokens=None)
    assert stage.counters() == (300_000, 0, R - 300_000)
    assert isinstance(stage.refused(tokens=1), LimitExceeded)


def test_new_api_5288_missing_usage_does_not_charge_the_whole_hold():
    stage = Stage(budget(10 * R))
    stage.settle(stage.admit(), 300_000, unseen=64_000)
    assert stage.counters()[0] == 300_000
    stage.clock.forward(DAY)
    assert stage.counters() == (0, 0, 0)


def test_bifrost_2873_a_request_counts_whatever_endpoint_or_model_it_is_for():
    stage = Stage(budget(R))
    embedding = {"output_tokens": 0, "output_is_explicit": False, "output_nano_per_million": 0}
    stage.settle(stage.admit(prompt_nano=R, **embedding), R)
    assert isinstance(stage.refused(prompt_nano=1, **embedding), BudgetExceeded)


# --- rates ---


def test_requests_per_minute_refuse_with_the_time_until_the_next_fits():
    stage = Stage(scope(requests=2))
    stage.admit()
    stage.admit()
    error = stage.refused()
    assert isinstance(error, LimitExceeded)
    assert (error.scope, error.limit) == ("feature:triage", "requests_per_minute")
    assert error.retry_after_seconds == pytest.approx(30)
    stage.clock.forward(30)
    assert stage.admit()


def test_an_ended_request_does_not_give_its_place_in_the_minute_back():
    stage = Stage(scope(requests=1))
    stage.settle(stage.admit(), 0, tokens=0)
    assert isinstance(stage.refused(), LimitExceeded)


def test_tokens_that_were_not_used_are_given_back():
    stage = Stage(scope(tokens=1100))
    stage.settle(stage.admit(), 0, tokens=100)
    assert stage.admit(tokens=1000)
    assert isinstance(stage.refused(tokens=1), LimitExceeded)


def test_the_headers_show_the_tightest_limit_of_each_kind():
    stage = Stage(
        scope("key", "a", requests=100, tokens=100_000), scope("team", "a", requests=5, tokens=10_000)
    )
    hold = stage.admit()
    assert hold.requests is not None
    assert hold.tokens is not None
    assert (hold.requests.limit, hold.requests.remaining) == (5, 4)
    assert hold.requests.reset_seconds == pytest.approx(12)
    assert (hold.tokens.limit, hold.tokens.remaining) == (10_000, 8_900)


def test_without_limits_there_is_nothing_to_show():
    hold = Stage(budget(10 * R)).admit()
    assert (hold.requests, hold.tokens) == (None, None)
    assert Stage().admit().nano == R


@pytest.mark.parametrize("jump", [-7 * DAY, -3600.0, 3600.0, 7 * DAY])
def test_setting_the_clock_neither_locks_a_scope_out_nor_lets_it_through(jump: float):
    stage = Stage(scope(requests=2, tokens=2200))
    stage.admit()
    late = stage.admit()
    stage.clock.jump(jump)
    error = stage.refused()
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_seconds == pytest.approx(30)
    stage.settle(late, 0, tokens=0)
    stage.clock.forward(30)
    assert stage.admit()


def test_a_concurrency_limit_counts_what_is_in_flight_in_all_principals_of_the_scope():
    team = scope("team", "a", concurrent=2)
    stage = Stage(team)
    first = stage.admit(principal(team, key="one"))
    stage.admit(principal(team, key="two"))
    assert isinstance(stage.refused(principal(team, key="three")), LimitExceeded)
    stage.settle(first, 0)
    assert stage.admit(principal(team, key="three"))


# --- a changed configuration ---


def test_a_changed_limit_keeps_what_was_spent_and_held():
    stage = Stage(budget(10 * R))
    stage.settle(stage.admit(), R)
    hold = stage.admit()
    stage.store.configure([budget(3 * R)], UTC)
    assert stage.counters() == (R, R, 0)
    payer = principal(budget(3 * R))
    stage.admit(payer)
    assert isinstance(stage.refused(payer), BudgetExceeded)
    stage.settle(hold, 0)
    assert stage.admit(payer)


def test_a_limit_below_what_was_spent_refuses_until_the_window_ends():
    stage = Stage(budget(10 * R))
    stage.settle(stage.admit(), R)
    stage.store.configure([budget(R // 2)], UTC)
    payer = principal(budget(R // 2))
    assert isinstance(stage.refused(payer), BudgetExceeded)
    stage.clock.forward(DAY)
    assert stage.admit(payer)


def test_a_scope_that_went_away_is_forgotten_and_its_open_holds_still_settle():
    stage = Stage(budget(10 * R, concurrent=1))
    hold = stage.admit()
    stage.store.configure([], UTC)
    assert stage.store.budgets() == []
    stage.settle(hold, 5, tokens=3)


def test_a_hold_taken_before_a_reload_frees_its_slot_after_it():
    stage = Stage(budget(10 * R, concurrent=1))
    hold = stage.admit()
    stage.store.configure([budget(10 * R, concurrent=1)], UTC)
    payer = principal(budget(10 * R, concurrent=1))
    assert isinstance(stage.refused(payer), LimitExceeded)
    stage.settle(hold, 0)
    assert stage.admit(payer)


# --- what the ledger knows ---


def test_spending_is_restored_into_the_window_that_is_open():
    stage = Stage(scope("feature", "a", budgets={Per.DAY: 2 * R, Per.MONTH: 9 * R}))
    stage.store.restore(stage.view(per=Per.DAY), R + 1, 0)
    assert stage.counters(per=Per.DAY) == (R + 1, 0, 0)
    assert stage.counters(per=Per.MONTH) == (0, 0, 0)
    assert stage.admit().output_tokens == 999


def test_spending_of_a_window_that_has_ended_is_not_restored():
    stage = Stage(budget(2 * R))
    view = stage.view()
    stage.clock.forward(DAY)
    stage.store.budgets()
    stage.store.restore(view, R, 0)
    assert stage.counters() == (0, 0, 0)


def test_the_used_share_is_that_of_the_fullest_budget_holds_included():
    stage = Stage(scope("feature", "a", budgets={Per.DAY: 4 * R, Per.MONTH: 40 * R}))
    assert stage.store.used_share(stage.payer) == 0.0
    stage.settle(stage.admit(), R, unseen=R)
    stage.admit()
    assert stage.store.used_share(stage.payer) == pytest.approx(0.75)
    assert Stage().store.used_share(principal()) == 0.0


# --- a machine that tries everything ---

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
