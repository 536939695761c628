"""Put the originals back where an answer has their placeholders.

A stream brings its text in pieces, and a placeholder may be cut anywhere. Each text of the answer (content,
the arguments of each tool call, ...) is therefore a channel of its own, which keeps back an end that may
still become a placeholder, at most the length of the longest one. All else passes as it came.
"""

import re
from typing import Any

import orjson

from gateway.core.masking import Masked, escaped
from gateway.core.sse import MAX_EVENT_BYTES, StreamReader, data_of, split_events

_CHANNELS = frozenset({"content", "text", "refusal", "reasoning", "reasoning_content", "arguments"})
_CONTENT = frozenset({"content", "text"})
# How a model or its server may spell the brackets in JSON that stands in a string.
_OPEN, _CLOSE = r"(?:\[|(?<!\\)\\u005b)", r"(?:\]|\\u005d)"
_OPENING = frozenset("[\\")

_Path = tuple[str | int, ...]


class Restorer:
    """Puts the originals of one request back. `nested` text is JSON that stands in a string."""

    def __init__(self, masked: Masked) -> None:
        names = [placeholder[1:-1] for placeholder in masked.originals]
        labels = "|".join(map(re.escape, names))
        self._plain = re.compile(rf"\[({labels})\]", re.IGNORECASE)
        self._nested = re.compile(rf"{_OPEN}({labels}){_CLOSE}", re.IGNORECASE)
        self._originals = dict(zip(names, masked.originals.values(), strict=True))
        self._content_is_nested = masked.nested
        self._spellings = tuple(f"[{name}]" for name in names)
        self._nested_spellings = tuple(
            f"{first}{name}{last}"
            for name in names
            for first in ("[", "\\U005B")
            for last in ("]", "\\U005D")
        )

    def is_nested(self, key: str | int) -> bool:
        return key == "arguments" or (self._content_is_nested and key in _CONTENT)

    def whole(self, text: str, key: str | int) -> str:
        """`text`, which stands behind `key`, with every original in its place."""
        if self.is_nested(key):
            return self._nested.sub(lambda match: escaped(self._originals[match[1].upper()]), text)
        return self._plain.sub(lambda match: self._originals[match[1].upper()], text)

    def settled(self, text: str, key: str | int) -> int:
        """How much of `text` cannot become part of a placeholder, whatever comes next."""
        spellings = self._nested_spellings if self.is_nested(key) else self._spellings
        for at in range(max(0, len(text) - max(map(len, spellings)) + 1), len(text)):
            if text[at] in _OPENING:
                tail = text[at:].upper()
                if any(len(name) > len(tail) and name.startswith(tail) for name in spellings):
                    return at
        return len(text)

    def answer(self, body: bytes) -> bytes:
        """A whole answer with every original in its place; byte for byte the same where there is none."""
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return body
        restored = self._value("", value)
        return body if restored == value else orjson.dumps(restored)

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, str):
            return self.whole(value, key)
        if isinstance(value, dict):
            return {name: self._value(name, member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._value(key, item) for item in value]
        return value


class RestoringReader(StreamReader):
    """A reader of a masked request's stream: what it passes on has the originals back."""

    __slots__ = ("_kept", "_restorer", "_template")

    def __init__(
        self,
        restorer: Restorer,
        *,
        hide_usage: bool,
        choices: int = 1,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        super().__init__(hide_usage=hide_usage, choices=choices, max_event_bytes=max_event_bytes)
        self._restorer = restorer
        self._kept: dict[_Path, str] = {}
        self._template: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> bytes:
        passed = super().feed(chunk)
        return b"".join(map(self._restored, split_events(passed))) if passed else b""

    def flush(self) -> bytes:
        last = super().flush()
        return (self._restored(last) if last else b"") + self._remainder()

    def _restored(self, event: bytes) -> bytes:
        found = data_of(event)
        if found is None:
            return event
        if found == b"[DONE]":
            return self._remainder() + event
        try:
            chunk = orjson.loads(found)
        except orjson.JSONDecodeError:
            return event
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            return event
        self._template = {name: value for name, value in chunk.items() if name not in {"choices", "usage"}}
        restored = {**chunk, "choices": [self._choice(choice) for choice in chunk["choices"]]}
        return event if restored == chunk else _event(restored)

    def _choice(self, choice: Any) -> Any:
        if not isinstance(choice, dict):
            return choice
        index = choice.get("index", 0)
        restored: dict[str, Any] = self._value((index,), choice)
        if choice.get("finish_reason"):
            for path in [path for path in self._kept if path[0] == index]:
                _add(restored, path[1:], self._taken(path))
        return restored

    def _value(self, path: _Path, value: Any) -> Any:
        key = path[-1]
        if isinstance(value, str):
            return self._piece(path, value) if key in _CHANNELS else self._restorer.whole(value, key)
        if isinstance(value, dict):
            return {name: self._value((*path, name), member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._value((*path, _index(item, at)), item) for at, item in enumerate(value)]
        return value

    def _piece(self, path: _Path, piece: str) -> str:
        text = self._kept.pop(path, "") + piece
        end = self._restorer.settled(text, path[-1])
        if end < len(text):
            self._kept[path] = text[end:]
        return self._restorer.whole(text[:end], path[-1])

    def _taken(self, path: _Path) -> str:
        """What was kept back of a channel, which turned out to be no placeholder."""
        return self._kept.pop(path)

    def _remainder(self) -> bytes:
        """One more event for what is kept back when the stream ends without a finish reason."""
        if not self._kept:
            return b""
        choices: dict[str | int, dict[str, Any]] = {}
        for path in list(self._kept):
            choice = choices.setdefault(path[0], {"index": path[0]})
            _add(choice, path[1:], self._taken(path))
        return _event({**self._template, "choices": list(choices.values())})


def _index(item: Any, at: int) -> int:
    """A list's item is known by its own `index`, where it has one: a tool call comes in many events."""
    index = item.get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else at


def _add(node: dict[str, Any], path: _Path, text: str) -> None:
    """Append `text` to what stands at `path`, with everything on the way there."""
    key = str(path[0])
    if len(path) == 1:
        node[key] = (node.get(key) or "") + text
    elif isinstance(path[1], int):
        items = node[key] = node.get(key) or []
        item = next((item for at, item in enumerate(items) if _index(item, at) == path[1]), None)
        if item is None:
            item = {"index": path[1]}
            items.append(item)
        _add(item, path[2:], text)
    else:
        inner = node[key] = node.get(key) or {}
        _add(inner, path[1:], text)


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
