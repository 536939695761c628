"""What an account keeps between requests (due time, open windows, quick checks) says what the rules say."""

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.admission import Ask, GcraLimit, Hold, RateView, fit_rate
from gateway.core.tenancy import Budget, Override, Scope
from gateway.core.windows import Per
from gateway.quota.accounts import Account, fit_rates, has_room, take_units
from gateway.quota.scope_state import RateBucket, ScopeState
from tests.core.builders import NOVEMBER, ask, principal, scope
from tests.quota.memory_stage import DAY, UTC, R, Stage, budget

NOW = 50_000.0
PAYER = principal()

limits = st.sampled_from([1, 2, 7, 60, 100, 3000, 60_000, 10**9])
# Seconds that a bucket is ahead of now: never used, drained, part full, full, in debt.
backlogs = st.floats(-100, 100) | st.sampled_from([-NOW, 0.0, 59.0, 59.999, 60.0, 60.001])


def bucket(per_minute: int, backlog: float) -> RateBucket:
    made = RateBucket()
    made.adopt(per_minute)
    made.drained_at = NOW + backlog
    return made


@st.composite
def states(draw: st.DrawFn) -> ScopeState:
    concurrent = draw(st.none() | st.integers(1, 3))
    limited = scope(requests=draw(st.none() | limits), tokens=draw(st.none() | limits), concurrent=concurrent)
    state = ScopeState(limited, UTC, NOVEMBER)
    state.requests.drained_at = NOW + draw(backlogs)
    state.tokens.drained_at = NOW + draw(backlogs)
    state.in_flight = draw(st.integers(0, 3))
    return state


def _units(wanted: Ask) -> int:
    return wanted.rate_tokens(wanted.output_tokens)


# --- the quick checks of rates ---


@given(
    found=st.lists(states(), max_size=3),
    prompt=st.integers(0, 200),
    output=st.integers(0, 5000),
    explicit=st.booleans(),
    choices=st.integers(1, 3),
)
def test_what_surely_fits_is_refused_by_no_limit(
    found: list[ScopeState], prompt: int, output: int, explicit: bool, choices: int
):
    wanted = ask(
        PAYER, prompt_tokens=prompt, output_tokens=output, output_is_explicit=explicit, choices=choices
    )
    assume(has_room(Account(tuple(found), ()), _units(wanted), NOW))
    assert [state.refusal(wanted, NOW) for state in found] == [None] * len(found)


def test_a_scope_that_is_free_needs_no_second_look():
    free = ScopeState(scope(requests=1, tokens=1100, concurrent=1), UTC, NOVEMBER)
    account = Account((free,), ())
    assert has_room(account, _units(ask(PAYER)), NOW)
    # What drained long ago is no credit for more than a minute's tokens.
    assert not has_room(account, _units(ask(PAYER, prompt_tokens=101)), NOW)
    free.in_flight = 1
    assert not has_room(account, _units(ask(PAYER)), NOW)


@given(
    rows=st.lists(st.tuples(limits, backlogs), max_size=4),
    prompt=st.integers(0, 500),
    output=st.integers(0, 20_000),
    explicit=st.booleans(),
    choices=st.integers(1, 3),
)
def test_the_cap_is_the_lowest_that_any_limit_of_tokens_gives(
    rows: list[tuple[int, float]], prompt: int, output: int, explicit: bool, choices: int
):
    wanted = ask(
        PAYER, prompt_tokens=prompt, output_tokens=output, output_is_explicit=explicit, choices=choices
    )
    scopes = []
    for per_minute, backlog in rows:
        state = ScopeState(scope(tokens=per_minute), UTC, NOVEMBER)
        state.tokens.drained_at = NOW + backlog
        scopes.append(state)
    each = [fit_rate(wanted, GcraLimit(limit).remaining(NOW + backlog, NOW)) for limit, backlog in rows]
    assert fit_rates(Account(tuple(scopes), ()), wanted, NOW) == min([wanted.output_tokens, *each])


@given(rows=st.lists(st.tuples(limits, backlogs), max_size=4), units=st.integers(0, 3000))
def test_units_are_taken_as_the_limit_says_and_the_first_of_the_tightest_is_shown(
    rows: list[tuple[int, float]], units: int
):
    rates = [(bucket(per_minute, backlog), GcraLimit(per_minute)) for per_minute, backlog in rows]
    expected = [limit.take(item.drained_at, units, NOW) for item, limit in rates]
    views = [
        RateView(limit.per_minute, limit.remaining(at, NOW), at - NOW)
        for (_, limit), at in zip(rates, expected, strict=True)
    ]
    # More than a limit holds is never taken, so nothing is left below none.
    assume(all(at - NOW <= 60 for at in expected))
    shown = take_units(tuple(rates), units, NOW)
    assert [item.drained_at for item, _ in rates] == expected
    assert shown == min(views, key=lambda view: view.remaining, default=None)


