"""Watch an OpenAI-shaped event stream go by, and learn its usage, without holding the tokens up.

Rules:
- Only whole events are passed on, so that an error event can follow at any moment.
- A line ends with CR LF, LF or CR, and a stream may mix them. An event is whole with the first byte that
  makes its blank line. Where that is a CR and an LF follows, it stands in front of the next event; behind a
  line that ended in CR LF it is waited for.
- Events are passed byte for byte, with two exceptions. Comments are the upstream's own keep-alive, and are
  left out. And where the gateway asked for usage and the client did not, the usage event is left out, and the
  member `usage` is cut from the others.
- Most events say nothing but a piece of text; a few byte searches tell them from the rest, which are parsed.
- An event that cannot be parsed is passed on, once another one follows it: the reader must never break what
  it only reads. With nothing behind it it was cut off, and the client is spared half a JSON.
"""

import re

from gateway.core.answer import BROKEN_JSON, Observed, observe
from gateway.core.deltas import says_something
from gateway.core.usage_member import last_usage, without_common_usage, without_usage
from gateway.core.wire_usage import WireUsage, usage_from_wire

MAX_EVENT_BYTES = 32 * 1024 * 1024
# So many chunks are counted together: one search over all of them costs less than one over each.
COUNTED_TOGETHER = 64

# A blank line behind the end of another one. Atomic: the two bytes of one CR LF are no two line ends.
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_COLON = ord(":")
# The members that carry the answer, where they are not empty, and what stands in them.
_PIECE = re.compile(
    rb'"(?:content|text|arguments|refusal|reasoning(?:_content)?)"\s*:\s*"(?!")([^"\\]*(?:\\.[^"\\]*)*)'
)


class EventTooLarge(Exception):
    """One event has more bytes than the reader takes: not a stream of tokens."""


