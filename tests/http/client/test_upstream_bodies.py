"""Every way in which a body may be framed, and what may stand before it."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from gateway.core.errors import FailureKind
from gateway.ports import UpstreamResponse
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers,
    answers_always,
    chunked,
    chunks_of,
    with_length,
)

BODY = b'{"choices": []}'


async def test_content_length(stage: Stage) -> None:
    stage.server.plays(
        answers(with_length(BODY, b"Content-Type: application/json", b"X-Empty:", b"X-Pad:  a  "))
    )
    response = await stage.send()
    assert response.status == 200
    assert list(response.headers) == [
        (b"content-type", b"application/json"),
        (b"x-empty", b""),
        (b"x-pad", b"a"),
        (b"content-length", b"15"),
    ]
    assert response.peer == f"127.0.0.1:{stage.server.port}"
    assert await response.read(1000) == BODY
    assert await response.next_chunk() == b""


async def test_request_arrives_as_it_was_given(stage: Stage) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        head, body = await peer.request()
        heads.append((head, body))
        await peer.send(with_length(b""))

    stage.server.plays(script)
    headers = (
        (b"authorization", b"Bearer x"),
        (b"accept-encoding", b"gzip"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
    )
    await stage.ask(body=b'{"a": "\xc3\xa9"}', target=b"/v1/x%2Fy/../z?q=%41&r=a+b", headers=headers)
    head, body = heads[0]
    lines = head.lower().split(b"\r\n")
    assert head.startswith(b"POST /v1/x%2Fy/../z?q=%41&r=a+b HTTP/1.1\r\n")
    assert sorted(lines[1:-2]) == sorted(
        [
            b"host: 127.0.0.1:%d" % stage.server.port,
            b"accept-encoding: identity",
            b"authorization: bearer x",
            b"x-twice: 1",
            b"x-twice: 2",
            b"content-length: 11",
        ]
    )
    assert body == b'{"a": "\xc3\xa9"}'


async def test_get_has_no_body(stage: Stage) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(with_length(b"[]"))

    stage.server.plays(script)
    assert await stage.ask(method=b"GET", body=b"", headers=()) == (200, b"[]")
    assert b"content-length" not in heads[0].lower()
    assert b"transfer-encoding" not in heads[0].lower()


async def test_chunked_with_extensions_and_trailers(stage: Stage) -> None:
    wire = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"5;name=value;flag\r\nhello\r\n6\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    stage.server.plays(answers_always(wire))
    response = await stage.send()
    assert await response.read(100) == b"hello world"
    assert (b"x-trailer", b"1") not in list(response.headers)
    assert await stage.ask() == (200, b"hello world")
    assert len(stage.server.peers) == 1


async def test_a_tap_takes_what_arrives_while_the_reader_waits(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"data: 1\n\n", end=b""))
        for number in range(2, 6):
            await waits.wait()
            await peer.send(b"9\r\ndata: %d\n\n\r\n" % number)
            waits.clear()
        await peer.send(b"0\r\n\r\n")

    def take(data: bytes) -> bool:
        waits.set()
        taken.append(data)
        return data != b"data: 4\n\n"

    waits, taken = asyncio.Event(), list[bytes]()
    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"data: 1\n\n"
    response.tap(take)
    waits.set()
    # The one that it leaves comes to the reader, and nothing twice.
    assert await response.next_chunk() == b"data: 4\n\n"
    assert taken == [b"data: 2\n\n", b"data: 3\n\n", b"data: 4\n\n"]
    rest = [chunk async for chunk in _rest(response)]
    assert (taken + rest).count(b"data: 5\n\n") == 1


async def _rest(response: UpstreamResponse) -> AsyncIterator[bytes]:
    while chunk := await response.next_chunk():
        yield chunk


async def test_nothing_reaches_a_tap_while_nobody_waits_or_after_an_abort(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"data: 1\n\n", end=b""))
        await go.wait()
        await peer.send(b"9\r\ndata: 2\n\n\r\n")
        sent.set()

    go, sent, taken = asyncio.Event(), asyncio.Event(), list[bytes]()
    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"data: 1\n\n"
    response.tap(lambda data: taken.append(data) is None)
    go.set()
    await sent.wait()
    await asyncio.sleep(0.01)
    assert await response.next_chunk() == b"data: 2\n\n"
    response.abort()
    assert taken == []


async def test_a_compressed_body_has_no_tap(stage: Stage) -> None:
    packed = gzip.compress(BODY)
    stage.server.plays(answers(with_length(packed, b"content-encoding: gzip")))
    response = await stage.send()
    response.tap(lambda _: pytest.fail("a tap would see what is compressed"))
    assert await response.read(1000) == BODY


async def test_trailer_that_means_something_costs_the_connection(stage: Stage) -> None:
    stage.server.plays(answers_always(chunked(b"hello", end=b"0\r\nconnection: close\r\n\r\n")))
    assert await stage.ask() == (200, b"hello")
    assert await stage.ask() == (200, b"hello")
    assert len(stage.server.peers) == 2


async def test_chunks_come_as_they_arrive(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"data: 1\n\n", end=b""))
        await go_on.wait()
        await peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"data: 1\n\n"
    go_on.set()
    assert await response.next_chunk() == b"data: 2\n\n"
    assert await response.next_chunk() == b""
    assert await response.next_chunk() == b""


async def test_one_byte_chunks(stage: Stage) -> None:
    text = b"data: [DONE]\n\n" * 50
    stage.server.plays(answers(chunked(*(text[i : i + 1] for i in range(len(text))))))
    assert await stage.ask() == (200, text)


async def test_slow_drip_of_every_byte(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.drip(b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(b"hello", b"!", headers=(b"a: b",)))

    stage.server.plays(script)
    response = await stage.send()
    assert (b"a", b"b") in list(response.headers)
    assert await response.read(100) == b"hello!"


async def test_close_delimited(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello")
        await asyncio.sleep(0.02)
        await peer.send(b" world")
        peer.close()

    stage.server.plays(script)
    assert await stage.ask() == (200, b"hello world")


async def test_http_1_0_ends_with_the_connection(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nold")
        peer.close()

    stage.server.plays(script)
    assert await stage.ask() == (200, b"old")


async def test_http_1_0_with_a_length(stage: Stage) -> None:
    stage.server.plays(answers(b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold"))
    assert await stage.ask() == (200, b"old")
    assert await stage.ask() == (200, b"old")
    assert len(stage.server.peers) == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\ncontent-encoding: br\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_answers_without_a_body(stage: Stage, head: bytes) -> None:
    stage.server.plays(answers(head, with_length(b"next")))
    assert await stage.ask() == (int(head[9:12]), b"")
    assert await stage.ask() == (200, b"next")
    assert len(stage.server.peers) == 1


async def test_head_has_no_body_whatever_its_length_says(stage: Stage) -> None:
    stage.server.plays(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"))
    assert await stage.ask(method=b"HEAD", body=b"") == (200, b"")


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nlink: </x>"])
async def test_interim_answers_are_skipped(stage: Stage, interim: bytes) -> None:
    wire = b"HTTP/1.1 " + interim + b"\r\n\r\n"
    stage.server.plays(answers(wire + wire + with_length(b"final")))
    response = await stage.send()
    assert (response.status, await response.read(100)) == (200, b"final")
    assert list(response.headers) == [(b"content-length", b"5")]


async def test_continue_then_the_answer_later(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.05)
        await peer.send(with_length(b"final"))

    stage.server.plays(script)
    assert await stage.ask() == (200, b"final")


async def test_status_and_body_of_an_error_come_through(stage: Stage) -> None:
    stage.server.plays(answers(with_length(b'{"error": {}}', status=b"429 Too Many Requests")))
    assert await stage.ask() == (429, b'{"error": {}}')


async def test_redirects_are_answers(stage: Stage) -> None:
    stage.server.plays(answers(with_length(b"", b"location: http://127.0.0.1:1/", status=b"307 Temporary")))
    assert await stage.ask() == (307, b"")


async def test_cookies_are_forgotten(stage: Stage) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            heads.append((await peer.request())[0])
            await peer.send(with_length(b"", b"set-cookie: a=b"))

    stage.server.plays(script)
    await stage.ask()
    await stage.ask()
    assert b"cookie" not in heads[1].lower()


def _compressed(coding: str, body: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(body, mtime=0)
    if coding == "two members":
        return gzip.compress(body[:5], mtime=0) + gzip.compress(body[5:], mtime=0)
    if coding == "raw":
        deflate = zlib.compressobj(wbits=-15)
        return deflate.compress(body) + deflate.flush()
    return zlib.compress(body)


@pytest.mark.parametrize("coding", ["gzip", "two members", "deflate", "raw"])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_compression_that_nobody_asked_for_is_undone(stage: Stage, coding: str, piece: int) -> None:
    body = b"data: " + b"abc" * 3000 + b"\n\n"
    wire = _compressed(coding, body)
    name = b"deflate" if coding in ("raw", "deflate") else b"x-gzip" if piece == 7 else b"GZIP"
    pieces = [wire[i : i + piece] for i in range(0, len(wire), piece)]
    stage.server.plays(answers(chunked(*pieces, headers=(b"content-encoding: " + name,))))
    response = await stage.send()
    assert b"content-encoding" not in dict(response.headers)
    assert b"content-length" not in dict(response.headers)
    assert b"".join(await chunks_of(response)) == body


async def test_compressed_with_a_length(stage: Stage) -> None:
    stage.server.plays(answers(with_length(gzip.compress(BODY, mtime=0), b"content-encoding: gzip")))
    response = await stage.send()
    assert b"content-length" not in dict(response.headers)
    assert await response.read(100) == BODY


async def test_compressed_bomb_meets_the_read_limit(stage: Stage) -> None:
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    stage.server.plays(answers(with_length(bomb, b"content-encoding: gzip")))
    response = await stage.send()
    await stage.fails(FailureKind.BODY, response.read(1_000_000))


async def test_compressed_chunks_are_bounded(stage: Stage) -> None:
    bomb = gzip.compress(bytes(5_000_000), mtime=0)
    stage.server.plays(answers(with_length(bomb, b"content-encoding: gzip")))
    chunks = await chunks_of(await stage.send())
    assert sum(map(len, chunks)) == 5_000_000
    assert max(map(len, chunks)) <= 256 * 1024


@pytest.mark.parametrize("wire", [b"not gzip at all", gzip.compress(b"x" * 100, mtime=0)[:-9], b""])
async def test_broken_compression(stage: Stage, wire: bytes) -> None:
    stage.server.plays(answers(with_length(wire, b"content-encoding: gzip")))
    response = await stage.send()
    if wire:
        await stage.fails(FailureKind.PROTOCOL, response.read(1000))
    else:
        assert await response.read(1000) == b""


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"compress"])
async def test_codings_that_cannot_be_read(stage: Stage, coding: bytes) -> None:
    stage.server.plays(answers(with_length(b"?", b"content-encoding: " + coding)))
    await stage.fails(FailureKind.PROTOCOL, stage.send())


async def test_identity_is_no_coding(stage: Stage) -> None:
    stage.server.plays(answers(with_length(b"plain", b"content-encoding: identity")))
    assert await stage.ask() == (200, b"plain")


@pytest.mark.parametrize("framed", [with_length(b"x" * 2000), chunked(b"x" * 1000, b"x" * 1000)])
async def test_body_beyond_the_limit(stage: Stage, framed: bytes) -> None:
    stage.server.plays(answers_always(framed))
    response = await stage.send()
    await stage.fails(FailureKind.BODY, response.read(1999))
    assert (await stage.ask())[0] == 200