# --- due times and open windows ---


def shared_team() -> tuple[Stage, Any, Any]:
    """Two features with a budget each, of a team with one."""
    team = budget(10 * R, kind="team")
    one = scope("feature", "one", budgets={Per.DAY: 10 * R})
    two = scope("feature", "two", budgets={Per.DAY: 10 * R})
    stage = Stage(team, one, two)
    return stage, principal(team, one), principal(team, two)


def test_a_budget_that_another_account_rolled_counts_and_releases_after_the_clock_was_set_back():
    stage, one, two = shared_team()
    stage.settle(stage.admit(one), R)
    stage.clock.jump(DAY)
    stage.settle(stage.admit(two), R)
    stage.clock.jump(-DAY)
    hold = stage.admit(one)
    assert stage.counters("team") == (R, R, 0)
    stage.settle(hold, R)
    assert stage.counters("team") == (2 * R, 0, 0)


def test_a_budget_that_a_report_rolled_counts_and_releases_after_the_clock_was_set_back():
    stage, one, _ = shared_team()
    stage.settle(stage.admit(one), R)
    stage.clock.jump(DAY)
    assert stage.counters("team") == (0, 0, 0)
    stage.clock.jump(-DAY)
    stage.settle(stage.admit(one), R)
    assert stage.counters("team") == (R, 0, 0)


def test_each_account_sees_the_end_of_a_shared_window():
    stage, one, two = shared_team()
    for payer in (one, two):
        stage.settle(stage.admit(payer), 5 * R)
    stage.refused(one)
    stage.clock.forward(DAY)
    assert (stage.store.used_share(one), stage.store.used_share(two)) == (0.0, 0.0)
    assert stage.admit(one)
    assert stage.admit(two)


def test_an_override_ends_on_time_for_an_account_whose_windows_stay_open():
    until = NOVEMBER + 600
    raised = Budget(R, Per.MONTH, overrides=(Override(nano_usd=4 * R, until=until),))
    stage = Stage(Scope(kind="feature", name="a", budgets=(raised,)))
    stage.settle(stage.admit(), R)
    assert stage.store.used_share(stage.payer) == 0.25
    stage.clock.forward(600)
    assert stage.store.used_share(stage.payer) == 1.0
    stage.refused()


def test_a_hold_on_a_rolling_window_settles_into_it_however_late():
    rolling = Budget(2 * R, Per.DAY, rolling=True)
    stage = Stage(Scope(kind="feature", name="a", budgets=(rolling,)))
    hold = stage.admit()
    stage.clock.forward(DAY / 2)
    other = stage.admit()
    stage.settle(hold, 100)
    assert stage.counters() == (100, R, 0)
    stage.settle(other, 10, unseen=5)
    assert stage.counters() == (110, 0, 5)


def test_holds_of_one_window_share_a_grant_and_each_settles_once():
    stage, one, _ = shared_team()
    first, second = stage.admit(one), stage.admit(one)
    assert first.token is second.token
    stage.settle(first, R)
    stage.settle(first, R)
    assert stage.counters("team") == (R, R, 0)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["one", "two", "settle", "report"]),
            st.sampled_from([0, 1, 7200, DAY, 31 * DAY, -1, -DAY, -31 * DAY]),
        ),
        max_size=30,
    )
)
def test_nothing_stays_held_whatever_the_clock_does_between_two_accounts(steps: list[tuple[str, int]]):
    team = scope("team", "a", budgets={Per.DAY: 50 * R, Per.MONTH: 50 * R})
    one, two = scope("feature", "one", budgets={Per.DAY: 50 * R}), scope("feature", "two", concurrent=50)
    stage = Stage(team, one, two)
    payers = {"one": principal(team, one), "two": principal(team, two)}
    held: list[Hold] = []
    for what, seconds in steps:
        stage.clock.jump(seconds)
        if what in payers:
            held.append(stage.admit(payers[what]))
        elif what == "settle" and held:
            stage.settle(held.pop(0), 0)
        elif what == "report":
            stage.store.budgets()
        for view in stage.store.budgets() if what == "report" else ():
            assert 0 <= view.held_nano <= R * len(held)
    for hold in held:
        stage.settle(hold, 0)
    assert {view.held_nano for view in stage.store.budgets()} == {0}
    assert {stage.store.used_share(payer) for payer in payers.values()} == {0.0}
