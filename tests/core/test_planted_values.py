"""A value at any path of any body, in any spelling of JSON, raises the request or never leaves.

The body as it goes out is what counts: a value that the gateway itself replaces, such as the model's name,
has not left. A number is planted beside a word for it where its detector asks for one.
"""

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.catalog import Api
from gateway.core.errors import InvalidRequest
from gateway.core.parse import parse_call
from gateway.core.screening import Screening, screen
from gateway.core.sent import encode_call
from gateway.detect import DETECTOR_NAMES, Detectors
from gateway.dialects.table import TABLE
from tests.core.builders import CLASSES

SCREENING = Screening(
    classes=CLASSES,
    detectors=Detectors(DETECTOR_NAMES),
    raise_to=dict.fromkeys(DETECTOR_NAMES, "confidential"),
    media={"image": "internal", "audio": "internal", "file": "internal"},  # type: ignore[dict-item]
    token_ids="internal",
)
RAISED = {"confidential", "restricted"}
CARDS = ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117")
STRINGS = (*CARDS, "4111 1111 1111 1111", "bob@example.com", "DE89370400440532013000", "SSN 078-05-1120")
PNG_URL = "data:image/png;base64,iVBORw0KGgo="
# Stands for the value until the body is written.
MARK = "\u241f"

CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "ada", "content": "Hello."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See here."},
                {"type": "text", "text": "And here.", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "UklGRgAAAABXQVZF", "format": "wav"}},
                {"type": "file", "file": {"file_data": "JVBERi0xLjcKJeLjz9M=", "filename": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "Done."},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "does",
                "parameters": {"type": "object", "properties": {"a": {"enum": ["b", 1]}}, "required": ["a"]},
            },
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"title": "t"}}},
    "prediction": {"type": "content", "content": [{"type": "text", "text": "Perhaps."}]},
    "logit_bias": {"50256": -100},
    "stop": ["end"],
    "stop_token_ids": [1, 2],
    "seed": 7,
    "temperature": 0.2,
    "metadata": {"k": "v"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "stream": True,
    "stream_options": {"include_usage": True, "x": 1},
    "max_tokens": 10,
    "unheard_of": [{"deep": [[{"er": None}]]}],
}
COMPLETIONS: dict[str, Any] = {
    "model": "m",
    "prompt": ["Once", "upon"],
    "suffix": "the end",
    "best_of": 1,
    "logit_bias": {"1": 1},
    "seed": 7,
    "stop": "x",
    "user": "u",
    "metadata": {"k": "v"},
    "x": {"y": [1.5]},
}
EMBEDDINGS: dict[str, Any] = {
    "model": "m",
    "input": ["Once", "upon"],
    "dimensions": 8,
    "encoding_format": "float",
    "user": "u",
    "max_tokens": 10,
    "x": {"y": [1.5]},
}
BODIES = [(Api.CHAT, CHAT), (Api.COMPLETIONS, COMPLETIONS), (Api.EMBEDDINGS, EMBEDDINGS)]

Path = tuple[str | int, ...]


