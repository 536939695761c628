"""Replies of Redis as they come over its connection."""

from collections.abc import Sequence

from gateway.quota.redis.resp import Reply, ReplyReader, RespError, ServerError, command
from tests.fuzz.target import Target, segments

TOKENS = (
    *(b"\r\n", b"$", b"*", b":", b"+", b"-", b"$-1\r\n", b"*-1\r\n", b"$0\r\n\r\n", b"*0\r\n", b":1\r\n"),
    *(b"*1\r\n", b"*2\r\n", b"$5\r\nhello\r\n", b"+OK\r\n", b"-NOSCRIPT no\r\n", b":-9\r\n", b":1_0\r\n"),
    *(
        b"$99999999999\r\n",
        b"*99999999999\r\n",
        b": 1\r\n",
        b":+1\r\n",
        b"\n",
        b"\r",
        b"\xff",
        b"$ 3\r\nabc\r\n",
    ),
)


def _read(parts: Sequence[bytes]) -> tuple[list[object], bool]:
    reader, replies = ReplyReader(), []
    for part in parts:
        try:
            replies += reader.feed(part)
        except RespError:
            return _plain(replies), True
    return _plain(replies), False


def _plain(replies: Sequence[Reply]) -> list[object]:
    return [
        f"ServerError {reply}"
        if isinstance(reply, ServerError)
        else _plain(reply)
        if isinstance(reply, list)
        else reply
        for reply in replies
    ]


def check(data: bytes, cuts: Sequence[int]) -> None:
    """Only RespError; the same for every cut. What we send can be read back by the same grammar."""
    parts = segments(data, cuts)
    whole, refused = _read([data])
    cut, cut_refused = _read(parts)
    assert cut_refused == refused
    # What came whole before the fault may or may not have been given out, with the cut.
    assert cut[: len(whole)] == whole if refused else cut == whole
    assert _read([command(*parts)]) == ([list(parts)], False)


REDIS_REPLIES = Target("redis_replies", check, TOKENS, (2_000, 80, 200))
