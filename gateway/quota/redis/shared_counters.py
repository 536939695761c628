"""The pieces of shared admission that exact and leased admission both work with."""

from zoneinfo import ZoneInfo

import msgspec

from gateway.ports import Clock
from gateway.quota.redis.client import RedisClient
from gateway.quota.redis.counter_cache import CounterCache
from gateway.quota.redis.fallback import LocalFallback
from gateway.quota.redis.hold_taker import HoldTaker
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.settling import Settler
from gateway.quota.redis.store import CounterStore

LEASE_SECONDS = 30.0


class SharedCounters(msgspec.Struct, frozen=True, eq=False):
    """One worker's side of the counters of one org. Make it with `share_counters`."""

    client: RedisClient
    store: CounterStore
    holds: OpenHolds
    cache: CounterCache
    settler: Settler
    taker: HoldTaker
    fallback: LocalFallback


def share_counters(
    client: RedisClient, clock: Clock, zone: ZoneInfo, *, lease_seconds: float = LEASE_SECONDS
) -> SharedCounters:
    """Nothing is connected yet. The server gives up a hold that had no heartbeat for `lease_seconds`."""
    server_clock = ServerClock(clock)
    store = CounterStore(client, server_clock)
    holds = OpenHolds(lease_seconds)
    cache = CounterCache(server_clock, zone)
    settler = Settler(store, holds)
    taker = HoldTaker(store, holds, cache, settler)
    return SharedCounters(client, store, holds, cache, settler, taker, LocalFallback())
