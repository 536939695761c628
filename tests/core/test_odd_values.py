"""Whatever the optional members of an answer hold, it reaches the client as it is, and is metered."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.answer import observe, read_answer, usage_from_wire
from gateway.core.masking import Masked
from gateway.core.restoring import Restorer, RestoringReader
from gateway.core.sse import StreamReader

Json = dict[str, Any]
Path = tuple[str | int, ...]

MISSING = object()
LONE = "\ud800"
ODD = [
    MISSING,
    *(None, True, False, 0, 5, -1.5, 10**30, "", "text", LONE, "\0"),
    *(
        [],
        {},
        [[]],
        [{}],
        [None, 5],
        {"": None},
        {"usage": None},
        {"usage": {"prompt_tokens": 1}},
        {LONE: LONE},
    ),
]
USAGE: Json = {
    "prompt_tokens": 11,
    "completion_tokens": 40,
    "total_tokens": 51,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0, "image_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
NAMED: Json = {"id": "c-1", "created": 1, "model": "m", "service_tier": "default", "system_fingerprint": "fp"}
LOGPROBS: Json = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
CALL: Json = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

WHOLE: dict[str, Json] = {
    "chat": {
        **NAMED,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "to [EMAIL_1]",
                    "refusal": None,
                    "annotations": [],
                    "reasoning": "hm",
                    "audio": {"id": "a", "transcript": "x"},
                    "tool_calls": [CALL],
                },
                "logprobs": LOGPROBS,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": USAGE,
    },
    "completion": {
        **NAMED,
        "object": "text_completion",
        "choices": [{"index": 0, "text": "to [EMAIL_1]", "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    },
    "embedding": {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1e-9]}],
        "usage": USAGE,
    },
}


def chunk(delta: Any, finish: str | None = None, **members: Any) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": LOGPROBS, "finish_reason": finish}
    return {**NAMED, "object": "chat.completion.chunk", "choices": [choice], "usage": None, **members}


CHUNKS = [
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "a"}, usage=USAGE),
    chunk({"content": "b", "tool_calls": [CALL]}, obfuscation="x"),
    {**NAMED, "choices": [{"index": 0, "text": "c", "finish_reason": None}], "usage": None},
    chunk({}, "stop"),
    {**NAMED, "choices": [], "usage": USAGE},
]
TOTALS = {("usage", "prompt_tokens"), ("usage", "completion_tokens"), ("usage", "total_tokens"), ("usage",)}


def paths(node: Any, at: Path = ()) -> Iterator[Path]:
    """Of every member and every item."""
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, member in members:
        yield (*at, name)
        yield from paths(member, (*at, name))


def with_odd(document: Json, path: Path, value: Any) -> Json:
    changed = copy.deepcopy(document)
    node: Any = changed
    for name in path[:-1]:
        node = node[name]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


def text_of(document: Json, spaced: bool = False) -> bytes:
    return json.dumps(document, separators=None if spaced else (",", ":")).encode()


odd = st.sampled_from(ODD)
whole = st.sampled_from(sorted(WHOLE)).flatmap(
    lambda name: st.tuples(st.just(WHOLE[name]), st.sampled_from(list(paths(WHOLE[name]))))
)
MASKED = Masked({}, b"{}", {"[EMAIL_1]": "bob@example.com"}, False)


# --- whole answers ---


@settings(max_examples=500)
@given(whole, odd, st.booleans())
def test_an_answer_in_one_piece_is_one_whatever_a_member_holds(where: Any, value: Any, spaced: bool) -> None:
    document, path = where
    answer = read_answer(text_of(with_odd(document, path, value), spaced))
    if path not in TOTALS:
        assert answer.usage is not None
        used = usage_from_wire(answer.usage)
        assert (used.input_tokens, used.output_tokens) == (11, 40)
    if path[-1] not in ("model", "choices", "finish_reason") and path != ("choices", 0):
        assert answer.model == "m"
        expected = document["choices"][0]["finish_reason"] if "choices" in document else None
        assert answer.finish_reason == expected


@settings(max_examples=500)
@given(whole, odd, st.booleans())
def test_and_has_its_originals_put_back(where: Any, value: Any, spaced: bool) -> None:
    document, path = where
    body = text_of(with_odd(document, path, value), spaced)
    found = Restorer(MASKED).answer(body)
    if b"[EMAIL_1]" not in body:
        assert found == body
    else:
        assert json.loads(found) == json.loads(body.replace(b"[EMAIL_1]", b"bob@example.com"))


def test_all_that_can_be_odd_is_odd_at_once() -> None:
    document = copy.deepcopy(WHOLE["chat"])
    document |= dict.fromkeys(NAMED, LONE)
    document["choices"][0] |= {"index": None, "logprobs": 5, "message": {"content": LONE}}
    document["usage"] |= {"prompt_tokens_details": LONE, "completion_tokens_details": [1]}
    answer = read_answer(text_of(document))
    assert answer.model is None
    assert answer.finish_reason == "stop"
    assert answer.usage is not None
    assert usage_from_wire(answer.usage).output_tokens == 40


@pytest.mark.parametrize("value", [True, "12", LONE, [], {}], ids=repr)
@pytest.mark.parametrize("total", ["prompt_tokens", "completion_tokens"])
def test_usage_whose_totals_cannot_be_read_is_no_count_of_zero(total: str, value: Any) -> None:
    document = with_odd(WHOLE["chat"], ("usage", total), value)
    assert read_answer(text_of(document)).usage is None


def test_details_that_cannot_be_read_leave_the_others() -> None:
    document = with_odd(WHOLE["chat"], ("usage", "prompt_tokens_details", "audio_tokens"), LONE)
    usage = read_answer(text_of(document)).usage
    assert usage is not None
    assert usage_from_wire(usage).input_cached == 3


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_numbers_that_are_none_are_passed_over(number: str) -> None:
    body = text_of(WHOLE["chat"]).replace(b"-0.5", number.encode())
    answer = read_answer(body)
    assert answer.usage is not None
    assert answer.finish_reason == "stop"
    assert Restorer(MASKED).answer(body) == body.replace(b"[EMAIL_1]", b"bob@example.com")


@pytest.mark.parametrize("error", [b'""', b"{}", b"[]", b"false", b"0", b"null"])
def test_an_empty_error_beside_an_answer_is_none(error: bytes) -> None:
    assert not observe(b'{"error":%b,"choices":[{"delta":{"content":"a"}}]}' % error).has_error
    assert observe(b'{"error":%b}' % error).has_error == (error != b"null")


# --- streams ---


def without_usage(document: Json) -> bytes | None:
    """What a client sees of an event that did not ask for usage; None: nothing."""
    choices, usage = document.get("choices"), document.get("usage")
    if "usage" not in document:
        return text_of(document)
    if not (isinstance(choices, list) and choices) and usage is not None:
        return None
    return text_of({name: value for name, value in document.items() if name != "usage"})


def sse(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"


def read(reader: StreamReader, wire: bytes, cut: int) -> bytes:
    cut %= len(wire)
    return b"".join((reader.feed(wire[:cut]), reader.feed(wire[cut:]), reader.flush()))


streamed = st.sampled_from(range(len(CHUNKS))).flatmap(
    lambda at: st.tuples(st.just(at), st.sampled_from(list(paths(CHUNKS[at]))))
)


@settings(max_examples=600)
@given(streamed, odd, st.integers(1, 5000), st.booleans(), st.booleans())
def test_a_stream_passes_byte_for_byte_whatever_a_member_holds(
    where: Any, value: Any, cut: int, hide_usage: bool, restoring: bool
) -> None:
    at, path = where
    chunks = [*CHUNKS]
    chunks[at] = with_odd(chunks[at], path, value)
    wire = b"".join(sse(text_of(one)) for one in chunks) + b"data: [DONE]\n\n"
    reader = StreamReader(hide_usage=hide_usage)
    if restoring:
        reader = RestoringReader(Restorer(MASKED), hide_usage=hide_usage)
    passed = read(reader, wire, cut)
    shown = [without_usage(one) for one in chunks] if hide_usage else [text_of(one) for one in chunks]
    assert passed == b"".join(sse(one) for one in shown if one is not None) + b"data: [DONE]\n\n"
    assert reader.complete
    if at != len(CHUNKS) - 1 or path not in TOTALS:
        assert reader.usage_is_current
        assert reader.usage_is_final
        assert reader.usage is not None
        used = usage_from_wire(reader.usage)
        assert (used.input_tokens, used.output_tokens) == (11, 40)


@settings(max_examples=300)
@given(streamed, odd, st.integers(1, 5000))
def test_what_stands_beside_an_odd_member_is_put_back_too(where: Any, value: Any, cut: int) -> None:
    at, path = where
    chunks: list[Json] = copy.deepcopy(CHUNKS)
    for one in chunks:
        one["x"] = "y"
    chunks[at] = with_odd(chunks[at], path, value)
    text = chunk({"content": "to [EMAIL_1]"})
    chunks.insert(at, text)
    wire = b"".join(sse(text_of(one)) for one in chunks) + b"data: [DONE]\n\n"
    passed = read(RestoringReader(Restorer(MASKED), hide_usage=True), wire, cut)
    assert b"to bob@example.com" in passed
    assert b"[EMAIL_1]" not in passed


NESTED = [
    b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":{"a":1,"usage":null}}}]}}],"usage":null}',
    b'{"choices":[{"delta":{"content":"a","x":{"usage":null}}}],"usage":null}',
    b'{"x":{"usage":{"prompt_tokens":1}},"choices":[{"delta":{"content":"a"}}],"usage":null}',
    b'{"x":[{"y":[],"usage":null}],"choices":[{"delta":{"content":"a"}}],"usage":null}',
    b'{"choices":[{"delta":{"content":"a","usage":{"a":[{}]}}}],"usage":null}',
]


@pytest.mark.parametrize("event", NESTED, ids=repr)
@pytest.mark.parametrize("more", [1, 3])
def test_usage_inside_of_something_else_is_not_the_gateway_s_to_cut(event: bytes, more: int) -> None:
    reader = StreamReader(hide_usage=True)
    reader.feed(sse(text_of(chunk({"content": "a"}))))
    expected = orjson.loads(event)
    del expected["usage"]
    for wire in (sse(event) * more, sse(event)):
        passed = reader.passes(wire)
        found = reader.feed(wire) if passed is None else passed
        assert [orjson.loads(one[6:]) for one in found.split(b"\n\n")[:-1]] == [expected] * wire.count(
            b"\n\n"
        )
