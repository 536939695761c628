"""The breaker: closed, open for a while, then one trial."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker

NOW = 1000.0


def opened(now: float = NOW) -> Breaker:
    breaker = Breaker()
    breaker.failed(now, weight=FAILURES_TO_OPEN)
    return breaker


def test_it_begins_closed():
    assert Breaker().allows(NOW)
    assert Breaker().retry_after_seconds(NOW) == 0


def test_failures_in_a_row_open_it_and_a_success_between_them_starts_the_count_over():
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed(NOW)
        breaker.succeeded()
    assert breaker.allows(NOW)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(NOW)
    assert not breaker.allows(NOW)


def test_it_stays_open_for_its_pause():
    breaker = opened()
    assert not breaker.allows(NOW + FIRST_PAUSE_SECONDS - 0.001)
    assert breaker.retry_after_seconds(NOW + 0.25) == FIRST_PAUSE_SECONDS - 0.25
    assert breaker.allows(NOW + FIRST_PAUSE_SECONDS)


def test_half_open_it_lets_one_trial_through():
    breaker = opened()
    later = NOW + FIRST_PAUSE_SECONDS
    breaker.start(later)
    assert not breaker.allows(later)
    breaker.succeeded()
    assert breaker.allows(later)


def test_a_trial_whose_result_never_comes_gives_way_to_another():
    breaker = opened()
    later = NOW + FIRST_PAUSE_SECONDS
    breaker.start(later)
    assert not breaker.allows(later + FIRST_PAUSE_SECONDS - 0.001)
    assert breaker.allows(later + FIRST_PAUSE_SECONDS)


def test_each_failed_trial_doubles_the_pause_up_to_the_longest():
    breaker, now, pauses = opened(), NOW, []
    for _ in range(8):
        pauses.append(breaker.retry_after_seconds(now))
        now += pauses[-1]
        assert breaker.allows(now)
        breaker.start(now)
        breaker.failed(now, weight=FAILURES_TO_OPEN)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert LONGEST_PAUSE_SECONDS == 30


def test_a_burst_of_requests_that_fail_together_is_one_failure_not_a_long_pause():
    breaker = Breaker()
    for _ in range(100):
        breaker.failed(NOW, weight=FAILURES_TO_OPEN)
    assert breaker.retry_after_seconds(NOW) == FIRST_PAUSE_SECONDS
    assert breaker.allows(NOW + FIRST_PAUSE_SECONDS)


def test_a_success_closes_it_and_forgets_the_long_pause():
    breaker = opened()
    breaker.start(NOW + 1)
    breaker.failed(NOW + 1)
    breaker.succeeded()
    breaker.failed(NOW + 2, weight=FAILURES_TO_OPEN)
    assert breaker.retry_after_seconds(NOW + 2) == FIRST_PAUSE_SECONDS


def test_starting_a_request_while_closed_changes_nothing():
    breaker = Breaker()
    breaker.start(NOW)
    assert breaker.allows(NOW)


def test_it_is_opened_by_answers_only_when_all_that_opened_it_were_answers():
    answered, mixed = Breaker(), Breaker()
    for number in range(FAILURES_TO_OPEN):
        assert not answered.answers
        answered.failed(NOW, answered=True)
        mixed.failed(NOW, answered=number > 0)
    assert answered.answers
    assert not mixed.answers
    mixed.succeeded()
    mixed.failed(NOW, weight=FAILURES_TO_OPEN, answered=True)
    assert mixed.answers


def test_a_failure_that_is_forgiven_does_not_open_it():
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(NOW)
    breaker.uncount_failure()
    assert breaker.allows(NOW)
    breaker.failed(NOW)
    assert not breaker.allows(NOW)


@pytest.mark.parametrize("weight", [1, 2, 3, 10])
def test_it_opens_as_soon_as_the_weights_reach_the_bound(weight: int):
    breaker = Breaker()
    breaker.failed(NOW, weight=weight)
    assert breaker.allows(NOW) is (weight < FAILURES_TO_OPEN)


@given(
    st.lists(st.tuples(st.sampled_from(["start", "fail", "succeed"]), st.floats(0, 10)), max_size=40),
)
def test_it_is_never_closed_to_everyone_for_longer_than_the_longest_pause(steps: list[tuple[str, float]]):
    breaker, now = Breaker(), NOW
    for what, seconds in steps:
        now += seconds
        if what == "start" and breaker.allows(now):
            breaker.start(now)
        elif what == "fail":
            breaker.failed(now)
        else:
            breaker.succeeded()
        assert 0 <= breaker.retry_after_seconds(now) <= LONGEST_PAUSE_SECONDS
        assert breaker.allows(now + LONGEST_PAUSE_SECONDS)
