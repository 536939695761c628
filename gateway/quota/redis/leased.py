"""Leased admission: most requests are admitted from slices that this worker holds, without a round trip.

Overshoot is nil, because a slice is held on the server before anything is admitted from it. What it costs:
up to 2% of a budget's remainder lies in slices, and near the end of a budget, or of a rate, every request
asks the server (`RedisAdmission`, which also decides whatever a slice cannot).
"""

import asyncio
from collections.abc import Iterable, Sequence
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.admission import Ask, Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded, Unavailable
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock
from gateway.quota.redis.admission import LEASE_SECONDS, RedisAdmission
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.leases import QuotaLease
from gateway.quota.redis.link import Link
from gateway.quota.redis.replies import ADMITTED, MICROSECONDS, leased
from gateway.quota.redis.unreachable import unavailable
from gateway.supervised import SupervisedTask

_log = structlog.get_logger("tollway.redis")

# How often slices are taken anew: rates in them are worth nothing after two seconds.
TURN_SECONDS = 1.0
# A slice covers so many times what the last turn admitted; at most ten seconds of it.
TURNS_COVERED = 3
# Below this many requests in a turn a slice would cost more commands than it saves.
LEAST_REQUESTS = 8
MAX_SLICES = 1_000
NOTHING_USED = Settlement(spent_nano=0)

_encode = msgspec.msgpack.Encoder().encode


