"""The stores over which the specification of admission runs, each with a clock that is told."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import redis
import uvloop

from gateway.core.admission import Ask, Hold
from gateway.core.tenancy import Scope
from gateway.ports import BudgetView
from gateway.quota.memory import MemoryAdmission, SpentInWindows
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.client import RedisClient, Timing
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.rebuild import Books
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.shared_counters import SharedCounters, share_counters
from tests.core.builders import ToldClock

T = TypeVar("T")

UTC = ZoneInfo("UTC")

# Patient, because nothing here is about time: a busy test machine must not look like an unreachable server.
PATIENT = Timing(connect_seconds=10.0, reply_seconds=10.0)

TOLD_CLOCK = """
local function clock(keys)
  return tonumber(redis.call('GET', keys[1] .. ':told'))
end
"""


def run(scenario: Callable[[], Any]) -> None:
    """Run a test's coroutine function on the event loop that serves."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


class Stage:
    """One worker's admission, and the clock that all of them share."""

    def __init__(self, store: Any, clock: ToldClock) -> None:
        self.store = store
        self.clock = clock
        self.shadowed: list[tuple[str, str]] = []

    async def forward(self, seconds: float) -> None:
        """Time goes on, after what has been settled has arrived."""
        await self.settled()
        self.clock.forward(seconds)
        await self._told()

    async def jump(self, seconds: float) -> None:
        """Only the wall clock moves."""
        await self.settled()
        self.clock.jump(seconds)
        await self._told()

    async def views(self) -> list[BudgetView]:
        """Every budget once all settlements have arrived."""
        await self.settled()
        views: list[BudgetView] = self.store.budgets()
        return views

    async def view(self, name: str = "triage") -> BudgetView:
        (view,) = [view for view in await self.views() if view.name == name]
        return view

    async def settled(self) -> None:
        """Return once every settlement has arrived."""

    async def _told(self) -> None:
        pass


class RedisStage(Stage):
    def __init__(
        self,
        store: RedisAdmission,
        shared: SharedCounters,
        clock: ToldClock,
        server: "redis.Redis[bytes]",
        org: str,
    ) -> None:
        super().__init__(store, clock)
        self.shared = shared
        self.server = server
        self._told_key = f"tollway:{{{org}}}:state:told"
        self.tell()

    def tell(self) -> None:
        self.server.set(self._told_key, int(self.clock.now() * 1_000_000))

    async def settled(self) -> None:
        if isinstance(self.store, LeasedAdmission):
            self.store.return_leases()
        await self.store.flush()
        await self.store.upkeep.refresh()
        await self.store.upkeep.refresh()

    async def _told(self) -> None:
        self.tell()


Spent = Callable[[Sequence[BudgetView]], list[tuple[int, int]]]


def _from(spent: Spent | None) -> SpentInWindows:
    """A ledger that says what `spent` says, or that nothing was."""

    async def from_ledger(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        return [(0, 0)] * len(views) if spent is None else spent(views)

    return from_ledger


class MemoryStores:
    """Makes stages in memory."""

    @asynccontextmanager
    async def stage(
        self, *scopes: Scope, zone: ZoneInfo = UTC, now: float | None = None, spent: "Spent | None" = None
    ) -> AsyncIterator[Stage]:
        clock = ToldClock() if now is None else ToldClock(now)
        store = MemoryAdmission(
            clock,
            spent_in_windows=_from(spent),
            shadowed=lambda *what: stage.shadowed.append(what),
        )
        stage = Stage(store, clock)
        store.configure(scopes, zone)
        yield stage


class RedisStores:
    """Makes stages over one server, each under an org of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def stage(
        self,
        *scopes: Scope,
        zone: ZoneInfo = UTC,
        now: float | None = None,
        org: str | None = None,
        clock: ToldClock | None = None,
        spent: Spent | None = None,
        timing: Timing = PATIENT,
        books: Books | None = None,
    ) -> AsyncIterator[RedisStage]:
        clock = clock or (ToldClock() if now is None else ToldClock(now))
        org = org or secrets.token_hex(6)

        client = RedisClient(parse_target(self.url), org, Scripts(TOLD_CLOCK), timing)
        shared = share_counters(client, clock, zone)
        exact = RedisAdmission(
            shared,
            clock,
            spent_in_windows=_from(spent),
            shadowed=lambda *what: stage.shadowed.append(what),
            quarantine_seconds=0.0,
            books=books,
        )
        store = self.store(exact, shared, clock)
        store.configure(scopes, zone)
        with redis.Redis.from_url(self.url) as server:
            stage = RedisStage(store, shared, clock, server, org)
            await store.start()
            await ready(store)
            try:
                yield stage
            finally:
                await store.close()

    def store(self, exact: RedisAdmission, shared: SharedCounters, clock: ToldClock) -> Any:
        return exact


class EagerlyLeased(LeasedAdmission):
    """Takes leases at every chance, so that whatever a lease can do wrong shows in a few requests."""

    async def admit(self, ask: Ask) -> Hold:
        await self.renew_leases()
        return await super().admit(ask)


class LeasedStores(RedisStores):
    def store(self, exact: RedisAdmission, shared: SharedCounters, clock: ToldClock) -> Any:
        # Whoever tests says when leases are taken: by itself one would be, in the middle of any assertion,
        # the sooner the busier the machine is.
        return EagerlyLeased(exact, shared, clock, least_requests=1, renew_seconds=3600.0)


async def ready(store: RedisAdmission | LeasedAdmission) -> None:
    async with asyncio.timeout(30):
        while store.problem() is not None:
            await asyncio.sleep(0.001)


def by_name(views: Iterable[BudgetView]) -> dict[str, BudgetView]:
    return {f"{view.kind}:{view.name}:{view.per}": view for view in views}
