"""A stream passes through whole event by whole event, untouched but for usage that was not asked for."""

import re
from itertools import cycle, pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import sse
from gateway.core.sse import EventTooLarge, StreamReader, error_event
from gateway.core.wire_usage import usage_from_wire
from tests.core.streams import (
    ABORT_STREAM,
    DONE,
    ENDLESS_STREAM,
    ERROR_STREAM,
    GOLDEN,
    OPENAI_STREAM,
    ROLE,
    USAGE,
    VLLM,
    VLLM_STREAM,
    Golden,
    delta,
)

BY_NAME = {golden.name: golden for golden in GOLDEN}


def read(chunks: list[bytes], *, hide_usage: bool) -> tuple[bytes, StreamReader]:
    reader = StreamReader(hide_usage=hide_usage)
    passed = b"".join(reader.feed(chunk) for chunk in chunks)
    return passed + reader.flush(), reader


def state(reader: StreamReader) -> tuple[Any, ...]:
    """All that a reader has learned."""
    usage = None if reader.usage is None else usage_from_wire(reader.usage).usage
    return (
        usage,
        reader.model,
        reader.service_tier,
        reader.finish_reason,
        reader.done,
        reader.failure,
        reader.text_chunks,
        reader.complete,
    )


def read_passing(chunks: list[bytes], *, hide_usage: bool) -> tuple[bytes, StreamReader]:
    """As `read`, with what says nothing but text going by `passes`."""
    reader = StreamReader(hide_usage=hide_usage)
    passed = []
    for chunk in chunks:
        plain = reader.passes(chunk)
        if plain is None:
            passed.append(reader.feed(chunk))
        else:
            passed.append(plain)
            reader.note_passed(plain)
    whole = b"".join(passed) + reader.flush()
    reader.count_passed()
    return whole, reader


def expected(golden: Golden, hide_usage: bool) -> bytes:
    return golden.shown if hide_usage or golden.failure else golden.asked


goldens = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
hiding = pytest.mark.parametrize("hide_usage", [True, False], ids=["hidden", "asked"])


@goldens
@hiding
def test_a_whole_stream_comes_out_as_the_client_should_see_it(golden: Golden, hide_usage: bool):
    passed, reader = read([golden.wire], hide_usage=hide_usage)
    assert passed == expected(golden, hide_usage)
    assert reader.text_chunks <= golden.texts
    assert reader.finish_reason == golden.finish_reason
    assert reader.done is golden.done
    assert (reader.failure is not None) is golden.failure
    assert reader.complete is not golden.failure
    if golden.output_tokens is not None:
        assert reader.usage is not None
        assert usage_from_wire(reader.usage).usage.output_tokens == golden.output_tokens
        assert usage_from_wire(reader.usage).usage.input_tokens == 11


@goldens
@hiding
def test_event_by_event_the_same_comes_out(golden: Golden, hide_usage: bool):
    whole, at_once = read([golden.wire], hide_usage=hide_usage)
    passed, reader = read([event.wire for event in golden.events], hide_usage=hide_usage)
    assert passed == whole
    assert state(reader) == state(at_once)


@goldens
@hiding
def test_cut_at_every_byte_the_same_comes_out(golden: Golden, hide_usage: bool):
    wire = golden.wire
    whole, at_once = read([wire], hide_usage=hide_usage)
    for at in range(1, len(wire)):
        passed, reader = read([wire[:at], wire[at:]], hide_usage=hide_usage)
        assert passed == whole, at
        assert state(reader) == state(at_once), at


@given(name=st.sampled_from(sorted(BY_NAME)), hide_usage=st.booleans(), cuts=st.lists(st.integers(0, 3000)))
def test_what_passes_plainly_comes_out_and_is_counted_the_same(name: str, hide_usage: bool, cuts: list[int]):
    wire = BY_NAME[name].wire
    bounds = [0, *sorted(cut % len(wire) for cut in cuts), len(wire)]
    chunks = [wire[start:end] for start, end in pairwise(bounds)]
    whole, at_once = read(chunks, hide_usage=hide_usage)
    passed, reader = read_passing(chunks, hide_usage=hide_usage)
    assert passed == whole
    assert (*state(reader), reader.text_bytes) == (*state(at_once), at_once.text_bytes)


