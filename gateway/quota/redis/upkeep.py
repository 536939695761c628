"""What keeps holds alive and clears those of workers that died. Any worker does it for all."""

import asyncio
import random

import structlog

from gateway.ports import Clock
from gateway.quota.redis.connection import StoreRefused, StoreUnavailable
from gateway.quota.redis.counter_cache import CounterCache
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.layout import NewSlotsRow
from gateway.quota.redis.store import CounterStore

_log = structlog.get_logger("tollway.redis")

TICK_SECONDS = 1.0
HEARTBEAT_ITEMS = 200
SWEEP_ITEMS = 100


class HoldUpkeep:
    """`run` is owned by the admission; `tick` is one round of it."""

    def __init__(self, store: CounterStore, holds: OpenHolds, cache: CounterCache, clock: Clock) -> None:
        self._store = store
        self._holds = holds
        self._cache = cache
        self._clock = clock
        # Monotonic seconds of each hold's last heartbeat.
        self._beaten: dict[str, float] = {}
        # After a reload: limits may need slots that open holds do not have.
        self.slots_are_due = False
        self.problem: str | None = None  # why the server will not do it, as of the latest tick

    async def run(self) -> None:
        """Tick until cancelled, jittered so that workers do not all sweep at once."""
        while True:
            await asyncio.sleep(TICK_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311
            if self._store.is_connected:
                try:
                    await self.tick()
                except StoreRefused as exc:  # each tick asks all that an admission depends on
                    self.problem = f"state: the server refuses: {exc}"
                except StoreUnavailable as exc:
                    _log.info("redis.upkeep_waits", error=str(exc))
                else:
                    self.problem = None

    async def tick(self) -> None:
        """Renew leases, clear expired holds, read all counters. Raises StoreUnavailable."""
        if self.slots_are_due:
            await self.add_slots()
        await self.heartbeat()
        await self.sweep()
        await self.refresh()

    async def heartbeat(self) -> None:
        """Renew the lease of every open hold that has used up a third of it."""
        now = self._clock.monotonic()
        beaten: dict[str, float] = {}
        due = []
        for hold in self._holds:
            last = self._beaten.get(hold.id, hold.since)
            if now - last >= self._holds.lease_seconds / 3:
                due.append(hold.id)
                last = now
            beaten[hold.id] = last
        for at in range(0, len(due), HEARTBEAT_ITEMS):
            await self._store.heartbeat(self._holds.lease, due[at : at + HEARTBEAT_ITEMS])
        self._beaten = beaten

    async def add_slots(self) -> None:
        """Give open holds their slot in scopes that limit concurrency only since a reload."""
        found = [NewSlotsRow(hold.id, self._cache.lacking_slots(hold.spec)) for hold in self._holds]
        rows = [row for row in found if row.scopes]
        for at in range(0, len(rows), HEARTBEAT_ITEMS):
            await self._store.add_slots(self._holds.lease, rows[at : at + HEARTBEAT_ITEMS])
        self.slots_are_due = False

    async def sweep(self) -> int:
        """Count holds whose lease has ended as unseen; returns how many there were."""
        swept = 0
        while True:
            count = (await self._store.sweep(SWEEP_ITEMS)).holds
            swept += count
            if count < SWEEP_ITEMS:
                break
        if swept:
            _log.warning("redis.holds_expired", count=swept)
        return swept

    async def refresh(self) -> None:
        """Learn the counters of every budget, and how many workers there are."""
        holds = self._holds
        spec, taken = await self._store.for_spec(
            self._cache.spec_of_all,
            lambda spec: self._store.snapshot(spec, holds.worker_id, holds.lease),
        )
        self._cache.learn(spec, taken.counters, taken.now)
        if taken.epoch != holds.epoch.decode():
            self._store.drop("the counters are not the ones that were known")
        elif holds.opened.is_set():
            # A server that has just lost everything does not know who lives; then the last count stays.
            self._cache.workers = max(taken.workers, 1)
