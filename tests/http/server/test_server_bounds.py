"""Bounds in bytes and in time: what a client may take, and that it can read why it may not take more."""

import asyncio

import pytest

from gateway.config.server import Server
from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import BODY_LIMIT, Client, Stage, chunked, get, post

LIMITS = ServerLimits(
    head_seconds=0.3,
    body_seconds=0.3,
    body_bytes_per_second=40,
    unread_seconds=1.5,
    idle_seconds=0.4,
    linger_seconds=5.0,
    linger_bytes=200_000_000,
    check_seconds=0.02,
)
HEAD_BYTES = LIMITS.head_bytes
MIB = 1024 * 1024


def test_an_idle_connection_outlives_common_load_balancers() -> None:
    """ALB keeps them for 60 s, Azure for 240 s, GCP for 600 s, and fails on one that was just closed."""
    assert ServerLimits().idle_seconds > 600
    assert Server().data.idle_seconds > 600


# Heads


@pytest.mark.parametrize("size", [200, 997, 10_000_000])
async def test_a_head_that_is_too_large(stage: Stage, size: int) -> None:
    request = get("/x", *[f"x-{number}: {'y' * 1000}" for number in range(66)])
    async with stage.client() as client:
        await client.send_in_pieces(request, size)
        answer = await client.only_answer()
        assert answer.status == 431
        assert answer.error()["code"] == "request_head_too_large"
    assert stage.handlers.served == []


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"])
async def test_a_head_without_an_end_is_given_up(stage: Stage, start: bytes) -> None:
    async with stage.client() as client:
        await client.send(start + b"y" * 2_000_000)
        assert (await client.only_answer()).status == 431


async def test_a_head_of_just_the_limit(stage: Stage) -> None:
    assert (await stage.exchange(get("/x", "y: " + "z" * (HEAD_BYTES - 100)))).status == 200


