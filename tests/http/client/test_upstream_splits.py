"""However the network cuts a response into segments, the result is the same."""

import gzip
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import UpstreamFailure
from gateway.http.client.decoding import BodyDecoder
from gateway.http.client.parser import ResponseParser
from tests.http.client.test_upstream_breakage import GARBAGE, HEAD, STRICT_GARBAGE
from tests.http.client.upstream_stage import Peer, Stage, chunked, with_length

GOOD = {
    "length": with_length(b"hello world", b"Content-Type: text/plain"),
    "chunked": chunked(b"data: 1\n\n", b"data: [DONE]\n\n", headers=(b"x-a: b", b"x-a: c")),
    "trailers": chunked(b"abc", end=b"0;x=y\r\nx-t: 1\r\n\r\n"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + with_length(b"late"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "until close": HEAD + b"a: b\r\n\r\nall of this",
    "http 1.0": b"HTTP/1.0 200 OK\r\n\r\nall of this",
    "closing": with_length(b"bye", b"connection: close"),
    "two answers": with_length(b"first") + with_length(b"second"),
    "extra": with_length(b"first") + b"HT",
    "coded": with_length(gzip.compress(b"hello"), b"content-encoding: gzip"),
    "cut short": with_length(b"hello world")[:-4],
    "bad chunk": chunked(b"good", end=b"zz\r\n"),
    "br": with_length(b"x", b"content-encoding: br"),
}
ALL = GOOD | GARBAGE | STRICT_GARBAGE


def _parsed(segments: list[bytes]) -> tuple[object, ...]:
    parser = ResponseParser()
    problem = False
    for segment in segments:
        try:
            parser.feed(segment)
        except UpstreamFailure:
            problem = True
            break
        if parser.complete:
            break  # what comes in later segments meets an idle connection, which closes
    complete = parser.complete or (not problem and parser.end())
    body = b"".join(parser.parts)
    head = (parser.status, parser.headers, parser.coding) if parser.head_complete else None
    return head, body, complete, problem


def _cut(wire: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("wire", ALL.values(), ids=ALL.keys())
def test_byte_by_byte_is_as_whole(wire: bytes) -> None:
    whole = _parsed([wire])
    assert _parsed([wire[i : i + 1] for i in range(len(wire))]) == whole
    for place in range(1, len(wire)):
        assert _parsed([wire[:place], wire[place:]]) == whole


@given(st.sampled_from(sorted(ALL)), st.lists(st.integers(0, 2**16), max_size=12))
def test_any_cut_is_as_whole(name: str, places: list[int]) -> None:
    assert _parsed(_cut(ALL[name], places)) == _parsed([ALL[name]])


@given(st.binary(max_size=200), st.lists(st.integers(0, 2**16), max_size=6))
def test_noise_never_breaks_the_parser(noise: bytes, places: list[int]) -> None:
    for prefix in (b"", b"HTTP/1.1 ", HEAD, HEAD + b"transfer-encoding: chunked\r\n\r\n"):
        assert _parsed(_cut(prefix + noise, places)) == _parsed([prefix + noise])


@settings(max_examples=60)
@given(
    st.binary(max_size=5000).map(lambda body: body * 20),
    st.lists(st.integers(0, 2**16), max_size=12),
    st.sampled_from(["gzip", "members"]),
)
def test_decoding_any_cut(body: bytes, places: list[int], coding: str) -> None:
    half = len(body) // 2
    wire = gzip.compress(body)
    if coding == "members":
        wire = gzip.compress(body[:half]) + gzip.compress(body[half:])
    decoder = BodyDecoder("gzip")
    decoded = b""
    for segment in _cut(wire, places):
        decoder.push(segment)
        while piece := decoder.pull():
            decoded += piece
    decoder.finish()
    assert decoded == body


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11, 64])
@pytest.mark.parametrize("name", ["length", "chunked", "interim", "coded"])
async def test_on_the_wire(stage: Stage, name: str, size: int) -> None:
    wire = GOOD[name]

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for start in range(0, len(wire), size):
                await peer.send(wire[start : start + size])

    stage.server.plays(script)
    expected = {"coded": b"hello"}.get(name, _parsed([wire])[1])
    for _ in range(2):
        assert await stage.ask() == (200, expected)
    assert len(stage.server.peers) == 1


def test_connections_are_reused_only_after_clean_ends() -> None:
    reusable = {}
    for name, wire in GOOD.items():
        parser = ResponseParser()
        try:
            parser.feed(wire)
        except UpstreamFailure:
            continue
        reusable[name] = parser.complete and parser.reusable
    assert {name for name, is_reusable in reusable.items() if is_reusable} == {
        "length",
        "chunked",
        "trailers",
        "interim",
        "no content",
        "coded",
    }
