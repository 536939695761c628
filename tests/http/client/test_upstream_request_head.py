"""Nothing that a caller passes may end a header line or begin another request."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint
from gateway.http.client.pool import RequestHead
from gateway.ports import UpstreamRequest
from tests.http.client.upstream_stage import Stage, answers_always, with_length

ENDPOINT = Endpoint(scheme="http", host="upstream.test", port=8000)
PLAIN = UpstreamRequest(endpoint=ENDPOINT, method=b"POST", target=b"/v1", headers=(), body=b"{}")

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
    request = stage.request()
    with pytest.raises(ValueError, match=r"."):
        await stage.upstream.send(msgspec.structs.replace(request, **change))
    assert stage.server.peers == []
    assert await stage.ask() == (200, b"ok")


def test_lines_of_a_head() -> None:
    head = RequestHead(ENDPOINT).encode(PLAIN)
    assert head == (
        b"POST /v1 HTTP/1.1\r\nhost: upstream.test:8000\r\n"
        b"accept-encoding: identity\r\ncontent-length: 2\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [("a.test", 80, b"a.test"), ("a.test", 81, b"a.test:81"), ("::1", 80, b"[::1]"), ("::1", 9, b"[::1]:9")],
)
def test_host(host: str, port: int, written: bytes) -> None:
    endpoint = Endpoint(scheme="http", host=host, port=port)
    head = RequestHead(endpoint).encode(PLAIN)
    assert b"\r\nhost: " + written + b"\r\n" in head


@pytest.mark.parametrize("host", ["a b", "a\r\nb", ""])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        RequestHead(Endpoint(scheme="http", host=host, port=80))


@given(
    st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4),
    st.binary(max_size=8).map(lambda tail: b"/" + tail),
)
def test_any_bytes_give_the_lines_asked_for_or_an_error(
    headers: list[tuple[bytes, bytes]], target: bytes
) -> None:
    request = msgspec.structs.replace(PLAIN, headers=headers, target=target)
    try:
        head = RequestHead(ENDPOINT).encode(request)
    except ValueError:
        return
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST " + target + b" HTTP/1.1"
    kept = [name + b": " + value for name, value in headers if name != b"accept-encoding"]
    assert lines[3:-3] == kept
    assert lines[-2:] == [b"", b""]
    assert head.count(b"\n") == head.count(b"\r") == len(lines) - 1


def test_remembered_names_are_bounded() -> None:
    encoder = RequestHead(ENDPOINT)
    for index in range(3000):
        encoder.encode(msgspec.structs.replace(PLAIN, headers=((b"x-%d" % index, b"1"),)))
    assert len(encoder._prefixes) <= 1024
