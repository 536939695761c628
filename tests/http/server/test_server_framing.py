"""How requests are read and answers written when everybody behaves."""

import asyncio
import random
import re
import socket
from pathlib import Path

import pytest

from gateway.http.server.cors import EXPOSED
from tests.http.server.server_stage import Stage, chunked, get, post

BODY = b'{"model": "auto"}'


async def test_a_body_with_a_length(stage: Stage) -> None:
    answer = await stage.exchange(post("/echo", BODY))
    assert answer.status == 200
    assert answer.body == BODY
    assert answer.field("content-type") == "text/plain"
    assert answer.field("content-length") == str(len(BODY))
    assert answer.field("date") is not None
    assert not answer.closes


async def test_a_body_in_chunks(stage: Stage) -> None:
    assert (
        await stage.exchange(chunked("/echo", b"one", b"t" * 300, b"!"))
    ).body == b"one" + b"t" * 300 + b"!"


async def test_chunk_extensions_and_trailers_are_read_over(stage: Stage) -> None:
    request = chunked("/echo", b"one", b"two", extension=b';a=b;c="d e"', trailers=b"x-sum: 1\r\ny: 2\r\n")
    async with stage.client() as client:
        await client.send(request + get("/header/x-sum"))
        assert (await client.answer()).body == b"onetwo"
        assert (await client.answer()).body == b"(none)"


