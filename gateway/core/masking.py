"""Masking: values leave as placeholders, and come back in the answer.

    masked = mask(body, rest, detectors, found)    # "write to bob@example.com" -> "write to [EMAIL_1]"
    masked.originals                                # {"[EMAIL_1]": "bob@example.com"}

One value has one placeholder throughout a request, numbered in the order of the body: a conversation that is
sent again with a turn more gets the same ones, so that the upstream's prompt cache still fits. Whether
nothing was overlooked is not decided here: the masked body is looked through again, see core/screening.py.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from gateway.detect import Detectors
from gateway.detect.payloads import holds_content
from gateway.detect.places import Found

_NOT_IN_LABELS = re.compile(r"[^A-Z0-9]+")
# JSON as text within JSON: the arguments of a tool call.
_NESTED_KEYS = frozenset({"arguments"})


class Masked(msgspec.Struct, frozen=True):
    """What goes out in place of a body. `originals` are the values by placeholder.

    `body` is the value, `rest` its JSON. `nested`: the answer's content is JSON too, so that an original has
    to be escaped in it.
    """

    body: Mapping[str, Any]
    rest: bytes
    originals: Mapping[str, str]
    nested: bool


def mask(body: Mapping[str, Any], rest: bytes, detectors: Detectors, found: frozenset[str]) -> Masked:
    """`body`, whose JSON is `rest`, with a placeholder for each value of `detectors` in its strings.

    `found` are those of them that find something in the body.

    Left as they are: content in base64, names of members, numbers, and values that are written over two
    strings or in escapes.
    """
    masking = _Masking(rest, detectors, found)
    masked = masking.members(None, body)
    form = body.get("response_format")
    nested = isinstance(form, dict) and form.get("type") in {"json_schema", "json_object"}
    return Masked(masked, orjson.dumps(masked), masking.originals, nested)


class _Masking:
    def __init__(self, rest: bytes, detectors: Detectors, found: frozenset[str]) -> None:
        self._rest = rest
        self._detectors = detectors
        self._found = found
        self._placeholders: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self.originals: dict[str, str] = {}

    def members(self, parent: str | None, members: Mapping[str, Any]) -> dict[str, Any]:
        # As deep as the body is, which was bounded when it was parsed and encoded.
        return {key: self._value(parent, key, value) for key, value in members.items()}

    def _value(self, parent: str | None, key: str, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return value if holds_content(parent, key, value) else self._text(value, key in _NESTED_KEYS)
        if kind is dict:
            return self.members(key, value)
        if kind is list:
            return [self._value(key, key, item) for item in value]
        return value

    def _text(self, text: str, nested: bool) -> str:
        pieces: list[str] = []
        at = 0
        for found in self._detectors.places(text, self._found):
            pieces += text[at : found.start], self._placeholder(text, found, nested)
            at = found.end
        return "".join((*pieces, text[at:])) if pieces else text

    def _placeholder(self, text: str, found: Found, nested: bool) -> str:
        original = text[found.start : found.end]
        if nested:
            original = _unescaped(original)
        placeholder = self._placeholders.get(original)
        if placeholder is None:
            placeholder = self._placeholders[original] = self._next(found.detector)
            self.originals[placeholder] = original
        return placeholder

    def _next(self, detector: str) -> str:
        """The next placeholder that the client has not written itself."""
        label = _NOT_IN_LABELS.sub("_", detector.upper()).strip("_")
        while True:
            self._counts[label] = number = self._counts.get(label, 0) + 1
            placeholder = f"[{label}_{number}]"
            if placeholder.encode() not in self._rest:
                return placeholder


def _unescaped(written: str) -> str:
    """What `written` means inside a JSON string."""
    try:
        return str(json.loads(f'"{written}"', strict=False))
    except ValueError:
        return written


def escaped(original: str) -> str:
    """`original` as it is written inside a JSON string."""
    return json.dumps(original, ensure_ascii=False)[1:-1]
