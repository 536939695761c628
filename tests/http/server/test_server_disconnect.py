"""A client that leaves, in every moment and manner: the work stops at once, and nothing stays behind."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from gateway.core.errors import ClientDisconnected
from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import Client, Stage, get, post

LIMITS = ServerLimits(check_seconds=0.02)


def close(client: Client) -> None:
    client.close()


def reset(client: Client) -> None:
    client.reset()


def half_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


ways = pytest.mark.parametrize("leave", [close, reset, half_close])
# Of a client that is being answered: who half-closes is still there, see test_server_half_close.py.
LEAVING = [close, reset]
leaving = pytest.mark.parametrize("leave", LEAVING)
Leave = Callable[[Client], None]


@ways
async def test_before_a_request(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await stage.until(lambda: stage.state.connections)
        leave(client)
        await stage.until(lambda: not stage.state.connections)


@ways
async def test_within_a_head(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nx: y")
        await asyncio.sleep(0.02)
        leave(client)
        await stage.until(lambda: not stage.state.connections)
    assert stage.handlers.served == []


@ways
@pytest.mark.parametrize("body", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_within_a_body(stage: Stage, leave: Leave, body: str) -> None:
    async with stage.client() as client:
        await client.send(get("/echo", body, method="POST") + b"3\r\nabc")
        await stage.until(lambda: stage.handlers.served)
        leave(client)
        await stage.until(lambda: not stage.state.connections)
    assert stage.handlers.raised == [ClientDisconnected]


@ways
async def test_within_a_body_before_it_is_asked_for(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(get("/late-echo", "Content-Length: 10", method="POST") + b"abc")
        await stage.handlers.waiting.wait()
        leave(client)
        await stage.until(lambda: not stage.state.connections)
        stage.handlers.go.set()
        await stage.until(lambda: not stage.state.tasks)
    assert stage.handlers.raised == [ClientDisconnected]


@leaving
async def test_while_a_watched_handler_waits(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(post("/never", b"{}"))
        await stage.handlers.waiting.wait()
        leave(client)
        await stage.until(lambda: stage.handlers.cancelled)
        await stage.until(lambda: not stage.state.connections)
    assert stage.handlers.cancelled == 1


@leaving
async def test_while_an_unwatched_handler_waits(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(get("/unwatched"))
        await stage.handlers.waiting.wait()
        leave(client)
        await stage.until(lambda: stage.handlers.seen[0].disconnected)
        assert len(stage.state.tasks) == 1
        with pytest.raises(ClientDisconnected):
            stage.handlers.seen[0].watch()
        stage.handlers.seen.clear()
        stage.handlers.go.set()
        await stage.until(lambda: not stage.state.tasks)
    assert stage.handlers.cancelled == 0


@leaving
async def test_within_a_stream_that_pauses(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/2"))
        await client.head()
        assert await client.chunk() == b"0,"
        leave(client)
        await stage.until(lambda: stage.handlers.cancelled)
    assert stage.handlers.cancelled == 1


@leaving
async def test_within_a_stream_that_it_does_not_read(stage: Stage, leave: Leave) -> None:
    async with stage.client(receive_buffer_bytes=4096) as client:
        await client.send(get("/stream/100000/65536"))
        await client.head()
        sent = -1
        while sent != stage.handlers.sent_bytes:
            sent = stage.handlers.sent_bytes
            await asyncio.sleep(0.05)
        leave(client)
        await stage.until(lambda: stage.handlers.cancelled)
        await stage.until(lambda: not stage.state.connections)


@leaving
async def test_within_a_large_answer(stage: Stage, leave: Leave) -> None:
    async with stage.client(receive_buffer_bytes=4096) as client:
        await client.send(get("/size/50000000"))
        await client.head()
        leave(client)
        await stage.until(lambda: not stage.state.connections)


@leaving
async def test_with_requests_in_the_queue(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(post("/never", b"") + get("/next") * 5 + post("/echo", b"abc")[:-1])
        await stage.handlers.waiting.wait()
        leave(client)
        await stage.until(lambda: not stage.state.connections)
    assert stage.handlers.served == [("POST", "/never")]


@ways
async def test_after_an_answer(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(get("/x"))
        await client.answer()
        leave(client)
        await stage.until(lambda: not stage.state.connections)


@ways
async def test_after_an_error(stage: Stage, leave: Leave) -> None:
    async with stage.client() as client:
        await client.send(b"garbage\r\n\r\n")
        await client.only_answer()
        leave(client)
        await stage.until(lambda: not stage.state.connections)


async def test_a_whole_answer_in_the_pipe_is_delivered_to_a_half_closed_client(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/size/30000"))
        await stage.until(lambda: stage.handlers.served and not stage.state.tasks)
        half_close(client)
        assert len((await client.answer()).body) == 30_000


async def test_many_at_once(stage: Stage) -> None:
    async def one(number: int) -> None:
        path = ["/slow-stream/9", "/never", "/stream/999999/5000", "/size/9000000"][number % 4]
        async with stage.client() as client:
            await client.send(get(path))
            await asyncio.sleep(0.001 * (number % 50))
            LEAVING[number % 2](client)

    await asyncio.gather(*(one(number) for number in range(200)))
