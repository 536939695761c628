"""Which strings of any body are read, and in which order, against the same rules written as a recursion."""

from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.detect.text import (
    _CONTENT_KEYS,
    _KNOWN_KEYS,
    _KNOWN_WORDS,
    _UNTOLD_KEYS,
    find_text,
    is_payload,
)

KEYS = (
    *(
        "messages",
        "content",
        "role",
        "text",
        "type",
        "name",
        "prompt",
        "input",
        "model",
        "seed",
        "logit_bias",
    ),
    *("image_url", "url", "file", "file_data", "data", "input_audio", "tool_calls", "function", "arguments"),
    *("metadata", "my_key", "stop", "x", "refusal", "properties"),
)
WORDS = ("user", "assistant", "text", "a", "b", "", "user ", "data:image/png;base64,AAAA", "DATA:x;BASE64,B")

leaves = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([0, -1, 99_999_999, 100_000_000, -100_000_000, 2**70]),
    st.sampled_from([None, True, False, 0.5, 1e12]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


def read(node: Any, parent: str | None, content: list[str], aside: list[str], payloads: list[str]) -> None:
    """The strings of `node` itself, then those of each value that is nested in it."""
    is_object = isinstance(node, dict)
    members = list(node.items()) if is_object else [(parent, item) for item in node]
    if parent is None:
        members = [(key, value) for key, value in members if key not in _UNTOLD_KEYS]
    for key, value in members:
        if type(value) is str and key in _CONTENT_KEYS:
            content.append(value)
        elif type(value) is str and value not in _KNOWN_WORDS:
            (payloads if is_object and is_payload(parent, key, value) else aside).append(value)
        elif type(value) is int and abs(value) >= 10**8:
            aside.append(str(value))
        if is_object and key not in _KNOWN_KEYS:
            aside.append(key)
    for key, value in members:
        if isinstance(value, dict | list):
            read(value, key, content, aside, payloads)


@settings(max_examples=1_000, deadline=None)
@given(bodies)
def test_all_that_the_rules_name_is_read_in_the_order_of_the_body(body: dict[str, Any]) -> None:
    content: list[str] = []
    aside: list[str] = []
    payloads: list[str] = []
    read(body, None, content, aside, payloads)
    found = find_text(body)
    assert found.pieces == (*content, *(["\n".join(aside)] if aside else []))
    assert found.has_payload == bool(payloads)
    assert find_text(MappingProxyType(body)) == found
