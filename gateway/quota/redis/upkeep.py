"""What keeps holds alive and clears those of workers that went away. Any worker does it for all."""

import asyncio
import random
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from gateway.ports import Clock
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.link import Link
from gateway.quota.redis.replies import ADMITTED, MICROSECONDS, STALE

if TYPE_CHECKING:
    from gateway.quota.redis.admission import RedisAdmission

_log = structlog.get_logger("tollway.redis")

TICK_SECONDS = 1.0
HEARTBEAT_ITEMS = 200
SWEEP_ITEMS = 100

_encode = msgspec.msgpack.Encoder().encode


class HoldUpkeep:
    """`run` is owned by the admission; `tick` is one round of it."""

    def __init__(self, link: Link, admission: "RedisAdmission", clock: Clock, lease_seconds: float) -> None:
        self._link = link
        self._admission = admission
        self._clock = clock
        self._lease_seconds = lease_seconds
        # Monotonic seconds of each hold's last heartbeat.
        self._beaten: dict[str, float] = {}
        # After a reload: limits may ask for places that nobody asked for before.
        self.seats_are_due = False
        # Workers that were alive when they were last counted, this one included.
        self.workers = 1

    async def run(self) -> None:
        """Tick until cancelled, jittered so that workers do not all sweep at once."""
        while True:
            await asyncio.sleep(TICK_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311
            if self._link.is_up:
                try:
                    await self.tick()
                except StoreUnavailable as exc:
                    _log.info("redis.upkeep_waits", error=str(exc))

    async def tick(self) -> None:
        """Renew leases, clear expired holds, look at all budgets. Raises StoreAway."""
        if self.seats_are_due:
            await self.seat()
        await self.heartbeat()
        await self.sweep()
        await self.look()

    async def heartbeat(self) -> None:
        """Renew the lease of every open hold that has used up a third of it."""
        now = self._clock.monotonic()
        beaten: dict[str, float] = {}
        due = []
        for grant in self._admission.open_grants():
            last = self._beaten.get(grant.id, grant.since)
            if now - last >= self._lease_seconds / 3:
                due.append(grant.id)
                last = now
            beaten[grant.id] = last
        lease = b"%d" % int(self._lease_seconds * MICROSECONDS)
        for at in range(0, len(due), HEARTBEAT_ITEMS):
            await self._link.call("heartbeat", lease, _encode(due[at : at + HEARTBEAT_ITEMS]))
        self._beaten = beaten

    async def seat(self) -> None:
        """Give open holds their place in scopes that limit concurrency only since a reload."""
        admission, lease = self._admission, b"%d" % int(self._lease_seconds * MICROSECONDS)
        found = [(grant.id, admission.known.lacking_places(grant.plan)) for grant in admission.open_grants()]
        rows = [row for row in found if row[1]]
        for at in range(0, len(rows), HEARTBEAT_ITEMS):
            await self._link.call("seat", lease, _encode(rows[at : at + HEARTBEAT_ITEMS]))
        self.seats_are_due = False

    async def sweep(self) -> int:
        """Count holds whose lease has ended as unseen; returns how many there were."""
        swept = 0
        while True:
            reply = await self._link.call("sweep", b"%d" % SWEEP_ITEMS)
            count = cast("int", reply[2])
            swept += count
            if count < SWEEP_ITEMS:
                break
        if swept:
            _log.warning("redis.holds_expired", count=swept)
        return swept

    async def look(self) -> None:
        """Learn the counters of every budget."""
        plan = self._admission.known.plan_of_all()
        lease = b"%d" % int(self._lease_seconds * MICROSECONDS)
        reply = await self._link.call("look", plan.packed, self._admission.worker.encode(), lease)
        if reply[0] == STALE:
            self._admission.known.learn_clock(cast("int", reply[1]))
        elif reply[0] == ADMITTED:
            self._admission.known.learn(plan, cast("list[int]", reply[3]), cast("int", reply[1]))
            recovery = self._admission.recovery
            if cast("str | bool", reply[2]) != recovery.epoch.decode():
                self._link.drop("the counters are not the ones that were known")
            elif recovery.opened.is_set():
                # A server that has just lost everything does not know who lives; then the last count stays.
                self.workers = max(cast("int", reply[5]), 1)
