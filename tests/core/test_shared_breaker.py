"""A replica's breaker: whose requests fail decides for whom it opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from gateway.core.shared_breaker import FORGET_SECONDS, MOST_KEYS, TRIALS_AT_ONCE, SharedBreaker

NOW = 1000.0
LATER = NOW + FIRST_PAUSE_SECONDS
KEYS = ("one", "two", "three", "four")


def opened(now: float = NOW) -> SharedBreaker:
    """Open for everybody, by requests of two keys that nobody uses any more."""
    breaker = SharedBreaker()
    for key in ("gone", "gone", "left"):
        breaker.failed(now, key=key)
    return breaker


def test_requests_of_one_key_that_fail_however_often_open_it_for_that_key_alone():
    breaker = SharedBreaker()
    for _ in range(100):
        breaker.failed(NOW, key="one")
    assert not breaker.allows(NOW, "one")
    assert breaker.allows(NOW, "two")
    assert breaker.allows(NOW)
    assert breaker.barred_keys(NOW) == 1


def test_requests_of_two_keys_that_fail_in_a_row_open_it_for_everybody():
    breaker = SharedBreaker()
    for key in ("one", "one", "two"):
        assert breaker.allows(NOW, "three")
        breaker.failed(NOW, key=key)
    assert not breaker.allows(NOW, "three")
    assert not breaker.allows(NOW)


def test_three_keys_that_fail_once_each_open_it_for_everybody():
    breaker = SharedBreaker()
    for key in ("one", "two", "three"):
        breaker.failed(NOW, key=key)
    assert not breaker.allows(NOW, "four")


def test_what_no_request_caused_opens_it_for_everybody_at_once():
    breaker = SharedBreaker()
    breaker.failed(NOW, weight=FAILURES_TO_OPEN)
    assert not any(breaker.allows(NOW, key) for key in (*KEYS, ""))
    assert breaker.retry_after_seconds(NOW, "one") == FIRST_PAUSE_SECONDS


def test_a_success_of_another_key_acquits_the_replica_and_not_the_key():
    breaker = SharedBreaker()
    for _ in range(20):
        breaker.failed(NOW, key="one")
        breaker.succeeded("two", NOW)
    assert not breaker.allows(NOW, "one")
    assert breaker.allows(NOW, "two")
    breaker.failed(NOW, key="two")
    assert breaker.allows(NOW, "three")


def test_a_success_of_the_key_closes_it_for_the_key():
    breaker = SharedBreaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(NOW, key="one")
    breaker.start(LATER, "one")
    assert not breaker.allows(LATER, "one")
    breaker.succeeded("one", LATER)
    assert breaker.allows(LATER, "one")
    assert not breaker.is_open
    assert breaker.failures == 0


def test_a_probe_that_finds_the_replica_well_clears_every_key():
    breaker = SharedBreaker()
    for key in ("one", "one", "one", "two", "two", "two"):
        breaker.failed(NOW, key=key)
    breaker.succeeded()
    assert all(breaker.allows(NOW, key) for key in (*KEYS, ""))
    assert breaker.failures == 0


def test_failures_of_a_key_that_has_not_come_again_are_forgotten():
    breaker = SharedBreaker()
    breaker.failed(NOW, key="one")
    breaker.succeeded("two", NOW + FORGET_SECONDS - 1)
    assert breaker.failures == 1
    breaker.succeeded("two", NOW + FORGET_SECONDS)
    assert breaker.failures == 0


def test_half_open_each_key_has_a_trial_so_that_one_that_hangs_keeps_nobody_out():
    breaker = opened()
    assert not breaker.allows(LATER - 0.001, "one")
    breaker.start(LATER, "one")
    assert not breaker.allows(LATER, "one")
    assert breaker.allows(LATER, "two")
    breaker.succeeded("two", LATER)
    assert breaker.allows(LATER, "three")


def test_half_open_few_trials_go_at_once():
    breaker = opened()
    for number in range(TRIALS_AT_ONCE):
        assert breaker.allows(LATER, f"key-{number}")
        breaker.start(LATER, f"key-{number}")
    assert not breaker.allows(LATER, "another")
    assert breaker.allows(LATER + FIRST_PAUSE_SECONDS, "another")


def test_a_trial_that_fails_is_held_against_its_key_and_not_against_everybody():
    breaker = opened()
    breaker.start(LATER, "one")
    breaker.failed(LATER, key="one")
    assert not breaker.allows(LATER, "one")
    assert breaker.allows(LATER, "two")


def test_trials_of_two_keys_that_fail_open_it_again_for_twice_as_long():
    breaker = opened()
    for key in ("one", "two"):
        breaker.start(LATER, key)
        breaker.failed(LATER, key=key)
    assert not breaker.allows(LATER, "three")
    assert breaker.retry_after_seconds(LATER, "three") == 2 * FIRST_PAUSE_SECONDS


def test_a_trial_that_nobody_listens_to_opens_it_again_at_once():
    breaker = opened()
    breaker.start(LATER, "one")
    breaker.failed(LATER, weight=FAILURES_TO_OPEN)
    assert breaker.retry_after_seconds(LATER, "two") == 2 * FIRST_PAUSE_SECONDS


def test_what_was_sent_before_it_opened_and_fails_after_is_no_trial():
    breaker = opened()
    for _ in range(10):
        breaker.failed(LATER, key="one")
        breaker.failed(LATER, key="two")
    assert breaker.allows(LATER, "three")


def test_a_failure_that_is_forgiven_opens_it_for_nobody():
    breaker = SharedBreaker()
    for key in ("one", "one", "two"):
        breaker.failed(NOW, key=key)
    breaker.uncount_failure("two")
    assert all(breaker.allows(NOW, key) for key in (*KEYS, ""))
    breaker.failed(NOW, key="two")
    assert not breaker.allows(NOW, "three")


def test_a_forgiven_failure_of_a_key_that_failed_often_takes_nothing_from_the_others():
    breaker = SharedBreaker()
    for _ in range(5):
        breaker.failed(NOW, key="one")
    for _ in range(3):
        breaker.uncount_failure("one")
    breaker.failed(NOW, key="two")
    assert not breaker.allows(NOW, "three")


def test_a_trial_that_is_forgiven_counts_for_nothing():
    breaker = opened()
    for key in ("one", "two"):
        breaker.start(LATER, key)
        breaker.failed(LATER, key=key)
        if key == "one":
            breaker.uncount_failure(key)
    assert breaker.allows(LATER, "one")
    assert breaker.allows(LATER, "three")


@pytest.mark.parametrize("answered", [True, False])
def test_it_answers_a_key_as_the_last_resort_where_only_answers_opened_it(answered: bool):
    breaker = SharedBreaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(NOW, key="one", answered=answered)
    assert breaker.answers("one") is answered
    assert not breaker.answers("two")  # it is closed for that one
    breaker.failed(NOW, key="two", answered=True)
    assert breaker.answers("two") is answered


def test_of_many_keys_that_fail_a_bounded_number_is_remembered():
    breaker = SharedBreaker()
    for number in range(10 * MOST_KEYS):
        for _ in range(FAILURES_TO_OPEN):
            breaker.failed(NOW, key=f"key-{number}")
    assert breaker.barred_keys(NOW) == MOST_KEYS


class OneTenantAgainstTheOthers(RuleBasedStateMachine):
    """Whatever one key's requests meet, and in whatever order, others are kept out by their own alone."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = SharedBreaker()
        self.now = NOW

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(answered=st.booleans(), times=st.integers(1, 5))
    def fail(self, answered: bool, times: int) -> None:
        for _ in range(times):
            self.breaker.failed(self.now, key="attacker", answered=answered)

    @rule()
    def ask(self) -> None:
        if self.breaker.allows(self.now, "attacker"):
            self.breaker.start(self.now, "attacker")

    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded("attacker", self.now)

    @rule()
    def forgive(self) -> None:
        self.breaker.uncount_failure("attacker")

    @rule()
    def another_succeeds(self) -> None:
        self.breaker.succeeded("another", self.now)

    @invariant()
    def others_are_let_through(self) -> None:
        assert self.breaker.allows(self.now, "another")
        assert self.breaker.allows(self.now)
        assert self.breaker.retry_after_seconds(self.now, "another") == 0

    @invariant()
    def the_key_comes_back(self) -> None:
        assert self.breaker.allows(self.now + LONGEST_PAUSE_SECONDS, "attacker")


