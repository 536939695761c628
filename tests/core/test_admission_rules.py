"""The arithmetic of admission: rates by GCRA, and output caps that fit what is left."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import (
    CAP_FLOOR_TOKENS,
    DEFAULT_CAP_FLOOR_TOKENS,
    DEFAULT_CAP_SHARE,
    Ask,
    GcraLimit,
    Settlement,
    clamp_clock,
    fit_output,
    fit_rate,
    hold_nano,
    least_output,
)
from tests.core.builders import ask, principal

NOW = 50_000.0
PAYER = principal()


def admitted(limit: GcraLimit, drained_at: float, units: int, now: float) -> bool:
    return limit.wait_seconds(drained_at, units, now) == 0


def fill(limit: GcraLimit, now: float, most: int = 10**6) -> tuple[int, float]:
    """How many single units fit at `now`, and the state after them."""
    drained_at, count = 0.0, 0
    while count < most and admitted(limit, drained_at, 1, now):
        drained_at = limit.take(drained_at, 1, now)
        count += 1
    return count, drained_at


# --- rates ---


@pytest.mark.parametrize("per_minute", [1, 2, 3, 7, 11, 59, 60, 61, 100, 599, 600, 1000, 7777])
@pytest.mark.parametrize("now", [0.0, 12_345.678, NOW, 3e6])
def test_exactly_the_limit_fits_at_one_instant(per_minute: int, now: float):
    assert fill(GcraLimit(per_minute), now)[0] == per_minute


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600])
def test_a_full_bucket_lets_one_more_through_with_each_unit_that_drains(per_minute: int):
    limit = GcraLimit(per_minute)
    _, drained_at = fill(limit, NOW)
    wait = limit.wait_seconds(drained_at, 1, NOW)
    assert wait == pytest.approx(60 / per_minute)
    assert not admitted(limit, drained_at, 1, NOW + wait * 0.99)
    assert admitted(limit, drained_at, 1, NOW + wait)


def test_the_wait_is_for_all_the_units_that_are_asked():
    limit = GcraLimit(600)
    drained_at = limit.take(0.0, 500, NOW)
    assert limit.wait_seconds(drained_at, 100, NOW) == 0
    assert limit.wait_seconds(drained_at, 150, NOW) == pytest.approx(5.0)


def test_more_than_a_minute_holds_never_fits():
    assert GcraLimit(100).wait_seconds(0.0, 101, NOW) == math.inf
    assert GcraLimit(100).wait_seconds(0.0, 100, NOW) == 0


def test_an_idle_scope_saves_up_no_more_than_one_minute():
    limit = GcraLimit(10)
    drained_at = limit.take(0.0, 1, NOW)
    assert limit.take(drained_at, 1, NOW + 10**6) == NOW + 10**6 + limit.seconds_per_unit


def test_remaining_counts_down_and_drains_back():
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 45, NOW)
    assert limit.remaining(drained_at, NOW) == 15
    assert limit.remaining(drained_at, NOW + 30) == 45
    assert limit.remaining(drained_at, NOW + 100) == 60
    assert limit.remaining(NOW + 1000, NOW) == 0


def test_a_moment_beyond_a_full_minute_is_a_damaged_clock():
    assert clamp_clock(NOW + 61, NOW) == NOW + 60
    assert clamp_clock(NOW + 59, NOW) == NOW + 59
    assert clamp_clock(0.0, NOW) == 0.0


@given(
    per_minute=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=60),
)
def test_over_any_time_no_more_passes_than_the_burst_and_what_drained(
    per_minute: int, steps: list[tuple[float, int]]
):
    limit, drained_at, now, passed = GcraLimit(per_minute), 0.0, NOW, 0
    for seconds, units in steps:
        now += seconds
        if admitted(limit, drained_at, units, now):
            drained_at = limit.take(drained_at, units, now)
            passed += units
        assert passed <= per_minute * (1 + (now - NOW) / 60) + 0.01


# --- settling a rate ---


def test_more_used_than_reserved_is_a_debt():
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 10, NOW)
    after = limit.correct(drained_at, 10, 100, NOW, NOW)
    assert after == pytest.approx(NOW + 100)
    assert limit.wait_seconds(after, 1, NOW) == pytest.approx(41)


def test_a_debt_counts_from_now_when_the_bucket_has_drained_since():
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 10, NOW)
    assert limit.correct(drained_at, 10, 30, NOW, NOW + 100) == pytest.approx(NOW + 120)


def test_less_used_at_once_gives_back_all_the_difference():
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 40, NOW)
    assert limit.correct(drained_at, 40, 10, NOW, NOW) == pytest.approx(NOW + 10)


def test_a_late_refund_gives_back_only_what_has_not_drained():
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 40, NOW)
    assert limit.correct(drained_at, 40, 10, NOW, NOW + 20) == pytest.approx(NOW + 30)
    assert limit.correct(drained_at, 40, 10, NOW, NOW + 30) == pytest.approx(NOW + 40)
    assert limit.correct(drained_at, 40, 10, NOW, NOW + 500) == pytest.approx(NOW + 40)


@given(st.integers(1, 60), st.floats(0, 120))
def test_a_long_request_that_used_little_does_not_let_twice_the_limit_through(used: int, later: float):
    limit = GcraLimit(60)
    drained_at = limit.take(0.0, 60, NOW)
    drained_at = limit.correct(drained_at, 60, used, NOW, NOW + later)
    fits = limit.remaining(drained_at, NOW + later)
    assert used + fits <= 60 * (1 + later / 60) + 0.01


# --- what counts against tokens per minute ---


def ask_of(**changes: object) -> Ask:
    return ask(PAYER, **changes)


def test_prompt_and_the_bound_of_every_choice_count():
    assert ask_of(prompt_tokens=20, choices=3).rate_tokens(1000) == 3020


def test_a_limit_that_holds_typical_answers_wants_room_for_one_and_holds_no_more_than_the_cap():
    wanting = ask_of(prompt_tokens=20, choices=3, output_tokens=1000, typical_output=64)
    assert (least_output(wanting, 100, typical=True), least_output(wanting, 100)) == (64, 1000)
    assert (wanting.typical_tokens(1000), wanting.typical_tokens(10)) == (20 + 3 * 64, 20 + 3 * 10)


def test_where_nothing_is_typical_yet_every_limit_holds_the_cap():
    wanting = ask_of(prompt_tokens=20, output_tokens=1000)
    assert least_output(wanting, 100, typical=True) == least_output(wanting, 100)
    assert wanting.typical_tokens(1000) == wanting.rate_tokens(1000)


@pytest.mark.parametrize(
    ("settlement", "counted"),
    [
        (Settlement(spent_nano=0, rate_tokens=5), 5),
        (Settlement(spent_nano=0, rate_tokens=500), 500),
        (Settlement(spent_nano=0), 100),
        (Settlement(spent_nano=0, least_rate_tokens=5), 100),
        (Settlement(spent_nano=0, least_rate_tokens=500), 500),
    ],
)
def test_only_known_tokens_are_credited_and_all_that_were_seen_are_owed(settlement: Settlement, counted: int):
    assert settlement.used_of(100) == counted


def test_an_explicit_cap_counts_in_full_and_is_kept():
    wanting = ask_of(output_is_explicit=True, output_tokens=1000)
    assert least_output(wanting, 100) == 1000
    assert fit_rate(wanting, 100) == 1000


def test_a_default_cap_refuses_no_first_request_of_a_small_limit():
    wanting = ask_of(output_is_explicit=False, prompt_tokens=20, output_tokens=16_384)
    assert least_output(wanting, 100) == CAP_FLOOR_TOKENS
    assert fit_rate(wanting, 100) == 80


def test_a_request_waits_rather_than_get_a_cap_below_what_is_useful():
    wanting = ask_of(output_is_explicit=False, prompt_tokens=20, output_tokens=16_384)
    assert least_output(wanting, 200_000) == DEFAULT_CAP_FLOOR_TOKENS
    assert least_output(wanting, 800) == 100
    assert least_output(ask_of(output_is_explicit=False, output_tokens=50), 200_000) == 50


def test_a_prompt_that_is_larger_than_the_limit_never_fits_whatever_its_cap():
    wanting = ask_of(output_is_explicit=False, prompt_tokens=663)
    assert wanting.rate_tokens(least_output(wanting, 100)) > 100


def test_a_default_cap_takes_a_share_of_the_tokens_that_are_free():
    wanting = ask_of(output_is_explicit=False, prompt_tokens=20, output_tokens=16_384)
    assert fit_rate(wanting, 200_000) == 16_384
    assert fit_rate(wanting, 40_020) == 10_000
    assert fit_rate(wanting, 2_020) == DEFAULT_CAP_FLOOR_TOKENS
    assert fit_rate(ask_of(output_is_explicit=False, prompt_tokens=20, choices=2), 120) == 50


@given(
    st.integers(1, 10_000),
    st.integers(0, 10_000),
    st.integers(1, 2000),
    st.integers(0, 2000),
    st.integers(1, 5),
)
def test_a_default_cap_that_is_admitted_takes_no_more_than_what_is_free(
    per_minute: int, taken: int, prompt: int, output: int, choices: int
):
    wanting = ask_of(output_is_explicit=False, prompt_tokens=prompt, output_tokens=output, choices=choices)
    least = least_output(wanting, per_minute)
    free = max(per_minute - taken, 0)
    if wanting.rate_tokens(least) <= free:
        cap = fit_rate(wanting, free)
        assert wanting.rate_tokens(cap) <= free
        assert least <= cap <= output


# --- output caps that fit ---

MICRO = 1000  # nano-USD a token, at a dollar for a thousand thousand


def room(prompt: int, output: int) -> int:
    """Nano-USD for so many tokens, at the rates of `ask`."""
    return (prompt + output) * MICRO


def capped(output: int, room_nano: int, *, explicit: bool, choices: int = 1) -> int | None:
    return fit_output(
        ask_of(output_tokens=output, output_is_explicit=explicit, output_nano_per_million=10**9 * choices),
        room_nano,
    )


def test_an_explicit_cap_that_fits_is_kept():
    assert capped(1000, room(100, 1000), explicit=True) == 1000
    assert capped(1000, room(100, 999_999), explicit=True) == 1000


def test_an_explicit_cap_that_does_not_fit_is_lowered_to_what_does():
    assert capped(1000, room(100, 999), explicit=True) == 999
    assert capped(1000, room(100, CAP_FLOOR_TOKENS), explicit=True) == CAP_FLOOR_TOKENS


def test_below_the_least_useful_cap_nothing_fits():
    assert capped(1000, room(100, CAP_FLOOR_TOKENS - 1), explicit=True) is None
    assert capped(1000, 0, explicit=True) is None
    assert capped(1000, -5, explicit=False) is None


def test_a_client_that_asks_for_less_than_the_least_useful_cap_gets_it_or_nothing():
    assert capped(5, room(100, 5), explicit=True) == 5
    assert capped(5, room(100, 4), explicit=True) is None


def test_a_default_cap_takes_a_share_of_what_is_left():
    assert capped(16_384, room(100, 40_000), explicit=False) == 40_000 // DEFAULT_CAP_SHARE
    assert capped(16_384, room(100, 400_000), explicit=False) == 16_384


def test_a_default_cap_keeps_a_useful_length_while_it_fits():
    assert capped(16_384, room(100, 2000), explicit=False) == DEFAULT_CAP_FLOOR_TOKENS
    assert capped(16_384, room(100, 700), explicit=False) == 700
    assert capped(300, room(100, 700), explicit=False) == 300


def test_each_choice_needs_its_own_room():
    assert capped(1000, room(100, 999), explicit=True, choices=3) == 333


def test_a_prompt_that_does_not_fit_by_itself_is_refused():
    assert capped(1000, room(99, 0), explicit=True) is None


def test_a_free_output_is_never_lowered():
    free = ask_of(output_nano_per_million=0, prompt_nano=100)
    assert fit_output(free, 100) == 1000
    assert fit_output(free, 99) is None


def test_embeddings_have_no_output_to_lower():
    embedding = ask_of(output_tokens=0, output_is_explicit=False)
    assert fit_output(embedding, 100_000) == 0
    assert fit_output(embedding, 99_999) is None


def test_a_hold_is_prompt_and_output_rounded_up():
    assert hold_nano(ask_of(prompt_nano=7, output_nano_per_million=1), 1) == 8
    assert hold_nano(ask_of(prompt_nano=7, output_nano_per_million=1_000_001), 1) == 9
    assert hold_nano(ask_of(prompt_nano=7), 0) == 7


asks = st.builds(
    lambda prompt, per_million, output, explicit: ask_of(
        prompt_nano=prompt,
        output_nano_per_million=per_million,
        output_tokens=output,
        output_is_explicit=explicit,
    ),
    st.integers(0, 10**12),
    st.integers(0, 10**14),
    st.integers(0, 10**6),
    st.booleans(),
)


@given(asks, st.integers(-(10**6), 10**13))
def test_what_fits_never_holds_more_than_the_room(wanting: Ask, room_nano: int):
    cap = fit_output(wanting, room_nano)
    if cap is not None:
        assert min(wanting.output_tokens, CAP_FLOOR_TOKENS) <= cap <= wanting.output_tokens
        assert hold_nano(wanting, cap) <= room_nano


@given(asks, st.integers(0, 10**13))
def test_an_explicit_cap_is_lowered_only_when_it_has_to_be(wanting: Ask, room_nano: int):
    cap = fit_output(wanting, room_nano)
    if wanting.output_is_explicit and cap is not None and cap < wanting.output_tokens:
        assert hold_nano(wanting, cap + 1) > room_nano
    if cap is None:
        assert hold_nano(wanting, min(wanting.output_tokens, CAP_FLOOR_TOKENS)) > room_nano
