"""Reads the shared counters without taking part: no lease, no epoch, nothing written."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import cast
from zoneinfo import ZoneInfo

from gateway.core.tenancy import Scope
from gateway.ports import BudgetView
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.link import Link, Timing
from gateway.quota.redis.replies import ADMITTED, MICROSECONDS
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.specs import counters_of, make_plan

CONNECT_SECONDS = 5.0
TRIES = 3


async def peek_budgets(
    url: str, org: str, scopes: Iterable[Scope], zone: ZoneInfo, now: float
) -> list[BudgetView]:
    """Every budget of `scopes` as the server at `url` counts it. Raises StoreAway."""
    link = Link(parse_target(url), org, Scripts(), Timing(reply_seconds=CONNECT_SECONDS))
    up = asyncio.Event()

    async def connected() -> None:
        up.set()

    link.connected = connected
    keeping = asyncio.create_task(link.run())
    try:
        try:
            await asyncio.wait_for(up.wait(), CONNECT_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(link.problem or "no answer") from None
        for _ in range(TRIES):
            plan = make_plan(scopes, zone, now)
            reply = await link.call("peek", plan.packed)
            # The server's clock decides which windows are open.
            now = cast("int", reply[1]) / MICROSECONDS
            if reply[0] == ADMITTED:
                counters = cast("list[int]", reply[2])
                return [item.view(counters_of(counters, at), now) for at, item in enumerate(plan.budgets)]
        raise StoreUnavailable("the clocks do not agree")
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