@goldens
@hiding
def test_cut_at_every_byte_the_same_passes_plainly(golden: Golden, hide_usage: bool):
    whole, at_once = read([golden.wire], hide_usage=hide_usage)
    for cut in range(1, len(golden.wire)):
        passed, reader = read_passing([golden.wire[:cut], golden.wire[cut:]], hide_usage=hide_usage)
        assert passed == whole
        assert state(reader) == state(at_once)


def _event(text: bytes) -> bytes:
    return b"data: " + delta(b'"%b"' % text) + b"}\n\n"


def test_chunks_of_text_pass_plainly_and_are_counted_together():
    reader = StreamReader(hide_usage=True)
    reader.feed(_event(b"first"))
    for number in range(2 * sse.COUNTED_TOGETHER + 3):
        chunk = _event(b"word %d" % number)
        assert reader.passes(chunk) == chunk
        reader.note_passed(chunk)
    assert reader.text_chunks == 1 + 2 * sse.COUNTED_TOGETHER
    reader.count_passed()
    assert reader.text_chunks == 1 + 2 * sse.COUNTED_TOGETHER + 3


def test_asking_whether_a_chunk_passes_changes_nothing():
    reader = StreamReader(hide_usage=True)
    reader.feed(_event(b"first"))
    before = state(reader)
    assert reader.passes(_event(b"second")) is not None
    reader.count_passed()
    assert state(reader) == before


@goldens
@hiding
def test_byte_by_byte_the_same_comes_out(golden: Golden, hide_usage: bool):
    whole, at_once = read([golden.wire], hide_usage=hide_usage)
    passed, reader = read([bytes([byte]) for byte in golden.wire], hide_usage=hide_usage)
    assert passed == whole
    assert state(reader) == state(at_once)


@given(name=st.sampled_from(sorted(BY_NAME)), hide_usage=st.booleans(), cuts=st.lists(st.integers(0, 3000)))
def test_cut_anywhere_the_same_comes_out(name: str, hide_usage: bool, cuts: list[int]):
    wire = BY_NAME[name].wire
    bounds = [0, *sorted(cut % len(wire) for cut in cuts), len(wire)]
    whole, at_once = read([wire], hide_usage=hide_usage)
    passed, reader = read([wire[start:end] for start, end in pairwise(bounds)], hide_usage=hide_usage)
    assert passed == whole
    assert state(reader) == state(at_once)


@goldens
def test_pieces_of_text_are_counted_and_never_more_than_there_are(golden: Golden):
    for hide_usage in (True, False):
        reader = StreamReader(hide_usage=hide_usage)
        so_far = 0
        for event in golden.events:
            reader.feed(event.wire)
            so_far += event.texts
            assert reader.text_chunks <= so_far
        assert reader.text_chunks == golden.texts


@goldens
def test_no_member_named_usage_is_left_where_the_client_did_not_ask(golden: Golden):
    passed, _ = read([golden.wire], hide_usage=True)
    assert b'"usage"' not in passed.replace(b'\\"usage\\"', b"")


@pytest.mark.parametrize("golden", [item for item in GOLDEN if not item.failure], ids=lambda item: item.name)
@hiding
def test_a_half_event_is_held_back(golden: Golden, hide_usage: bool):
    ends, at = [], 0
    for event in golden.events:
        at += len(event.wire)
        ends.append(at)
    for number, event in enumerate(golden.events):
        if b"not json at all" in event.wire:  # it waits for another one to follow
            ends[number] = ends[number + 1]
    whole = [expected(golden._replace(events=golden.events[:n]), hide_usage) for n in range(len(ends) + 1)]
    for at in range(len(golden.wire)):
        passed = StreamReader(hide_usage=hide_usage).feed(golden.wire[:at])
        assert passed in whole, at
        assert passed == whole[sum(end <= at for end in ends)], at


