"""Which strings and numbers of any body are read, against the same rules written as a recursion."""

from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.detect.payloads import PLACES, holds_content, payload_of, read_payload, without_payload
from gateway.detect.text import _CONTENT_KEYS, _KNOWN_KEYS, _KNOWN_WORDS, _digits_of, find_text

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
PNG = "data:image/png;base64,iVBORw0KGgo="
WORDS = (
    "user",
    "image_url",
    "file",
    "a",
    "b",
    "",
    "user ",
    PNG,
    "DATA:x;BASE64,B",
    "data:,a",
    "data:text/x;base64,YWJj",
)

leaves = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([0, -1, 99_999_999, 100_000_000, -100_000_000, 2**70]),
    st.sampled_from([None, True, False, 0.5, 1e12, -1e300, 4111111111111111.5]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        st.builds(
            lambda url, more: {**more, "type": "image_url", "image_url": {"url": url}}, inner, st.just({})
        ),
    ),
    max_leaves=20,
)
messages = st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=4), max_size=3)
bodies = st.builds(
    lambda body, more: body | more,
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
    st.just({}) | st.builds(lambda value: {"messages": value}, messages),
)


class Reading:
    def __init__(self, body: dict[str, Any]) -> None:
        self.content: list[str] = []
        self.aside: list[str] = []
        self.unreadable = False
        self.read(body, None, ())

    def read(self, node: Any, parent: str | None, path: tuple[str, ...]) -> None:
        """The strings and numbers of `node` itself, then those of each value that is nested in it."""
        is_object = isinstance(node, dict)
        if path == ("messages list", "content list") and not is_object:
            node = [self.without_payload(part) for part in node]
        members = list(node.items()) if is_object else [(parent, item) for item in node]
        for key, value in members:
            if is_object and key not in _KNOWN_KEYS:
                self.aside.append(key)
            if type(value) is str:
                self.read_string(parent if is_object else None, key, value)
            elif type(value) in {int, float} and abs(value) >= 10**8:
                self.aside.append(_digits_of(value))
        for key, value in members:
            if isinstance(value, dict | list):
                step = f"{key} {type(value).__name__}"
                self.read(value, key, (*path, step) if is_object else path)

    def read_string(self, parent: str | None, key: str | None, value: str) -> None:
        if key in _CONTENT_KEYS:
            self.content.append(value)
        elif value not in _KNOWN_WORDS:
            self.aside.append(value)
            self.unreadable |= holds_content(parent, key, value)

    def without_payload(self, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in PLACES or payload_of(part, PLACES[kind]) is None:
            return part
        read = read_payload(payload_of(part, PLACES[kind]) or "", PLACES[kind])
        self.aside += read.text
        self.unreadable |= read.unreadable
        return without_payload(part, PLACES[kind])


@settings(max_examples=1_000, deadline=None)
@given(bodies)
def test_all_that_the_rules_name_is_read_in_the_order_of_the_body(body: dict[str, Any]) -> None:
    reading = Reading(body)
    found = find_text(body)
    assert found.pieces == (*reading.content, *(["\n".join(reading.aside)] if reading.aside else []))
    if not {"prompt", "input"} & body.keys():
        assert found.unreadable == reading.unreadable
    assert find_text(MappingProxyType(body)) == found