class StreamReader:
    """Reads one stream. `feed` returns what may be passed to the client now.

    `choices` are those that the answer will have. `hide_usage`: the client asked for none.
    `hide_continuous_usage`: it did not ask for that of each chunk; left out: as `hide_usage`.
    `max_event_bytes` bounds one event.

    `has_content`: something of the answer was seen, be it text, reasoning, a refusal, speech or a tool call.
    After the end: `usage` and `service_tier` as reported, `model` as the upstream named it, `finish_reason`,
    `done` ([DONE] was seen), `failure` (an error event, or an aborted generation), `error` (the data of that
    event), `text_chunks` (pieces of the answer that were seen: each is at least one output token),
    `text_bytes` (their length in JSON). What went by `passes` is counted in bulk: `count_passed` brings both,
    and `usage`, up to date.

    Many attributes: half of them are what was learned, one for each thing that a row says of an answer.
    """

    __slots__ = (
        "_choices",
        "_doubtful",
        "_finished",
        "_held",
        "_hide_continuous_usage",
        "_hide_usage",
        "_max_event_bytes",
        "_uncounted",
        "_usage_ends_stream",
        "_usage_is_outdated",
        "done",
        "error",
        "failure",
        "finish_reason",
        "has_content",
        "model",
        "service_tier",
        "text_bytes",
        "text_chunks",
        "usage",
    )

    def __init__(
        self,
        *,
        hide_usage: bool,
        choices: int = 1,
        hide_continuous_usage: bool | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._max_event_bytes = max_event_bytes
        self._hide_usage = hide_usage
        self._hide_continuous_usage = hide_usage if hide_continuous_usage is None else hide_continuous_usage
        self._choices = choices
        self._finished: set[int] = set()
        self._held = bytearray()  # the beginning of an event
        self._doubtful = b""
        self._uncounted: list[bytes] = []
        self._usage_is_outdated = self._usage_ends_stream = False
        self.usage: WireUsage | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.has_content = self.done = False
        self.failure: str | None = None
        self.error: bytes | None = None
        self.text_chunks = 0
        self.text_bytes = 0

    @property
    def complete(self) -> bool:
        """True when the upstream said everything it meant to say."""
        return self.failure is None and (self.done or len(self._finished) >= self._choices)

    @property
    def usage_is_current(self) -> bool:
        """True where `usage` counts all that was seen: nothing came after it, and it is no placeholder."""
        if self.usage is None or self._usage_is_outdated:
            return False
        return self._usage_ends_stream or usage_from_wire(self.usage).usage.output_tokens >= self.text_chunks

    @property
    def usage_is_final(self) -> bool:
        """True where `usage` also counts all that the upstream wrote."""
        return self._usage_ends_stream or len(self._finished) >= self._choices or self.done

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the body and return the whole events, as the client should see them.

        Nothing is returned once `failure` is set. Raises EventTooLarge.
        """
        if self._held or not chunk.endswith(b"\n\n"):
            chunk = self._whole_events(chunk)
            if not chunk:
                return b""
        if chunk.endswith((b"}\n\n", b"}\r\n\r\n")):
            shown = self._plain(chunk)
            if shown is not None:
                self._note_plain(chunk, chunk)
                return shown
        return b"".join([self._released(event) for event in split_events(chunk)])

    def passes(self, chunk: bytes) -> bytes | None:
        """`chunk` as the client should see it, where it says nothing but text; None: `feed` has to read it.

        Nothing is noted yet: call `note_passed` once the client has it.
        """
        return None if self._held or not chunk.endswith(b"}\n\n") else self._plain(chunk)

    def note_passed(self, chunk: bytes) -> None:
        """The client has what `passes` made of `chunk`."""
        self._uncounted.append(chunk)
        if len(self._uncounted) >= COUNTED_TOGETHER:
            self.count_passed()

    def count_passed(self) -> None:
        """Bring `text_chunks`, `text_bytes` and `usage` up to date."""
        passed, self._uncounted = self._uncounted, []
        if passed:
            self._note_plain(b"".join(passed), passed[-1])

    def flush(self) -> bytes:
        """The end of the body: a last event without its blank line is still an event, half of one is none."""
        held, self._held = bytes(self._held), bytearray()
        if data_of(held) is None:
            return held if held == b"\n" else b""  # the rest of the last line's end
        return self._released(held)

    def _plain(self, chunk: bytes) -> bytes | None:
        """Whole events as the client should see them, where they say nothing but text. Notes nothing."""
        if not self.has_content or self.failure is not None or self._doubtful:
            return None
        shown = chunk
        if (first := chunk.find(b'"usage"')) >= 0:
            bare = without_common_usage(chunk, first)
            if bare is None or (self._choices > 1 and b'"usage":{' in chunk):
                return None
            if self._hide_continuous_usage:
                shown = bare
        # Balanced, unless the last event was cut off or the text itself has braces.
        if (
            shown.count(b"{") != shown.count(b"}")
            or b'"finish_reason":"' in shown
            or b'"finish_reason": "' in shown
            or b"[DONE]" in shown
            or b'"error"' in shown
            or shown[0] == _COLON
            # One event on one line has no comment; of several each line is looked at.
            or (shown.find(b"\n") < len(shown) - 2 and b"\n:" in shown)
            or (b"\r" in shown and b"\r:" in shown)
        ):
            return None
        return shown

    def _note_plain(self, text: bytes, last: bytes) -> None:
        """Events that say nothing but text, of which `last` came last, have gone by."""
        self._count(text)
        usage = last_usage(last) if b'"usage":{' in last else None
        if usage is not None:
            self._note_usage(observe(b'{"usage":%b}' % usage).usage, is_outdated=False)
        elif self.usage is not None:
            self._usage_is_outdated, self._usage_ends_stream = True, False

    def _count(self, text: bytes) -> None:
        pieces = _PIECE.findall(text)
        self.text_chunks += len(pieces)
        self.text_bytes += sum(map(len, pieces))

    def _whole_events(self, chunk: bytes) -> bytes:
        held = self._held
        # What is held has no boundary but for one that it ends in: nothing is searched twice.
        start = max(len(held) - 3, 0)
        held += chunk
        end = 0
        # Only the last boundary matters; search from the back in the common spelling.
        if (at := held.rfind(b"\n\n", start)) >= 0:
            end = at + 2
        if held.find(b"\r", max(start, end)) >= 0:
            for boundary in _BOUNDARY.finditer(held, max(start, end)):
                # A CR behind a CR LF, with nothing after it yet, is half of another one.
                if boundary.end() < len(held) or boundary[0] != b"\r\n\r":
                    end = boundary.end()
        whole = bytes(held[:end])
        del held[:end]
        if len(held) > self._max_event_bytes:
            raise EventTooLarge
        return whole

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
            return b"" if is_comment(event) else event
        if data.strip() == b"[DONE]":
            self.done = True
            return event
        try:
            chunk = observe(data)
        except BROKEN_JSON:
            return None
        return self._learn(event, data, chunk)

    def _learn(self, event: bytes, data: bytes, chunk: Observed) -> bytes:
        self.model = chunk.model or self.model
        self.service_tier = chunk.service_tier or self.service_tier
        is_aborted = False
        for choice in chunk.choices or ():
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
                self._finished.add(choice.index)
                is_aborted |= choice.finish_reason == "abort"
        if chunk.has_error or (not chunk.choices and chunk.is_error(data)):
            self.failure, self.error = "the upstream sent an error event", data
        elif is_aborted:
            self.failure = "the engine aborted the generation"
        elif chunk.choices:
            self._learn_choices(event, data, is_counted=chunk.reported_usage is not None)
        if (usage := chunk.reported_usage) is not None:
            self._learn_usage(usage, has_choices=bool(chunk.choices))
        return b"" if self.failure is not None else self._shown(event, has_choices=bool(chunk.choices))

    def _learn_choices(self, event: bytes, data: bytes, *, is_counted: bool) -> None:
        self._count(event)
        if self.has_content and (is_counted or self.usage is None or self._usage_is_outdated):
            return
        if says_something(data):
            self.has_content = True
            if self.usage is not None:
                self._usage_is_outdated, self._usage_ends_stream = True, False

    def _learn_usage(self, usage: WireUsage, *, has_choices: bool) -> None:
        self.count_passed()
        # With several choices the usage of a chunk may be that of its own choice alone.
        is_partial = has_choices and self._choices > len(self._finished) and self._choices > 1
        self._note_usage(usage, is_outdated=is_partial)
        self._usage_ends_stream = not has_choices and self.has_content

    def _note_usage(self, usage: WireUsage | None, *, is_outdated: bool) -> None:
        self.usage = usage
        self._usage_is_outdated, self._usage_ends_stream = is_outdated, False

    def _shown(self, event: bytes, *, has_choices: bool) -> bytes:
        if not (self._hide_continuous_usage if has_choices else self._hide_usage) or b'"usage"' not in event:
            return event
        found = without_usage(event)
        if found is None:
            return event
        return found.event if has_choices or found.usage == b"null" else b""


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
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def is_comment(event: bytes) -> bool:
    """Whether `event` is nothing but comments."""
    lines = [line for line in event.splitlines() if line]
    return bool(lines) and all(line.startswith(b":") for line in lines)
