"""Servers that refuse, vanish, stall or talk nonsense: each is its own kind of failure."""

import asyncio
import socket

import pytest

from gateway.core.errors import FailureKind
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers,
    chunked,
    chunks_of,
    timeouts,
    until_gone,
    with_length,
)

HEAD = b"HTTP/1.1 200 OK\r\n"


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_connection_refused(stage: Stage) -> None:
    failure = await stage.fails(FailureKind.CONNECT, stage.send(stage.endpoint(port=_free_port())))
    assert failure.never_sent


async def test_name_does_not_resolve(stage: Stage) -> None:
    failure = await stage.fails(FailureKind.CONNECT, stage.send(stage.endpoint(host="nowhere.test")))
    assert "nowhere.test" in failure.detail


async def test_second_address_is_tried(stage: Stage) -> None:
    stage.names["two.test"] = ["127.0.0.9", "127.0.0.1"]
    stage.server.plays(answers(with_length(b"ok")))
    assert await stage.ask(stage.endpoint(host="two.test")) == (200, b"ok")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_gone_before_the_head(stage: Stage, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        getattr(peer, how)()

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.RESET, stage.send())
    assert not failure.never_sent
    assert len(stage.server.peers) == 1  # a fresh connection is never tried again


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_gone_in_the_head(stage: Stage, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"content-le")
        await asyncio.sleep(0.02)
        getattr(peer, how)()

    stage.server.plays(script)
    await stage.fails(FailureKind.RESET, stage.send())
    assert len(stage.server.peers) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "framing", [b"content-length: 100\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
async def test_gone_in_the_body(stage: Stage, framing: bytes, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + framing)
        await asyncio.sleep(0.05)
        getattr(peer, how)()

    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"hello"
    await stage.fails(FailureKind.RESET, response.next_chunk())
    await stage.fails(FailureKind.RESET, response.next_chunk())


async def test_close_delimited_body_must_not_end_with_a_reset(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"\r\nhello")
        await asyncio.sleep(0.05)
        peer.reset()

    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"hello"
    await stage.fails(FailureKind.RESET, response.next_chunk())


async def test_read_reports_an_early_end(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"content-length: 100\r\n\r\nhello")
        peer.close()

    stage.server.plays(script)
    response = await stage.send()
    await stage.fails(FailureKind.RESET, response.read(1000))


async def test_stall_before_the_head(stage: Stage) -> None:
    endpoint = stage.endpoint(timeouts=timeouts(first_byte=0.15))
    await stage.fails(FailureKind.FIRST_BYTE_TIMEOUT, stage.send(endpoint, stream=True))


async def test_first_byte_means_the_whole_head(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.drip(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100, 0.01)

    stage.server.plays(script)
    endpoint = stage.endpoint(timeouts=timeouts(first_byte=0.2, between_bytes=0.1))
    await stage.fails(FailureKind.FIRST_BYTE_TIMEOUT, stage.send(endpoint, stream=True))


async def test_stall_in_the_body(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"hello", end=b""))
        await until_gone(peer)

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(between_bytes=0.15)), stream=True)
    assert await response.next_chunk() == b"hello"
    await stage.fails(FailureKind.BETWEEN_BYTES_TIMEOUT, response.next_chunk())


async def test_a_slow_steady_body_is_no_stall(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        await peer.drip(b"1\r\nx\r\n" * 3 + b"0\r\n\r\n", 0.02)

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(between_bytes=0.2)), stream=True)
    assert await response.read(10) == b"xxx"


async def test_total_spans_a_body_that_never_stalls(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        while True:
            await peer.drip(b"1\r\nx\r\n", 0.005)

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(total=0.3)))
    await stage.fails(FailureKind.TOTAL_TIMEOUT, response.read(10_000))


async def test_total_ends_the_exchange_although_nobody_reads(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"x", end=b""))
        await until_gone(peer)

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(total=0.2)))
    await stage.gone()
    failure = None
    while failure is None:
        try:
            await response.next_chunk()
        except Exception as error:
            failure = error
    assert getattr(failure, "kind", None) is FailureKind.TOTAL_TIMEOUT


async def test_total_before_the_head(stage: Stage) -> None:
    await stage.fails(FailureKind.TOTAL_TIMEOUT, stage.send(stage.endpoint(timeouts=timeouts(total=0.15))))


