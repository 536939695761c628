"""Admission shared by all workers: every limit and budget of a request in one round trip.

The numbers live in Redis. Here are only plans, the holds that are open, and what the last replies said.
"""

import asyncio
import contextlib
import itertools
import math
import secrets
from collections.abc import Iterable, Sequence
from zoneinfo import ZoneInfo

import structlog

from gateway.core.admission import Ask, Hold, Settlement
from gateway.core.errors import BudgetExceeded
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock
from gateway.quota.memory import Shadowed, SpentInWindows
from gateway.quota.redis.backfill import BudgetBackfill
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.grants import Registered, RemoteGrant
from gateway.quota.redis.known import Known
from gateway.quota.redis.leases import QuotaLease
from gateway.quota.redis.link import LONGEST_PAUSE_SECONDS, Link
from gateway.quota.redis.rebuild import QUARANTINE_SECONDS, Books, CounterRebuild
from gateway.quota.redis.replies import (
    ADMITTED,
    FORGOTTEN,
    MICROSECONDS,
    NO_BUDGET,
    NO_LIMIT,
    STALE,
    Admitted,
    admitted,
    no_budget,
    no_limit,
    shadowed_limits,
)
from gateway.quota.redis.settling import Settler
from gateway.quota.redis.specs import QuotaSpec, packed_ask
from gateway.quota.redis.unreachable import Away, AwayGrant, spending, unavailable
from gateway.quota.redis.upkeep import HoldUpkeep
from gateway.supervised import SupervisedTask, TaskRegistry

LEASE_SECONDS = 30.0
START_SECONDS = 5.0
CLOSE_SECONDS = 5.0
LOOPS = ("redis-link", "redis-settlements", "redis-rebuild", "redis-backfill", "redis-upkeep")
# The server's clock and ours can disagree about which window is open; a second plan settles it.
TRIES = 3

_NOT_KNOWN = -1
_log = structlog.get_logger("tollway.redis")