TestOneTenantAgainstTheOthers = OneTenantAgainstTheOthers.TestCase

_STEPS = st.tuples(
    st.sampled_from(["start", "fail", "break", "succeed", "forgive", "bar"]),
    st.sampled_from(KEYS),
    st.floats(0, 10),
)


def step(breaker: SharedBreaker, what: str, key: str, now: float) -> None:
    match what:
        case "start":
            if breaker.allows(now, key):
                breaker.start(now, key)
        case "fail":
            breaker.failed(now, key=key)
        case "break":
            breaker.failed(now, weight=FAILURES_TO_OPEN)
        case "succeed":
            breaker.succeeded(key, now)
        case "forgive":
            breaker.uncount_failure(key)
        case _:
            breaker.bar(now, key)


@given(st.lists(_STEPS, max_size=60))
def test_nobody_is_kept_out_for_longer_than_the_longest_pause(steps: list[tuple[str, str, float]]):
    breaker, now = SharedBreaker(), NOW
    for what, key, seconds in steps:
        now += seconds
        step(breaker, what, key, now)
        for one in (*KEYS, ""):
            assert 0 <= breaker.retry_after_seconds(now, one) <= LONGEST_PAUSE_SECONDS
            assert breaker.allows(now + 2 * LONGEST_PAUSE_SECONDS, one)


@given(st.lists(_STEPS, max_size=60), st.sampled_from(KEYS))
def test_what_its_plain_values_say_agrees_with_what_it_allows(
    steps: list[tuple[str, str, float]], asked: str
):
    breaker, now = SharedBreaker(), NOW
    for what, key, seconds in steps:
        now += seconds
        step(breaker, what, key, now)
        assert breaker.is_open or breaker.allows(now, asked)
        assert breaker.failures or not breaker.is_open
        if what == "succeed":
            assert breaker.allows(now, key)


@given(st.lists(st.sampled_from(KEYS), min_size=FAILURES_TO_OPEN, max_size=30))
def test_failures_without_a_success_open_it_for_everybody_when_they_are_of_several_keys(failing: list[str]):
    breaker = SharedBreaker()
    for key in failing:
        breaker.failed(NOW, key=key)
    assert breaker.allows(NOW, "another") is (len(set(failing)) == 1)
