"""The answer has the originals back: whole, and in streams that cut a placeholder anywhere."""

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.masking import Masked
from gateway.core.restoring import Restorer, RestoringReader
from gateway.core.sse import StreamReader, data_of, split_events
from tests.core.streams import GOLDEN

ORIGINALS = {f"[EMAIL_{n}]": f"user{n}@example.com" for n in range(1, 12)} | {
    "[SECRET_1]": 'pa"ss\\word\n1',
    "[PROJECT_NAMES_1]": "カワセミ計画",
}


def masked(*, nested: bool = False) -> Masked:
    return Masked({}, b"{}", ORIGINALS, nested)


def restorer(*, nested: bool = False) -> Restorer:
    return Restorer(masked(nested=nested))


def event(choice: dict[str, Any], index: int = 0, **more: Any) -> bytes:
    chunk = {"id": "c", "model": "m", "choices": [{"index": index, **choice, "finish_reason": None, **more}]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def content(text: str, index: int = 0, **more: Any) -> bytes:
    return event({"delta": {"content": text}}, index, **more)


def arguments(text: str, call: int = 0) -> bytes:
    return event({"delta": {"tool_calls": [{"index": call, "function": {"arguments": text}}]}})


STOP = event({"delta": {}}, finish_reason="stop")
DONE = b"data: [DONE]\n\n"


class Texts:
    """What a client puts together from a stream: each channel's text."""

    def __init__(self, stream: bytes) -> None:
        self.found: dict[tuple[Any, ...], str] = defaultdict(str)
        for item in split_events(stream):
            found = data_of(item)
            if found and found != b"[DONE]":
                for choice in json.loads(found)["choices"]:
                    self._read((choice["index"],), choice)

    def _read(self, path: tuple[Any, ...], node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                self._read((*path, key), value)
        elif isinstance(node, list):
            for item in node:
                self._read((*path, item["index"]), item)
        elif isinstance(node, str) and path[-1] in ("content", "arguments", "text", "reasoning_content"):
            self.found[path] += node

    @property
    def content(self) -> str:
        return self.found[0, "delta", "content"]

    def arguments(self, call: int = 0) -> str:
        return self.found[0, "delta", "tool_calls", call, "function", "arguments"]


def streamed(chunks: list[bytes], *, nested: bool = False) -> bytes:
    reader = RestoringReader(restorer(nested=nested), hide_usage=False)
    passed = b"".join(map(reader.feed, chunks))
    return passed if reader.done else passed + reader.flush()


def cut_at(text: str, places: tuple[int, ...]) -> list[str]:
    bounds = [0, *sorted(places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


TEXT = "to [EMAIL_1], cc [EMAIL_11] [EMAIL_1][PROJECT_NAMES_1] [EMAIL_99] [x] ["
RESTORED = "to user1@example.com, cc user11@example.com user1@example.comカワセミ計画 [EMAIL_99] [x] ["


# Whole answers


def test_every_string_of_an_answer() -> None:
    call = {
        "id": "1",
        "function": {"name": "f", "arguments": '{"to": "[EMAIL_2]", "pw": "\\u005bSECRET_1\\u005D"}'},
    }
    answer = {"choices": [{"message": {"content": TEXT, "tool_calls": [call]}}], "usage": {"n": 1}}
    found = orjson.loads(restorer().answer(orjson.dumps(answer)))
    message = found["choices"][0]["message"]
    assert message["content"] == RESTORED
    assert orjson.loads(message["tool_calls"][0]["function"]["arguments"]) == {
        "to": "user2@example.com",
        "pw": ORIGINALS["[SECRET_1]"],
    }


def test_content_that_is_json_stays_json() -> None:
    answer = {"choices": [{"message": {"content": '{"pw":"[SECRET_1]"}'}}]}
    found = orjson.loads(restorer(nested=True).answer(orjson.dumps(answer)))
    assert orjson.loads(found["choices"][0]["message"]["content"]) == {"pw": ORIGINALS["[SECRET_1]"]}


@pytest.mark.parametrize("body", [b'{ "choices": [ {"message": {"content": "hi"}} ] }', b"no json", b"[]"])
def test_an_answer_without_placeholders_is_the_same_byte_for_byte(body: bytes) -> None:
    assert restorer().answer(body) == body


def test_a_placeholder_in_other_letters_is_one_too() -> None:
    assert restorer().whole("[email_1]", "content") == "user1@example.com"


def test_an_original_that_looks_like_a_placeholder_is_not_replaced_again() -> None:
    once = Restorer(Masked({}, b"{}", {"[A_1]": "[A_2]", "[A_2]": "x"}, False))
    assert once.whole("[A_1] [A_2]", "content") == "[A_2] x"


# Streams


def test_a_placeholder_cut_over_any_two_events() -> None:
    for place in range(len(TEXT) + 1):
        stream = b"".join(map(content, cut_at(TEXT, (place,)))) + STOP + DONE
        assert Texts(streamed([stream])).content == RESTORED


@settings(max_examples=200)
@given(st.lists(st.integers(0, len(TEXT)), max_size=30).map(tuple))
def test_a_placeholder_cut_over_any_number_of_events(places: tuple[int, ...]) -> None:
    stream = b"".join(map(content, cut_at(TEXT, places))) + STOP + DONE
    assert Texts(streamed([stream])).content == RESTORED


def test_a_stream_cut_at_every_byte() -> None:
    pieces = cut_at(TEXT, (3, 6, 11, 20, 30))
    stream = b"".join(map(content, pieces)) + STOP + DONE
    for place in range(1, len(stream)):
        assert Texts(streamed([stream[:place], stream[place:]])).content == RESTORED
    assert Texts(streamed([stream[at : at + 1] for at in range(len(stream))])).content == RESTORED


@pytest.mark.parametrize(
    "spelled", ["[SECRET_1]", "\\u005bSECRET_1]", "[SECRET_1\\u005D", "\\u005BSECRET_1\\u005d"]
)
def test_arguments_cut_anywhere_stay_json(spelled: str) -> None:
    text = f'{{"pw": "{spelled}", "path": "c:\\\\u005b", "n": [1]}}'
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            stream = b"".join(map(arguments, cut_at(text, (first, second)))) + STOP + DONE
            found = orjson.loads(Texts(streamed([stream])).arguments())
            assert found == {"pw": ORIGINALS["[SECRET_1]"], "path": "c:\\u005b", "n": [1]}


def test_escapes_of_the_event_itself_are_read() -> None:
    written = content("[EMAIL_1]").replace(b"[EMAIL_1]", b"\\u005bEMAIL\\u005f1\\u005d")
    assert Texts(streamed([written, STOP, DONE])).content == "user1@example.com"


def test_channels_do_not_mix() -> None:
    stream = [
        content("[EMA"),
        arguments('{"a":"[EMAIL', 0),
        arguments('{"b":"[EMAIL_', 1),
        content("[EMAIL_", 1),
        event({"delta": {"reasoning_content": "[EMAIL_"}}),
        content("IL_1]"),
        arguments('_2]"}', 0),
        arguments('3]"}', 1),
        content("4]", 1),
        event({"delta": {"reasoning_content": "5]"}}),
        STOP,
        DONE,
    ]
    found = Texts(streamed(stream))
    assert found.content == "user1@example.com"
    assert found.arguments(0) == '{"a":"user2@example.com"}'
    assert found.arguments(1) == '{"b":"user3@example.com"}'
    assert found.found[1, "delta", "content"] == "user4@example.com"
    assert found.found[0, "delta", "reasoning_content"] == "user5@example.com"


def test_what_is_kept_back_comes_with_the_finish() -> None:
    passed = streamed([content("wait ["), arguments('{"a":"[EMAIL'), STOP, DONE])
    assert Texts(passed).content == "wait ["
    assert Texts(passed).arguments() == '{"a":"[EMAIL'
    assert passed.endswith(DONE)


@pytest.mark.parametrize("end", [[DONE], []], ids=["[DONE]", "end of the body"])
def test_or_as_an_event_of_its_own_where_nothing_says_that_it_is_finished(end: list[bytes]) -> None:
    passed = streamed([content("wait [EMAIL"), *end])
    assert Texts(passed).content == "wait [EMAIL"
    assert b'"id":"c"' in split_events(passed)[1]


def test_completions_have_their_text_restored() -> None:
    stream = [
        event({"text": "[EMAIL"}),
        event({"text": "_1] and ["}),
        event({"text": ""}, finish_reason="stop"),
        DONE,
    ]
    assert Texts(streamed(stream)).found[0, "text"] == "user1@example.com and ["


def test_nothing_but_a_possible_beginning_is_kept_back() -> None:
    reader = RestoringReader(restorer(), hide_usage=False)
    assert Texts(reader.feed(content("a [b] c [EMAIL_1"))).content == "a [b] c "
    assert Texts(reader.feed(content("x"))).content == "[EMAIL_1x"


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
@pytest.mark.parametrize("hide_usage", [True, False])
def test_a_stream_without_placeholders_passes_byte_for_byte(golden: Any, hide_usage: bool) -> None:
    plain = StreamReader(hide_usage=hide_usage)
    restoring = RestoringReader(restorer(), hide_usage=hide_usage)
    assert restoring.feed(golden.wire) + restoring.flush() == plain.feed(golden.wire) + plain.flush()
    assert (restoring.usage, restoring.done) == (plain.usage, plain.done)
    assert restoring.text_chunks == plain.text_chunks


def test_a_tail_that_comes_with_the_finish_stays_behind_what_comes_with_it() -> None:
    last = event({"delta": {"content": "wait ["}}, finish_reason="stop")
    passed = streamed([content("so [EMAIL"), content("_1] "), last, DONE])
    assert Texts(passed).content == "so user1@example.com wait ["
    assert split_events(passed)[-2] == last


# Odd values


def test_letters_of_other_scripts_make_no_placeholder() -> None:
    for text in ("[EMA\u0130L_1]", "[EMAIL_1\u0660]", "[\u017fECRET_1]"):
        assert restorer().whole(text, "content") == text


@pytest.mark.parametrize("odd", ["\\ud800", "\\ude42\\ud83d", "x\\udfff"])
def test_a_lone_surrogate_beside_a_placeholder_does_not_keep_it_from_being_restored(odd: str) -> None:
    body = b'{"choices":[{"message":{"content":"%b [EMAIL_1]"}}],"x":1e2}' % odd.encode()
    expected = body.replace(b"[EMAIL_1]", b"user1@example.com").replace(b"1e2", b"100.0")
    assert restorer().answer(body) == expected
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"%b [EMAIL"}}]}\n\n' % odd.encode()]
    events += [content("_1]"), STOP, DONE]
    assert Texts(streamed(events)).content == orjson_unescaped(odd) + " user1@example.com"


