"""Limits and budgets of one process."""

import pytest

from gateway.core.admission import Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per, window_at
from tests.core.builders import NOVEMBER, principal, scope
from tests.quota.memory_stage import DAY, TOKYO, UTC, R, Stage, at_once, budget

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
