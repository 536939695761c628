"""When a stream is committed, what counts as its first token, and how one that breaks off is booked."""

import asyncio
from typing import Any

import orjson
import pytest

from gateway.core.answer import Usage
from gateway.core.catalog import Deployment, StopsWhenLeft
from gateway.core.errors import UpstreamExhausted
from gateway.core.record import Outcome, UsageRecord
from gateway.proxy import opening
from tests.core.builders import deployment, local
from tests.proxy.test_failover import DONE, RESET, STOP, TEXT, Answered, Chunk, Scene, Waits, done

COMMENT = b": OPENROUTER PROCESSING\n\n"


def event(delta: Any, **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + orjson.dumps({"model": "m", "choices": [choice], **members}) + b"\n\n"


ROLE = event({"role": "assistant", "content": ""})
EMPTY = [
    COMMENT,
    b": \n: two lines\n\n",
    b"event: ping\n\n",
    b"\n\n",
    ROLE,
    event({}),
    event(None),
    event({"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "audio": {}}),
    event({"content": "", "reasoning": "", "reasoning_content": None, "reasoning_details": [{}]}),
    b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n',
    b'data: {"choices":[{"index":0,"text":"","finish_reason":null}]}\n\n',
]
CONTENT = {
    "text": event({"content": "a"}),
    "reasoning": event({"reasoning": "a"}),
    "reasoning_content": event({"role": "assistant", "reasoning_content": "a"}),
    "refusal": event({"content": None, "refusal": "I"}),
    "audio": event({"audio": {"id": "audio_1"}}),
    "tool": event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}),
    "function": event({"function_call": {"name": "f", "arguments": ""}}),
    "parts": event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}),
    "unknown": event({"images": [{"image_url": {"url": "data:"}}]}),
    "completion": b'data: {"choices":[{"index":0,"text":"a"}]}\n\n',
    "lone surrogate": b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
}


async def until_started(scene: Scene) -> None:
    """Say nothing until the client has been sent something."""
    while not scene.started:
        await asyncio.sleep(0)


def passing(seconds: float) -> Waits:
    """Say nothing for so long."""

    async def wait(scene: Scene) -> None:
        scene.clock.forward(seconds)

    return wait


def streaming(*replies: tuple[Chunk, ...], candidate: Deployment | None = None, **members: Any) -> Scene:
    answers = [Answered(chunks=chunks) for chunks in replies]
    return Scene(*answers, candidates=(candidate or deployment(replicas=2),), stream=True, **members)


AT_ONCE = deployment(replicas=2, commit_after_seconds=0.0)


# --- what commits a stream ---


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_what_says_nothing_commits_nothing(empty: bytes) -> None:
    scene = done(streaming((empty, empty, RESET), (TEXT, STOP, DONE)))
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR, Outcome.SUCCESS]
    assert scene.log == [
        *("intend", "abort", "intend", "start", TEXT, STOP, "settle", "answered", DONE, "end", "abort")
    ]


@pytest.mark.parametrize("content", CONTENT.values(), ids=CONTENT)
def test_whatever_the_answer_is_made_of_commits_it(content: bytes) -> None:
    scene = done(streaming((ROLE, content, RESET), (TEXT, STOP, DONE)))
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR]
    assert scene.log[:3] == ["intend", "start", ROLE + content]
    assert b'"upstream_error"' in scene.log[-2]


def test_what_was_held_goes_out_with_the_first_content_and_without_comments() -> None:
    later = COMMENT + TEXT + COMMENT
    scene = done(streaming((COMMENT, ROLE, EMPTY[2], COMMENT, TEXT, COMMENT, later, STOP, DONE)))
    assert scene.log[1:5] == ["start", ROLE + EMPTY[2] + TEXT, TEXT, STOP]


def test_an_error_as_the_first_event_finds_nothing_committed() -> None:
    error = b'data: {"error":{"message":"no"}}\n\n'
    scene = done(streaming((COMMENT, ROLE, error), (TEXT, STOP, DONE)))
    assert scene.outcomes[-1] is Outcome.SUCCESS
    assert ROLE not in scene.log


def test_an_answer_that_says_nothing_is_one_when_it_ends() -> None:
    scene = done(streaming((ROLE, STOP, DONE)))
    assert scene.log == [
        *("intend", "start", "settle", "answered", ROLE + STOP + DONE, "end", "abort"),
    ]
    assert scene.outcomes == [Outcome.SUCCESS]
    assert done(streaming((ROLE, STOP))).log[-3] == ROLE + STOP