def orjson_unescaped(text: str) -> str:
    return str(json.loads(f'"{text}"'))


ODD = [None, 5, -1.5, True, "", "x", [], [5], [[]], {}, {"index": []}, {"content": 5}, "[EMAIL_"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", ["index", "delta", "finish_reason", "logprobs", "text"])
def test_an_odd_member_of_a_choice_loses_no_text(name: str, odd: Any) -> None:
    pieces = [content("a [EMAIL"), event({"delta": {"content": "_"}} | {name: odd}), content("1] b ["), STOP]
    passed = streamed([*pieces, DONE])
    assert b" b " in passed and passed.endswith(DONE)
    assert b'"["' in passed  # what was kept back came, as an event of its own


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", ["content", "tool_calls", "role", "function_call", "audio"])
def test_an_odd_member_of_the_last_delta_loses_no_text(name: str, odd: Any) -> None:
    last = event({"delta": {name: odd}}, finish_reason="stop")
    passed = streamed([content("a ["), arguments('{"a":"[EMAIL'), last, DONE])
    assert b'"["' in passed or b'"[' in passed
    assert b'"[EMAIL"' in passed
    assert passed.endswith(DONE)


@pytest.mark.parametrize("depth", [300, 600, 1000, 1500])
def test_an_answer_nested_too_deeply_to_look_through_passes(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    body = b'{"choices":[{"index":0,"delta":{"content":"[EMAIL_1]"}}],"deep":%b}' % deep
    assert restorer().answer(body).endswith(deep + b"}")
    passed = streamed([content("so [EMAIL"), b"data: " + body + b"\n\n", STOP, DONE])
    assert passed.endswith(DONE)
    assert b"[EMAIL" in passed
