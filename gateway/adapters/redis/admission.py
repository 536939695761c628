"""Admission shared by all workers: every limit and budget of a request in one round trip.

The numbers live in Redis. Here are only plans, the holds that are open, and what the last replies said.
"""

import asyncio
import itertools
import math
import secrets
from collections.abc import Iterable
from zoneinfo import ZoneInfo

import msgspec

from gateway.adapters.memory import Shadowed
from gateway.adapters.redis.connection import StoreAway
from gateway.adapters.redis.link import Link
from gateway.adapters.redis.plans import Plan, counters_of, make_plan
from gateway.adapters.redis.recovery import Recovery, SpentInWindows
from gateway.adapters.redis.replies import (
    ADMITTED,
    CLOSED,
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
from gateway.adapters.redis.settling import Settler
from gateway.adapters.redis.upkeep import Upkeep
from gateway.core.admission import (
    CAP_FLOOR_TOKENS,
    Ask,
    GcraLimit,
    Hold,
    Settlement,
    fit_rate,
    rate_units,
)
from gateway.core.errors import Unavailable
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock

LEASE_SECONDS = 30.0
# The server's clock and ours can disagree about which window is open; a second plan settles it.
TRIES = 3

_NOT_KNOWN = -1
_encode = msgspec.msgpack.Encoder().encode


class Grant(msgspec.Struct, frozen=True, eq=False):
    """A hold on the server's side: its name there, and all that is needed to register it again."""

    id: str
    epoch: bytes
    plan: Plan
    reply: Admitted
    since: float  # monotonic seconds
    ask: Ask

    def record(self) -> list[object]:
        """The packed hold of the Lua functions: nano, admitted, budgets, slots, tokens."""
        taken = set(shadowed_limits(self.plan, self.reply.shadowed))
        slots, tokens = [], []
        for label, limits in self.plan.limits:
            if limits.concurrent and (label, "concurrent") not in taken:
                slots.append(label)
            if limits.tokens_per_minute and (label, "tokens_per_minute") not in taken:
                units = rate_units(GcraLimit(limits.tokens_per_minute), self.ask)
                tokens.append([label, limits.tokens_per_minute, units])
        return [self.reply.nano, self.reply.now, self.windows(), slots, tokens]

    def windows(self) -> list[list[object]]:
        """Name, start (-1: rolls) and seconds of a part of each budget that it was taken in."""
        rows: list[list[object]] = []
        for index, budget in enumerate(self.plan.budgets):
            name, _, _, _, part, _ = budget.row()
            start = -1 if part else counters_of(self.reply.counters, index)[0]
            rows.append([name, start, part])
        return rows


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
        quarantine_seconds: float = 1.0,
    ) -> None:
        self._link = link
        self._clock = clock
        self._zone = zone
        self._shadowed = shadowed
        self._lease = int(lease_seconds * MICROSECONDS)
        self._worker = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._scopes: tuple[Scope, ...] = ()
        self._plans: dict[Principal, Plan] = {}
        self._all: Plan | None = None
        # Seconds that the server's clock is ahead of ours.
        self._ahead = 0.0
        self._counters: dict[str, tuple[int, int, int, int]] = {}
        self._open: dict[str, Grant] = {}
        self._settler = Settler(link, self._worker)
        self.recovery = Recovery(link, self, self._lease, spent_in_windows, quarantine_seconds)
        self.upkeep = Upkeep(link, self, clock, lease_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect and take over the counters. Raises StoreAway when the server cannot be reached."""
        self._link.connected = self.recovery.greet
        runs = (self._link.run(), self._settler.run(), self.recovery.run(), self.upkeep.run())
        self._tasks = [asyncio.create_task(run) for run in runs]

    async def close(self) -> None:
        """Send the last settlements, as far as the server takes them within a lease, and disconnect."""
        try:
            async with asyncio.timeout(min(self._lease / MICROSECONDS, 5.0) if self._link.is_up else 0.0):
                await self._settler.drain()
        except TimeoutError:
            pass  # their holds expire as presumed
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        """Adopt the scopes of a new configuration. What was counted stays, here and for other workers."""
        self._scopes = tuple(scopes)
        self._zone = zone
        self._plans.clear()
        self._all = None

    async def flush(self) -> None:
        """Return once every settlement so far is in the counters."""
        await self._settler.drain()

    def problem(self) -> str | None:
        """Why the shared state is not in use, for `readyz`; None when all is well."""
        if self._link.problem is not None:
            return f"state: {self._link.problem}"
        return self.recovery.problem

    # --- the Admission port ---

    async def admit(self, ask: Ask) -> Hold:
        """One round trip. Raises LimitExceeded, BudgetExceeded, or Unavailable."""
        for _ in range(TRIES):
            plan = self._plan(ask.principal)
            grant_id = self._next_id()
            reply = await self._ask("admit", plan, self._packed(ask, plan, grant_id), grant_id)
            kind = reply[0]
            if kind == ADMITTED:
                return self._granted(ask, plan, grant_id, admitted(reply))
            if kind == NO_LIMIT:
                raise no_limit(plan, reply)
            if kind == NO_BUDGET:
                raise no_budget(plan, ask, reply)
            self._not_now(reply)
        raise _unavailable()

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back, or Unavailable.
        """
        old = _grant(hold)
        for _ in range(TRIES):
            plan = self._plan(hold.ask.principal)
            grant_id = self._next_id()
            used = _NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens
            spending = [b"%d" % n for n in (settlement.spent_nano, settlement.unseen_nano, used)]
            try:
                reply = await self._ask(
                    "renew",
                    plan,
                    self._packed(hold.ask, plan, grant_id),
                    grant_id,
                    old.id.encode(),
                    *spending,
                )
            except BaseException:
                # What the attempt used must arrive, whatever became of the call; a second time is ignored.
                self.settle(hold, settlement)
                raise
            if reply[0] == ADMITTED:
                return self._renewed(hold, old, plan, grant_id, admitted(reply))
            if reply[0] == NO_BUDGET:
                hold.open = False
                self._open.pop(old.id, None)
                raise no_budget(plan, hold.ask, reply)
            try:
                self._not_now(reply)
            except Unavailable:
                self.settle(hold, settlement)
                raise
        self.settle(hold, settlement)
        raise _unavailable()

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        grant = _grant(hold)
        self._open.pop(grant.id, None)
        used = _NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens
        kept = grant.windows() if grant.epoch != self.recovery.epoch else None
        self._settler.add((grant.id, settlement.spent_nano, settlement.unseen_nano, used, kept))

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal` as a share of its limit, as the last replies said."""
        share = 0.0
        for budget in self._plan(principal).budgets:
            w, spent, held, unseen = self._counters.get(budget.name, (0, 0, 0, 0))
            if budget.budget.rolling or w >= budget.window.start:
                share = max(share, (spent + held + unseen) / budget.limit)
        return share

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, as the last replies said."""
        now = self.now()
        views = []
        for budget in self.plan_of_all().budgets:
            counters = self._counters.get(budget.name, (0, 0, 0, 0))
            if not budget.budget.rolling and counters[0] < budget.window.start:
                counters = (0, 0, 0, 0)
            views.append(budget.view(counters, now))
        return views

    # --- for upkeep and recovery ---

    def now(self) -> float:
        """UTC seconds of the server's clock, as far as it is known."""
        return self._clock.now() + self._ahead

    def plan_of_all(self) -> Plan:
        """The plan that holds every configured budget."""
        now = self.now()
        if self._all is None or not self._all.start <= now < self._all.end:
            self._all = make_plan(self._scopes, self._zone, now)
        return self._all

    def open_grants(self) -> list[Grant]:
        return list(self._open.values())

    def learn(self, plan: Plan, counters: list[int], now: int) -> None:
        """Keep what a reply said."""
        self.learn_clock(now)
        for index, budget in enumerate(plan.budgets):
            self._counters[budget.name] = counters_of(counters, index)

    def learn_clock(self, now: int) -> None:
        self._ahead = now / MICROSECONDS - self._clock.now()

    # --- within ---

    def _next_id(self) -> str:
        return f"{self._worker}{next(self._count):x}"

    def _plan(self, principal: Principal) -> Plan:
        plan = self._plans.get(principal)
        now = self.now()
        if plan is None or not plan.start <= now < plan.end:
            plan = self._plans[principal] = make_plan(principal.scopes, self._zone, now)
        return plan

    def _packed(self, ask: Ask, plan: Plan, grant_id: str) -> bytes:
        rate_cap, per_minute = ask.output_tokens, plan.tokens_per_minute
        if per_minute is not None:
            rate_cap = fit_rate(ask, per_minute)
        return _encode(
            (
                grant_id,
                ask.prompt_nano,
                ask.output_nano_per_million,
                ask.output_tokens,
                int(ask.output_is_explicit),
                ask.rate_tokens,
                self._lease,
                ask.prompt_tokens + min(ask.output_tokens, CAP_FLOOR_TOKENS) * ask.choices,
                rate_cap,
            )
        )

    async def _ask(self, call: str, plan: Plan, packed: bytes, grant_id: str, *more: bytes) -> list[object]:
        self._settler.send_now()
        try:
            return await self._link.call(call, self.recovery.epoch, plan.packed, packed, *more)
        except StoreAway as exc:
            if not exc.never_sent:
                self._abandon(grant_id)
            raise _unavailable() from exc
        except asyncio.CancelledError:
            self._abandon(grant_id)
            raise

    def _abandon(self, grant_id: str) -> None:
        """A hold that may have been taken and that nobody will use."""
        self._settler.add((grant_id, 0, 0, 0, None))

    def _not_now(self, reply: list[object]) -> None:
        """Raises Unavailable, unless another try can succeed."""
        if reply[0] == STALE and isinstance(reply[1], int | float):
            self.learn_clock(int(reply[1]))
            return
        if reply[0] != CLOSED:
            self._link.drop("the counters are not the ones that were known")
        raise _unavailable()

    def _granted(self, ask: Ask, plan: Plan, grant_id: str, reply: Admitted) -> Hold:
        self.learn(plan, reply.counters, reply.now)
        if reply.shadowed and self._shadowed is not None:
            for scope, limit in shadowed_limits(plan, reply.shadowed):
                self._shadowed(scope, limit)
        return Hold(
            ask=ask,
            output_tokens=reply.output_tokens,
            nano=reply.nano,
            admitted_at=reply.now / MICROSECONDS,
            requests=reply.requests,
            tokens=reply.tokens,
            token=self._grant(ask, plan, grant_id, reply),
        )

    def _renewed(self, hold: Hold, old: Grant, plan: Plan, grant_id: str, reply: Admitted) -> Hold:
        self.learn(plan, reply.counters, reply.now)
        self._open.pop(old.id, None)
        hold.output_tokens, hold.nano = reply.output_tokens, reply.nano
        hold.token = self._grant(hold.ask, plan, grant_id, reply)
        return hold

    def _grant(self, ask: Ask, plan: Plan, grant_id: str, reply: Admitted) -> Grant:
        grant = Grant(grant_id, self.recovery.epoch, plan, reply, self._clock.monotonic(), ask)
        self._open[grant_id] = grant
        return grant


def _grant(hold: Hold) -> Grant:
    if not isinstance(hold.token, Grant):
        raise TypeError("this hold was taken in another store")
    return hold.token


def _unavailable() -> Unavailable:
    return Unavailable(
        "The shared state of limits and budgets is not reachable. Retry shortly.",
        retry_after_seconds=math.ceil(LEASE_SECONDS / 30),
    )
