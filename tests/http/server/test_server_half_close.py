"""A client that has asked all and closes its side is answered while it is there, and not a moment longer."""

import asyncio
import socket

import pytest

from gateway.http.server import half_closed
from gateway.http.server.connection import ServerConnection
from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import Client, Stage, chunked, get, post

LIMITS = ServerLimits(check_seconds=0.02, head_seconds=0.2)


def half_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


async def watch_of(stage: Stage) -> half_closed.HalfClosed:
    """That over the one connection, once its client has half-closed it."""
    [connection] = stage.state.connections
    assert isinstance(connection, ServerConnection)
    await stage.until(lambda: connection._half_closed)
    assert connection._half_closed is not None
    return connection._half_closed


async def until_probed(stage: Stage, client: Client) -> None:
    """The server knows of the half-close: the first byte of the answer is here."""
    while not client.buffer:
        client.buffer += await client.receive()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_whole_answer(stage: Stage, version: str) -> None:
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc", version=version))
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        stage.handlers.go.set()
        answer = await client.only_answer()
        assert answer.status == 200
        assert answer.body == b"abc"
    assert stage.handlers.cancelled == 0


async def test_an_answer_that_was_long_in_coming(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes are sent ahead than the first line has before its status."""
    monkeypatch.setattr(half_closed, "SECOND_BYTE_SECONDS", 0.0)
    monkeypatch.setattr(half_closed, "LONGEST_LOOK_SECONDS", 0.001)
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc"))
        await stage.handlers.waiting.wait()
        half_close(client)
        watch = await watch_of(stage)
        for _ in range(20):
            watch._send_ahead()
        del watch
        stage.handlers.go.set()
        assert (await client.only_answer()).body == b"abc"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream(stage: Stage, version: str) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/4", version=version))
        await stage.handlers.waiting.wait()
        half_close(client)
        await watch_of(stage)
        stage.handlers.go.set()
        assert (await client.answer()).body == b"0,1,2,3,"
        assert await client.is_closed()
    assert stage.handlers.cancelled == 0


async def test_a_stream_whose_head_is_still_kept(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(get("/kept-head"))
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        stage.handlers.go.set()
        assert (await client.answer()).body == b"late"
        assert await client.is_closed()


async def test_every_request_that_is_whole(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc") + get("/x") + chunked("/echo", b"de") + b"GET /cut HT")
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        stage.handlers.go.set()
        assert (await client.answer()).body == b"abc"
        assert (await client.answer()).body == b"/x"
        assert (await client.only_answer()).body == b"de"
    assert [path for _, path in stage.handlers.served] == ["/late-echo", "/x", "/echo"]


async def test_a_request_cut_off_behind_others_is_never_begun(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc") + post("/echo", b"def")[:-1])
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        stage.handlers.go.set()
        assert (await client.only_answer()).body == b"abc"
    assert [path for _, path in stage.handlers.served] == ["/late-echo"]


async def test_a_refusal_behind_an_answer(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc") + b"garbage\r\n\r\n")
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        stage.handlers.go.set()
        assert (await client.answer()).body == b"abc"
        assert (await client.only_answer()).status == 400


@pytest.mark.parametrize("path", ["/never", "/slow-stream/2"])
@pytest.mark.parametrize("first", [True, False])
async def test_who_then_leaves_stops_the_work(stage: Stage, path: str, first: bool) -> None:
    """Whether it half-closed before or not: its system answers the next byte with a reset."""
    async with stage.client() as client:
        await client.send(get(path))
        await stage.handlers.waiting.wait()
        if first:
            half_close(client)
            watch = await watch_of(stage)
            client.close()
            watch._send_ahead()  # what its timer does after some seconds
            del watch
        else:
            client.close()
        await stage.until(lambda: stage.handlers.cancelled)
        await stage.until(lambda: not stage.state.connections)


async def test_a_byte_follows_ever_more_seldom(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_closed, "SECOND_BYTE_SECONDS", 0.03)
    async with stage.client() as client:
        await client.send(post("/never", b""))
        await stage.handlers.waiting.wait()
        half_close(client)
        while client.buffer != b"HTT":
            client.buffer += await client.receive()
        client.close()
        await stage.until(lambda: stage.handlers.cancelled)


async def test_a_server_that_stops_waits_for_it(stage: Stage) -> None:
    async with stage.client() as client:
        await client.send(post("/late-echo", b"abc"))
        await stage.handlers.waiting.wait()
        half_close(client)
        await until_probed(stage, client)
        for connection in list(stage.state.connections):
            connection.shutdown()
        await asyncio.sleep(0)
        stage.handlers.go.set()
        assert (await client.only_answer()).body == b"abc"
