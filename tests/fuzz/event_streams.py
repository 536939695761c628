"""Streams of answers, metered while they pass."""

import json
from collections.abc import Sequence

from gateway.core.sse import EventTooLarge, StreamReader
from tests.core.test_sse import read, read_passing, state
from tests.fuzz.target import Target, segments

TOKENS = (
    *(
        b"data: ",
        b"data:",
        b"\n\n",
        b"\r\n\r\n",
        b"\r\r",
        b"\n",
        b"\r",
        b": ping\n\n",
        b"event: x\n",
        b"\xff",
    ),
    *(b"[DONE]", b"data: [DONE]\n\n", b'"usage":', b'"usage":null', b'"choices":[]', b'"error":{}'),
    *(b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}', b'"finish_reason":"stop"'),
    *(b'"finish_reason":"abort"', b'{"index":', b'"delta":{"content":"a"}', b'"content":""', b"null", b"{"),
    *(b"}", b"1e400", b"18446744073709551616", b'"\\ud800"', b'"model":"m"', b"[", b"]", b'\\"', b"\\"),
)


def _events(shown: bytes) -> list[list[bytes]]:
    """The lines of each event, as a client reads them: an empty line ends one, and more say nothing."""
    events: list[list[bytes]] = [[]]
    for line in shown.splitlines():
        if line:
            events[-1].append(line)
        elif events[-1]:
            events.append([])
    return [event for event in events if event]


def _is_told_apart(event: Sequence[bytes]) -> bool:
    """False for what is no JSON and looks balanced: of such an event the cut decides whether it is read."""
    data = b"\n".join(line[5:].removeprefix(b" ") for line in event if line.startswith(b"data:"))
    if not data or data.strip() == b"[DONE]" or data.count(b"{") != data.count(b"}"):
        return True
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _size(data: bytes) -> StreamReader | None:
    reader = StreamReader(hide_usage=False, max_event_bytes=64)
    try:
        reader.feed(data)
    except EventTooLarge:
        return None
    return reader


def check(data: bytes, cuts: Sequence[int]) -> None:
    """Only EventTooLarge. The client reads the same for every cut, and never more than came; counts agree."""
    if not all(map(_is_told_apart, _events(data))):
        return
    for hide_usage in (False, True):
        shown, reader = read([data], hide_usage=hide_usage)
        parts = segments(data, cuts)
        for cut, other in (read(parts, hide_usage=hide_usage), read_passing(parts, hide_usage=hide_usage)):
            assert _events(cut) == _events(shown)
            assert state(other) == state(reader)
        assert len(shown) <= len(data)
        if reader.failure is not None:
            assert not reader.complete
    _size(data)


EVENT_STREAM = Target("event_stream", check, TOKENS, (8_000, 400, 900))