async def test_total_includes_the_wait_for_a_connection(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(with_length(b"ok"))
        await until_gone(peer)

    stage.server.plays(script)
    endpoint = stage.endpoint(max_connections=1, timeouts=timeouts(total=0.3))
    stream = asyncio.ensure_future(stage.send(endpoint, stream=True))  # bounded by no total
    await stage.connected()
    await stage.fails(FailureKind.TOTAL_TIMEOUT, stage.send(endpoint))  # it never had the connection
    go_on.set()
    assert await (await stream).read(100) == b"ok"


async def test_a_slow_reader_is_not_the_upstreams_fault(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"x" * 2_000_000))

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(between_bytes=1)), stream=True)
    received = len(await response.next_chunk())
    await asyncio.sleep(1.5)
    while chunk := await response.next_chunk():
        received += len(chunk)
    assert received == 2_000_000


async def test_buffered_bytes_stop_the_clock(stage: Stage) -> None:
    resumed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"hello", end=b""))
        await resumed.wait()
        await peer.send(b"0\r\n\r\n")

    stage.server.plays(script)
    response = await stage.send(stage.endpoint(timeouts=timeouts(between_bytes=0.4)), stream=True)
    await asyncio.sleep(0.55)
    resumed.set()
    assert await chunks_of(response) == [b"hello"]


