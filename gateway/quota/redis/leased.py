"""Leased admission: most requests are admitted from quota leases of this worker, without a round trip.

Overshoot is nil, because a lease is held on the server before anything is admitted from it. What it costs:
up to 2% of a budget's remainder is leased, and near the end of a budget, or of a rate, every request asks the
server (`RedisAdmission`, which also decides whatever a lease cannot).
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import assert_never
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.admission import Ask, Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded, Unavailable
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.fallback import unavailable
from gateway.quota.redis.quota_lease import LeaseDemand, QuotaLease
from gateway.quota.redis.replies import Closed, Forgotten, Leased, LeaseReply
from gateway.quota.redis.shared_counters import SharedCounters
from gateway.quota.redis.specs import QuotaSpec
from gateway.supervised import SupervisedTask

_log = structlog.get_logger("tollway.redis")

# How often leases are taken anew: rates in them are worth nothing after two seconds.
RENEW_SECONDS = 1.0
# Below this many requests in a period a lease would cost more commands than it saves.
LEAST_REQUESTS = 8
MAX_LEASES = 1_000
NOTHING_USED = Settlement(spent_nano=0)


class _Moved(msgspec.Struct, frozen=True, eq=False):
    """A request whose slot is in a lease and whose money the server holds by itself."""

    lease: QuotaLease
    money: Hold


class LeasedAdmission:
    """Implements the Admission port over a RedisAdmission, which it starts and closes."""

    def __init__(
        self,
        exact: RedisAdmission,
        shared: SharedCounters,
        clock: Clock,
        *,
        least_requests: int = LEAST_REQUESTS,
        renew_seconds: float | None = None,
    ) -> None:
        self.exact = exact
        self._shared = shared
        self._clock = clock
        self._least_requests = least_requests
        self._leases: dict[Principal, QuotaLease] = {}
        self._demands: dict[Principal, LeaseDemand] = {}
        self._loop = SupervisedTask(
            "redis-leases",
            self._renew_if_connected,
            exact.tasks,
            wait=lambda: asyncio.sleep(RENEW_SECONDS if renew_seconds is None else renew_seconds),
        )
        self.upkeep = exact.upkeep
        exact.rebuild.leases = self

    async def start(self) -> None:
        await self.exact.start()
        self._loop.start()

    async def close(self) -> None:
        """Give all leases back, then disconnect."""
        await self._loop.close()
        self.return_leases()
        await self.exact.close()

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        self.return_leases()
        self.exact.configure(scopes, zone)

    async def reconfigure(
        self, scopes: Sequence[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()
    ) -> None:
        """As `RedisAdmission.reconfigure`; leases are taken anew."""
        self.return_leases()
        await self.exact.reconfigure(scopes, zone, wanted)
        self.return_leases()

    async def flush(self) -> None:
        await self.exact.flush()

    def problem(self) -> str | None:
        return self.exact.problem()

    def unready(self) -> str | None:
        """As `RedisAdmission.unready`; None too while a lease has money left."""
        return None if self._bridging() else self.exact.unready()

    def degraded(self) -> list[str]:
        """As `RedisAdmission.degraded`, and an outage that leases bridge."""
        problem, leases = self.exact.unready(), self._bridging()
        if problem is None or not leases:
            return self.exact.degraded()
        return [f"{problem}; {leases} leases admit what they have left, for {self._lasting()} s at most"]

    def _bridging(self) -> int:
        """How many leases admit requests with hard budgets, and need no server for it."""
        now = self._clock.monotonic()
        return sum(lease.bridges(now) for lease in self._leases.values())

    def _lasting(self) -> int:
        return int(max(lease.until for lease in self._leases.values()) - self._clock.monotonic())

    async def claim(self, name: str, seconds: float) -> bool:
        return await self.exact.claim(name, seconds)

    # --- the Admission port ---

    def peek(self, principal: Principal) -> None:
        """As `RedisAdmission.peek`; whoever has a lease is asked for nothing."""
        if principal not in self._leases:
            self.exact.peek(principal)

    async def admit(self, ask: Ask) -> Hold:
        """From memory when a lease has room, else one round trip. Raises as RedisAdmission does."""
        principal = ask.principal
        held = self._leases.get(principal)
        if held is not None:
            hold = held.take(ask, self._clock.monotonic())
            if hold is not None:
                self._demand(principal).add(hold)
                return hold
        try:
            hold = await self.exact.admit(ask)
        except (BudgetExceeded, LimitExceeded) as refusal:
            # What is missing may be what our own leases hold: give it back and ask again.
            if not self.return_leases(refusal.scope):
                raise
            hold = await self.exact.admit(ask)
        except Unavailable:
            hold = self._admit_locally(ask, self._leases.get(principal))
        self._demand(principal).add(hold)
        return hold

    def _admit_locally(self, ask: Ask, held: QuotaLease | None) -> Hold:
        """The server is unreachable: spend what is leased, under this worker's part of the rates."""
        now = self._clock.monotonic()
        hold = None if held is None else held.take(ask, now, with_rates=False)
        if held is None or hold is None:
            raise unavailable()
        try:
            workers, fallback = self._shared.cache.workers, self._shared.fallback
            hold.requests, hold.output_tokens = fallback.take_rates(ask, held.spec, workers, now)
            # Nothing was taken from the lease's own: what is used is a debt there when the server is back.
            hold.rate_tokens = hold.typical_tokens = 0
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
            most = _most_again(hold, token)
            nano = token.hold_again(hold.ask, most)
            if nano is not None:
                hold.nano, hold.output_tokens = nano, most
                return hold
            lease = token
            if lease.is_retired:
                # The server still holds this attempt's money there; it must not count beside the next one's.
                self._report(lease)
        else:
            self.exact.settle(token.money, msgspec.structs.replace(settlement, rate_tokens=None))
            lease = token.lease
            hold.nano = 0
            hold.token = lease
        try:
            money = await self._hold_money(hold.ask, _most_again(hold, lease))
        except BaseException:
            self.settle(hold, msgspec.structs.replace(settlement, spent_nano=0, unseen_nano=0))
            raise
        hold.nano, hold.output_tokens, hold.token = money.nano, money.output_tokens, _Moved(lease, money)
        return hold

    async def _hold_money(self, ask: Ask, most_output: int) -> Hold:
        try:
            return await self.exact.hold_money(ask, most_output)
        except BudgetExceeded as refusal:
            if not self.return_leases(refusal.scope):
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
            lease = token
            lease.book(hold.nano, settlement)
        else:
            lease = token.lease
            self.exact.settle(token.money, msgspec.structs.replace(settlement, rate_tokens=None))
        lease.leave(hold, settlement, self._clock.monotonic())
        # A hold without rates was taken while the server was unreachable: it learns of that debt later.
        owes = lease.is_owing and hold.rate_tokens > 0
        if owes and not lease.is_retired:
            # Only the server makes others wait for a debt, so it has to know before the next request.
            self._leases.pop(hold.ask.principal, None)
            self._retire(lease)
        elif owes or lease.is_done:
            self._report(lease)

    def drop(self, principal: Principal) -> None:
        """As `RedisAdmission.drop`, and give back what is leased, but for what requests in flight hold."""
        self._demands.pop(principal, None)
        lease = self._leases.pop(principal, None)
        if lease is not None:
            self._retire(lease)
        self.exact.drop(principal)

    def used_share(self, principal: Principal) -> float:
        return self.exact.used_share(principal)

    def budgets(self) -> list[BudgetView]:
        return self.exact.budgets()

    # --- quota leases ---

    def return_leases(self, scope: str | None = None) -> bool:
        """Give back what no request in flight holds, of one scope (`team:research`) or of all.

        False when there was nothing to give.
        """
        found = [item for item in self._leases.items() if scope is None or item[1].counts_against(scope)]
        for principal, item in found:
            del self._leases[principal]
            self._retire(item)
        return bool(found)

    def report_leases(self) -> None:
        """Settle what leases that were given back have spent since."""
        for hold in self._shared.holds:
            if isinstance(hold, QuotaLease):
                self._report(hold)

    async def renew_leases(self) -> None:
        """Take leases anew for whoever was busy since the last time; give back those of the others."""
        self._report_credits()
        demands, self._demands = self._demands, {}
        busy = [item for item in demands.items() if item[1].requests >= self._least_requests][:MAX_LEASES]
        kept = {principal for principal, _ in busy}
        for principal in [principal for principal in self._leases if principal not in kept]:
            self._retire(self._leases.pop(principal))
        await asyncio.gather(*(self._lease(*item, leases=len(busy)) for item in busy))

    def _report_credits(self) -> None:
        """Answers that were shorter than was held may end long after their lease was given back."""
        for hold in self._shared.holds:
            if isinstance(hold, QuotaLease) and hold.is_retired and hold.is_owed:
                self._report(hold)

    async def _renew_if_connected(self) -> None:
        if self._shared.store.is_connected:
            try:
                await self.renew_leases()
            except StoreUnavailable as exc:
                _log.info("redis.leases_wait", error=str(exc))

    async def _lease(self, principal: Principal, demand: LeaseDemand, *, leases: int) -> None:
        store, old, asked = self._shared.store, self._leases.get(principal), self._clock.monotonic()
        slots = (old.in_flight if old is not None else 0) + demand.requests
        taken: tuple[QuotaSpec, tuple[str, LeaseReply]] = await self._shared.taker.take(
            principal,
            lambda epoch, spec, hold_id: store.lease(
                epoch, spec, demand.row(hold_id, slots, leases, self._shared.holds)
            ),
        )
        spec, (hold_id, reply) = taken
        match reply:
            case Leased():
                self._use(principal, spec, hold_id, reply, asked)
            case Forgotten() | Closed():
                return
            case _:
                assert_never(reply)
        if old is not None and not old.is_retired:
            self._retire(old)

    def _use(self, principal: Principal, spec: QuotaSpec, hold_id: str, got: Leased, asked: float) -> None:
        """Admit from what the server gave from now on, if it gave anything."""
        holds, cache = self._shared.holds, self._shared.cache
        cache.learn(spec, got.counters, got.now)
        if got.nano < 0:
            self._leases.pop(principal, None)
            return
        # Two thirds of the lease, so that a heartbeat has come and the server has not given it up.
        lasting = min(holds.lease_seconds * 2 / 3, spec.end - self._shared.store.clock.now())
        lease = QuotaLease(hold_id, holds.epoch, spec, got, asked, asked + lasting)
        holds.add(lease)
        self._leases[principal] = lease

    def _retire(self, lease: QuotaLease) -> None:
        lease.is_retired = True
        self._report(lease)

    def _report(self, lease: QuotaLease) -> None:
        """Settle what a lease has spent, and give back what it does not hold."""
        if lease.in_flight == 0:
            self._shared.holds.remove(lease.id)
        self._shared.settler.add(lease.report(self._clock.monotonic()))

    def _demand(self, principal: Principal) -> LeaseDemand:
        demand = self._demands.get(principal)
        if demand is None:
            demand = self._demands[principal] = LeaseDemand()
        return demand


def _most_again(hold: Hold, lease: QuotaLease) -> int:
    """The next attempt's cap: tokens were taken for the first one's; without such a limit it may grow."""
    return hold.output_tokens if lease.spec.limits_tokens else hold.ask.output_tokens
