"""Take the `usage` member out of events of a stream, byte for byte, and out of nothing else.

Only the member of the event's own object counts: arguments of a tool or a vendor's extras may have one of
that name too, which is the client's.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_NAME = b'"usage"'
# As most servers write it: behind the choices, and only flat members behind it. A brace that closes between
# it and the end of the event would mean that it stands deeper.
_BEHIND_CHOICES = re.compile(rb',"usage":(null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})(?=[^{}]*\}(?:\n\n|\r\n\r\n))')


class WithoutUsage(NamedTuple):
    """An event without its `usage`, and what stood there."""

    event: bytes
    usage: bytes


def without_common_usage(chunk: bytes, first: int) -> bytes | None:
    """Whole events without their `usage`, where each is written in the common way. `first` one stands there.

    None: each has to be looked at closely. So it is where an event has no choices.
    """
    # One event, and no brace closes behind its usage but those of itself and of the event: by far the most.
    comma = first - 1
    if chunk.endswith(b"}],", 0, first) and chunk.startswith(b":", first + 7):
        brace, last = chunk.find(b"}", first), len(chunk) - 3
        if brace == last and chunk.startswith(b"null", first + 8):
            return chunk[:comma] + chunk[first + 12 :]
        if brace == last - 1 and chunk.startswith(b"{", first + 8) and chunk.endswith(b"}}\n\n"):
            return chunk[:comma] + b"}\n\n"
    parts, start = [], 0
    while (at := chunk.find(b',"usage":', start)) >= 0:
        found = _BEHIND_CHOICES.match(chunk, at)
        if found is None or not chunk.endswith(b"}]", start, at):
            return None
        parts.append(chunk[start:at])
        start = found.end()
    parts.append(chunk[start:])
    shown = b"".join(parts)
    return None if _NAME in shown else shown


def last_usage(chunk: bytes) -> bytes | None:
    """The filled `usage` of the last event of `chunk`, where it is written in the common way."""
    at = chunk.rfind(b',"usage":{')
    found = _BEHIND_CHOICES.match(chunk, at) if at >= 0 else None
    return found[1] if found is not None and chunk.find(b"}", found.end()) >= len(chunk) - 5 else None


def without_usage(event: bytes) -> WithoutUsage | None:
    """One event without the `usage` of its object, wherever that stands; None where it has none."""
    depth = 0
    comma = -1  # where the one before the member at hand stands
    tokens = _TOKEN.finditer(event)
    for token in tokens:
        text = token[0]
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif text == b"," and depth == 1:
            comma = token.start()
        elif text == _NAME and depth == 1 and (colon := _COLON.match(event, token.end())):
            end = _end_of_value(event, colon.end())
            usage = event[colon.end() : end].strip()
            if comma >= 0:
                return WithoutUsage(event[:comma] + event[end:], usage)
            # It is the first member: the comma behind it goes with it.
            end += event[end : end + 1] == b","
            return WithoutUsage(event[: token.start()] + event[end:], usage)
    return None


def _end_of_value(event: bytes, start: int) -> int:
    """Where the value that begins at `start` ends: at the comma or the brace behind it."""
    depth = 0
    for token in _TOKEN.finditer(event, start):
        text = token[0]
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            if not depth:
                return token.start()
            depth -= 1
        elif text == b"," and not depth:
            return token.start()
    return len(event)
