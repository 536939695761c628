"""Admission shared by all workers: every limit and budget of a request in one round trip.

The numbers live in Redis. Here are only specs, the holds that are open, and what the last replies said.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from typing import assert_never
from zoneinfo import ZoneInfo

import structlog

from gateway.core.admission import Ask, Hold, Settlement
from gateway.core.errors import BudgetExceeded
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock
from gateway.quota.memory import Shadowed, SpentInWindows
from gateway.quota.redis.backfill import BudgetBackfill
from gateway.quota.redis.client import LONGEST_PAUSE_SECONDS
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.fallback import FallbackGrant, unavailable, windows_to_settle
from gateway.quota.redis.holds import RemoteGrant
from gateway.quota.redis.rebuild import QUARANTINE_SECONDS, Books, CounterRebuild
from gateway.quota.redis.refusals import KnownRefusals, no_budget, no_limit, rate_view, shadowed_limits
from gateway.quota.redis.replies import AdmitReply, Admitted, Closed, Forgotten, NoBudget, NoLimit, RenewReply
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.settling import NOT_KNOWN, PendingSettlement
from gateway.quota.redis.shared_counters import SharedCounters
from gateway.quota.redis.specs import QuotaSpec, packed_ask
from gateway.quota.redis.upkeep import HoldUpkeep
from gateway.supervised import SupervisedTask, TaskRegistry

START_SECONDS = 5.0
CLOSE_SECONDS = 5.0
LOOPS = ("redis-link", "redis-settlements", "redis-rebuild", "redis-backfill", "redis-upkeep")

_log = structlog.get_logger("tollway.redis")


class RedisAdmission:
    """Implements the Admission port for any number of workers. `start`, then `close`.

    Many attributes: it joins the parts of the shared counters, each of which does one thing.
    """

    def __init__(
        self,
        shared: SharedCounters,
        clock: Clock,
        *,
        spent_in_windows: SpentInWindows | None = None,
        shadowed: Shadowed | None = None,
        quarantine_seconds: float = QUARANTINE_SECONDS,
        books: Books | None = None,
        tasks: TaskRegistry | None = None,
    ) -> None:
        self._client = shared.client
        self._store = shared.store
        self._holds = shared.holds
        self._cache = shared.cache
        self._settler = shared.settler
        self._taker = shared.taker
        self._fallback = shared.fallback
        self._clock = clock
        self._shadowed = shadowed
        self._refused = KnownRefusals()
        store, holds, cache = shared.store, shared.holds, shared.cache
        self.rebuild = CounterRebuild(
            store,
            holds,
            cache,
            shared.settler,
            spent_in_windows=spent_in_windows,
            quarantine_seconds=quarantine_seconds,
            books=books,
        )
        self.backfill = BudgetBackfill(store, holds, spent_in_windows)
        self.upkeep = HoldUpkeep(store, holds, cache, clock)
        self.tasks = tasks or TaskRegistry()
        self._loops: list[SupervisedTask] = []

    async def start(self) -> None:
        """Connect and take over the counters. An unreachable server keeps nobody from starting."""
        self._client.on_connect = self.rebuild.on_connect
        turns = (
            self._client.run,
            self._settler.run,
            self.rebuild.run,
            self.backfill.run,
            self.upkeep.run,
        )
        self._loops = [
            SupervisedTask(
                name, run, self.tasks, longest_pause_seconds=LONGEST_PAUSE_SECONDS, is_essential=True
            )
            for name, run in zip(LOOPS, turns, strict=True)
        ]
        for loop in self._loops:
            loop.start()
        self.backfill.want(self._cache.scopes, self._cache.zone)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._holds.opened.wait()
                await self.backfill.done.wait()
        except TimeoutError:
            _log.warning("redis.not_ready", problem=self.problem())

    async def close(self) -> None:
        """Send the last settlements, as far as the server takes them, and disconnect."""
        drained = asyncio.create_task(self._drain_and_deregister())
        if (lost := self._client.lost) is not None:
            # What does not arrive expires as presumed.
            await asyncio.wait({drained, lost}, timeout=CLOSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        loops = [loop.close() for loop in self._loops]
        await asyncio.gather(drained, *loops, return_exceptions=True)

    async def _drain_and_deregister(self) -> None:
        # What is held back while spending is rebuilt must not arrive now; those holds expire as presumed.
        await self._settler.drain()
        with contextlib.suppress(StoreUnavailable):
            await self._store.deregister(self._holds.worker_id)

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()) -> None:
        """Adopt the scopes of a configuration. What was counted stays, here and for other workers.

        What is kept for the principals `wanted` stays where nothing about them changes.
        """
        self._cache.configure(scopes, zone, wanted)
        self._refused.clear()
        self.upkeep.slots_are_due = True

    async def reconfigure(
        self, scopes: Sequence[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()
    ) -> None:
        """Adopt a new configuration while serving: budgets that it brings begin with what the ledger says.

        When the ledger or the server is unreachable, the budgets are completed later.
        """
        new = self._cache.uncounted(scopes, zone)
        before = self._holds.ids()
        if new:
            self.backfill.want(new, zone)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.backfill.done.wait(), START_SECONDS)
        self.configure(scopes, zone, wanted)
        if before:
            self.backfill.want(new, zone, after=before)

    async def flush(self) -> None:
        """Return once every settlement so far is in the counters."""
        await self._settler.drain()

    def problem(self) -> str | None:
        """Why the shared state is not in use, for `readyz`; None when all is well."""
        if self._client.problem is not None:
            return f"state: {self._client.problem}"
        return self.rebuild.problem or self.upkeep.problem

    def unready(self) -> str | None:
        """Why no request with a hard budget can be admitted here; None when one can, or there is none."""
        return self.problem() if self.has_hard_budgets() else None

    def degraded(self) -> list[str]:
        """What keeps no request away: limits are this worker's part of them meanwhile."""
        problem = None if self.has_hard_budgets() else self.problem()
        return [] if problem is None else [problem]

    def has_hard_budgets(self) -> bool:
        """Whether any scope has one."""
        return any(not budget.soft for scope in self._cache.scopes for budget in scope.budgets)

    async def claim(self, name: str, seconds: float) -> bool:
        """True for the first worker that asks within `seconds`. Raises StoreUnavailable."""
        return await self._store.claim(name, seconds)

    # --- the Admission port ---

    def peek(self, principal: Principal) -> None:
        """No round trip: what the server has just said of the limit of requests. Raises LimitExceeded."""
        self._refused.peek(principal, self._clock.monotonic())

    async def admit(self, ask: Ask) -> Hold:
        """One round trip. Raises LimitExceeded, BudgetExceeded, or Unavailable."""
        store, lease = self._store, self._holds.lease
        try:
            taken: tuple[QuotaSpec, tuple[str, AdmitReply]] = await self._taker.take(
                ask.principal,
                lambda epoch, spec, hold_id: store.admit(
                    epoch, spec, packed_ask(ask, hold_id, lease, ask.output_tokens)
                ),
            )
        except StoreUnavailable:
            return self._admit_locally(ask)
        spec, (hold_id, reply) = taken
        match reply:
            case Admitted():
                return self._granted(ask, spec, hold_id, reply)
            case NoLimit():
                self._refused.learn(ask.principal, spec, reply, self._clock.monotonic())
                raise no_limit(spec, reply)
            case NoBudget():
                raise no_budget(spec, ask, reply)
            case Forgotten() | Closed():
                return self._admit_locally(ask)
            case _:
                assert_never(reply)

    def _admit_locally(self, ask: Ask) -> Hold:
        spec = self._cache.spec(ask.principal)
        return self._fallback.admit(ask, spec, self._cache.workers, self._clock.monotonic())

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back, or Unavailable.
        """
        if isinstance(hold.token, FallbackGrant):
            # Only soft budgets were open: what was spent is settled, and nothing is held.
            self._settle_fallback(hold.token, settlement)
            return hold
        old = _grant(hold)
        try:
            # Tokens were taken for the first attempt's cap; without such a limit the cap may grow again.
            most = hold.output_tokens if old.spec.limits_tokens else hold.ask.output_tokens
            spec, hold_id, reply = await self._renew(hold.ask, most, old.id, settlement)
        except StoreUnavailable as exc:
            # What the attempt used must arrive, whatever became of the call; a second time is ignored.
            self.settle(hold, settlement)
            raise unavailable() from exc
        except BudgetExceeded:
            hold.open = False
            self._holds.remove(old.id)
            raise
        except BaseException:
            self.settle(hold, settlement)
            raise
        self._cache.learn(spec, reply.counters, reply.now)
        self._holds.remove(old.id)
        hold.output_tokens, hold.nano = reply.output_tokens, reply.nano
        hold.token = self._grant(hold.rate_tokens, hold.typical_tokens, spec, hold_id, reply)
        return hold

    async def _renew(
        self, ask: Ask, most: int, old_id: str, settlement: Settlement
    ) -> tuple[QuotaSpec, str, Admitted]:
        """Raises BudgetExceeded or StoreUnavailable."""
        store, lease = self._store, self._holds.lease
        old = _pending(old_id, settlement)
        taken: tuple[QuotaSpec, tuple[str, RenewReply]] = await self._taker.take(
            ask.principal,
            lambda epoch, spec, hold_id: store.renew(
                epoch,
                spec,
                packed_ask(ask, hold_id, lease, most),
                old.hold,
                old.spent,
                old.unseen,
                old.used,
                old.least,
            ),
        )
        spec, (hold_id, reply) = taken
        match reply:
            case Admitted():
                return spec, hold_id, reply
            case NoBudget():
                raise no_budget(spec, ask, reply)
            case Forgotten() | Closed():
                raise StoreUnavailable("the counters are being rebuilt", never_sent=True)
            case _:
                assert_never(reply)

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        if isinstance(hold.token, FallbackGrant):
            self._fallback.settle(hold.token)
            self._settle_fallback(hold.token, settlement)
            return
        grant = _grant(hold)
        self._holds.remove(grant.id)
        self._settler.add(_pending(grant.id, settlement, grant))

    def _settle_fallback(self, grant: FallbackGrant, settlement: Settlement) -> None:
        windows = windows_to_settle(grant, settlement)
        if windows is not None:
            spent, unseen = settlement.spent_nano, settlement.unseen_nano
            hold_id = self._holds.next_id()
            self._settler.add(PendingSettlement(hold_id, spent, unseen, NOT_KNOWN, windows))

    def drop(self, principal: Principal) -> None:
        """Forget what is kept for requests of `principal`; those in flight settle as ever."""
        self._cache.drop(principal)
        self._refused.drop(principal)

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal` as a share of its limit, as the last replies said."""
        return self._cache.used_share(principal)

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, as the last replies said."""
        return self._cache.budgets()

    # --- for leased admission ---

    async def hold_money(self, ask: Ask, most_output: int) -> Hold:
        """Hold money for a further attempt of a request that was admitted elsewhere; no rate is taken."""
        try:
            # No hold has an empty name, so nothing is settled.
            spec, hold_id, reply = await self._renew(ask, most_output, "", Settlement(spent_nano=0))
        except StoreUnavailable as exc:
            raise unavailable() from exc
        return self._granted(ask, spec, hold_id, reply)

    # --- within ---

    def _granted(self, ask: Ask, spec: QuotaSpec, hold_id: str, reply: Admitted) -> Hold:
        self._cache.learn(spec, reply.counters, reply.now)
        if reply.shadowed and self._shadowed is not None:
            for scope, limit in shadowed_limits(spec, reply.shadowed):
                self._shadowed(scope, limit)
        cap = reply.output_tokens
        rate_tokens, typical_tokens = ask.rate_tokens(cap), ask.typical_tokens(cap)
        return Hold(
            ask=ask,
            output_tokens=cap,
            rate_tokens=rate_tokens,
            nano=reply.nano,
            admitted_at=reply.now / MICROSECONDS,
            requests=rate_view(reply.requests),
            tokens=rate_view(reply.tokens),
            token=self._grant(rate_tokens, typical_tokens, spec, hold_id, reply),
            typical_tokens=typical_tokens,
        )

    def _grant(
        self, rate_tokens: int, typical_tokens: int, spec: QuotaSpec, hold_id: str, reply: Admitted
    ) -> RemoteGrant:
        since, epoch = self._clock.monotonic(), self._holds.epoch
        grant = RemoteGrant(hold_id, epoch, spec, reply, since, rate_tokens, typical_tokens)
        self._holds.add(grant)
        return grant


def _grant(hold: Hold) -> RemoteGrant:
    if not isinstance(hold.token, RemoteGrant):
        raise TypeError("this hold was taken in another store")
    return hold.token


def _pending(hold_id: str, settlement: Settlement, origin: RemoteGrant | None = None) -> PendingSettlement:
    return PendingSettlement(
        hold_id,
        settlement.spent_nano,
        settlement.unseen_nano,
        NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens,
        origin,
        least=settlement.least_rate_tokens,
    )
