"""Nothing that a caller passes may end a header line or begin another request."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint
from gateway.core.heads import header_lines, request_head
from gateway.ports import UpstreamRequest
from tests.http.client.upstream_stage import Peer, Stage, answers_always, with_length

ENDPOINT = Endpoint(scheme="http", host="upstream.test", port=8000)
BEGINNING = b"POST /v1 HTTP/1.1\r\nhost: upstream.test:8000\r\naccept-encoding: identity\r\n"

REFUSED = {
    "cr in a value": {"headers": ((b"a", b"b\rc"),)},
    "lf in a value": {"headers": ((b"a", b"b\nc"),)},
    "a whole line in a value": {"headers": ((b"a", b"b\r\nhost: evil"),)},
    "nul in a value": {"headers": ((b"a", b"b\0"),)},
    "line in a name": {"headers": ((b"a: b\r\nc", b"d"),)},
    "colon in a name": {"headers": ((b"content-length:", b"5"),)},
    "space in a name": {"headers": ((b"content-length ", b"5"),)},
    "capitals in a name": {"headers": ((b"Content-Length", b"5"),)},
    "empty name": {"headers": ((b"", b"5"),)},
    "host": {"headers": ((b"host", b"evil"),)},
    "content-length": {"headers": ((b"content-length", b"5"),)},
    "transfer-encoding": {"headers": ((b"transfer-encoding", b"chunked"),)},
    "connection": {"headers": ((b"connection", b"close"),)},
    "expect": {"headers": ((b"expect", b"100-continue"),)},
    "line in the target": {"target": b"/v1 HTTP/1.1\r\nhost: evil\r\n\r\n"},
    "space in the target": {"target": b"/v1 x"},
    "fragment in the target": {"target": b"/v1#x"},
    "absolute target": {"target": b"http://evil/v1"},
    "empty target": {"target": b""},
    "non-ascii target": {"target": "/ü".encode()},
    "line in the method": {"method": b"GET / HTTP/1.1\r\n\r\nPOST"},
    "lower-case method": {"method": b"post"},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
async def test_refused_by_the_client(stage: Stage, change: dict[str, object]) -> None:
    stage.server.plays(answers_always(with_length(b"ok")))
    with pytest.raises(ValueError, match=r"."):
        await stage.upstream.send(stage.request(**change))
    assert stage.server.peers == []
    assert await stage.ask() == (200, b"ok")


def test_lines_of_a_head() -> None:
    assert request_head(ENDPOINT, b"POST", b"/v1").block == BEGINNING


async def test_own_lines_stand_between_the_ready_block_and_the_length(stage: Stage) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.request())
        await peer.send(with_length(b"ok"))

    stage.server.plays(script)
    own = header_lines([(b"x-request-id", b"r"), (b"idempotency-key", b"k")])
    assert await stage.ask(headers=((b"a", b"b"),), own=own) == (200, b"ok")
    assert heads == [
        (
            b"POST /v1/chat/completions HTTP/1.1\r\n"
            b"host: 127.0.0.1:%d\r\naccept-encoding: identity\r\na: b\r\n"
            b"x-request-id: r\r\nidempotency-key: k\r\ncontent-length: 2\r\n\r\n" % stage.server.port,
            b"{}",
        )
    ]


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [("a.test", 80, b"a.test"), ("a.test", 81, b"a.test:81"), ("::1", 80, b"[::1]"), ("::1", 9, b"[::1]:9")],
)
def test_host(host: str, port: int, written: bytes) -> None:
    endpoint = Endpoint(scheme="http", host=host, port=port)
    head = request_head(endpoint, b"POST", b"/v1").block
    assert b"\r\nhost: " + written + b"\r\n" in head


@pytest.mark.parametrize("host", ["a b", "a\r\nb", ""])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        request_head(Endpoint(scheme="http", host=host, port=80), b"POST", b"/v1")


HOSTILE = st.text(alphabet="\r\n\0: ab", max_size=8).map(str.encode) | st.binary(max_size=8)
PAIRS = st.lists(st.tuples(HOSTILE, HOSTILE), max_size=4)


@given(PAIRS, HOSTILE.map(lambda tail: b"/" + tail))
def test_any_bytes_give_the_lines_asked_for_or_an_error(
    headers: list[tuple[bytes, bytes]], target: bytes
) -> None:
    try:
        head = request_head(ENDPOINT, b"POST", target, headers).block
    except ValueError:
        return
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST " + target + b" HTTP/1.1"
    kept = [name + b": " + value for name, value in headers if name != b"accept-encoding"]
    assert lines[3:-1] == kept
    assert lines[-1] == b""
    assert head.count(b"\n") == head.count(b"\r") == len(lines) - 1


@given(PAIRS)
def test_any_pairs_give_a_line_each_or_an_error(headers: list[tuple[bytes, bytes]]) -> None:
    is_hostile = any(re.search(rb"[\r\n\0]", name + value) for name, value in headers)
    try:
        lines = header_lines(headers)
    except ValueError:
        assert is_hostile
        return
    assert not is_hostile
    assert lines.split(b"\r\n") == [*(name + b": " + value for name, value in headers), b""]


def test_a_head_is_shown_without_the_credentials_in_it() -> None:
    head = request_head(ENDPOINT, b"POST", b"/v1", ((b"authorization", b"Bearer hunter2"),))
    assert b"hunter2" in head.block
    assert repr(UpstreamRequest(head=head, body=b"")).count("hunter2") == 0
    assert repr(head) == "RequestHead(POST /v1)"