def test_a_stream_of_which_only_the_opening_came_is_none() -> None:
    with pytest.raises(UpstreamExhausted):
        done(streaming((ROLE,), (COMMENT, ROLE)))


# --- and when it is committed all the same ---


def test_after_a_while_the_head_and_what_was_held_go_out() -> None:
    scene = done(streaming((COMMENT, ROLE, until_started, TEXT, STOP, DONE), candidate=AT_ONCE))
    assert scene.log[:6] == ["intend", "start now", ROLE, TEXT, STOP, "settle"]


def test_even_where_nothing_was_said_at_all() -> None:
    scene = done(streaming((until_started, ROLE, TEXT, STOP, DONE), candidate=AT_ONCE))
    assert scene.log[:6] == ["intend", "start now", b"", ROLE, TEXT, STOP]


def test_then_a_failure_is_told_in_the_stream_and_no_other_is_asked() -> None:
    scene = done(streaming((ROLE, until_started, RESET), (TEXT, STOP, DONE), candidate=AT_ONCE))
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR]
    assert scene.records[0].ttft_ms is None
    assert b'"upstream_error"' in scene.log[-2]


def test_what_has_come_is_read_before_it_is_too_late() -> None:
    scene = done(streaming((ROLE, RESET), (TEXT, STOP, DONE), candidate=AT_ONCE))
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR, Outcome.SUCCESS]


def test_no_more_than_so_many_bytes_are_held() -> None:
    count = opening.MAX_HELD_BYTES // len(ROLE) + 1
    scene = done(streaming((*[ROLE] * (count + 2), TEXT, STOP, DONE)))
    assert scene.log[1:5] == ["start", ROLE * count, ROLE, ROLE]


# --- the first token ---


@pytest.mark.parametrize("content", CONTENT.values(), ids=CONTENT)
def test_the_first_token_is_the_first_content(content: bytes) -> None:
    waits = passing(1.0)
    scene = done(streaming((waits, COMMENT, waits, ROLE, waits, content, waits, STOP, DONE)))
    [record] = scene.records
    assert (record.ttft_ms, record.duration_ms) == (3000.0, 4000.0)
    assert scene.fleet.replica_sets["gpt-4o"].ttft_seconds == 3.0


def test_also_where_the_head_went_out_before_it() -> None:
    chunks = (passing(1.0), ROLE, until_started, passing(20.0), TEXT, STOP, DONE)
    assert done(streaming(chunks, candidate=AT_ONCE)).records[0].ttft_ms == 21_000.0


def test_an_answer_without_content_has_no_first_token() -> None:
    assert done(streaming((ROLE, passing(1.0), STOP, DONE))).records[0].ttft_ms is None


def test_the_kind_of_an_event_stream_is_read_in_any_letters() -> None:
    answer = Answered(chunks=(TEXT, STOP, DONE), content_type=b"Text/Event-Stream; Charset=UTF-8")
    assert done(Scene(answer, stream=True)).outcomes == [Outcome.SUCCESS]


# --- a stream that breaks off ---


def counted(text: str, tokens: int, prompt: int = 9) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return event({"content": text}, usage=usage)


COUNTING = local(
    replicas=1, continuous_usage=True, stops_when_left=StopsWhenLeft.ALWAYS, max_output_tokens=5000
)


def broken(*chunks: Chunk, candidate: Deployment = COUNTING, **members: Any) -> tuple[UsageRecord, Scene]:
    scene = done(streaming(chunks, candidate=candidate, **members))
    return scene.records[0], scene


def test_a_broken_stream_is_booked_at_the_counts_of_its_last_chunk() -> None:
    record, scene = broken(counted("", 0), counted("a", 3), counted("b", 7), RESET)
    assert (record.estimated, record.usage) == (False, Usage(input_text=9, output_text=7))
    assert b"usage" not in b"".join(sent for sent in scene.log if isinstance(sent, bytes))
    sent = orjson.loads(scene.sent[0].body)
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_so_is_one_whose_client_left_and_one_that_was_aborted() -> None:
    scene = streaming((counted("a", 3), asyncio.CancelledError()), candidate=COUNTING)
    with pytest.raises(asyncio.CancelledError):
        done(scene)
    assert (scene.records[0].estimated, scene.records[0].usage.output_tokens) == (False, 3)
    aborted = counted("b", 5).replace(b'"finish_reason":null', b'"finish_reason":"abort"')
    record, _ = broken(counted("a", 3), aborted)
    assert (record.estimated, record.usage.output_tokens, record.unseen_nano_usd) == (False, 5, 0)


