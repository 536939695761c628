"""Which strings of a body are read."""

from typing import Any

import orjson
import pytest

from gateway.detect import DETECTOR_NAMES, Detectors
from gateway.detect.text import find_text

ALL = Detectors(DETECTOR_NAMES)
CARD = "4111111111111111"


def pieces(body: dict[str, Any]) -> tuple[str, ...]:
    return find_text(body).pieces


def chat(*content: object, **more: object) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": part} for part in content], **more}


def test_a_chat_is_its_messages_in_order() -> None:
    assert pieces(chat("one", "two", temperature=0.2, stream=True)) == ("one", "two")


def test_content_parts_follow_each_other() -> None:
    parts = [{"type": "text", "text": "4111 1111"}, {"type": "text", "text": " 1111 1111"}]
    body = chat(parts, "thanks")
    assert pieces(body) == ("4111 1111", " 1111 1111", "thanks")
    assert ALL.scan(pieces(body)) == {"credit_card"}


def test_names_between_messages_do_not_part_a_value() -> None:
    body = {
        "messages": [
            {"role": "user", "name": "bob", "content": "4111 1111"},
            {"role": "user", "name": "bob", "content": " 1111 1111"},
        ]
    }
    assert ALL.scan(pieces(body)) == {"credit_card"}


@pytest.mark.parametrize(
    "body",
    [
        chat(CARD),
        chat([{"type": "text", "text": CARD}]),
        chat([CARD]),
        {"messages": [{"role": CARD, "content": "x"}]},
        {"messages": [{"role": "user", "name": CARD, "content": "x"}]},
        {"messages": [{"role": "assistant", "content": None, "refusal": CARD}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": CARD}}]}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": CARD}}]},
        {"messages": [{"role": "tool", "tool_call_id": CARD, "content": "x"}]},
        chat("x", tools=[{"type": "function", "function": {"name": "f", "description": CARD}}]),
        chat("x", tools=[{"function": {"parameters": {"properties": {CARD: {"type": "string"}}}}}]),
        chat("x", tools=[{"function": {"parameters": {"properties": {"a": {"enum": [CARD]}}}}}]),
        chat("x", tools=[{"function": {"parameters": {"properties": {"a": {"default": int(CARD)}}}}}]),
        chat("x", tools=[{"function": {"parameters": {"properties": {"model": {"default": CARD}}}}}]),
        chat("x", tools=[{"function": {"parameters": {"properties": {"seed": {"const": [int(CARD)]}}}}}]),
        chat("x", functions=[{"name": "f", "description": CARD}]),
        chat("x", response_format={"type": "json_schema", "json_schema": {"schema": {"title": CARD}}}),
        chat("x", prediction={"type": "content", "content": CARD}),
        chat("x", metadata={"note": CARD}),
        chat("x", metadata={CARD: "note"}),
        chat("x", metadata={"model": CARD}),
        chat("x", metadata={"data": CARD, "url": "x"}),
        chat("x", user=CARD),
        chat("x", stop=CARD),
        chat("x", stop=["a", CARD]),
        chat("x", chat_template_kwargs={"hint": CARD}),
        chat([{"type": "image_url", "image_url": {"url": f"https://example.com/{CARD}.png"}}]),
        chat([{"type": "image_url", "image_url": {"url": f"data:text/plain,{CARD}"}}]),
        chat([{"type": "image_url", "image_url": {"url": "data:;base64,AAAA", "detail": CARD}}]),
        chat([{"type": "file", "file": {"filename": f"{CARD}.pdf", "file_data": "AAAA"}}]),
        {"prompt": CARD},
        {"prompt": ["a", CARD]},
        {"prompt": "x", "suffix": CARD},
        {"input": CARD},
        {"input": ["a", CARD]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": CARD}]}], "instructions": "x"},
        {"input": "x", "instructions": CARD},
    ],
)
def test_text_is_read_wherever_an_upstream_reads_it(body: dict[str, Any]) -> None:
    parsed = orjson.loads(orjson.dumps(body))
    assert ALL.scan(pieces(parsed)) == {"credit_card"}


