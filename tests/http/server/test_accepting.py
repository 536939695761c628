"""A port with as many connections as it may have, and a process without file descriptors."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog.testing

from gateway.http.server.connection import ServerConnection
from gateway.http.server.descriptors import (
    LEAST,
    MOST_ADMIN,
    RESERVED,
    ConnectionBounds,
    connection_bounds,
)
from gateway.http.server.limits import ServerLimits
from gateway.http.server.port_state import PauseReason
from tests.http.server.server_stage import Client, Stage, get, post

MOST = 8


@contextlib.asynccontextmanager
async def port(limits: ServerLimits | None = None) -> AsyncIterator[Stage]:
    stage = Stage(limits or ServerLimits(), most_connections=MOST)
    stage.forget()
    await stage.start()
    try:
        yield stage
    finally:
        stage.handlers.go.set()
        await stage.stop()
    await stage.settled()


async def clients(stage: Stage, stack: contextlib.AsyncExitStack, count: int) -> list[Client]:
    return [await stack.enter_async_context(stage.client()) for _ in range(count)]


def half_heads(stage: Stage) -> int:
    """How many heads the server has seen a part of."""
    connections = stage.state.connections
    return sum(isinstance(c, ServerConnection) and c._parser.began_at is not None for c in connections)


async def test_idle_connections_give_way(runner: asyncio.Runner) -> None:
    """However many there are, a new client is answered."""
    async with port() as stage, contextlib.AsyncExitStack() as stack:
        for _ in range(5 * MOST):
            [client] = await clients(stage, stack, 1)
            await client.send(get("/x"))
            assert (await client.answer()).status == 200
        assert len(stage.state.connections) <= MOST
        assert stage.state.evicted >= 4 * MOST
        assert stage.state.pauses[PauseReason.FULL] == 0


async def test_who_has_asked_for_nothing_for_the_longest_time_goes_first(runner: asyncio.Runner) -> None:
    async with port() as stage, contextlib.AsyncExitStack() as stack:
        connected = await clients(stage, stack, MOST)
        await stage.until(lambda: len(stage.state.connections) == MOST)
        for client in connected[:1] + connected[2:]:
            await client.send(get("/x"))
            await client.answer()
        [late] = await clients(stage, stack, 1)
        await late.send(get("/x"))
        await late.answer()
        assert await connected[1].is_closed()
        await connected[0].send(get("/x"))
        assert (await connected[0].answer()).status == 200


async def test_half_a_head_gives_way_and_is_told_why(runner: asyncio.Runner) -> None:
    async with port() as stage, contextlib.AsyncExitStack() as stack:
        halves = await clients(stage, stack, MOST)
        for number, client in enumerate(halves, 1):
            await client.send(b"GET /x HTTP/1.1\r\nhost: x\r\n")
            await stage.until(lambda number=number: half_heads(stage) == number)
        [late] = await clients(stage, stack, 1)
        await late.send(get("/x"))
        assert (await late.answer()).status == 200
        answer = await halves[0].only_answer()
        assert answer.status == 408
        assert answer.error()["message"] == "Others need this connection. Send the request again."


async def test_a_client_that_is_being_answered_never_gives_way(runner: asyncio.Runner) -> None:
    async with port() as stage, contextlib.AsyncExitStack() as stack:
        busy = await clients(stage, stack, MOST)
        for client in busy:
            await client.send(post("/late-echo", b"abc"))
        await stage.until(lambda: len(stage.handlers.served) == MOST)
        with structlog.testing.capture_logs() as logs:
            [late] = await clients(stage, stack, 1)
            await late.send(get("/x"))
            await stage.until(lambda: stage.state.pauses[PauseReason.FULL])
        assert stage.state.evicted == 0
        [told] = [line for line in logs if line["event"] == "server.port_full"]
        assert (told["port"], told["reason"], told["most_connections"]) == ("test", "full", MOST)
        stage.handlers.go.set()
        for client in busy:
            assert (await client.answer()).body == b"abc"
        assert (await late.answer()).status == 200


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has none left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_accepting_pauses_and_goes_on(runner: asyncio.Runner) -> None:
    """A client waits in the kernel's queue: it is neither refused nor closed, and others are answered."""
    async with port() as stage, contextlib.AsyncExitStack() as stack:
        [busy] = await clients(stage, stack, 1)
        await busy.send(post("/late-echo", b"abc"))
        await stage.handlers.waiting.wait()
        late = stack.enter_context(contextlib.closing(socket.socket()))
        late.setblocking(False)
        with structlog.testing.capture_logs() as logs, no_descriptors():
            late.connect_ex(("127.0.0.1", stage.port))
            await stage.until(lambda: stage.state.pauses[PauseReason.DESCRIPTORS])
            stage.handlers.go.set()
            assert (await busy.answer()).body == b"abc"
            await busy.send(get("/x"))
            assert (await busy.answer()).status == 200
        assert [line["reason"] for line in logs if line["event"] == "server.port_full"] == ["descriptors"]
        client = Client(late)
        await client.send(get("/x"))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("limit", [16, 64, 256, 1024, 20_000, 1_048_576])
def test_both_ports_their_upstreams_and_a_reserve_fit_into_the_limit(limit: int) -> None:
    bounds = connection_bounds(limit)
    reserve = min(RESERVED, limit // 4)
    assert bounds.data >= LEAST
    assert bounds.admin >= LEAST
    assert limit < 32 or 2 * bounds.data + bounds.admin + reserve <= limit
    assert bounds.admin <= MOST_ADMIN
    assert not bounds.lowered


def test_what_was_asked_for_is_taken_where_it_fits() -> None:
    assert connection_bounds(1024, 500, 20) == ConnectionBounds(500, 20)
    assert connection_bounds(1024, 5, None).data == 5


def test_what_was_asked_for_is_lowered_to_what_fits() -> None:
    bounds = connection_bounds(1024, 5_000, 5_000)
    assert bounds.lowered
    assert bounds.data + bounds.admin + RESERVED <= 1024
    assert min(bounds.data, bounds.admin) >= LEAST
