"""How many values a JSON text holds, told from its bytes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.core.json_bounds import (
    HEAVY_BYTES,
    LIGHT_BYTES,
    LIGHT_VALUES,
    check_values,
    has_more_values,
    is_light,
    values_at_most,
)

signs = st.text('[]{},:"\\ax\n', max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99) | signs,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(signs, inner, max_size=5),
    max_leaves=40,
)


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(json_values, st.booleans())
def test_the_count_is_exact_and_never_below_what_the_parser_builds(value: Any, indented: bool) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else None)
    values = count(value)
    assert values_at_most(text) >= values
    # An empty list or object counts as one that could have a value.
    empty = text.count(b"[]") + text.count(b"{}")
    assert has_more_values(text, values - 1)
    assert not has_more_values(text, values + empty)


@given(json_values)
def test_a_text_that_is_cut_off_has_no_more_than_the_whole(value: Any) -> None:
    text = orjson.dumps(value)
    most = values_at_most(text)
    assert not any(has_more_values(text[:at], most) for at in range(len(text)))


@pytest.mark.parametrize(
    "string",
    ["[" * 5000, '{"a":[' * 900, ",".join("x" * 3000), '\\"[,' * 2000, "\\\\[" * 3000, '\\\\\\"[,{' * 900],
)
def test_signs_in_strings_are_no_values(string: str) -> None:
    text = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": string}]})
    assert values_at_most(text) > 100
    assert not has_more_values(text, 100)


@pytest.mark.parametrize(
    "filling", [b"[],", b"{},", b"0,", b'"",', b'{"":0},', b"[[[[]]]],", b'"\\"",', b'"\\\\",', b'"[",']
)
def test_values_are_counted_whatever_they_are(filling: bytes) -> None:
    text = b'{"stop":[' + filling * 300 + b"0]}"
    check_values(text, 4000)
    with pytest.raises(InvalidRequest) as refused:
        check_values(text, 200)
    assert refused.value.code == "too_many_values"
    assert "200" in refused.value.message


def test_what_is_no_json_hides_nothing_that_stands_before_it() -> None:
    assert has_more_values(b"[" + b"[]," * 500 + b'"', 100)
    assert has_more_values(b"[" + b"[]," * 500 + b'\\"[', 100)
    assert has_more_values(b"[" * 500, 100)


def test_light_is_what_is_short_or_holds_little() -> None:
    assert is_light(b"[" * LIGHT_BYTES)  # half of them are values at most, and few at that
    assert is_light(b'"' + b"x" * (HEAVY_BYTES - 2) + b'"')
    assert not is_light(b'"' + b"x" * HEAVY_BYTES + b'"')
    assert not is_light(b"[" + b"0," * (LIGHT_VALUES + LIGHT_BYTES) + b"0]")
