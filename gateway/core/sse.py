"""Watch an OpenAI-shaped event stream go by, and learn its usage, without holding the tokens up.

Rules:
- Only whole events are passed on, so that an error event can follow at any moment.
- Events are passed byte for byte. Two exceptions, when the gateway asked for usage and the client did not:
  the usage event is left out, and `"usage": null` is cut from the others.
- Most events say nothing but a piece of text; a few byte searches tell them from the rest, which are parsed.
- An event that cannot be parsed is passed on, once another one follows it: the reader must never break what
  it only reads. With nothing behind it it was cut off, and the client is spared half a JSON.
"""

import re

from gateway.core.answer import BROKEN_JSON, Observed, observe
from gateway.core.wire_usage import WireUsage

MAX_EVENT_BYTES = 8 * 1024 * 1024
# So many chunks are counted together: one search over all of them costs less than one over each.
COUNTED_TOGETHER = 64

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_USAGE_MEMBER = re.compile(rb'(,\s*)?"usage"\s*:\s*\{')
_COMMA = re.compile(rb"\s*,")
# The members that carry the answer, where they are not empty, and what stands in them.
_PIECE = re.compile(
    rb'"(?:content|text|arguments|refusal|reasoning(?:_content)?)"\s*:\s*"(?!")([^"\\]*(?:\\.[^"\\]*)*)'
)


class EventTooLarge(Exception):
    """One event has more than MAX_EVENT_BYTES: not a stream of tokens."""


class StreamReader:
    """Reads one stream. `feed` returns what may be passed to the client now.

    `choices` are those that the answer will have.

    After the end: `usage` and `service_tier` as reported, `model` as the upstream named it, `finish_reason`,
    `done` ([DONE] was seen), `failure` (an error event, or an aborted generation), `text_chunks` (pieces of
    the answer that were seen: each is at least one output token), `text_bytes` (their length in JSON). What
    went by `passes` is counted in bulk: `count_passed` brings both up to date.

    Many attributes: half of them are what was learned, one for each thing that a row says of an answer.
    """

    __slots__ = (
        "_choices",
        "_doubtful",
        "_finished",
        "_held",
        "_hide_usage",
        "_started",
        "_uncounted",
        "done",
        "failure",
        "finish_reason",
        "model",
        "service_tier",
        "text_bytes",
        "text_chunks",
        "usage",
    )

    def __init__(self, *, hide_usage: bool, choices: int = 1) -> None:
        self._hide_usage = hide_usage
        self._choices = choices
        self._finished: set[int] = set()
        self._held = b""
        self._doubtful = b""
        self._started = False
        self._uncounted: list[bytes] = []
        self.usage: WireUsage | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.failure: str | None = None
        self.text_chunks = 0
        self.text_bytes = 0

    @property
    def complete(self) -> bool:
        """True when the upstream said everything it meant to say."""
        return self.failure is None and (self.done or len(self._finished) >= self._choices)

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
        return b"".join([self._released(event) for event in split_events(chunk)])

    def passes(self, chunk: bytes) -> bytes | None:
        """`chunk` as the client should see it, where it says nothing but text; None: `feed` has to read it.

        Nothing is noted yet: call `note_passed` once the client has it.
        """
        if self._held or not self._started or self.failure is not None or not chunk.endswith(b"}\n\n"):
            return None
        if self._hide_usage and b'"usage":null' in chunk:
            chunk = chunk.replace(b',"usage":null', b"")
        return chunk if self._is_plain(chunk) else None

    def note_passed(self, chunk: bytes) -> None:
        """The client has `chunk`, which `passes` gave."""
        self._uncounted.append(chunk)
        if len(self._uncounted) >= COUNTED_TOGETHER:
            self.count_passed()

    def count_passed(self) -> None:
        """Bring `text_chunks` and `text_bytes` up to date."""
        passed, self._uncounted = self._uncounted, []
        if passed:
            self._count(b"".join(passed))

    def flush(self) -> bytes:
        """The end of the body: a last event without its blank line is still an event, half of one is none."""
        held, self._held = self._held, b""
        return b"" if data_of(held) is None else self._released(held)

    def _count(self, text: bytes) -> None:
        pieces = _PIECE.findall(text)
        self.text_chunks += len(pieces)
        self.text_bytes += sum(map(len, pieces))

    def _is_plain(self, chunk: bytes) -> bool:
        if self._hide_usage:
            has_usage = b'"usage"' in chunk
        else:
            has_usage = b'"usage":{' in chunk or b'"usage": {' in chunk
        return not (
            has_usage
            or self._doubtful
            # Closed and balanced, unless the last event was cut off or the text itself has braces.
            or not chunk.endswith((b"}\n\n", b"}\r\n\r\n"))
            or chunk.count(b"{") != chunk.count(b"}")
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

    def _released(self, event: bytes) -> bytes:
        """What may go out now that `event` is there: what was doubtful before it, and itself if it is not."""
        read = self._read(event)
        before, self._doubtful = self._doubtful, event if read is None else b""
        return before + read if read is not None else before

    def _read(self, event: bytes) -> bytes | None:
        """The event as the client should see it; None when it is broken JSON."""
        if self.failure is not None:
            return b""
        data = data_of(event)
        if data is None:
            return event
        if data == b"[DONE]":
            self.done = True
            return event
        try:
            chunk = observe(data)
        except BROKEN_JSON:
            return None
        return self._learn(event, chunk)

    def _learn(self, event: bytes, chunk: Observed) -> bytes:
        self._started = True
        self.model = chunk.model or self.model
        self.service_tier = chunk.service_tier or self.service_tier
        if chunk.has_error:
            self.failure = "the upstream sent an error event"
            return b""
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
                self._finished.add(choice.index)
            if choice.finish_reason == "abort":
                self.failure = "the engine aborted the generation"
                return b""
        if chunk.choices:
            self._count(event)
        usage = chunk.reported_usage
        if usage is not None:
            self.usage = usage
        if chunk.usage is None:
            return _NULL_USAGE.sub(b"", event) if self._hide_usage else event
        if not self._hide_usage:
            return event
        return _without_usage(event) if chunk.choices else b""


def error_event(envelope: bytes) -> bytes:
    """One in-band error event. `envelope` is JSON on one line; no [DONE] may follow it."""
    return b"data: " + envelope + b"\n\n"


def split_events(chunk: bytes) -> list[bytes]:
    """Split whole events, each with its blank line."""
    events, start = [], 0
    for boundary in _BOUNDARY.finditer(chunk):
        events.append(chunk[start : boundary.end()])
        start = boundary.end()
    return events


def data_of(event: bytes) -> bytes | None:
    """The joined `data:` lines of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


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
