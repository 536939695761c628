"""Put the originals back where an answer has their placeholders.

A stream brings its text in pieces, and a placeholder may be cut anywhere. Each text of the answer (content,
the arguments of each tool call, ...) is therefore a channel of its own, which keeps back an end that may
still become a placeholder, at most the length of the longest one. All else passes as it came.
Members may be of any type. What cannot be looked through passes as it is.
"""

import re
from collections.abc import Callable
from typing import Any

from gateway.core.lenient import NoObject, loads_with_writer, write_quickly
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
        # ASCII: else letters of other scripts count as the same, which no `upper` makes equal.
        self._plain = re.compile(rf"\[({labels})\]", re.IGNORECASE | re.ASCII)
        self._nested = re.compile(rf"{_OPEN}({labels}){_CLOSE}", re.IGNORECASE | re.ASCII)
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
            value, write = loads_with_writer(body)
            restored = self._value("", value)
            return body if restored == value else write(restored)
        except (NoObject, RecursionError):
            return body

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

    __slots__ = ("_keeps_back", "_kept", "_restorer", "_template", "_write")

    def __init__(
        self,
        restorer: Restorer,
        *,
        hide_usage: bool,
        choices: int = 1,
        hide_continuous_usage: bool | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        super().__init__(
            hide_usage=hide_usage,
            choices=choices,
            hide_continuous_usage=hide_continuous_usage,
            max_event_bytes=max_event_bytes,
        )
        self._restorer = restorer
        self._write: Callable[[Any], bytes] = write_quickly
        self._kept: dict[_Path, str] = {}
        self._keeps_back = True
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
        if found.strip() == b"[DONE]":
            return self._remainder() + event
        kept = dict(self._kept)
        try:
            chunk, write = loads_with_writer(found)
            return self._chunk(event, chunk, write)
        except (NoObject, RecursionError):
            self._kept = kept
            return event

    def _chunk(self, event: bytes, chunk: Any, write: Callable[[Any], bytes]) -> bytes:
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            return event
        self._template = {name: value for name, value in chunk.items() if name not in {"choices", "usage"}}
        self._write = write
        restored = {**chunk, "choices": [self._choice(choice) for choice in chunk["choices"]]}
        ended = {_choice_index(choice) for choice in chunk["choices"] if _is_finished(choice)}
        kept = self._remainder([path for path in self._kept if path[0] in ended])
        return kept + (event if restored == chunk else _event(write(restored)))

    def _choice(self, choice: Any) -> Any:
        if not isinstance(choice, dict):
            return choice
        self._keeps_back = not _is_finished(choice)  # nothing follows that could complete a placeholder
        return self._value((_choice_index(choice),), choice)

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
        end = self._restorer.settled(text, path[-1]) if self._keeps_back else len(text)
        if end < len(text):
            self._kept[path] = text[end:]
        return self._restorer.whole(text[:end], path[-1])

    def _remainder(self, paths: list[_Path] | None = None) -> bytes:
        """Events for what is kept back, all or at `paths`, where it turned out to be no placeholder.

        Each text has an event of its own: then it does not matter what else the choice has at its place.
        """
        events = []
        for path in list(self._kept) if paths is None else paths:
            choice: dict[str, Any] = {"index": path[0]}
            _add(choice, path[1:], self._kept.pop(path))
            events.append(_event(self._write({**self._template, "choices": [choice]})))
        return b"".join(events)


def _choice_index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else 0


def _is_finished(choice: Any) -> bool:
    return isinstance(choice, dict) and bool(choice.get("finish_reason"))


def _index(item: Any, at: int) -> int:
    """A list's item is known by its own `index`, where it has one: a tool call comes in many events."""
    index = item.get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else at


def _add(node: dict[str, Any], path: _Path, text: str) -> None:
    """Put `text` at `path` in `node`, with everything on the way there."""
    key = str(path[0])
    if len(path) == 1:
        node[key] = text
    elif isinstance(path[1], int):
        item: dict[str, Any] = {"index": path[1]}
        node[key] = [item]
        _add(item, path[2:], text)
    else:
        inner: dict[str, Any] = {}
        node[key] = inner
        _add(inner, path[1:], text)


def _event(chunk: bytes) -> bytes:
    return b"data: " + chunk + b"\n\n"
