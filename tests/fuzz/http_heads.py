"""Heads of HTTP messages, with what follows them: requests at our ports, answers of upstreams."""

from collections.abc import Sequence

import h11

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.parser import ResponseParser
from gateway.http.server.limits import ServerLimits
from tests.fuzz.target import Target, segments
from tests.http.server.test_request_parser import Reading

LIMITS = ServerLimits()

TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\x0b", b"\xff"),
    *(b"Content-Length: ", b"Content-Length: 0\r\n", b"Content-Length: +3\r\n", b"Content-Length : 3\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"chunked", b"identity"),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"ffffffffffffffff\r\n", b";a=b", b"Connection: close\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: a\r\n"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 304 X\r\n", b"x-tollway-privacy: public\r\n"),
)


def _offers(data: bytes) -> int:
    return data.lower().count(b"upgrade")


def check_request(data: bytes, cuts: Sequence[int]) -> None:
    """Only InvalidRequest, the same for every cut, and a body ends where a second reader sees its end."""
    whole = Reading([data], LIMITS)
    if _offers(data) < 2:  # how many offers may come at once is the one thing that the cut decides
        assert Reading(segments(data, cuts), LIMITS).outcome() == whole.outcome()
    if whole.taken and whole.taken[0].complete:
        _compare_with_h11(data, whole)


def _compare_with_h11(data: bytes, ours: Reading) -> None:
    """What two readers take must be one request to both, or one of them can be smuggled past the other."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    body = b""
    try:
        head = connection.next_event()
        if not isinstance(head, h11.Request):
            return
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return  # it is stricter here
    first = ours.taken[0]
    assert (head.method.decode(), body) == (first.method, bytes(first._body))
    assert isinstance(event, h11.EndOfMessage)


def _answer(parts: Sequence[bytes]) -> tuple[object, ...]:
    parser = ResponseParser()
    refused = None
    for part in parts:
        try:
            parser.feed(part)
        except UpstreamFailure as failure:
            refused = failure.kind
            break
        if parser.complete:
            break
    ended = refused is None and parser.end()
    assert refused in (None, FailureKind.PROTOCOL)
    return parser.status, parser.headers, b"".join(parser.parts), parser.coding, refused, ended


def check_response(data: bytes, cuts: Sequence[int]) -> None:
    """Only UpstreamFailure(PROTOCOL), and the same status, headers and body for every cut."""
    assert _answer(segments(data, cuts)) == _answer([data] if data else [])


REQUEST_HEAD = Target("request_head", check_request, TOKENS, (2_000, 60, 120))
RESPONSE_HEAD = Target("response_head", check_response, TOKENS, (2_000, 60, 120))
