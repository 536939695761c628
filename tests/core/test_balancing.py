"""Choosing a replica, and what a pool learns from answers."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.balancing import (
    INITIAL_BYTES_PER_TOKEN,
    LEAST_BYTES_PER_TOKEN,
    MEASURED_FOR_SECONDS,
    MOST_BYTES_PER_TOKEN,
    Fleet,
    ReplicaSet,
)
from gateway.core.breaker import FAILURES_TO_OPEN
from gateway.core.catalog import Api
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.replica_state import BUSY_SECONDS, FailureAttribution, ReplicaState
from gateway.core.text_size import LEARN_FROM_TOKENS
from tests.core.builders import deployment, local

NOW = 1000.0
REFUSED = UpstreamFailure(FailureKind.CONNECT, "refused")
BROKEN = UpstreamFailure(FailureKind.RESET, "reset")


def pool(replicas: int) -> ReplicaSet:
    item = local(replicas=replicas)
    return ReplicaSet(item, tuple(ReplicaState(one) for one in item.replicas))


def taken(chosen: ReplicaSet, now: float = NOW, tried: tuple[ReplicaState, ...] = ()) -> ReplicaState:
    state = chosen.choose(now, tried)
    assert state is not None
    state.in_flight += 1  # as `with` it does
    return state


def test_the_replica_with_the_fewest_attempts_in_flight_wins():
    item = pool(3)
    for state, in_flight in zip(item.replicas, (5, 1, 3), strict=True):
        state.in_flight = in_flight
    assert taken(item) is item.replicas[1]
    assert item.replicas[1].in_flight == 2


def test_requests_of_the_same_moment_spread_out():
    item = pool(4)
    assert Counter(taken(item) for _ in range(20)) == dict.fromkeys(item.replicas, 5)


def test_ties_rotate_so_that_no_replica_is_always_the_first():
    item = pool(3)
    first = []
    for _ in range(6):
        state = taken(item)
        state.in_flight -= 1
        first.append(state)
    assert Counter(first) == dict.fromkeys(item.replicas, 2)


def test_a_replica_that_was_tried_is_not_chosen_again():
    item = pool(2)
    one = taken(item)
    other = taken(item, tried=(one,))
    assert other is not one
    assert item.choose(NOW, (one, other)) is None


def test_what_is_not_up_or_has_tripped_is_not_chosen():
    item = pool(3)
    item.replicas[0].is_up = False
    item.replicas[1].failed(REFUSED, NOW)
    assert {taken(item) for _ in range(5)} == {item.replicas[2]}
    item.replicas[2].is_up = False
    assert item.choose(NOW) is None
    assert not item.is_available(NOW)


def test_choosing_nothing_counts_nothing():
    item = pool(1)
    item.replicas[0].is_up = False
    assert item.choose(NOW) is None
    assert item.in_flight == 0


def test_an_attempt_counts_as_long_as_it_is_at_its_replica():
    item = pool(2)
    for _ in range(4):
        state = item.choose(NOW)
        assert state is not None
        state.in_flight += 1  # as who attempts something there does
    assert [state.in_flight for state in item.replicas] == [2, 2]
    assert item.in_flight == 4


def test_a_refused_connection_trips_at_once_and_a_broken_answer_only_in_a_row():
    refused, broken = pool(1).replicas[0], pool(1).replicas[0]
    refused.failed(REFUSED, NOW)
    assert not refused.available(NOW)
    for _ in range(FAILURES_TO_OPEN - 1):
        broken.failed(BROKEN, NOW)
        assert broken.available(NOW)
    broken.failed(BROKEN, NOW)
    assert not broken.available(NOW)


@pytest.mark.parametrize("kind", [FailureKind.CONNECT, FailureKind.ZONE, FailureKind.CONNECT_TIMEOUT])
def test_every_failure_to_connect_trips_at_once(kind: FailureKind):
    state = pool(1).replicas[0]
    state.failed(UpstreamFailure(kind, "x"), NOW)
    assert not state.available(NOW)


def test_the_first_request_after_the_pause_is_the_trial_and_others_wait_for_it():
    item = pool(1)
    item.replicas[0].failed(REFUSED, NOW)
    later = NOW + 1.0
    trial = taken(item, later)
    assert item.choose(later) is None
    trial.breaker.succeeded()
    assert item.choose(later) is trial


def test_a_pool_is_available_while_one_replica_is():
    item = pool(2)
    item.replicas[0].is_up = False
    assert item.is_available(NOW)


# --- whose failure it is ---


STATUS_500 = UpstreamFailure(FailureKind.STATUS, "status 500", status=500)
STATUS_503 = UpstreamFailure(FailureKind.STATUS, "status 503", status=503)
LATE = UpstreamFailure(FailureKind.FIRST_BYTE_TIMEOUT, "late")


def blamed(*failures: UpstreamFailure, times: int = FAILURES_TO_OPEN) -> list[bool]:
    """Which replicas are available after requests that failed so on the first, the second, ... of them."""
    item = pool(len(failures))
    for _ in range(times):
        attribution = FailureAttribution()
        for state, failure in zip(item.replicas, failures, strict=True):
            attribution.failed(state, failure, NOW)
    return [state.available(NOW) for state in item.replicas]


@pytest.mark.parametrize("failure", [STATUS_500, BROKEN, UpstreamFailure(FailureKind.ABORTED, "x")])
def test_what_fails_alike_on_two_replicas_is_the_request_s_fault(failure: UpstreamFailure):
    assert blamed(failure, failure) == [True, True]
    assert blamed(failure, failure, failure) == [True, True, True]


def test_what_fails_on_one_replica_only_is_its_own_fault():
    assert blamed(STATUS_500) == [False]
    assert blamed(STATUS_500, STATUS_503) == [False, False]
    assert blamed(STATUS_500, BROKEN, STATUS_500) == [True, False, True]


@pytest.mark.parametrize("failure", [REFUSED, LATE])
def test_a_server_that_does_not_answer_is_at_fault_however_many_others_do_the_same(failure: UpstreamFailure):
    assert blamed(failure, failure) == [False, False]


def test_two_tries_on_the_same_replica_are_no_second_opinion():
    item = pool(1)
    attribution = FailureAttribution()
    for _ in range(FAILURES_TO_OPEN):
        attribution.failed(item.replicas[0], STATUS_500, NOW)
    assert not item.replicas[0].available(NOW)


def test_a_pool_whose_replicas_all_answer_badly_is_a_last_resort():
    item = pool(2)
    for state in item.replicas:
        for _ in range(FAILURES_TO_OPEN):
            state.failed(STATUS_500, NOW)
    assert not item.is_available(NOW)
    assert item.answers(NOW)
    assert {taken(item), taken(item)} == set(item.replicas)
    assert item.choose(NOW, item.replicas[:1]) is None


@pytest.mark.parametrize("gone", ["down", "refused"])
def test_a_replica_that_is_not_there_is_no_last_resort(gone: str):
    item = pool(1)
    state = item.replicas[0]
    for _ in range(FAILURES_TO_OPEN):
        state.failed(REFUSED if gone == "refused" else STATUS_500, NOW)
    state.is_up = gone != "down"
    assert not item.answers(NOW)
    assert item.choose(NOW) is None


# --- a fault that two replicas share ---


def shared(item: ReplicaSet, *failing: int, now: float = NOW) -> None:
    """One request that fails alike at the replicas with these numbers."""
    attribution = FailureAttribution()
    for number in failing:
        attribution.failed(item.replicas[number], STATUS_500, now, item.replicas)


def test_replicas_that_fail_alike_again_and_again_are_out_while_another_one_answers():
    item = pool(3)
    for time in range(FAILURES_TO_OPEN):
        assert item.replicas[0].available(NOW)
        shared(item, 0, 1, now=NOW + time)
        item.replicas[2].answered_at = NOW + time
    assert [state.available(NOW + 2) for state in item.replicas] == [False, False, True]


def test_a_poisonous_request_takes_no_replica_away_however_often_it_comes():
    item = pool(3)
    for time in range(30):
        shared(item, time % 3, (time + 1) % 3, now=NOW + time)
    assert all(state.available(NOW + 30) for state in item.replicas)


def test_an_answer_between_two_poisonous_requests_acquits_a_replica():
    item = pool(3)
    for time in range(30):
        shared(item, 0, 1, now=NOW + time)
        for state in item.replicas:
            state.answered_at = NOW + time
            state.succeeded()
    assert all(state.available(NOW + 30) for state in item.replicas)


@pytest.mark.parametrize("failure", [STATUS_500, BROKEN], ids=str)
def test_a_replica_that_is_out_for_shared_failures_is_still_a_last_resort(failure: UpstreamFailure):
    item = pool(2)
    for _ in range(FAILURES_TO_OPEN):
        attribution = FailureAttribution()
        attribution.failed(item.replicas[0], failure, NOW, item.replicas)
        attribution.failed(ReplicaState(item.replicas[0].replica), failure, NOW)  # of another deployment
        item.replicas[1].answered_at = NOW
    assert not item.replicas[0].available(NOW)
    item.replicas[1].is_up = False
    assert item.answers(NOW)
    assert item.choose(NOW) is item.replicas[0]


def test_trials_that_fail_alike_keep_the_replicas_out_for_longer():
    item = pool(3)
    for _ in range(FAILURES_TO_OPEN):
        shared(item, 0, 1)
        item.replicas[2].answered_at = NOW
    later = NOW + 1
    for state in item.replicas[:2]:
        state.breaker.start(later)
    shared(item, 0, 1, now=later)
    assert [state.breaker.retry_after_seconds(later) for state in item.replicas] == [2, 2, 0]


# --- whose requests fail ---


def test_requests_of_one_key_that_fail_take_a_replica_from_that_key_alone():
    item = pool(1)
    for _ in range(10 * FAILURES_TO_OPEN):
        item.replicas[0].failed(BROKEN, NOW, "one")
    assert not item.is_available(NOW, "one")
    assert item.choose(NOW, key="one") is None
    assert item.is_available(NOW, "two")
    assert item.choose(NOW, key="two") is item.replicas[0]


@pytest.mark.parametrize("kind", [FailureKind.CONNECT, FailureKind.ZONE, FailureKind.CONNECT_TIMEOUT])
def test_a_server_that_is_gone_is_gone_for_everybody_whoever_finds_out(kind: FailureKind):
    item = pool(1)
    item.replicas[0].failed(UpstreamFailure(kind, "x"), NOW, "one")
    assert not item.is_available(NOW, "two")


def test_a_server_that_falls_silent_is_so_for_everybody():
    item = pool(1)
    for _ in range(FAILURES_TO_OPEN):
        item.replicas[0].failed(UpstreamFailure(FailureKind.SILENT, "x"), NOW, "one")
    assert not item.is_available(NOW, "two")


def test_poisonous_requests_of_one_key_take_no_replica_from_others_while_another_one_answers():
    item = pool(3)
    for time in range(30):
        attribution = FailureAttribution("one")
        for state in item.replicas[:2]:
            attribution.failed(state, STATUS_500, NOW + time, item.replicas)
        item.replicas[2].answered_at = NOW + time
    assert all(state.available(NOW + 30) for state in item.replicas)
    assert [state.breaker.allows(NOW + 29, "one") for state in item.replicas] == [False, False, True]


def test_requests_of_several_keys_that_fail_alike_take_replicas_from_everybody():
    item = pool(3)
    for time, key in enumerate(("one", "two", "three")):
        attribution = FailureAttribution(key)
        for state in item.replicas[:2]:
            attribution.failed(state, STATUS_500, NOW + time, item.replicas)
        item.replicas[2].answered_at = NOW + time
    assert [state.available(NOW + 2) for state in item.replicas] == [False, False, True]


def test_a_key_that_fails_alike_everywhere_still_has_its_last_resort():
    item = pool(2)
    for time in range(FAILURES_TO_OPEN):
        item.replicas[1].answered_at = NOW + time
        item.replicas[0].shared_failure(NOW + time, item.replicas, "one")
    item.replicas[1].is_up = False
    assert not item.is_available(NOW + 2, "one")
    assert item.choose(NOW + 2, key="one") is item.replicas[0]


# --- full ---


def test_a_replica_that_says_to_be_full_comes_after_all_others_for_a_moment():
    item = pool(3)
    item.replicas[0].told_busy(NOW, None)
    item.replicas[1].told_busy(NOW, 5.0)
    assert [taken(item) for _ in range(4)] == [item.replicas[2]] * 4
    assert all(state.available(NOW) for state in item.replicas)
    later = NOW + BUSY_SECONDS
    assert taken(item, later) is item.replicas[0]
    assert [state.busy_until > later for state in item.replicas] == [False, True, False]


def test_of_full_replicas_the_one_with_the_fewest_attempts_is_asked_first():
    item = pool(2)
    for state, in_flight in zip(item.replicas, (3, 1), strict=True):
        state.told_busy(NOW, None)
        state.in_flight = in_flight
    assert taken(item) is item.replicas[1]
    assert taken(item, tried=item.replicas[1:]) is item.replicas[0]


@pytest.mark.parametrize(
    ("told", "seconds"), [(None, BUSY_SECONDS), (0.0, 0.0), (7.5, 7.5), (-1.0, 0.0), (3600.0, 30.0)]
)
def test_how_long_a_replica_counts_as_full_is_what_it_says_within_bounds(told: float | None, seconds: float):
    state = pool(1).replicas[0]
    state.told_busy(NOW, told)
    assert state.busy_until == NOW + seconds


def test_a_trial_that_finds_the_replica_full_has_found_it_well():
    state = pool(1).replicas[0]
    state.failed(REFUSED, NOW)
    state.told_busy(NOW + 1, None)
    assert state.available(NOW + 1)


# --- learning ---


def test_bytes_per_token_move_a_tenth_of_the_way_with_each_answer():
    item = pool(1)
    item.learn_tokenizer(300, 100)
    assert item.bytes_per_token == pytest.approx(INITIAL_BYTES_PER_TOKEN - 0.1)


def test_short_prompts_teach_nothing_because_they_are_mostly_template():
    item = pool(1)
    item.learn_tokenizer(1, LEARN_FROM_TOKENS - 1)
    assert item.bytes_per_token == INITIAL_BYTES_PER_TOKEN


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50))
def test_what_is_learned_stays_within_its_bounds_whatever_upstreams_report(reports: list[tuple[int, int]]):
    item = pool(1)
    for text_bytes, tokens in reports:
        item.learn_tokenizer(text_bytes, tokens)
        assert LEAST_BYTES_PER_TOKEN <= item.bytes_per_token <= MOST_BYTES_PER_TOKEN


def test_a_pool_that_was_never_used_is_expected_to_be_quick_so_that_it_gets_tried():
    item = pool(1)
    assert item.expected_seconds(1000, NOW) == 0.0
    item.learn_speed(0.5, 100.0, NOW)
    assert item.expected_seconds(200, NOW) == pytest.approx(2.5)


def test_an_answer_that_did_not_stream_teaches_only_its_time():
    item = pool(1)
    item.learn_speed(0.5, None, NOW)
    assert item.ttft_seconds == 0.5
    assert item.tokens_per_second is None
    assert item.expected_seconds(50, NOW) == pytest.approx(1.5)


def test_a_pool_that_was_slow_long_ago_is_tried_again_by_one_request_and_learned_anew():
    item = pool(1)
    item.learn_speed(9.0, 5.0, NOW)
    taken(item, NOW).in_flight -= 1
    assert item.expected_seconds(100, NOW + MEASURED_FOR_SECONDS) > 9
    later = NOW + MEASURED_FOR_SECONDS + 1
    assert item.expected_seconds(100, later) == 0.0
    taken(item, later)
    assert item.expected_seconds(100, later) > 9  # the others wait for what this one learns
    item.learn_speed(0.2, 100.0, later + 1)
    assert item.expected_seconds(100, later + 1) == pytest.approx(1.2)


# --- reload ---


def test_a_reload_keeps_what_is_known_of_the_same_replicas():
    before = Fleet([local(replicas=2)])
    known = before.replica_sets["llama"]
    known.bytes_per_token, known.ttft_seconds, known.tokens_per_second = 3.0, 0.2, 90.0
    busy = taken(known)
    busy.is_up = False
    after = Fleet([local(replicas=3), deployment()], before)
    assert set(after.replica_sets) == {"llama", "gpt-4o"}
    kept = after.replica_sets["llama"]
    assert kept.replicas[:2] == known.replicas
    assert kept.replicas[2].in_flight == 0
    assert (kept.bytes_per_token, kept.ttft_seconds, kept.tokens_per_second) == (3.0, 0.2, 90.0)


def test_a_replica_that_is_kept_is_sent_the_new_headers_of_its_deployment():
    before = Fleet([deployment("a", headers=((b"authorization", b"Bearer old"),))])
    after = Fleet([deployment("a", headers=((b"authorization", b"Bearer new"),))], before)
    old, new = before.replica_sets["a"], after.replica_sets["a"]
    (state,) = new.replicas
    assert old.replicas == (state,)
    for api in Api:
        assert b"\r\nauthorization: Bearer old\r\n" in old.heads[state][api].block
        assert b"\r\nauthorization: Bearer new\r\n" in new.heads[state][api].block
        assert b"old" not in new.heads[state][api].block


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"a", b"b\r\nc: d"), (b"a", b"b\0"), (b"a: b\r\nc", b"d"), (b"content-length", b"1"), (b"host", b"x")],
)
def test_a_header_that_no_request_may_have_makes_no_replica_set(name: bytes, value: bytes):
    with pytest.raises(ValueError, match=r"header|the client sets"):
        Fleet([deployment("a", headers=((name, value),))])


def test_a_replica_that_went_away_takes_what_was_known_of_it_along():
    before = Fleet([deployment("a", replicas=1)])
    taken(before.replica_sets["a"])
    after = Fleet([deployment("a", replicas=0)], before)
    assert Fleet([deployment("a", replicas=1)], after).replica_sets["a"].in_flight == 0


def test_a_pool_without_replicas_has_nothing_to_take():
    empty = ReplicaSet(deployment(replicas=0), ())
    assert not empty.is_available(NOW)
    assert empty.choose(NOW) is None