def paths(node: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in `node`, itself apart."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def replaced(body: dict[str, Any], path: Path, how: str) -> dict[str, Any]:
    """`body` with MARK at `path`: in place of what is there, beside it, or as a member's name."""
    changed = copy.deepcopy(body)
    node: Any = changed
    for step in path[:-1]:
        node = node[step]
    last = path[-1]
    if how == "instead":
        node[last] = MARK
    elif isinstance(node, list):
        node.insert(int(last), {MARK: 1} if how == "name" else MARK)
    else:
        node[MARK if how == "name" else "card_number"] = 1 if how == "name" else MARK
    return changed


def goes_out_unraised(api: Api, raw: bytes, forms: tuple[bytes, ...]) -> bool:
    """Whether one of `forms` of a value leaves with the request that `raw` is, which nothing has raised."""
    try:
        call, body = parse_call(api, raw, 100)
    except InvalidRequest:
        return False
    out = encode_call(call, "upstream", TABLE["openai-compatible"], 10, call.rest)
    return (
        any(form in out for form in forms) and screen(call, body, SCREENING, "public").privacy not in RAISED
    )


def spellings(digits: str) -> list[str]:
    """`digits` as numbers of JSON: an integer, floats, exponents."""
    fraction = f"{digits[0]}.{digits[1:]}"
    power = len(digits) - 1
    return [
        *(digits, f"-{digits}", f"{digits}.0", f"{digits}.00", f"{digits}e0", f"{digits}E+00"),
        *(f"{fraction}e{power}", f"{fraction}E+{power}", f"{digits}0e-1", f"{digits[:-1]}.{digits[-1]}e1"),
    ]


@pytest.mark.parametrize(("api", "body"), BODIES, ids=["chat", "completions", "embeddings"])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_string_is_found_at_any_path_however_it_is_escaped(
    api: Api, body: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(paths(body))))
    how = data.draw(st.sampled_from(["instead", "beside", "name"]))
    value = data.draw(st.sampled_from(STRINGS))
    escaped = data.draw(st.sets(st.sampled_from(range(len(value)))))
    written = "".join(f"\\u{ord(c):04x}" if at in escaped else c for at, c in enumerate(value))
    raw = orjson.dumps(replaced(body, path, how)).replace(MARK.encode(), written.encode())
    assert not goes_out_unraised(api, raw, (value.encode(),))


@pytest.mark.parametrize(("api", "body"), BODIES, ids=["chat", "completions", "embeddings"])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_number_is_found_at_any_path_however_it_is_written(
    api: Api, body: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(paths(body))))
    how = data.draw(st.sampled_from(["instead", "beside"]))
    digits = data.draw(st.sampled_from(CARDS))
    written = data.draw(st.sampled_from(spellings(digits)))
    raw = orjson.dumps(replaced(body, path, how)).replace(f'"{MARK}"'.encode(), written.encode())
    fraction = f"{digits[0]}.{digits[1:]}".rstrip("0")
    assert not goes_out_unraised(api, raw, (digits.encode(), fraction.encode()))


@pytest.mark.parametrize(("api", "body"), BODIES, ids=["chat", "completions", "embeddings"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_number_that_asks_for_a_word_is_found_beside_it(api: Api, body: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(paths(body))))
    raw = orjson.dumps(replaced(body, path, "beside")).replace(b"card_number", "マイナンバー".encode())
    written = data.draw(st.sampled_from(spellings("123456789018")))
    is_named = "マイナンバー".encode() in raw  # in a list there is no name
    raw = raw.replace(f'"{MARK}"'.encode(), written.encode())
    assert not is_named or not goes_out_unraised(api, raw, (b"123456789018",))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STRINGS), st.data())
def test_a_value_that_is_split_over_what_is_read_in_one_go_is_found(value: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(value) - 1))
    halves = value[:at], value[at:]
    parts = [{"type": "text", "text": half} for half in halves]
    turns = [{"role": "user", "content": half} for half in halves]
    for api, body in (
        (Api.CHAT, {"messages": [{"role": "user", "content": parts}]}),
        (Api.CHAT, {"messages": turns}),
        (Api.CHAT, {"messages": [turns[0], {"role": "user", "content": [parts[1]]}]}),
        (Api.COMPLETIONS, {"prompt": list(halves)}),
        (Api.COMPLETIONS, {"prompt": halves[0], "suffix": halves[1]}),
        (Api.EMBEDDINGS, {"input": list(halves)}),
    ):
        raw = orjson.dumps({"model": "m", **body})
        assert not goes_out_unraised(api, raw, tuple(half.encode() for half in halves)), body


def test_each_body_leaves_as_it_is_without_a_value() -> None:
    for api, body in BODIES:
        assert goes_out_unraised(api, orjson.dumps(body), (b'"user":"u"',))