async def test_an_answer_in_one_piece_is_bounded_by_its_total_alone(stage: Stage) -> None:
    """It is generated before its first byte leaves: 8,192 tokens take minutes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.3)
        await peer.send(HEAD + b"content-length: 2\r\n\r\no")
        await asyncio.sleep(0.3)
        await peer.send(b"k")

    stage.server.plays(script)
    endpoint = stage.endpoint(timeouts=timeouts(first_byte=0.1, between_bytes=0.1, total=60))
    assert await stage.ask(endpoint) == (200, b"ok")


async def test_a_stream_is_bounded_by_no_total(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        await peer.drip(b"1\r\nx\r\n" * 20 + b"0\r\n\r\n", 0.005)

    stage.server.plays(script)
    endpoint = stage.endpoint(timeouts=timeouts(total=0.2))
    response = await stage.send(endpoint, stream=True)
    assert await response.read(100) == b"x" * 20


async def test_a_connection_that_had_another_kind_of_answer_keeps_each_to_its_own_bounds(
    stage: Stage,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(with_length(b"ok"))
        await peer.request()
        await until_gone(peer)

    stage.server.plays(script)
    endpoint = stage.endpoint(timeouts=timeouts(first_byte=0.2, total=60))
    assert await stage.ask(endpoint) == (200, b"ok")
    await stage.fails(FailureKind.FIRST_BYTE_TIMEOUT, stage.send(endpoint, stream=True))


async def test_upstream_that_never_reads_a_large_request(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.sleep(1.5)
        peer.writer.transport.resume_reading()

    stage.server.plays(script)
    endpoint = stage.endpoint(timeouts=timeouts(between_bytes=0.3))
    await stage.fails(FailureKind.BETWEEN_BYTES_TIMEOUT, stage.send(endpoint, body=bytes(30_000_000)))


GARBAGE = {
    "noise": b"\x00\x01\x02 this is not http\r\n\r\n",
    "http2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "http2 version": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http 0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http 1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "icy": b"ICY 200 OK\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": HEAD.replace(b"200 OK", b"101 Switching")
    + b"upgrade: x\r\nconnection: upgrade\r\n\r\n",
    "switching without upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "length and chunked": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "list of lengths": HEAD + b"content-length: 5, 6\r\n\r\nhello!",
    "negative length": HEAD + b"content-length: -5\r\n\r\nhello",
    "signed length": HEAD + b"content-length: +5\r\n\r\nhello",
    "hex length": HEAD + b"content-length: 0x5\r\n\r\nhello",
    "huge length": HEAD + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "empty length": HEAD + b"content-length:\r\n\r\nhello",
    "gzip and chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer coding": HEAD + b"transfer-encoding: xchunked\r\n\r\nhello",
    "transfer coding identity": HEAD + b"transfer-encoding: identity\r\n\r\nhello",
    "chunked on 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "nul in a value": HEAD + b"a: b\0c\r\ncontent-length: 0\r\n\r\n",
    "space in a name": HEAD + b"a b: c\r\ncontent-length: 0\r\n\r\n",
    "space before the colon": HEAD + b"content-length : 0\r\n\r\n",
    "no colon": HEAD + b"abc\r\ncontent-length: 0\r\n\r\n",
    "empty name": HEAD + b": abc\r\ncontent-length: 0\r\n\r\n",
    "bare cr in a value": HEAD + b"a: b\rc\r\ncontent-length: 0\r\n\r\n",
}

STRICT_GARBAGE = {
    "bare lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "bare lf in the header": HEAD + b"a: b\ncontent-length: 0\r\n\r\n",
    "folded line": HEAD + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "space before the first name": HEAD + b" a: b\r\ncontent-length: 0\r\n\r\n",
    "control character in a value": HEAD + b"a: b\x01c\r\ncontent-length: 0\r\n\r\n",
    "another protocol": b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "line ends before the head": b"\r\n\r\n" + HEAD + b"content-length: 0\r\n\r\n",
    "data after a last interim answer": b"HTTP/1.1 100 Continue\r\nconnection: close\r\n\r\n"
    + with_length(b""),
}


@pytest.mark.parametrize("wire", GARBAGE.values(), ids=GARBAGE.keys())
async def test_malformed_head(stage: Stage, wire: bytes) -> None:
    stage.server.plays(answers(wire))
    await stage.fails(FailureKind.PROTOCOL, stage.send())


@pytest.mark.parametrize("wire", STRICT_GARBAGE.values(), ids=STRICT_GARBAGE.keys())
async def test_malformed_head_that_lenient_parsers_read(stage: Stage, wire: bytes) -> None:
    stage.server.plays(answers(wire))
    await stage.fails(FailureKind.PROTOCOL, stage.send())


@pytest.mark.parametrize(
    "size",
    [b"zz", b"", b"-5", b"0x5", b"fffffffffffffffff", b"5;\x00"],
    ids=["letters", "empty", "negative", "prefix", "overflow", "nul"],
)
async def test_malformed_chunk_size(stage: Stage, size: bytes) -> None:
    stage.server.plays(answers(chunked(b"good", end=size + b"\r\nhello\r\n0\r\n\r\n")))
    failure = await stage.fails(FailureKind.PROTOCOL, stage.ask())
    assert "hello" not in failure.detail


async def test_malformed_chunk_after_good_ones(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"good", end=b""))
        await asyncio.sleep(0.05)
        await peer.send(b"zz\r\nhello\r\n")

    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"good"
    failure = await stage.fails(FailureKind.PROTOCOL, response.next_chunk())
    assert "hello" not in failure.detail


async def test_chunk_longer_than_its_size(stage: Stage) -> None:
    stage.server.plays(answers(chunked(end=b"5\r\nhelloXX\r\n0\r\n\r\n")))
    failure = await stage.fails(FailureKind.PROTOCOL, stage.ask())
    assert "hello" not in failure.detail


@pytest.mark.parametrize("fields", [1, 700])
async def test_huge_header(stage: Stage, fields: int) -> None:
    size = 70_000 // fields
    header = b"".join(b"x-%d: %s\r\n" % (index, b"y" * size) for index in range(fields))
    stage.server.plays(answers(HEAD + header + b"content-length: 0\r\n\r\n"))
    await stage.fails(FailureKind.PROTOCOL, stage.send())


async def test_header_without_end(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD)
        while True:
            await peer.send(b"x: " + b"y" * 997 + b"\r\n")

    stage.server.plays(script)
    await stage.fails(FailureKind.PROTOCOL, stage.send())


async def test_interim_answers_without_end(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 20)

    stage.server.plays(script)
    await stage.fails(FailureKind.PROTOCOL, stage.send())


async def test_trailers_without_end(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"x", end=b"0\r\n"))
        while True:
            await peer.send(b"x: " + b"y" * 997 + b"\r\n")

    stage.server.plays(script)
    response = await stage.send()
    await stage.fails(FailureKind.PROTOCOL, response.read(10))


async def test_header_of_60_kib_is_read(stage: Stage) -> None:
    stage.server.plays(answers(with_length(b"ok", b"x: " + b"y" * 60_000)))
    assert await stage.ask() == (200, b"ok")


async def test_answer_before_the_request_was_read(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(with_length(b"too large", status=b"413 Content Too Large"))
        await peer.until_gone()

    stage.server.plays(script)
    assert await stage.ask(body=bytes(20_000_000)) == (413, b"too large")
    assert stage.upstream.counts()[1] == 0


async def test_connection_is_closed_after_a_failure(stage: Stage) -> None:
    stage.server.plays(answers(b"garbage\r\n\r\n"), answers(with_length(b"ok")))
    await stage.fails(FailureKind.PROTOCOL, stage.send())
    assert await stage.ask() == (200, b"ok")
    assert len(stage.server.peers) == 2