@pytest.mark.parametrize("hide_usage", [True, False])
def test_the_half_event_of_a_stream_that_ended_early_never_leaks(hide_usage: bool):
    wire = VLLM_STREAM.wire
    *_, usage_event, _ = VLLM_STREAM.events
    start = wire.index(usage_event.wire)
    for at in range(start + 1, start + len(usage_event.wire) - 2):
        passed, reader = read([wire[:at]], hide_usage=hide_usage)
        assert passed == wire[:start]
        assert reader.usage is None


@pytest.mark.parametrize(
    "tail", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data:[DONE]\n"], ids=repr
)
def test_a_last_event_without_its_blank_line_is_still_an_event(tail: bytes):
    passed, reader = read([ENDLESS_STREAM.wire, tail], hide_usage=False)
    assert passed == ENDLESS_STREAM.wire + tail
    assert reader.done


def test_usage_in_a_last_event_without_its_blank_line_is_read_and_hidden():
    wire = ENDLESS_STREAM.wire.removesuffix(b"\n\n")
    passed, reader = read([wire], hide_usage=True)
    assert passed == ENDLESS_STREAM.shown
    assert reader.usage is not None


@pytest.mark.parametrize("golden", [ERROR_STREAM, ABORT_STREAM], ids=lambda golden: golden.name)
def test_after_a_failure_nothing_passes(golden: Golden):
    reader = StreamReader(hide_usage=True)
    for event in golden.events:
        assert reader.feed(event.wire) == (event.shown or b"")
    assert reader.failure
    assert reader.feed(DONE.wire) == b""
    assert reader.feed(b"data: " + delta(b'"late"') + b"}\n\n") == b""
    assert reader.feed(b"data: half") == b""
    assert reader.flush() == b""
    assert not reader.complete
    assert not reader.done


@pytest.mark.parametrize("no_error", [b"null", b" null"])
def test_a_null_error_is_no_failure(no_error: bytes):
    event = b'data: {"error":' + no_error + b',"choices":[{"delta":{"content":"a"}}]}\n\n'
    passed, reader = read([event], hide_usage=True)
    assert passed == event
    assert reader.failure is None


@pytest.mark.parametrize("error", [b'"boom"', b'{"message":"boom"}', b"{}", b'{"code":500}', b"[1]", b"500"])
def test_an_error_of_any_shape_is_a_failure(error: bytes):
    passed, reader = read([b'data: {"error":' + error + b"}\n\n"], hide_usage=True)
    assert passed == b""
    assert reader.failure


def test_a_stream_that_broke_before_its_end_is_not_complete():
    _, reader = read(
        [b"data: " + VLLM + ROLE + b"}\n\n", b"data: " + delta(b'"a"') + b"}\n\n"], hide_usage=True
    )
    assert not reader.complete
    assert reader.text_chunks == 1


def test_model_and_service_tier_are_those_the_upstream_named():
    _, reader = read([OPENAI_STREAM.wire], hide_usage=True)
    assert (reader.model, reader.service_tier) == ("gpt-4o-2024-11-20", "default")


def test_text_that_speaks_of_usage_errors_and_ends_changes_nothing():
    said = b'"data: [DONE] \\"usage\\":null, \\"error\\":{} \\"finish_reason\\":\\"abort\\" \\n\\n"'
    event = b"data: " + delta(said) + b"}\n\n"
    passed, reader = read([VLLM_STREAM.events[0].wire, event, event], hide_usage=True)
    assert passed == VLLM_STREAM.events[0].wire + event + event
    assert not reader.done
    assert reader.failure is None
    assert reader.text_chunks == 2


@pytest.mark.parametrize(
    "event",
    [
        b"data: not json\n\n",
        b"data: 5\n\n",
        b'data: "text"\n\n',
        b'data: {"choices":5}\n\n',
        b'data: {"usage":5,"choices":[]}\n\n',
        b'data: {"usage":{"prompt_tokens":"many"},"choices":[]}\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
        b'data: {"model":"\xff"}\n\n',
        b"data\n\n",
        b"data:\n\n",
        b"event: ping\n\n",
        b"\n\n",
        b"retry: 5\n\n",
    ],
    ids=lambda event: repr(event[:40]),
)
def test_what_cannot_be_read_is_passed_on(event: bytes):
    passed, reader = read([VLLM_STREAM.events[0].wire, event, b": next\n\n"], hide_usage=False)
    assert passed == VLLM_STREAM.events[0].wire + event
    assert reader.failure is None
    assert reader.text_chunks == 0


