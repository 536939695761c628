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
import structlog

from gateway.adapters.memory import Shadowed, SpentInWindows
from gateway.adapters.redis.connection import StoreAway
from gateway.adapters.redis.grants import Grant, Registered
from gateway.adapters.redis.known import Known
from gateway.adapters.redis.link import Link
from gateway.adapters.redis.plans import Plan
from gateway.adapters.redis.recovery import Recovery
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
from gateway.adapters.redis.slices import Slice
from gateway.adapters.redis.upkeep import Upkeep
from gateway.core.admission import (
    CAP_FLOOR_TOKENS,
    Ask,
    Hold,
    Settlement,
    fit_rate,
)
from gateway.core.errors import Unavailable
from gateway.core.tenancy import Principal, Scope
from gateway.ports import BudgetView, Clock

LEASE_SECONDS = 30.0
START_SECONDS = 5.0
# The server's clock and ours can disagree about which window is open; a second plan settles it.
TRIES = 3

_NOT_KNOWN = -1
_log = structlog.get_logger("tollway.redis")
_encode = msgspec.msgpack.Encoder().encode


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
        self.known = Known(clock, zone)
        self._shadowed = shadowed
        self._lease = int(lease_seconds * MICROSECONDS)
        self.worker = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._open: dict[str, Registered] = {}
        self._settler = Settler(link, self.worker)
        self.recovery = Recovery(link, self, self._lease, spent_in_windows, quarantine_seconds)
        self.upkeep = Upkeep(link, self, clock, lease_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect and take over the counters. A server that is away keeps nobody from starting."""
        self._link.connected = self.recovery.greet
        runs = (self._link.run(), self._settler.run(), self.recovery.run(), self.upkeep.run())
        self._tasks = [asyncio.create_task(run) for run in runs]
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.recovery.opened.wait()
        except TimeoutError:
            _log.warning("redis.not_ready", problem=self.problem())

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
        self.known.configure(scopes, zone)

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
        for _ in range(TRIES):
            plan = self.known.plan(ask.principal)
            grant_id = self.next_id()
            reply = await self.ask("admit", plan, self._packed(ask, plan, grant_id), grant_id)
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
            plan = self.known.plan(hold.ask.principal)
            grant_id = self.next_id()
            used = _NOT_KNOWN if settlement.rate_tokens is None else settlement.rate_tokens
            spending = [b"%d" % n for n in (settlement.spent_nano, settlement.unseen_nano, used)]
            try:
                reply = await self.ask(
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
        self._settler.add((grant.id, settlement.spent_nano, settlement.unseen_nano, used, kept, None))

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

    async def hold_money(self, ask: Ask) -> Hold:
        """Hold money for a further attempt of a request that was admitted elsewhere; no rate is taken."""
        for _ in range(TRIES):
            plan = self.known.plan(ask.principal)
            grant_id = self.next_id()
            # No hold has an empty name, so nothing is settled.
            rest = (b"", b"0", b"0", b"%d" % _NOT_KNOWN)
            reply = await self.ask("renew", plan, self._packed(ask, plan, grant_id), grant_id, *rest)
            if reply[0] == ADMITTED:
                return self._granted(ask, plan, grant_id, admitted(reply))
            if reply[0] == NO_BUDGET:
                raise no_budget(plan, ask, reply)
            self._not_now(reply)
        raise _unavailable()

    def register(self, item: Slice) -> None:
        """Keep the lease of a slice alive until it is reported as done."""
        self._open[item.id] = item

    def report_slice(self, item: Slice) -> None:
        """Settle what a slice has spent, and give back what it does not hold."""
        if item.in_flight == 0:
            self._open.pop(item.id, None)
        self._settler.add(item.report(self._clock.monotonic(), self.recovery.epoch))

    # --- within ---

    def next_id(self) -> str:
        return f"{self.worker}{next(self._count):x}"

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

    async def ask(self, call: str, plan: Plan, packed: bytes, grant_id: str, *more: bytes) -> list[object]:
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
        self._settler.add((grant_id, 0, 0, 0, None, None))

    def _not_now(self, reply: list[object]) -> None:
        """Raises Unavailable, unless another try can succeed."""
        if reply[0] == STALE and isinstance(reply[1], int | float):
            self.known.learn_clock(int(reply[1]))
            return
        if reply[0] != CLOSED:
            self._link.drop("the counters are not the ones that were known")
        raise _unavailable()

    def _granted(self, ask: Ask, plan: Plan, grant_id: str, reply: Admitted) -> Hold:
        self.known.learn(plan, reply.counters, reply.now)
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
        self.known.learn(plan, reply.counters, reply.now)
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