@pytest.mark.parametrize("start", [b"P", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nx-a: b"])
async def test_a_head_that_does_not_come(stage: Stage, start: bytes) -> None:
    async with stage.client() as client:
        await client.send(start)
        answer = await client.only_answer()
        assert answer.status == 408
        assert answer.error()["code"] == "request_timeout"


async def drip(client: Client, data: bytes, pause_seconds: float = 0.02) -> None:
    """One byte at a time, until the server has had enough."""
    for byte in data:
        await client.send(bytes([byte]))
        await asyncio.sleep(pause_seconds)


async def test_a_dripping_head_does_not_gain_time(stage: Stage) -> None:
    async with stage.client() as client:
        dripping = asyncio.create_task(drip(client, get("/x", "x-a: " + "b" * 1000)))
        assert (await client.only_answer()).status == 408
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_dripping_blank_lines_do_not_keep_a_connection(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x"))
        await client.answer()
        dripping = asyncio.create_task(drip(client, b"\r\n" * 1000))
        assert await client.is_closed()
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_a_head_may_wait_while_we_do_not_listen(stage: Stage) -> None:
    """Sixteen requests wait and the seventeenth is half here: the delay is ours."""
    request = get("/x", "x-padding: " + "p" * 1000)
    async with stage.client() as client:
        await client.send(get("/slow-stream/1") + request * 16 + request[:500])
        await asyncio.sleep(0.6)
        stage.handlers.go.set()
        await client.answer()
        await client.send(request[500:])
        for _ in range(17):
            assert (await client.answer()).status == 200


# Bodies


@pytest.mark.parametrize("start", [b"", b"abc"])
async def test_a_body_that_stops_coming(stage: Stage, start: bytes) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Content-Length: 10", method="POST") + start)
        answer = await client.only_answer()
        assert answer.status == 408
        assert answer.error()["code"] == "request_timeout"


async def test_a_body_that_drips_is_given_up(stage: Stage) -> None:
    """A byte now and then would keep a connection for as long as the largest body has bytes."""
    async with stage.client() as client:
        await client.send(get("/echo", "Content-Length: 1000", method="POST"))
        dripping = asyncio.create_task(drip(client, b"a" * 1000, pause_seconds=0.1))
        answer = await client.only_answer()
        assert answer.status == 408
        assert answer.error()["message"] == "The request's body comes too slowly."
        dripping.cancel()
        await asyncio.wait([dripping])


async def test_a_body_that_keeps_coming_may_take_its_time(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Content-Length: 40", method="POST"))
        await drip(client, b"a" * 40, pause_seconds=0.01)
        assert (await client.answer()).body == b"a" * 40


async def test_a_body_whose_request_waits_is_not_late(stage: Stage) -> None:
    """Nobody reads the body while the stream before it goes on, so the client cannot send it all."""
    body = b"b" * 900_000
    async with stage.client() as client:
        await client.send(get("/slow-stream/1"))
        sending = asyncio.create_task(client.send(post("/echo", body)))
        await asyncio.sleep(0.6)
        stage.handlers.go.set()
        assert (await client.answer()).body == b"0,"
        assert (await client.answer()).body == body
        await sending


@pytest.mark.parametrize("how", ["length", "chunks"])
async def test_a_body_that_is_too_large(stage: Stage, how: str) -> None:
    """The client gets to read the error while it is still sending 80 MB."""
    piece = b"x" * MIB
    async with stage.client() as client:
        if how == "length":
            await client.send(get("/echo", f"Content-Length: {80 * MIB}", method="POST"))
            framed = piece
        else:
            await client.send(get("/echo", "Transfer-Encoding: chunked", method="POST"))
            framed = b"%x\r\n%b\r\n" % (len(piece), piece)
        for _ in range(80):
            await client.send(framed)
        answer = await client.only_answer()
        assert answer.status == 413
        assert answer.error()["code"] == "request_too_large"


async def test_more_than_we_care_to_throw_away(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Content-Length: 999999999", method="POST"))
        with pytest.raises(ConnectionError):
            for _ in range(300):
                await client.send(b"x" * MIB)


async def test_a_body_of_just_the_limit(stage: Stage) -> None:
    body = b"x" * BODY_LIMIT
    for request in (post("/echo", body), chunked("/echo", body[:1000], body[1000:])):
        assert (await stage.exchange(request)).body == body
    for request in (post("/echo", body + b"x"), chunked("/echo", body, b"x")):
        assert (await stage.exchange(request)).status == 413


async def test_a_body_that_nobody_asks_for_waits_with_the_client(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/late-echo", "Content-Length: 100000000", method="POST"))
        await stage.handlers.waiting.wait()
        sent = await client.push(b"x" * 100_000_000, 0.2)
        [exchange] = stage.handlers.seen
        assert exchange._size < LIMITS.waiting_bytes + 256 * 1024
        del exchange
        assert sent < 20_000_000
        stage.handlers.go.set()
        assert (await client.answer()).status == 413


async def test_chunk_extensions_without_an_end(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Transfer-Encoding: chunked", method="POST") + b"1;")
        await client.send(b"y" * 2_000_000)
        assert (await client.only_answer()).status == 431


async def test_trailers_without_an_end(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", "Transfer-Encoding: chunked", method="POST") + b"0\r\nx: ")
        await client.send(b"y" * 2_000_000)
        assert (await client.only_answer()).status == 431


# Connections


async def test_an_idle_connection_is_closed(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/x"))
        await client.answer()
        assert await client.is_closed()


async def test_a_connection_without_a_request_is_closed(stage: Stage) -> None:
    async with stage.client() as client:
        assert await client.is_closed()


async def test_idle_counts_from_the_end_of_the_answer(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/1"))
        await asyncio.sleep(0.7)  # longer than idle_seconds
        stage.handlers.go.set()
        await client.answer()
        await asyncio.sleep(0.1)
        await client.send(get("/next"))
        assert (await client.answer()).body == b"/next"


async def test_a_long_wait_for_an_answer_is_not_idle(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/unwatched"))
        await asyncio.sleep(0.7)
        stage.handlers.seen.clear()
        stage.handlers.go.set()
        assert (await client.answer()).body == b"late"


async def test_lingering_has_an_end(stage: Stage) -> None:
    """A client that got its error and neither leaves nor stops sending."""

    short = Stage(ServerLimits(check_seconds=0.02, linger_seconds=0.2))
    await short.start()
    async with short.client() as client:
        await client.send(b"garbage\r\n\r\n")
        assert (await client.only_answer()).status == 400
        assert len(short.state.connections) == 1
        await short.until(lambda: not short.state.connections)
        with pytest.raises(ConnectionError):
            for _ in range(10):
                await client.send(b"x")
                await asyncio.sleep(0.02)
    await short.stop()


# Slow readers


@pytest.mark.parametrize("how", ["stream", "now"])
async def test_a_slow_reader_holds_the_stream_and_no_memory(stage: Stage, how: str) -> None:
    """Also where chunks are written at once as long as the client takes them."""
    async with stage.client(receive_buffer_bytes=65536) as client:
        await client.send(get(f"/{how}/1600/65536"))
        await client.head()
        read = len(client.buffer)
        for _ in range(10):  # a little at a time: it is slow, but alive
            await asyncio.sleep(0.05)
            read += len(await client.receive())
        ahead = stage.handlers.sent_bytes - read
        assert ahead < 16_000_000  # what the two kernels buffer, and our 64 KiB
        [connection] = stage.state.connections
        assert connection._transport.get_write_buffer_size() < 256 * 1024
        del connection
        await client.send(get("/last"))
        tail = b""
        while not tail.endswith(b"/last"):
            tail = tail[-10:] + await client.receive()
        assert stage.handlers.sent_bytes == 1600 * 65536


async def test_a_reader_that_stopped_is_given_up(stage: Stage) -> None:
    async with stage.client(receive_buffer_bytes=4096) as client:
        await client.send(get("/stream/100000/65536"))
        await client.head()
        await stage.until(lambda: stage.handlers.cancelled)
        await stage.until(lambda: not stage.state.connections)
        with pytest.raises((ConnectionError, EOFError)):
            while True:
                await client.chunk()


async def test_a_reader_that_stopped_in_the_last_answer_is_given_up(stage: Stage) -> None:
    async with stage.client(receive_buffer_bytes=4096) as client:
        await client.send(get("/size/50000000", "Connection: close"))
        await client.head()
        await stage.until(lambda: not stage.state.connections)


async def test_a_connection_that_rests_is_looked_at_when_something_can_be_due(stage: Stage) -> None:
    """And not each few seconds: thousands of them would take a worker's time from others."""
    async with stage.client() as client:
        await client.send(get("/x"))
        assert (await client.answer()).status == 200
        (connection,) = stage.state.connections
        now = asyncio.get_running_loop().time
        await stage.until(lambda: connection._timer.when() - now() > 2 * LIMITS.check_seconds)