BROKEN_EVENTS = [
    b'data: {"id":"x","obj\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"half\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"half"}}\n\n',
    b"data: not json\n\n",
]


@hiding
@pytest.mark.parametrize("cut_off", BROKEN_EVENTS, ids=repr)
def test_an_event_that_was_cut_off_never_reaches_the_client_as_the_last_one(cut_off: bytes, hide_usage: bool):
    before = VLLM_STREAM.events[0].wire + b"data: " + delta(b'"a"') + b"}\n\n"
    for chunks in ([before + cut_off], [before, cut_off], [before, cut_off[:9], cut_off[9:]]):
        passed, reader = read(chunks, hide_usage=hide_usage)
        assert passed == before
        assert not reader.complete


@pytest.mark.parametrize("cut_off", BROKEN_EVENTS, ids=repr)
def test_a_broken_event_in_the_middle_is_the_client_s_to_judge(cut_off: bytes):
    first, after = VLLM_STREAM.events[0].wire, b"data: " + delta(b'"a"') + b"}\n\n"
    passed, reader = read([first, cut_off, after, DONE.wire], hide_usage=True)
    assert passed == first + cut_off + after + DONE.wire
    assert reader.complete


@pytest.mark.parametrize("said", [b'"{"', b'"}}"', b'"{}"'])
def test_braces_in_the_text_change_nothing(said: bytes):
    first, event = VLLM_STREAM.events[0].wire, b"data: " + delta(said) + b"}\n\n"
    reader = StreamReader(hide_usage=True)
    assert [reader.feed(first), reader.feed(event), reader.feed(event)] == [first, event, event]
    assert reader.text_chunks == 2


def finish(index: int) -> bytes:
    return b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"stop"}]}\n\n' % index


def test_a_stream_is_complete_when_each_of_its_choices_is():
    reader = StreamReader(hide_usage=True, choices=3)
    for index in (1, 1, 0):
        reader.feed(finish(index))
        assert not reader.complete
    reader.feed(finish(2))
    assert reader.complete


def test_done_completes_a_stream_whatever_its_choices_said():
    reader = StreamReader(hide_usage=True, choices=3)
    reader.feed(finish(0) + DONE.wire)
    assert reader.complete


@pytest.mark.parametrize("odd", [b'"id":5', b'"service_tier":7', b'"model":{}', b'"usage":5'])
def test_an_event_is_read_however_odd_what_is_only_observed(odd: bytes):
    event = b"data: {" + odd + b',"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    passed, reader = read([event], hide_usage=False)
    assert passed == event
    assert reader.complete
    assert reader.text_chunks == 1


def test_an_event_without_an_end_is_too_large_at_the_bound():
    reader = StreamReader(hide_usage=True, max_event_bytes=1000)
    assert reader.feed(b"x" * 1000) == b""
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")


def test_the_bound_is_on_one_event_not_on_the_stream():
    reader = StreamReader(hide_usage=True, max_event_bytes=1000)
    event = b"event: " + b"x" * 900 + b"\n\n"
    assert sum(len(reader.feed(event[:450])) + len(reader.feed(event[450:])) for _ in range(9)) == 9 * len(
        event
    )


def test_an_event_may_have_thirty_two_mebibytes_and_no_more():
    reader = StreamReader(hide_usage=True)
    for _ in range(32):
        assert reader.feed(b"x" * 1024 * 1024) == b""
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")


def test_an_error_event_is_one_line_of_data():
    assert error_event(b'{"error":{}}') == b'data: {"error":{}}\n\n'


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
pieces = st.lists(st.tuples(texts, st.booleans(), st.booleans()), max_size=12)


