"""How long a reply of the shared state is waited for, where it is the state that is late."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import uvloop

from gateway.clock import SystemClock
from gateway.quota.factory import TIMEOUTS_IN_QUARANTINE, open_admission
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.connection import RedisConnection, StoreUnavailable, connect
from gateway.quota.redis.rebuild import QUARANTINE_SECONDS
from gateway.supervised import TaskRegistry


@asynccontextmanager
async def connected(reply_seconds: float, answer: Any) -> AsyncIterator[RedisConnection]:
    """A connection to a server that answers each command by `answer`, called with its writer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    target = parse_target(f"redis://{host}:{port}/0")
    connection = await connect(target, (host, port), connect_seconds=10, reply_seconds=reply_seconds)
    try:
        yield connection
    finally:
        connection.close()
        server.close()


def test_a_slow_reply_is_waited_for() -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(b"+OK\r\n")

    async def scenario() -> None:
        async with connected(30, slowly) as connection:
            assert await connection.call(b"PING") == b"OK"

    uvloop.run(scenario())


def test_a_reply_that_does_not_come_is_given_up() -> None:
    async def never(_writer: asyncio.StreamWriter) -> None:
        return

    async def scenario() -> None:
        async with connected(0.1, never) as connection:
            with pytest.raises(StoreUnavailable, match="in time"):
                await connection.call(b"PING")
            with pytest.raises(StoreUnavailable, match="in time"):
                await connection.call(b"PING")

    uvloop.run(scenario())


def test_a_reply_that_waits_in_the_socket_of_a_late_loop_is_no_timeout() -> None:
    """The gateway itself was held up. The reply had come in time, and nobody had read it."""

    async def at_once(writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n")
        # Once it has left, the loop that both share stands still for longer than a reply may take.
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)

    async def scenario() -> None:
        async with connected(0.2, at_once) as connection:
            assert [await connection.call(b"PING") for _ in range(3)] == [b"OK"] * 3

    uvloop.run(scenario())


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_the_setting_is_what_one_reply_may_take(seconds: float) -> None:
    async def scenario() -> None:
        admission: Any = open_admission(
            state="redis://127.0.0.1:1/0",
            mode="exact",
            lease_seconds=30,
            timeout_seconds=seconds,
            org="acme",
            clock=SystemClock(),
            zone=ZoneInfo("UTC"),
            spent_in_windows=None,  # type: ignore[arg-type]
            shadowed=lambda *_: None,
            books=None,  # type: ignore[arg-type]
            tasks=TaskRegistry(),
        )
        assert admission._client._timing.reply_seconds == seconds
        waited = admission.rebuild._quarantine / 1_000_000
        # Whoever lives has noticed by then that its connection is dead, and come back.
        assert waited >= max(QUARANTINE_SECONDS, TIMEOUTS_IN_QUARANTINE * seconds)

    uvloop.run(scenario())
