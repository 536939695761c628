"""What a stream cost, as an event: before its [DONE], wherever that stands."""

import orjson
import pytest

from gateway.proxy.cost_event import with_cost_event
from tests.core.builders import decided, deployment, held, model

LAST = b'data: {"choices":[],"usage":{}}\n\n'


def added(last: bytes) -> tuple[bytes, bytes]:
    """`last` around the event that was added to it."""
    found = with_cost_event(last, held(decided(model(deployment()))), 1_500, estimated=False)
    before, mark, rest = found.partition(b'data: {"id":"r"')
    assert mark
    event, end, after = rest.partition(b"\n\n")
    assert end
    chunk = orjson.loads(b'{"id":"r"' + event)
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == []
    assert chunk["tollway"] == {"cost_usd": "0.000001500", "estimated": False}
    return before, after


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE]\n\n: bye\n\n"])
@pytest.mark.parametrize("before", [b"", LAST, LAST.replace(b"\n", b"\r\n"), LAST.replace(b"\n", b"\r")])
def test_it_stands_right_before_done(before: bytes, done: bytes):
    assert added(before + done) == (before, done)


def test_a_done_that_the_answer_speaks_of_is_not_the_end():
    text = b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n'
    assert added(text + b"data: [DONE]\n\n") == (text, b"data: [DONE]\n\n")
    assert added(text) == (text, b"")


def test_without_done_it_is_the_last_event():
    assert added(b"") == (b"", b"")
    assert added(LAST) == (LAST, b"")
    assert added(LAST[:-2]) == (LAST, b"")
