"""What is not plainly HTTP/1.1 gets one error and no second thought; nothing hidden in it is ever served."""

import pytest

from tests.http.server.server_stage import Stage, chunked, get, post

SMUGGLED = get("/smuggled")
CHUNKED = "Transfer-Encoding: chunked"


def coded(coding: str, *fields: str) -> bytes:
    """A request with this transfer coding, its end in chunks, and one more behind it."""
    return get("/echo", f"Transfer-Encoding:{coding}", *fields, method="POST") + b"0\r\n\r\n" + SMUGGLED


def sized(length: str, *fields: str) -> bytes:
    return get("/echo", f"Content-Length:{length}", *fields, method="POST") + b"abc" + SMUGGLED


def raw(line: bytes) -> bytes:
    """A request with this among its header lines."""
    return b"GET /x HTTP/1.1\r\nHost: test\r\n" + line + b"\r\n\r\n" + SMUGGLED


HEADS = {
    "length and chunks": sized(" 3", CHUNKED),
    "chunks and length": coded(" chunked", "Content-Length: 3"),
    "two lengths": sized(" 3", "Content-Length: 4"),
    "two equal lengths": sized(" 3", "Content-Length: 3"),
    "a list of lengths": sized(" 3, 3"),
    "a length with plus": sized(" +3"),
    "a length below zero": sized(" -3"),
    "a length in hex": sized(" 0x3"),
    "a length with a space": sized(" 3 3"),
    "a length with an underscore": sized(" 1_0"),
    "a length in other digits": sized(" \xb3"),
    "an empty length": sized(""),
    "a length beyond 64 bits": sized(" 18446744073709551619"),
    "a length with a fraction": sized(" 3.0"),
    "no known coding": coded(" xchunked"),
    "chunked in quotes": coded(' "chunked"'),
    "identity": coded(" identity"),
    "identity with a length": coded(" identity", "Content-Length: 3"),
    "gzip below chunks": coded(" gzip, chunked"),
    "chunks twice": coded(" chunked, chunked"),
    "two codings": coded(" chunked", CHUNKED),
    "gzip, then chunks": coded(" gzip", CHUNKED),
    "chunks, then identity": coded(" chunked", "Transfer-Encoding: identity"),
    "chunks with a parameter": coded(" chunked;q=1"),
    "an empty coding": coded("", CHUNKED),
    "a comma before chunks": coded(" ,chunked"),
    "vertical tab before chunks": coded(" \x0bchunked"),
    "a folded coding": raw(b"Transfer-Encoding:\r\n chunked"),
    "a folded line": raw(b"x-a: b\r\n c: d"),
    "a folded line with a tab": raw(b"x-a: b\r\n\tTransfer-Encoding: chunked"),
    "a space before the colon": raw(b"Content-Length : 3"),
    "a tab before the colon": raw(b"Transfer-Encoding\t: chunked"),
    "a space before the name": b"GET /x HTTP/1.1\r\n Host: test\r\n\r\n" + SMUGGLED,
    "no colon": raw(b"x-a"),
    "no name": raw(b": b"),
    "NUL in a name": raw(b"x\0a: b"),
    "NUL in a value": raw(b"x-a: b\0c"),
    "a control character in a value": raw(b"x-a: b\x01c"),
    "DEL in a value": raw(b"x-a: b\x7fc"),
    "a lone CR in a value": raw(b"x-a: b\rContent-Length: 3"),
    "a lone LF in a value": raw(b"x-a: b\nContent-Length: 3"),
    "a name that is no token": raw(b"x(a): b"),
    "a name beyond ASCII": raw("kontö: 1".encode()),
    "bare LF everywhere": b"GET /x HTTP/1.1\nHost: test\n\n" + SMUGGLED,
    "bare LF at the end": b"GET /x HTTP/1.1\r\nHost: test\r\n\n" + SMUGGLED,
    "bare CR at the end": b"GET /x HTTP/1.1\r\nHost: test\r\n\r" + SMUGGLED,
    "lower case method": b"get /x HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "unknown method": b"FETCH /x HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "NUL in the target": b"GET /x\0y HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "a space in the target": b"GET /x y HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "a tab in the target": b"GET /x\ty HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "authority as the target": b"GET test:443 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "no slash": b"GET v1 HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "no target": b"GET HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
    "connect": b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n" + SMUGGLED,
    "version 0.9": b"GET /x\r\n\r\n" + SMUGGLED,
    "version 0.9, named": b"GET /x HTTP/0.9\r\n\r\n" + SMUGGLED,
    "version 1.2": b"GET /x HTTP/1.2\r\n\r\n" + SMUGGLED,
    "version 2.0": b"GET /x HTTP/2.0\r\n\r\n" + SMUGGLED,
    "version 11": b"GET /x HTTP/11\r\n\r\n" + SMUGGLED,
    "lower case version": b"GET /x http/1.1\r\n\r\n" + SMUGGLED,
    "a space after the version": b"GET /x HTTP/1.1 \r\nHost: h\r\n\r\n" + SMUGGLED,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "a hello of TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(190)),
    "PROXY": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + SMUGGLED,
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n" + SMUGGLED,
    "garbage": bytes(range(1, 256)) * 4,
    "an upgrade with chunks": coded(" chunked", "Connection: upgrade", "Upgrade: h2c"),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_could_be_read_in_two_ways_is_refused(stage: Stage, name: str) -> None:
    async with stage.client() as client:
        await client.send(HEADS[name])
        answer = await client.only_answer()
        assert answer.status == 400
        assert answer.error()["code"] == "invalid_http"
        assert answer.field("date") is not None
    assert stage.handlers.served == []


@pytest.mark.parametrize("name", HEADS)
async def test_and_so_it_is_in_small_segments(stage: Stage, name: str) -> None:
    async with stage.client() as client:
        await client.send_in_pieces(HEADS[name][:300])
        assert (await client.only_answer()).status == 400
    assert stage.handlers.served == []


@pytest.mark.parametrize("name", HEADS)
async def test_what_was_asked_before_is_answered_first(stage: Stage, name: str) -> None:
    async with stage.client() as client:
        await client.send(get("/first") + post("/echo", b"second") + HEADS[name])
        assert (await client.answer()).body == b"/first"
        assert (await client.answer()).body == b"second"
        assert (await client.only_answer()).status == 400
    assert stage.handlers.served == [("GET", "/first"), ("POST", "/echo")]


CHUNKS = {
    "no digit": b"g\r\nabc\r\n",
    "no size": b"\r\nabc\r\n",
    "a sign": b"+3\r\nabc\r\n",
    "below zero": b"-1\r\nabc\r\n",
    "a prefix": b"0x3\r\nabc\r\n",
    "a space after the size": b"3 \r\nabc\r\n",
    "a space before the size": b" 3\r\nabc\r\n",
    "LF after the size": b"3\nabc\r\n",
    "CR after the size": b"3\rabc\r\n",
    "LF after the data": b"3\r\nabc\n",
    "nothing after the data": b"3\r\nabc0\r\n\r\n",
    "more data than said": b"3\r\nabcd\r\n",
    "beyond 64 bits": b"10000000000000003\r\nabc\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n",
    "NUL in an extension": b"3;a\0\r\nabc\r\n",
    "a size in two numbers": b"3,3\r\nabc\r\n",
    "a malformed trailer": b"0\r\nx\r\n\r\n",
    "a folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "a length in a trailer": b"0\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nx",
}


@pytest.mark.parametrize("piecemeal", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
async def test_a_malformed_chunk_ends_the_request(stage: Stage, name: str, piecemeal: bool) -> None:
    request = get("/echo", CHUNKED, method="POST") + CHUNKS[name] + b"0\r\n\r\n" + SMUGGLED
    async with stage.client() as client:
        await (client.send_in_pieces(request) if piecemeal else client.send(request))
        answer = await client.only_answer()
        assert answer.status == 400
        assert answer.error()["code"] == "invalid_http"
    assert stage.handlers.served == [("POST", "/echo")]


async def test_a_chunk_of_nearly_64_bits_is_only_too_large(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", CHUNKED, method="POST") + b"ffffffffffffffff\r\n" + b"x" * 2_000_000)
        assert (await client.only_answer()).status == 413


@pytest.mark.parametrize("piecemeal", [False, True])
async def test_a_body_that_looks_like_a_request_is_a_body(stage: Stage, piecemeal: bool) -> None:
    request = post("/echo", SMUGGLED) + chunked("/echo", SMUGGLED) + get("/last")
    async with stage.client() as client:
        await (client.send_in_pieces(request) if piecemeal else client.send(request))
        assert (await client.answer()).body == SMUGGLED
        assert (await client.answer()).body == SMUGGLED
        assert (await client.answer()).body == b"/last"
    assert ("GET", "/smuggled") not in stage.handlers.served


async def test_a_length_on_a_get_is_a_body(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x", f"Content-Length: {len(SMUGGLED)}") + SMUGGLED + get("/last"))
        assert (await client.answer()).body == b"/x"
        assert (await client.answer()).body == b"/last"


async def test_chunks_in_http_1_0_are_the_last_request(stage: Stage) -> None:
    request = chunked("/echo", b"abc").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with stage.client() as client:
        await client.send(request + SMUGGLED)
        assert (await client.only_answer()).body == b"abc"
    assert ("GET", "/smuggled") not in stage.handlers.served


@pytest.mark.parametrize("length", [" 3 ", "\t3\t", " 03", " " + "0" * 5000 + "3"])
async def test_a_length_with_space_or_zeros_around_it(stage: Stage, length: str) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", f"Content-Length:{length}", method="POST") + b"abc" + get("/last"))
        assert (await client.answer()).body == b"abc"
        assert (await client.answer()).body == b"/last"


async def test_an_upgrade_cannot_hide_a_request(stage: Stage) -> None:
    """The parser takes all that follows an offer for the other protocol's; we must not lose the boundary."""
    offer = get(
        "/echo", "Connection: upgrade", "Upgrade: x", f"Content-Length: {len(SMUGGLED)}", method="POST"
    )
    async with stage.client() as client:
        await client.send(offer + SMUGGLED + get("/last"))
        assert (await client.answer()).body == SMUGGLED
        assert (await client.answer()).body == b"/last"


async def test_offers_to_upgrade_do_not_pile_up(stage: Stage) -> None:
    offer = get("/x", "Connection: upgrade", "Upgrade: h2c")
    async with stage.client() as client:
        await client.send(offer * 1000)
        assert (await client.answer()).body == b"/x"
        assert (await client.only_answer()).status == 400


ANSWERS = {
    "a second answer": b"a\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a shorter length": b"a\r\ncontent-length: 1",
    "chunks": b"a\r\ntransfer-encoding: chunked",
    "the end of the head": b"a\r\n\r\n",
    "bare LF": b"a\ncontent-length: 0\n\nHTTP/1.1 200 OK\n\n",
    "a lone CR": b"a\rcontent-length: 0",
    "NUL": b"a\0b",
}


@pytest.mark.parametrize("path", ["/inject", "/inject/stream"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_value_cannot_move_the_boundary_of_answers(stage: Stage, name: str, path: str) -> None:
    async with stage.client() as client:
        await client.send(post(path, ANSWERS[name]) + get("/last"))
        refused = await client.answer()
        assert (refused.status, refused.body) == (500, b"refused")
        assert (await client.answer()).body == b"/last"
    assert stage.handlers.raised == [ValueError]