def test_what_may_have_been_written_since_is_kept_back() -> None:
    chunks = [chunk for number in range(1, 40) for chunk in (passing(0.1), counted("a", number))]
    soon, _ = broken(*chunks, passing(0.5), RESET)
    late, scene = broken(*chunks, passing(1.5), RESET)
    assert 0 < soon.unseen_nano_usd < late.unseen_nano_usd
    [settled] = scene.settled
    assert settled.spent_nano + settled.unseen_nano <= scene.hold.nano
    assert settled.rate_tokens == 9 + 39


def test_an_upstream_that_goes_on_when_left_keeps_back_all_that_was_held() -> None:
    goes_on = local(replicas=1, continuous_usage=True, max_output_tokens=50)
    record, _ = broken(counted("a", 3), RESET, candidate=goes_on)
    assert record.unseen_nano_usd == 47 * 1_000  # 50 were held


def test_usage_that_came_before_the_answer_does_not_count_it() -> None:
    first = event({"role": "assistant", "content": ""}, usage={"prompt_tokens": 900, "completion_tokens": 1})
    record, _ = broken(first, TEXT, TEXT, TEXT, RESET)
    assert (record.estimated, record.usage.output_tokens) == (True, 3)
    assert record.unseen_nano_usd > 0


def test_zeros_in_each_chunk_are_no_count() -> None:
    record, _ = broken(counted("a", 0, 0), counted("b", 0, 0), RESET)
    assert (record.estimated, record.usage.output_tokens) == (True, 2)


def test_of_several_choices_each_counts_its_own_so_they_are_not_asked() -> None:
    record, scene = broken(TEXT, RESET, n=2)
    assert orjson.loads(scene.sent[0].body)["stream_options"] == {"include_usage": True}
    assert record.estimated


def test_a_stream_that_broke_behind_its_usage_is_booked_exactly() -> None:
    last = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    record, _ = broken(TEXT, STOP, last, RESET, candidate=deployment())
    assert (record.outcome, record.estimated, record.unseen_nano_usd) == (Outcome.UPSTREAM_ERROR, False, 0)
    assert record.usage == Usage(input_text=9, output_text=4)


CHUNKS = (
    counted("a", 3),
    counted("b", 7),
    STOP,
    b'data: {"choices":[],"usage":{"prompt_tokens":9}}\n\n',
    DONE,
)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, [False, False, False]),
        ({"include_usage": False}, [False, False, False]),
        ({"include_usage": True}, [False, False, True]),
        ({"include_usage": True, "continuous_usage_stats": True}, [True, True, True]),
        ({"continuous_usage_stats": True}, [False, False, False]),
    ],
)
def test_a_client_sees_the_usage_that_it_asked_for(options: dict[str, Any], shown: list[bool]) -> None:
    scene = done(streaming(CHUNKS, candidate=COUNTING, stream_options=options))
    sent = b"".join(item for item in scene.log if isinstance(item, bytes))
    expected = [CHUNKS[0], CHUNKS[1], CHUNKS[3]]
    assert [chunk in sent for chunk in expected] == shown
    assert sent.count(b'"usage"') == sum(shown)


# --- an answer in one piece that never came ---


def unary(seconds: float, pace: float | None, **changes: Any) -> UsageRecord:
    scene = Scene(Answered(body=(passing(seconds), asyncio.CancelledError())), candidates=(local(**changes),))
    if pace is not None:
        scene.fleet.replica_sets["llama"].pace.learn_usual(pace, 1.0)
    with pytest.raises(asyncio.CancelledError):
        done(scene)
    [record] = scene.records
    assert record.estimated
    assert record.cost_nano_usd + record.unseen_nano_usd <= scene.hold.nano
    return record


def test_an_answer_that_nobody_waited_for_is_booked_at_the_usual_pace_of_its_pool() -> None:
    assert unary(2.0, 20.0).usage.output_tokens == 40
    assert unary(1000.0, 20.0).usage.output_tokens == 50  # as many as were held
    assert unary(2.0, None).usage.output_tokens == 0


def test_what_is_booked_by_pace_is_no_longer_unseen() -> None:
    known, unknown = unary(2.0, 20.0), unary(2.0, None)
    assert known.unseen_nano_usd == unknown.unseen_nano_usd - 40 * 1_000
    assert known.cost_nano_usd == unknown.cost_nano_usd + 40 * 1_000
