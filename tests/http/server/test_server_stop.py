"""The server stops: nobody new, those under way may finish, and nothing outlives the time for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.http.server.connection import ServerConnection
from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import Stage, get, post


@contextlib.asynccontextmanager
async def serving(drain_seconds: float = 5.0) -> AsyncIterator[Stage]:
    stage = Stage(ServerLimits(check_seconds=0.02), drain_seconds)
    stage.forget()
    await stage.start()
    try:
        yield stage
    finally:
        await stage.stop()
    await stage.settled()


async def begin_to_stop(stage: Stage) -> "asyncio.Task[None]":
    stopping = asyncio.create_task(stage.stop())
    await stage.until(lambda: stage.listener.fileno() < 0)
    return stopping


async def test_new_connections_are_refused(runner: asyncio.Runner) -> None:
    async with serving() as stage, stage.client() as client:
        await client.send(get("/slow-stream/2"))
        await stage.handlers.waiting.wait()
        stopping = await begin_to_stop(stage)
        with pytest.raises(ConnectionRefusedError):
            async with stage.client():
                pass
        stage.handlers.go.set()
        assert (await client.answer()).body == b"0,1,"
        assert await client.is_closed()
        await stopping


async def test_idle_connections_are_closed_at_once(runner: asyncio.Runner) -> None:
    async with serving() as stage, stage.client() as used, stage.client() as unused, stage.client() as busy:
        await used.send(get("/x"))
        await used.answer()
        await busy.send(get("/slow-stream/2"))
        await stage.handlers.waiting.wait()
        stopping = await begin_to_stop(stage)
        assert await used.is_closed()
        assert await unused.is_closed()
        assert not stopping.done()
        stage.handlers.go.set()
        await busy.answer()
        await stopping


async def test_an_answer_that_begins_later_says_that_we_close(runner: asyncio.Runner) -> None:
    async with serving() as stage, stage.client() as client:
        await client.send(post("/late-echo", b"abc") + get("/never-served"))
        await stage.handlers.waiting.wait()
        stopping = await begin_to_stop(stage)
        await asyncio.sleep(0.05)
        stage.handlers.go.set()
        answer = await client.only_answer()
        assert answer.body == b"abc"
        await stopping
        assert stage.handlers.served == [("POST", "/late-echo")]


async def test_a_body_may_still_arrive(runner: asyncio.Runner) -> None:
    async with serving() as stage, stage.client() as client:
        request = post("/echo", b"abcdef")
        await client.send(request[:-3])
        await stage.until(lambda: stage.handlers.served)
        stopping = await begin_to_stop(stage)
        await asyncio.sleep(0.05)
        await client.send(request[-3:])
        assert (await client.only_answer()).body == b"abcdef"
        await stopping


@pytest.mark.parametrize("path", ["/slow-stream/2", "/never", "/unwatched"])
async def test_what_takes_too_long_is_cancelled(runner: asyncio.Runner, path: str) -> None:
    async with serving(drain_seconds=1.0) as stage, stage.client() as client:
        await client.send(get(path))
        await stage.handlers.waiting.wait()
        await stage.stop()
        stage.handlers.seen.clear()
        assert stage.handlers.cancelled == 1
        if path.startswith("/slow"):
            await client.head()
            assert await client.chunk() == b"0,"
        assert await client.is_closed()


@pytest.mark.parametrize("path", ["/stream/99999/65536", "/size/90000000"])
async def test_a_client_that_does_not_read_cannot_hold_the_server(runner: asyncio.Runner, path: str) -> None:
    async with serving(drain_seconds=1.0) as stage, stage.client(receive_buffer_bytes=4096) as client:
        await client.send(get(path))
        await client.head()
        await stage.stop()
        await stage.until(lambda: not stage.state.connections)


async def test_a_client_that_does_not_read_what_was_complete_cannot_hold_the_server(
    runner: asyncio.Runner,
) -> None:
    async with serving(drain_seconds=1.0) as stage, stage.client(receive_buffer_bytes=4096) as client:
        connections = stage.state.connections
        stage.handlers.unsent_bytes = lambda: sum(
            connection.unsent_bytes for connection in connections if isinstance(connection, ServerConnection)
        )
        await client.send(get("/unread"))
        await stage.until(lambda: stage.handlers.served and not stage.state.tasks)
        assert stage.handlers.unsent_bytes()
        await stage.stop()
        await stage.until(lambda: not connections)


async def test_a_client_that_lingers_cannot_hold_the_server(runner: asyncio.Runner) -> None:
    async with serving(drain_seconds=1.0) as stage, stage.client() as client:
        await client.send(b"garbage\r\n\r\n")
        await client.only_answer()
        await stage.stop()
        assert not stage.state.connections