@given(pieces=pieces, cuts=st.lists(st.integers(0, 4000), max_size=20), usage=st.booleans())
def test_any_answer_in_any_chunks_reads_the_same_as_in_one(
    pieces: list[tuple[str, bool, bool]], cuts: list[int], usage: bool
):
    wire = b"data: " + VLLM + ROLE + b"}\n\n"
    true_texts = 0
    for text, null_usage, comment in pieces:
        wire += b": x\n\n" if comment else b""
        wire += b"data: " + delta(orjson.dumps(text)) + (b',"usage":null' if null_usage else b"") + b"}\n\n"
        true_texts += bool(text)
    if usage:
        wire += b'data: {"choices":[],"usage":' + USAGE + b"}\n\n"
    wire += b"data: [DONE]\n\n"
    bounds = [0, *sorted(cut % len(wire) for cut in cuts), len(wire)]
    chunks = [wire[start:end] for start, end in pairwise(bounds)]
    for hide_usage in (True, False):
        whole, at_once = read([wire], hide_usage=hide_usage)
        passed, reader = read(chunks, hide_usage=hide_usage)
        assert passed == whole
        assert state(reader) == state(at_once)
        assert reader.text_chunks <= true_texts
        assert hide_usage or passed == wire.replace(b": x\n\n", b"")


# Line ends: CR LF, LF and CR alone, in any mixture.

_LINE_END = re.compile(rb"\r\n|\n|\r")


def with_line_ends(wire: bytes, ends: list[bytes]) -> bytes:
    """`wire` with each of its line ends replaced by the next of `ends`, which come again and again."""
    lines = _LINE_END.split(wire)
    written = bytearray(lines[0])
    for line, end in zip(lines[1:], cycle(ends), strict=False):
        # Behind a CR that ends a line, the LF of an empty one would be the rest of the same line end.
        written += b"\r" if end == b"\n" and written.endswith(b"\r") else end
        written += line
    return bytes(written)


def events_of(stream: bytes) -> list[bytes]:
    """As a reader of the standard sees them."""
    return [event for event in re.split(rb"\n{2,}", _LINE_END.sub(b"\n", stream)) if event.strip()]


line_ends = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r"]), min_size=1, max_size=7)


@pytest.mark.parametrize("golden", [OPENAI_STREAM, ERROR_STREAM], ids=lambda golden: golden.name)
@hiding
@pytest.mark.parametrize("ends", [[b"\r"], [b"\r\n"], [b"\r\n", b"\r"], [b"\n", b"\r\n"]], ids=repr)
def test_any_line_ends_cut_at_every_byte_read_the_same(golden: Golden, hide_usage: bool, ends: list[bytes]):
    wire = with_line_ends(golden.wire, ends)
    whole, reference = read([golden.wire], hide_usage=hide_usage)
    for cut in range(len(wire) + 1):
        passed, reader = read([part for part in (wire[:cut], wire[cut:]) if part], hide_usage=hide_usage)
        assert events_of(passed) == events_of(whole)
        assert state(reader) == state(reference)
    passed, reader = read([wire[at : at + 1] for at in range(len(wire))], hide_usage=hide_usage)
    assert events_of(passed) == events_of(whole)
    assert state(reader) == state(reference)


@given(st.sampled_from(GOLDEN), st.booleans(), line_ends, st.lists(st.integers(0, 4_000), max_size=8))
def test_mixed_line_ends_cut_anywhere_read_the_same(
    golden: Golden, hide_usage: bool, ends: list[bytes], cuts: list[int]
):
    wire = with_line_ends(golden.wire, ends)
    places = [0, *sorted({cut for cut in cuts if cut < len(wire)}), len(wire)]
    chunks = [wire[start:end] for start, end in pairwise(places) if start < end]
    whole, reference = read([golden.wire], hide_usage=hide_usage)
    for reading in (read, read_passing):
        passed, reader = reading(chunks, hide_usage=hide_usage)
        assert events_of(passed) == events_of(whole)
        assert state(reader) == state(reference)


@pytest.mark.parametrize("end", [b"\r\r", b"\n\n", b"\r\n\r\n", b"\n\r", b"\n\r\n", b"\r\n\n", b"\r\r\n"])
def test_an_event_leaves_with_the_end_of_its_blank_line(end: bytes):
    """Not with the next event: the client would wait for a token that is here."""
    reader = StreamReader(hide_usage=False)
    event = b"data: " + delta(b'"Hello"') + b"}" + end
    assert reader.feed(event).startswith(event.rstrip(b"\r\n"))
