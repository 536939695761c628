"""Watch an OpenAI-shaped event stream go by, and learn its usage, without holding the tokens up.

Rules:
- Only whole events are passed on, so that an error event can follow at any moment.
- Events are passed byte for byte. Two exceptions, when the gateway asked for usage and the client did not:
  the usage event is left out, and `"usage": null` is cut from the others.
- Most events say nothing but a piece of text; a few byte searches tell them from the rest, which are parsed.
- An event that cannot be parsed is passed on: the reader must never break what it only reads.
"""

import re

import msgspec

from gateway.core.usage import WireUsage

MAX_EVENT_BYTES = 8 * 1024 * 1024

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_USAGE_MEMBER = re.compile(rb'(,\s*)?"usage"\s*:\s*\{')
_COMMA = re.compile(rb"\s*,")
# The members that carry the answer, where they are not empty, and what stands in them.
_PIECE = re.compile(
    rb'"(?:content|text|arguments|refusal|reasoning(?:_content)?)"\s*:\s*"(?!")([^"\\]*(?:\\.[^"\\]*)*)'
)

_NOTHING = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null"})


class _WireChoice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _WireChunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[_WireChoice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: msgspec.Raw = _NOTHING  # `Raw | None` would take nothing but null


_decode_chunk = msgspec.json.Decoder(_WireChunk).decode


class EventTooLarge(Exception):
    """One event has more than MAX_EVENT_BYTES: not a stream of tokens."""


class StreamReader:
    """Reads one stream. `feed` returns what may be passed to the client now.

    After the end: `usage` and `service_tier` as reported, `model` as the upstream named it, `finish_reason`,
    `done` ([DONE] was seen), `failure` (an error event, or an aborted generation), `text_events` (pieces of
    the answer that were seen: each is at least one output token), `text_bytes` (their length in JSON).
    """

    __slots__ = (
        "_held",
        "_hide_usage",
        "_started",
        "done",
        "failure",
        "finish_reason",
        "model",
        "service_tier",
        "text_bytes",
        "text_events",
        "usage",
    )

    def __init__(self, *, hide_usage: bool) -> None:
        self._hide_usage = hide_usage
        self._held = b""
        self._started = False
        self.usage: WireUsage | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.failure: str | None = None
        self.text_events = 0
        self.text_bytes = 0

    @property
    def complete(self) -> bool:
        """True when the upstream said everything it meant to say."""
        return self.failure is None and (self.done or self.finish_reason is not None)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the body and return the whole events, as the client should see them.

        Nothing is returned once `failure` is set. Raises EventTooLarge.
        """
        if self._held or not chunk.endswith(b"\n\n"):
            chunk = self._whole_events(chunk)
            if not chunk:
                return b""
        if self._hide_usage and b'"usage":null' in chunk:
            chunk = chunk.replace(b',"usage":null', b"")
        if self._started and self.failure is None and self._is_plain(chunk):
            self._count(chunk)
            return chunk
        return b"".join([self._read(event) for event in _events(chunk)])

    def flush(self) -> bytes:
        """The end of the body: a last event without its blank line is still an event, half of one is none."""
        held, self._held = self._held, b""
        data = _data_of(held)
        return self._read(held) if data is not None and _is_whole(data) else b""

    def _count(self, text: bytes) -> None:
        pieces = _PIECE.findall(text)
        self.text_events += len(pieces)
        self.text_bytes += sum(map(len, pieces))

    def _is_plain(self, chunk: bytes) -> bool:
        if self._hide_usage:
            has_usage = b'"usage"' in chunk
        else:
            has_usage = b'"usage":{' in chunk or b'"usage": {' in chunk
        return not (
            has_usage
            or b'"finish_reason":"' in chunk
            or b'"finish_reason": "' in chunk
            or b"[DONE]" in chunk
            or b'"error"' in chunk
        )

    def _whole_events(self, chunk: bytes) -> bytes:
        buffered = self._held + chunk
        end = 0
        # Only the last boundary matters; search from the back in the common spelling.
        if (at := buffered.rfind(b"\n\n")) >= 0:
            end = at + 2
        if (at := buffered.rfind(b"\r\n\r\n")) >= 0:
            end = max(end, at + 4)
        self._held = buffered[end:]
        if len(self._held) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return buffered[:end]

    def _read(self, event: bytes) -> bytes:
        if self.failure is not None:
            return b""
        data = _data_of(event)
        if data is None:
            return event
        if data == b"[DONE]":
            self.done = True
            return event
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return event
        return self._learn(event, chunk)

    def _learn(self, event: bytes, chunk: _WireChunk) -> bytes:
        self._started = True
        self.model = chunk.model or self.model
        self.service_tier = chunk.service_tier or self.service_tier
        if bytes(chunk.error) not in _NO_ERROR:
            self.failure = "the upstream sent an error event"
            return b""
        for choice in chunk.choices or ():
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.finish_reason == "abort":
                self.failure = "the engine aborted the generation"
                return b""
        if chunk.choices:
            self._count(event)
        if chunk.usage is None:
            return _NULL_USAGE.sub(b"", event) if self._hide_usage else event
        self.usage = chunk.usage
        if not self._hide_usage:
            return event
        return _without_usage(event) if chunk.choices else b""


def error_event(envelope: bytes) -> bytes:
    """One in-band error event. `envelope` is JSON on one line; no [DONE] may follow it."""
    return b"data: " + envelope + b"\n\n"


def _events(chunk: bytes) -> list[bytes]:
    """Split whole events, each with its blank line."""
    events, start = [], 0
    for boundary in _BOUNDARY.finditer(chunk):
        events.append(chunk[start : boundary.end()])
        start = boundary.end()
    return events


def _data_of(event: bytes) -> bytes | None:
    """The joined `data:` lines of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _is_whole(data: bytes) -> bool:
    try:
        _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data == b"[DONE]"
    return True


def _without_usage(event: bytes) -> bytes:
    """Cut a filled `usage` member out of an event that also carries choices (continuous usage)."""
    found = _USAGE_MEMBER.search(event)
    if found is None:
        return event
    depth, at = 1, found.end()
    while depth and at < len(event):
        # Usage holds numbers and objects only, so braces cannot hide in strings.
        depth += (event[at] == 0x7B) - (event[at] == 0x7D)
        at += 1
    if found[1] is None and (comma := _COMMA.match(event, at)):
        at = comma.end()  # it was the first member
    return event[: found.start()] + event[at:]