class RedisAdmission:
    """Implements the Admission port for any number of workers. `start`, then `close`."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        zone: ZoneInfo,
        *,
        spent_in_windows: SpentInWindows | None = None,
        shadowed: Shadowed | None = None,
        lease_seconds: float = LEASE_SECONDS,
        quarantine_seconds: float = QUARANTINE_SECONDS,
        books: Books | None = None,
        tasks: TaskRegistry | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self.known = Known(clock, zone)
        self.away = Away()
        self._shadowed = shadowed
        self.lease = int(lease_seconds * MICROSECONDS)
        self.worker = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._open: dict[str, Registered] = {}
        self._settler = Settler(link, self.worker)
        self.recovery = CounterRebuild(
            link, self, self._settler, self.lease, spent_in_windows, quarantine_seconds, books
        )
        self.covering = BudgetBackfill(link, self, spent_in_windows)
        self.upkeep = HoldUpkeep(link, self, clock, lease_seconds)
        self.tasks = tasks or TaskRegistry()
        self._loops: list[SupervisedTask] = []

    async def start(self) -> None:
        """Connect and take over the counters. A server that is away keeps nobody from starting."""
        self._link.connected = self.recovery.on_connect
        owned = (self._link.run, self._settler.run, self.recovery.run, self.covering.run, self.upkeep.run)
        self._loops = [
            SupervisedTask(name, run, self.tasks, longest_pause_seconds=LONGEST_PAUSE_SECONDS)
            for name, run in zip(LOOPS, owned, strict=True)
        ]
        for loop in self._loops:
            loop.start()
        self.covering.want(self.known.scopes, self.known.zone)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.recovery.opened.wait()
                await self.covering.done.wait()
        except TimeoutError:
            _log.warning("redis.not_ready", problem=self.problem())

    async def close(self) -> None:
        """Send the last settlements, as far as the server takes them, and disconnect."""
        drained = asyncio.create_task(self._drain_and_leave())
        if (lost := self._link.lost) is not None:
            # What does not arrive expires as presumed.
            await asyncio.wait({drained, lost}, timeout=CLOSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        loops = [loop.close() for loop in self._loops]
        await asyncio.gather(drained, *loops, return_exceptions=True)

    async def _drain_and_leave(self) -> None:
        # What is held back while spending is rebuilt must not arrive now; those holds expire as presumed.
        await self._settler.drain()
        with contextlib.suppress(StoreUnavailable):
            await self._link.call("leave", self.worker.encode())

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        """Adopt the scopes of a configuration. What was counted stays, here and for other workers."""
        self.known.configure(scopes, zone)
        self.upkeep.seats_are_due = True

    async def reconfigure(self, scopes: Sequence[Scope], zone: ZoneInfo) -> None:
        """Adopt a new configuration while serving: budgets that it brings begin with what the ledger says.

        A ledger or server that cannot be asked now is asked later.
        """
        new = self.known.uncounted(scopes, zone)
        before = frozenset(self._open)
        if new:
            self.covering.want(new, zone)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.covering.done.wait(), START_SECONDS)
        self.configure(scopes, zone)
        if before:
            self.covering.want(new, zone, after=before)

    async def flush(self) -> None:
        """Return once every settlement so far is in the counters."""
        await self._settler.drain()

    def problem(self) -> str | None:
        """Why the shared state is not in use, for `readyz`; None when all is well."""
        if self._link.problem is not None:
            return f"state: {self._link.problem}"
        return self.recovery.problem

    async def claim(self, name: str, seconds: float) -> bool:
        """True for the first worker that asks within `seconds`. Raises StoreAway."""
        reply = await self._link.call("claim", name.encode(), b"%d" % max(math.ceil(seconds), 1))
        return bool(reply[2])

    # --- the Admission port ---

    async def admit(self, ask: Ask) -> Hold:
        """One round trip. Raises LimitExceeded, BudgetExceeded, or Unavailable."""
        try:
            return await self._admit(ask)
        except StoreUnavailable:
            plan = self.known.plan(ask.principal)
            return self.away.admit(ask, plan, self.upkeep.workers, self._clock.monotonic())

    async def _admit(self, ask: Ask) -> Hold:
        for _ in range(TRIES):
            plan = self.known.plan(ask.principal)
            grant_id = self.next_id()
            packed = packed_ask(ask, grant_id, self.lease, ask.output_tokens)
            reply = await self.ask("admit", plan, packed, grant_id)
            kind = reply[0]
            if kind == ADMITTED:
                return self._granted(ask, plan, grant_id, admitted(reply))
            if kind == NO_LIMIT:
                raise no_limit(plan, reply)
            if kind == NO_BUDGET:
                raise no_budget(plan, ask, reply)
            self._not_now(reply)
        raise StoreUnavailable("the clocks do not agree", never_sent=True)

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back, or Unavailable.
        """
        if isinstance(hold.token, AwayGrant):
            # Only soft budgets were open: what was spent is told, and nothing is held.
            self._settle_away(hold.token, settlement)
            return hold
        old = _grant(hold)
        used = _NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens
        numbers = [b"%d" % n for n in (settlement.spent_nano, settlement.unseen_nano, used)]
        try:
            # Tokens were taken for the first attempt's cap; without such a limit the cap may grow again.
            most = hold.ask.output_tokens if old.plan.tokens_per_minute is None else hold.output_tokens
            plan, grant_id, reply = await self._renew(hold.ask, most, old.id.encode(), *numbers)
        except StoreUnavailable as exc:
            # What the attempt used must arrive, whatever became of the call; a second time is ignored.
            self.settle(hold, settlement)
            raise unavailable() from exc
        except BudgetExceeded:
            hold.open = False
            self._open.pop(old.id, None)
            raise
        except BaseException:
            self.settle(hold, settlement)
            raise
        self.known.learn(plan, reply.counters, reply.now)
        self._open.pop(old.id, None)
        hold.output_tokens, hold.nano = reply.output_tokens, reply.nano
        hold.token = self._grant(hold.rate_tokens, plan, grant_id, reply)
        return hold

    async def _renew(
        self, ask: Ask, most: int, old: bytes, *spending: bytes
    ) -> tuple[QuotaSpec, str, Admitted]:
        for _ in range(TRIES):
            plan = self.known.plan(ask.principal)
            grant_id = self.next_id()
            packed = packed_ask(ask, grant_id, self.lease, most)
            reply = await self.ask("renew", plan, packed, grant_id, old, *spending)
            if reply[0] == ADMITTED:
                return plan, grant_id, admitted(reply)
            if reply[0] == NO_BUDGET:
                raise no_budget(plan, ask, reply)
            self._not_now(reply)
        raise StoreUnavailable("the clocks do not agree", never_sent=True)

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        if isinstance(hold.token, AwayGrant):
            self.away.settle(hold.token)
            self._settle_away(hold.token, settlement)
            return
        grant = _grant(hold)
        self._open.pop(grant.id, None)
        used = _NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens
        self._settler.add((grant.id, settlement.spent_nano, settlement.unseen_nano, used, grant, None))

    def _settle_away(self, grant: AwayGrant, settlement: Settlement) -> None:
        windows = spending(grant, settlement)
        if windows is not None:
            spent, unseen = settlement.spent_nano, settlement.unseen_nano
            self._settler.add((self.next_id(), spent, unseen, _NOT_KNOWN, windows, None))

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal` as a share of its limit, as the last replies said."""
        return self.known.used_share(principal)

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, as the last replies said."""
        return self.known.budgets()

    # --- for upkeep and recovery ---

    def open_grants(self) -> list[Registered]:
        return list(self._open.values())

    # --- for leased admission ---

    async def hold_money(self, ask: Ask, most_output: int) -> Hold:
        """Hold money for a further attempt of a request that was admitted elsewhere; no rate is taken."""
        try:
            # No hold has an empty name, so nothing is settled.
            plan, grant_id, reply = await self._renew(ask, most_output, b"", b"0", b"0", b"%d" % _NOT_KNOWN)
        except StoreUnavailable as exc:
            raise unavailable() from exc
        return self._granted(ask, plan, grant_id, reply)

    def register(self, item: QuotaLease) -> None:
        """Keep the lease of a slice alive until it is reported as done."""
        self._open[item.id] = item

    def report_slice(self, item: QuotaLease) -> None:
        """Settle what a slice has spent, and give back what it does not hold."""
        if item.in_flight == 0:
            self._open.pop(item.id, None)
        self._settler.add(item.report(self._clock.monotonic()))

    def report_slices(self) -> None:
        """Settle what slices that were given back have spent since."""
        for item in self.open_grants():
            if isinstance(item, QuotaLease):
                self.report_slice(item)

    # --- within ---

    def next_id(self) -> str:
        return f"{self.worker}{next(self._count):x}"

    async def ask(
        self, call: str, plan: QuotaSpec, packed: bytes, grant_id: str, *more: bytes
    ) -> list[object]:
        self._settler.send_now()
        epoch = self.recovery.epoch
        try:
            reply = await self._link.call(call, epoch, plan.packed, packed, *more)
        except StoreUnavailable as exc:
            if not exc.never_sent:
                self._abandon(grant_id)
            raise
        except asyncio.CancelledError:
            self._abandon(grant_id)
            raise
        if reply[0] == FORGOTTEN and epoch == self.recovery.epoch:
            self._link.drop("the counters are not the ones that were known")
        return reply

    def _abandon(self, grant_id: str) -> None:
        """A hold that may have been taken and that nobody will use."""
        self._settler.add((grant_id, 0, 0, 0, None, None))

    def _not_now(self, reply: list[object]) -> None:
        """Raises StoreAway, unless another try can succeed."""
        if reply[0] == STALE and isinstance(reply[1], int | float):
            self.known.learn_clock(int(reply[1]))
            return
        raise StoreUnavailable("the counters are being rebuilt", never_sent=True)

    def _granted(self, ask: Ask, plan: QuotaSpec, grant_id: str, reply: Admitted) -> Hold:
        self.known.learn(plan, reply.counters, reply.now)
        if reply.shadowed and self._shadowed is not None:
            for scope, limit in shadowed_limits(plan, reply.shadowed):
                self._shadowed(scope, limit)
        rate_tokens = ask.rate_tokens(reply.output_tokens)
        return Hold(
            ask=ask,
            output_tokens=reply.output_tokens,
            rate_tokens=rate_tokens,
            nano=reply.nano,
            admitted_at=reply.now / MICROSECONDS,
            requests=reply.requests,
            tokens=reply.tokens,
            token=self._grant(rate_tokens, plan, grant_id, reply),
        )

    def _grant(self, rate_tokens: int, plan: QuotaSpec, grant_id: str, reply: Admitted) -> RemoteGrant:
        since = self._clock.monotonic()
        grant = RemoteGrant(grant_id, self.recovery.epoch, plan, reply, since, rate_tokens)
        self._open[grant_id] = grant
        return grant


def _grant(hold: Hold) -> RemoteGrant:
    if not isinstance(hold.token, RemoteGrant):
        raise TypeError("this hold was taken in another store")
    return hold.token
