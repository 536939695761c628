"""What a broken attempt may have cost: never less than was generated, and no more than its hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.catalog import StopsWhenLeft
from gateway.core.estimate import (
    LEAST_TOKENS_PER_SECOND,
    MEASURED_CHUNKS,
    NOTICE_SECONDS,
    SILENT_TOKENS,
    TIMED_CHUNKS,
    Pace,
    Seen,
    learn_from_broken,
    most_output,
    most_output_of_whole,
)
from tests.core.builders import chat, deployment, parsed

CAP = 100_000
STREAM = parsed(chat(stream=True))
WHOLE = parsed(chat())
STOPS = deployment(stops_when_left=StopsWhenLeft.ALWAYS)
LEAST_UNSEEN = int(NOTICE_SECONDS * LEAST_TOKENS_PER_SECOND)


def seen(pieces: int = 0, silent: float = 0.0, watched: float = 1.0, text_bytes: int | None = None) -> Seen:
    size = pieces * 5 if text_bytes is None else text_bytes
    return Seen(text_chunks=pieces, text_bytes=size, watched_seconds=watched, silent_seconds=silent)


def measured(tokens_per_second: float = 100.0, tokens_per_chunk: float = 1.0) -> Pace:
    pace = Pace()
    pieces = 100
    tokens = int(pieces * tokens_per_chunk)
    pace.learn(tokens, pieces, tokens / tokens_per_second)
    return pace


@pytest.mark.parametrize("call", [STREAM, WHOLE], ids=["stream", "whole"])
@pytest.mark.parametrize("pieces", [0, 1])
def test_where_nothing_was_measured_the_time_unread_is_taken_at_the_most_of_the_deployment(pieces, call):
    for most in (500.0, 5000.0):
        slow = deployment(stops_when_left=StopsWhenLeft.ALWAYS, most_tokens_per_second=most)
        found = most_output(seen(pieces, silent=2.0), Pace(), call, slow, CAP)
        assert found == pieces * 5 + SILENT_TOKENS + (2.0 + NOTICE_SECONDS) * most
    assert most_output(seen(pieces, silent=2.0), Pace(), call, STOPS, 1_000) == 1_000


@given(
    most=st.integers(1, 20_000),
    share=st.floats(0, 1),
    before=st.floats(0, 60),
    since=st.floats(0, 60),
    notice=st.floats(0, NOTICE_SECONDS),
    pieces=st.integers(0, TIMED_CHUNKS - 1),
    choices=st.integers(1, 4),
    cap=st.integers(1, 200_000),
)
def test_what_nobody_has_measured_is_never_booked_below_what_was_made_up_to_that_speed(
    most: int, share: float, before: float, since: float, notice: float, pieces: int, choices: int, cap: int
) -> None:
    """Each choice writes at a steady pace up to the most from its dispatch to when its end is noticed."""
    own = deployment(stops_when_left=StopsWhenLeft.ALWAYS, most_tokens_per_second=float(most))
    call = parsed(chat(stream=True, n=choices))
    made = min(int((before + since + notice) * most * share), cap) * choices
    what = seen(pieces, silent=before + since, watched=0.0)
    assert most_output(what, Pace(), call, own, cap * choices) >= made


@pytest.mark.parametrize("pieces", [TIMED_CHUNKS, MEASURED_CHUNKS - 1, MEASURED_CHUNKS])
def test_a_stream_of_a_pool_that_was_never_measured_measures_itself(pieces):
    found = most_output(seen(pieces), Pace(), STREAM, STOPS, CAP)
    assert found == pieces * 5 + SILENT_TOKENS + LEAST_UNSEEN


def test_its_own_speed_counts_a_token_for_each_byte_while_nobody_knows_better():
    burst = most_output(seen(4, watched=0.01, text_bytes=40), Pace(), STREAM, STOPS, CAP)
    assert burst == 40 + SILENT_TOKENS + 2 * 4_000 * NOTICE_SECONDS


def test_a_stream_that_was_left_teaches_its_pool_a_speed_and_never_a_slower_one():
    pace = Pace()
    learn_from_broken(pace, seen(MEASURED_CHUNKS - 1))
    assert pace.tokens_per_second is None
    learn_from_broken(pace, seen(100, watched=0.5, text_bytes=100))
    assert pace.tokens_per_second == 200
    learn_from_broken(pace, seen(100, watched=5.0, text_bytes=100))
    assert pace.tokens_per_second == 200
    assert most_output(seen(), pace, STREAM, STOPS, CAP) == SILENT_TOKENS + LEAST_UNSEEN


def test_pieces_that_all_came_in_one_moment_may_be_of_any_speed():
    assert most_output(seen(50, watched=0.0, silent=1.0), Pace(), STREAM, STOPS, 25_000) == 25_000


@pytest.mark.parametrize("when", StopsWhenLeft)
@pytest.mark.parametrize("call", [STREAM, WHOLE], ids=["stream", "whole"])
def test_an_upstream_that_goes_on_keeps_everything_that_was_held(when, call):
    goes_on = when is StopsWhenLeft.NEVER or (when is StopsWhenLeft.STREAMS and not call.stream)
    found = most_output(seen(), measured(), call, deployment(stops_when_left=when), CAP)
    assert (found == CAP) == goes_on


def test_unless_the_file_says_otherwise_an_upstream_goes_on():
    assert most_output(seen(), measured(), STREAM, deployment(), CAP) == CAP


def test_a_fast_pool_leaves_more_unseen_than_a_slow_one():
    found = [most_output(seen(silent=1.0), measured(speed), STREAM, STOPS, CAP) for speed in (10, 4000, 9000)]
    assert found == sorted(found)
    assert found[1] > 2 * 4000 * (1 + NOTICE_SECONDS)


def test_a_stream_that_is_faster_than_its_pool_ever_was_counts_by_its_own_speed():
    own = most_output(seen(500, watched=0.05, silent=1.0), measured(100), STREAM, STOPS, CAP)
    assert own >= 500 + 10_000


def test_pieces_count_as_many_tokens_as_this_pool_has_shown_and_never_more_than_their_bytes():
    plain, packed = (
        most_output(seen(100), measured(tokens_per_chunk=each), STREAM, STOPS, CAP) for each in (1, 3)
    )
    tiny = most_output(seen(100, text_bytes=120), measured(tokens_per_chunk=3), STREAM, STOPS, CAP)
    assert plain == 100 + SILENT_TOKENS + LEAST_UNSEEN
    assert packed == 300 + SILENT_TOKENS + LEAST_UNSEEN
    assert tiny == 120 + SILENT_TOKENS + LEAST_UNSEEN


def test_each_choice_may_go_on_unseen():
    both = parsed(chat(stream=True, n=2))
    assert most_output(seen(), measured(), both, STOPS, CAP) == 2 * (SILENT_TOKENS + LEAST_UNSEEN)


def test_spoken_output_is_bound_by_no_text():
    spoken = parsed(chat(stream=True, modalities=["text", "audio"]))
    assert most_output(seen(), measured(), spoken, STOPS, CAP) == CAP
    assert most_output_of_whole(seen(), measured(), spoken, CAP) == CAP


def test_an_answer_that_came_whole_has_no_more_tokens_than_bytes():
    assert most_output_of_whole(seen(text_bytes=900), Pace(), WHOLE, CAP) == 900 + SILENT_TOKENS
    assert most_output_of_whole(seen(text_bytes=CAP), Pace(), WHOLE, CAP) == CAP


def test_a_pool_forgets_its_worst_slowly():
    pace = measured(5000)
    for _ in range(10):
        pace.learn(100, 100, 1.0)
    assert pace.tokens_per_second is not None
    assert pace.tokens_per_second > 4000
    for _ in range(1000):
        pace.learn(100, 100, 1.0)
    assert pace.tokens_per_second == pytest.approx(100, rel=0.01)


@given(
    speed=st.floats(1, 50_000),
    first=st.floats(0, 5),
    watched=st.floats(0, 5),
    blind=st.floats(0, 5),
    notice=st.floats(0, NOTICE_SECONDS),
    packed=st.integers(1, 8),
)
def test_an_engine_of_any_steady_speed_never_makes_more_than_is_kept_back(
    speed: float, first: float, watched: float, blind: float, notice: float, packed: int
):
    """It writes `packed` tokens a piece: watched for a while, then unread, until it notices."""
    pieces = int(watched * speed / packed)
    unmeasured = Pace()
    what = seen(pieces, silent=first + blind, watched=watched, text_bytes=pieces * packed * 4)
    made = pieces * packed + int((blind + notice) * speed)
    if pieces >= MEASURED_CHUNKS:
        pace = measured(speed / 2, tokens_per_chunk=packed)
    else:
        pace = measured(speed, tokens_per_chunk=packed)
    is_bounded = pieces >= TIMED_CHUNKS or speed <= STOPS.most_tokens_per_second
    for known in (pace, unmeasured) if is_bounded else (pace,):
        assert most_output(what, known, STREAM, STOPS, 10**7) >= made


# --- what is usual, which bounds nothing ---


def test_an_unmeasured_pool_has_no_usual_pace():
    assert Pace().likely_output(1000.0) == 0


def test_the_usual_pace_is_that_of_one_choice_since_it_was_asked_for():
    pace = Pace()
    pace.learn_usual(100, 2.0)
    assert pace.likely_output(3.0) == 150
    pace.learn_usual(50, 2.0)
    assert pace.likely_output(2.0) == 95


@pytest.mark.parametrize(("tokens", "seconds"), [(MEASURED_CHUNKS - 1, 1.0), (100, 0.0)])
def test_an_answer_that_says_nothing_of_a_pace_teaches_none(tokens: int, seconds: float):
    pace = Pace()
    pace.learn_usual(tokens, seconds)
    assert pace.likely_output(1000.0) == 0


def test_what_was_reported_is_not_estimated_again():
    exact = Seen(text_chunks=5, text_bytes=500, watched_seconds=1.0, silent_seconds=0.5, reported_tokens=70)
    assert most_output(exact, measured(), STREAM, STOPS, CAP) == 70 + int((0.5 + NOTICE_SECONDS) * 1000)
    once = Seen(text_chunks=1, text_bytes=500, watched_seconds=1.0, silent_seconds=0.5, reported_tokens=70)
    assert most_output(once, Pace(), STREAM, STOPS, CAP) == 70 + int((0.5 + NOTICE_SECONDS) * 5000)