async def test_a_trailer_is_no_header(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(
            get("/late-echo", "Transfer-Encoding: chunked", method="POST")
            + b"1\r\na\r\n0\r\nauthorization: Bearer forged\r\n\r\n"
        )
        await stage.handlers.waiting.wait()
        [exchange] = stage.handlers.seen
        assert exchange.complete
        assert b"authorization" not in exchange.headers
        del exchange
        stage.handlers.go.set()
        assert (await client.answer()).body == b"a"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_small_segments(stage: Stage, size: int) -> None:
    requests = post("/echo", BODY) + chunked("/echo", b"one", b"two", trailers=b"a: b\r\n") + get("/x?y=/z")
    async with stage.client() as client:
        await client.send_in_pieces(requests, size)
        assert (await client.answer()).body == BODY
        assert (await client.answer()).body == b"onetwo"
        assert (await client.answer()).body == b"/x"


@pytest.mark.parametrize("seed", range(5))
async def test_any_segments(stage: Stage, seed: int) -> None:
    pick = random.Random(seed)
    requests = b"".join(post("/echo", b"%d" % number) for number in range(10))
    async with stage.client() as client:
        while requests:
            cut = pick.randrange(1, 200)
            await client.send(requests[:cut])
            requests = requests[cut:]
            await asyncio.sleep(0)
        assert [(await client.answer()).body for _ in range(10)] == [b"%d" % number for number in range(10)]


async def test_a_connection_is_used_again(stage: Stage) -> None:
    async with stage.client() as client:
        for number in range(5):
            await client.send(post("/echo", b"%d" % number))
            assert (await client.answer()).body == b"%d" % number
        assert len(stage.state.connections) == 1


async def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(b"".join(post("/echo", b"%d" % number) for number in range(200)))
        for number in range(200):
            assert (await client.answer()).body == b"%d" % number


@pytest.mark.parametrize("first", [b"", b"first"])
async def test_a_stream_that_is_begun_at_once_shows_its_head_and_first_data(
    stage: Stage, first: bytes
) -> None:
    async with stage.client() as client:
        await client.send(get(f"/start-now/{first.decode()}"))
        head = await client.head()  # before there is anything else
        assert head.status == 200
        assert head.field("transfer-encoding") == "chunked"
        if first:
            assert await client.chunk() == first
        stage.handlers.go.set()
        assert await client.chunk() == b"rest"
        assert await client.chunk() == b""


async def test_so_does_one_for_a_client_that_knows_no_chunks(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/start-now/first").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await client.head()
        stage.handlers.go.set()
        assert await client.rest() == b"firstrest"


async def test_pipelined_requests_wait_for_a_slow_stream(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/3") + post("/echo", b"next") + get("/last"))
        await stage.handlers.waiting.wait()
        await asyncio.sleep(0.02)
        assert stage.handlers.served == [("GET", "/slow-stream/3")]
        stage.handlers.go.set()
        assert (await client.answer()).body == b"0,1,2,"
        assert (await client.answer()).body == b"next"
        assert (await client.answer()).body == b"/last"


async def test_pipelining_is_bounded(stage: Stage) -> None:
    """A client that asks without end behind a slow stream has to wait with its bytes."""
    request = get("/next", "x-padding: " + "p" * 1000)
    async with stage.client() as client:
        await client.send(get("/slow-stream/2"))
        await stage.handlers.waiting.wait()
        sent = await client.push(request * 50_000, 0.3)
        assert sent < 20_000_000
        [connection] = stage.state.connections
        assert len(connection._pipelined) < 600  # one more segment than the limit
        del connection
        stage.handlers.go.set()
        assert (await client.answer()).body == b"0,1,"
        for _ in range(sent // len(request)):
            assert (await client.answer()).body == b"/next"
        client.close()


async def test_http_1_0_with_a_length(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/echo", BODY, version="1.0"))
        assert (await client.only_answer()).body == BODY


async def test_http_1_0_gets_no_chunks(stage: Stage) -> None:
    answer = await stage.exchange(get("/stream/3/2", version="1.0"))
    assert not answer.is_framed
    assert answer.body == b"aabbcc"


async def test_what_is_sent_at_once_is_framed_as_what_is_awaited(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/now/4/2") + get("/next"))
        assert (await client.answer()).body == b"aabbccdd"
        assert (await client.answer()).body == b"/next"
    # The head leaves with the first data, which has to be awaited.
    assert stage.handlers.sent_now == [False, True, True, True]


async def test_nothing_is_sent_at_once_without_chunks(stage: Stage) -> None:
    answer = await stage.exchange(get("/now/3/2", version="1.0"))
    assert answer.body == b"aabbcc"
    assert stage.handlers.sent_now == [False] * 3


async def test_http_1_0_with_keep_alive_is_told_that_we_close(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x", "Connection: keep-alive", version="1.0"))
        assert (await client.only_answer()).body == b"/x"


async def test_http_1_0_is_not_told_to_continue(stage: Stage) -> None:
    request = post("/echo", BODY, "Expect: 100-continue", version="1.0")
    async with stage.client() as client:
        await client.send(request[: -len(BODY)])
        await asyncio.sleep(0.02)
        await client.send(BODY)
        assert (await client.only_answer()).body == BODY


@pytest.mark.parametrize("path", ["/size/1000", "/stream/3/5", "/empty-chunks", "/status/204"])
async def test_head_gets_no_body(stage: Stage, path: str) -> None:
    async with stage.client() as client:
        await client.send(get(path, method="HEAD") + get("/next"))
        first = await client.head()
        if path.startswith("/size"):
            assert first.field("content-length") == "1000"
        assert (await client.answer()).body == b"/next"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body(stage: Stage, status: int) -> None:
    async with stage.client() as client:
        await client.send(get(f"/status/{status}") + get("/next"))
        first = await client.head()
        assert first.status == status
        if status == 204:
            assert first.field("content-length") is None
        assert (await client.answer()).body == b"/next"


async def test_an_unknown_status_has_a_well_formed_line(stage: Stage) -> None:
    assert (await stage.exchange(get("/status/529"))).status == 529


async def test_continue_is_said_when_the_body_is_wanted(stage: Stage) -> None:
    request = post("/echo", BODY, "Expect: 100-Continue")
    async with stage.client() as client:
        await client.send(request[: -len(BODY)])
        assert (await client.answer()).status == 100
        await client.send(BODY)
        assert (await client.answer()).body == BODY


async def test_continue_is_not_said_when_the_body_is_there(stage: Stage) -> None:
    assert (await stage.exchange(post("/echo", BODY, "Expect: 100-continue"))).status == 200


async def test_continue_is_not_said_to_a_body_that_is_too_large(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Content-Length: 99999999", "Expect: 100-continue", method="POST"))
        answer = await client.only_answer()
        assert answer.status == 413
        assert answer.error()["code"] == "request_too_large"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 5_000_000])
async def test_answers_of_any_size(stage: Stage, size: int) -> None:
    assert (await stage.exchange(get(f"/size/{size}"))).body == b"x" * size


async def test_a_large_answer_is_followed_by_the_next(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/size/3000000") + get("/next"))
        assert len((await client.answer()).body) == 3_000_000
        assert (await client.answer()).body == b"/next"


async def test_a_stream_comes_in_chunks(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/stream/3/4"))
        head = await client.head()
        assert head.field("transfer-encoding") == "chunked"
        assert head.field("content-length") is None
        assert [await client.chunk() for _ in range(4)] == [b"aaaa", b"bbbb", b"cccc", b""]


async def test_the_head_of_a_stream_leaves_with_the_first_chunk(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/2"))
        first = await client.receive()
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert first.endswith(b"\r\n\r\n2\r\n0,\r\n")
        stage.handlers.go.set()
        assert (await client._exactly(12)) == b"2\r\n1,\r\n0\r\n\r\n"


async def test_a_stream_without_data_is_an_empty_answer(stage: Stage) -> None:
    answer = await stage.exchange(get("/stream/0/0"))
    assert answer.status == 200
    assert answer.body == b""


async def test_empty_data_does_not_end_a_stream(stage: Stage) -> None:
    assert (await stage.exchange(get("/empty-chunks"))).body == b"onetwo"


async def test_connection_close_is_honoured(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x", "Connection: close"))
        assert (await client.only_answer()).body == b"/x"


async def test_nothing_after_connection_close_is_served(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x", "Connection: close") + get("/smuggled"))
        assert (await client.only_answer()).body == b"/x"
    assert stage.handlers.served == [("GET", "/x")]


async def test_an_answer_before_the_body_closes_the_connection(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/unasked", "Content-Length: 5", method="POST"))
        answer = await client.answer()
        assert answer.status == 401
        assert answer.closes
        await client.send(get("/smuggled"))
        assert await client.rest() == b""
    assert stage.handlers.served == [("POST", "/unasked")]


async def test_an_answer_with_the_body_unread_but_there_keeps_the_connection(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/unasked", BODY) + get("/next"))
        assert not (await client.answer()).closes
        assert (await client.answer()).body == b"/next"


async def test_blank_lines_between_requests(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(b"\r\n\r\n" + get("/a") + b"\r\n" + get("/b"))
        assert [(await client.answer()).body for _ in range(2)] == [b"/a", b"/b"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%2Fb?c=d", b"/a%2Fb"),
        ("/a//b/../c", b"/a//b/../c"),
        ("/?a?b", b"/"),
        ("http://other:80/v1/models?x", b"/v1/models"),
        ("HTTPS://other/v1", b"/v1"),
        ("http://other", b"/"),
        ("http://other?/v1/models", b"/"),
        ("http://user:pass@other/v1//x", b"/v1//x"),
        ("*", b"*"),
    ],
)
async def test_the_path_of_a_target(stage: Stage, target: str, path: bytes) -> None:
    assert (await stage.exchange(get(target))).body == path


async def test_the_first_of_two_headers_counts(stage: Stage) -> None:
    answer = await stage.exchange(get("/header/x-given", "X-Given: first", "X-GIVEN: second"))
    assert answer.body == b"first"


@pytest.mark.parametrize(
    "name", ["authorization", "api-key", "content-type", "idempotency-key", "traceparent"]
)
async def test_of_a_header_that_decides_something_there_is_one(stage: Stage, name: str) -> None:
    answer = await stage.exchange(get("/header/x-name", f"{name}: first", f"{name.upper()}: first"))
    assert answer.status == 400
    assert name in answer.body.decode()


async def test_header_values_are_latin_1_and_trimmed(stage: Stage) -> None:
    assert (await stage.exchange(get("/header/x-name", "x-name: \t J\xfcrgen"))).body == b"J\xfcrgen"


async def test_an_empty_header_does_not_swallow_the_next(stage: Stage) -> None:
    request = get("/header/authorization", "x-empty:", "authorization: mine")
    async with stage.client() as client:
        await client.send_in_pieces(request)
        assert (await client.answer()).body == b"mine"


OFFERS = [
    ("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Connection: Upgrade, HTTP2-Settings"),
    ("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"),
]


@pytest.mark.parametrize("offer", OFFERS)
async def test_an_upgrade_is_not_taken_up(stage: Stage, offer: tuple[str, ...]) -> None:
    async with stage.client() as client:
        await client.send(get("/x", *offer))
        answer = await client.answer()
        assert (answer.status, answer.body, answer.closes) == (200, b"/x", False)
        await client.send(get("/header/x-name", "x-name: mine", *offer) + get("/next"))
        assert (await client.answer()).body == b"mine"
        assert (await client.answer()).body == b"/next"


@pytest.mark.parametrize("size", [1, 9, 10_000])
async def test_a_body_behind_an_offer_to_upgrade_is_read(stage: Stage, size: int) -> None:
    """As Java's HTTP client sends every request."""
    async with stage.client() as client:
        for _ in range(2):
            await client.send_in_pieces(post("/echo", BODY, *OFFERS[0]), size)
            assert (await client.answer()).body == BODY


async def test_cors_only_where_there_is_an_origin(stage: Stage) -> None:
    with_origin = await stage.exchange(get("/x", "Origin: https://app.example"))
    without = await stage.exchange(get("/x"))
    assert with_origin.field("access-control-allow-origin") == "*"
    assert "x-request-id" in str(with_origin.field("access-control-expose-headers"))
    assert [name for name, _ in without.fields if name.startswith("access-control")] == []


async def test_small_writes_are_not_held_back(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/1"))
        await stage.handlers.waiting.wait()
        [connection] = stage.state.connections
        own = connection._transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        del connection, own
        stage.handlers.go.set()
        await client.answer()


# --- trailers ---


@pytest.mark.parametrize("size", [0, 5, 100_000])
async def test_what_is_known_at_the_end_only_is_a_trailer(stage: Stage, size: int) -> None:
    async with stage.client() as client:
        await client.send(get(f"/trailers/{size}") + get("/x"))
        head = await client.head()
        assert (head.status, head.field("trailer")) == (200, "x-sum")
        received = 0
        while piece := await client.piece():
            received += len(piece)
        assert received == size
        assert await client._until(b"\r\n\r\n") == b"x-sum: 7"
        assert (await client.answer()).body == b"/x"


async def test_who_knows_no_chunks_gets_no_trailer(stage: Stage) -> None:
    answer = await stage.exchange(b"GET /trailers/5 HTTP/1.0\r\n\r\n")
    assert (answer.body, answer.field("trailer")) == (b"xxxxx", None)


# --- headers that steer ---


async def test_a_control_header_that_is_there_twice_is_refused(stage: Stage) -> None:
    for second in ("X-Tollway-Privacy: public", "x-tollway-privacy: internal"):
        answer = await stage.exchange(get("/echo", "x-tollway-privacy: internal", second, method="POST"))
        assert answer.status == 400
        assert answer.error()["code"] == "invalid_header"
    assert stage.handlers.served == []


async def test_other_headers_may_be_there_twice_and_the_first_counts(stage: Stage) -> None:
    answer = await stage.exchange(get("/header/accept", "accept: a", "accept: b", "x-tollway-tags: a=1"))
    assert answer.body == b"a"


def test_every_header_that_answers_have_is_exposed_to_pages_of_other_origins() -> None:
    asked = {"x-tollway-feature", "x-tollway-privacy", "x-tollway-session", "x-tollway-tags"}
    asked |= {"x-tollway-cost-event", "x-tollway-attempt", "x-tollway-priority"}
    code = "".join(path.read_text() for path in Path("gateway").glob("**/*.py"))
    named = set(re.findall(r"(x-tollway-[a-z-]*[a-z])\b(?!-)", code))
    told = {name for name in EXPOSED if name.startswith("x-tollway-")}
    assert named - asked == told, "what answers have goes into EXPOSED, what clients send into `asked`"
    assert {"retry-after", "retry-after-ms", "x-should-retry", "x-request-id"} <= set(EXPOSED)