class _Demand:
    """What one principal's requests took since the last turn."""

    __slots__ = ("nano", "peak", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.nano = self.tokens = self.peak = 0

    def add(self, hold: Hold) -> None:
        self.requests += 1
        self.nano += hold.nano
        self.tokens += hold.rate_tokens


class _Moved(msgspec.Struct, frozen=True, eq=False):
    """A request whose place is in a slice and whose money the server holds by itself."""

    place: QuotaLease
    money: Hold


class LeasedAdmission:
    """Implements the Admission port over a RedisAdmission, which it starts and closes."""

    def __init__(
        self,
        exact: RedisAdmission,
        link: Link,
        clock: Clock,
        *,
        lease_seconds: float = LEASE_SECONDS,
        least_requests: int = LEAST_REQUESTS,
    ) -> None:
        self.exact = exact
        self._link = link
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._least_requests = least_requests
        self._slices: dict[Principal, QuotaLease] = {}
        self._demands: dict[Principal, _Demand] = {}
        self._loop = SupervisedTask(
            "redis-leases", self._turn_if_up, exact.tasks, wait=lambda: asyncio.sleep(TURN_SECONDS)
        )
        self.upkeep = exact.upkeep
        self.recovery = exact.recovery
        exact.recovery.forgotten = self.return_slices

    async def start(self) -> None:
        await self.exact.start()
        self._loop.start()

    async def close(self) -> None:
        """Give all slices back, then disconnect."""
        await self._loop.close()
        self.return_slices()
        await self.exact.close()

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        self.return_slices()
        self.exact.configure(scopes, zone)

    async def reconfigure(self, scopes: Sequence[Scope], zone: ZoneInfo) -> None:
        """As `RedisAdmission.reconfigure`; slices are taken anew."""
        self.return_slices()
        await self.exact.reconfigure(scopes, zone)
        self.return_slices()

    async def flush(self) -> None:
        await self.exact.flush()

    def problem(self) -> str | None:
        return self.exact.problem()

    async def claim(self, name: str, seconds: float) -> bool:
        return await self.exact.claim(name, seconds)

    # --- the Admission port ---

    async def admit(self, ask: Ask) -> Hold:
        """From memory when a slice has room, else one round trip. Raises as RedisAdmission does."""
        principal = ask.principal
        held = self._slices.get(principal)
        if held is not None:
            hold = held.take(ask, self._clock.monotonic())
            if hold is not None:
                self._demand(principal).add(hold)
                return hold
        try:
            hold = await self.exact.admit(ask)
        except (BudgetExceeded, LimitExceeded) as refusal:
            # What is missing may be what our own slices hold: give it back and ask again.
            if not self.return_slices(refusal.scope):
                raise
            hold = await self.exact.admit(ask)
        except Unavailable:
            hold = self._admit_away(ask, self._slices.get(principal))
        self._demand(principal).add(hold)
        return hold

    def _admit_away(self, ask: Ask, held: QuotaLease | None) -> Hold:
        """The server is away: spend what is leased, under this worker's part of the rates."""
        now = self._clock.monotonic()
        hold = None if held is None else held.take(ask, now, with_rates=False)
        if held is None or hold is None:
            raise unavailable()
        try:
            workers = self.exact.upkeep.workers
            hold.requests, hold.output_tokens = self.exact.away.take_rates(ask, held.plan, workers, now)
            # Nothing was taken from the slice's own: what is used is a debt there when the server is back.
            hold.rate_tokens = 0
        except LimitExceeded:
            self.settle(hold, NOTHING_USED)
            raise
        return hold

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken."""
        token = hold.token
        if not isinstance(token, QuotaLease | _Moved):
            return await self.exact.renew(hold, settlement)
        if isinstance(token, QuotaLease):
            token.book(hold.nano, settlement)
            hold.nano = 0
            nano = token.hold_again(hold.ask, hold.output_tokens)
            if nano is not None:
                hold.nano = nano
                return hold
            place = token
            if place.is_retired:
                # The server still holds this attempt's money there; it must not count beside the next one's.
                self.exact.report_slice(place)
        else:
            self.exact.settle(token.money, msgspec.structs.replace(settlement, rate_tokens=None))
            place = token.place
            hold.nano = 0
            hold.token = place
        try:
            most = hold.ask.output_tokens if place.plan.tokens_per_minute is None else hold.output_tokens
            money = await self._hold_money(hold.ask, most)
        except BaseException:
            self.settle(hold, Settlement(spent_nano=0, rate_tokens=settlement.rate_tokens))
            raise
        hold.nano, hold.output_tokens, hold.token = money.nano, money.output_tokens, _Moved(place, money)
        return hold

    async def _hold_money(self, ask: Ask, most_output: int) -> Hold:
        try:
            return await self.exact.hold_money(ask, most_output)
        except BudgetExceeded as refusal:
            if not self.return_slices(refusal.scope):
                raise
            return await self.exact.hold_money(ask, most_output)

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        token = hold.token
        if not isinstance(token, QuotaLease | _Moved):
            self.exact.settle(hold, settlement)
            return
        if not hold.open:
            return
        hold.open = False
        if isinstance(token, QuotaLease):
            place = token
            place.book(hold.nano, settlement)
        else:
            place = token.place
            self.exact.settle(token.money, msgspec.structs.replace(settlement, rate_tokens=None))
        place.leave(hold, settlement.rate_tokens, self._clock.monotonic())
        if place.is_done:
            self.exact.report_slice(place)

    def used_share(self, principal: Principal) -> float:
        return self.exact.used_share(principal)

    def budgets(self) -> list[BudgetView]:
        return self.exact.budgets()

    # --- slices ---

    def return_slices(self, scope: str | None = None) -> bool:
        """Give back what no request in flight holds, of one scope (`team:research`) or of all.

        False when there was nothing to give.
        """
        found = [item for item in self._slices.items() if scope is None or item[1].counts_against(scope)]
        for principal, item in found:
            del self._slices[principal]
            self._retire(item)
        return bool(found)

    async def turn(self) -> None:
        """Take slices anew for whoever was busy since the last turn; give back those of the others."""
        demands, self._demands = self._demands, {}
        busy = [item for item in demands.items() if item[1].requests >= self._least_requests][:MAX_SLICES]
        kept = {principal for principal, _ in busy}
        for principal in [principal for principal in self._slices if principal not in kept]:
            self._retire(self._slices.pop(principal))
        await asyncio.gather(*(self._lease(*item, slices=len(busy)) for item in busy))

    async def _turn_if_up(self) -> None:
        if self._link.is_up:
            try:
                await self.turn()
            except StoreUnavailable as exc:
                _log.info("redis.leases_wait", error=str(exc))

    async def _lease(self, principal: Principal, demand: _Demand, *, slices: int) -> None:
        exact = self.exact
        plan = exact.known.plan(principal)
        slice_id = exact.next_id()
        old = self._slices.get(principal)
        places = (old.in_flight if old is not None else 0) + demand.requests
        want = _encode(
            (
                slice_id,
                demand.nano * TURNS_COVERED,
                demand.requests * TURNS_COVERED,
                demand.tokens * TURNS_COVERED,
                places,
                int(self._lease_seconds * MICROSECONDS),
                exact.worker,
                slices,
            )
        )
        asked = self._clock.monotonic()
        reply = await exact.ask("lease", plan, want, slice_id)
        if reply[0] != ADMITTED:
            return
        got = leased(reply)
        exact.known.learn(plan, got.counters, got.now)
        if got.nano >= 0:
            # Two thirds of the lease, so that a heartbeat has come and the server has not given it up.
            until = asked + min(self._lease_seconds * 2 / 3, plan.end - exact.known.now())
            exact.register(taken := QuotaLease(slice_id, exact.recovery.epoch, plan, got, asked, until))
            self._slices[principal] = taken
        else:
            self._slices.pop(principal, None)
        if old is not None and not old.is_retired:
            self._retire(old)

    def _retire(self, item: QuotaLease) -> None:
        item.is_retired = True
        self.exact.report_slice(item)

    def _demand(self, principal: Principal) -> _Demand:
        demand = self._demands.get(principal)
        if demand is None:
            demand = self._demands[principal] = _Demand()
        return demand
