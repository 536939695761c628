"""Reads the shared counters without taking part: no lease, no epoch, nothing written."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from zoneinfo import ZoneInfo

from gateway.clock import SystemClock
from gateway.core.tenancy import Scope
from gateway.ports import BudgetView
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.client import RedisClient, Timing
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.specs import make_spec, views_of
from gateway.quota.redis.store import CounterStore

CONNECT_SECONDS = 5.0


async def read_shared_budgets(
    url: str, org: str, scopes: Sequence[Scope], zone: ZoneInfo
) -> list[BudgetView]:
    """Every budget of `scopes` as the server at `url` counts it. Raises StoreUnavailable."""
    client = RedisClient(parse_target(url), org, Scripts(), Timing(reply_seconds=CONNECT_SECONDS))
    async with _connected(client):
        clock = ServerClock(SystemClock())
        store = CounterStore(client, clock)
        spec, read = await store.for_spec(lambda: make_spec(scopes, zone, clock.now()), store.read_budgets)
        # The server's clock decides which windows are open.
        clock.learn(read.now)
        return views_of(spec, read.counters, clock.now())


@asynccontextmanager
async def _connected(client: RedisClient) -> AsyncIterator[None]:
    """Until left. Raises StoreUnavailable when there is no connection in time."""
    connected = asyncio.Event()

    async def on_connect() -> None:
        connected.set()

    client.on_connect = on_connect
    keeping = asyncio.create_task(client.run())
    try:
        try:
            await asyncio.wait_for(connected.wait(), CONNECT_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(client.problem or "no answer") from None
        yield
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