def test_what_only_steers_the_sampler_is_read_too() -> None:
    body = chat("x", seed=int(CARD), logit_bias={"7": float(CARD)}, stop_token_ids=[10**8], top_p=0.9)
    assert pieces(body) == ("x", f"{CARD}\nstop_token_ids\n7\n{CARD}\n100000000")


@pytest.mark.parametrize(
    ("number", "read"),
    [
        (99_999_999, None),
        (99_999_999.9, None),
        (-99_999_999, None),
        (100_000_000, "100000000"),
        (1e8, "100000000"),
        (-1e8, "-100000000"),
        (4111111111111111.0, CARD),
        (4.111111111111111e15, CARD),
        (4111111111111111.5, f"{CARD}\n{CARD}5"),
        (1733072400.125, "1733072400\n1733072400125"),
        (4.111111111111111e22, f"{int(4.111111111111111e22)}\n{CARD}"),
        (2**70, str(2**70)),
        (True, None),
    ],
)
def test_of_a_number_all_digits_are_read_that_it_leaves_with(number: Any, read: str | None) -> None:
    for body in (chat("x", n=number), chat("x", stop=[number])):
        assert pieces(body) == (("x",) if read is None else ("x", read))


def test_a_key_is_read_before_its_value() -> None:
    body = chat("x", metadata={"my number": 123456789018})
    assert pieces(body) == ("x", "my number\n123456789018")
    assert ALL.scan(pieces(body)) == {"jp_my_number"}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1, 2, 3]},
        {"prompt": [[1, 2], [3]]},
        {"input": [1, 2, 3]},
        {"input": [[1, 2], [3]]},
        {"input": ["text", [1, 2]]},
    ],
)
def test_token_ids_are_told(body: dict[str, Any]) -> None:
    assert find_text(body).has_token_ids


@pytest.mark.parametrize(
    "body",
    [
        {"prompt_embeds": "AAAA"},
        {"prompt": "x", "prompt_embeds": ["AAAA"]},
        {"prompt_token_ids": [1, 2]},
        {"input_ids": [1, 2]},
        {"input": [1.0, 2.0]},
        {"input": [[1, 2], [3.5]]},
        {"input": [{"role": "user", "content": "x"}]},
        {"input": [True]},
        {"prompt": {"text": "x"}},
        {"prompt": 1},
    ],
)
def test_what_stands_beside_a_prompt_is_unreadable(body: dict[str, Any]) -> None:
    assert find_text(body).unreadable


@pytest.mark.parametrize(
    "body",
    [
        chat("x"),
        chat("x", metadata={"prompt": [1], "input": [1]}),
        {"prompt": "x"},
        {"prompt": ["x", "y"]},
        {"input": []},
        {},
    ],
)
def test_text_is_readable(body: dict[str, Any]) -> None:
    assert not find_text(body).unreadable
    assert not find_text(body).has_token_ids


def test_readable_text_beside_token_ids_is_still_read() -> None:
    found = find_text({"input": [[1, 2], CARD], "user": "bob"})
    assert found.has_token_ids
    assert found.pieces == (CARD, "bob")


def test_nesting_far_deeper_than_the_stack_is_read() -> None:
    nested: Any = CARD
    for _ in range(50_000):
        nested = {"a": [nested]}
    assert ALL.scan(pieces(chat("x", metadata=nested))) == {"credit_card"}
    while isinstance(nested, dict):  # taken apart by hand: freeing it in one go would recurse
        nested = nested["a"].pop()


def test_the_order_is_that_of_the_body_and_stable() -> None:
    body = chat("one", ["two", {"type": "text", "text": "three"}], "four", user="eve", metadata={"k": "v"})
    assert pieces(body) == pieces(orjson.loads(orjson.dumps(body)))
    assert pieces(body) == ("one", "two", "three", "four", "eve\nk\nv")


def test_json_escapes_cannot_hide_a_value() -> None:
    raw = rb'{"messages": [{"role": "user", "content": "mail bob\u0040example.com"}]}'
    assert ALL.scan(pieces(orjson.loads(raw))) == {"email"}
    arguments = '{"to": "bob\\u0040example.com"}'
    body = {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]}
    assert ALL.scan(pieces(body)) == {"email"}
