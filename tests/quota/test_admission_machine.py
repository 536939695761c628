"""A machine that tries everything, over every store: no order of events lets a budget be overspent.

True liability of a window: what ended requests really cost, and for each that is still open the most that it
can cost. A worker that dies leaves open requests behind, which nobody will ever settle.
"""

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import Any

import hypothesis.strategies as st
import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded
from gateway.core.tenancy import Budget, Override, Scope
from gateway.core.windows import Per
from tests.core.builders import ToldClock, ask, principal
from tests.quota.stores import UTC, LeasedStores, MemoryStores, RedisStores

USUAL = 1_100_000
LIMIT = 20 * USUAL
HOUR = 3600.0


def budgets_of(clock: ToldClock, raised: float | None) -> tuple[Budget, ...]:
    overrides = () if raised is None else (Override(2 * LIMIT, raised),)
    return (
        Budget(LIMIT, Per.HOUR, overrides=overrides),
        Budget(3 * LIMIT, Per.DAY, rolling=True),
        Budget(1_000 * LIMIT, Per.LIFETIME),
        Budget(1, Per.MONTH, soft=True),
    )


class Liability:
    """What one budget truly owes, by the hour of admission (calendar) or of the end (rolling)."""

    def __init__(self) -> None:
        self.spent: list[tuple[float, int]] = []  # admitted at, cost
        self.ended: list[tuple[float, int]] = []  # ended at, cost


class Machine(RuleBasedStateMachine):
    stores: Any
    workers = 1

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.clock = ToldClock()
        self.raised: float | None = None
        self.open: list[tuple[Any, Hold, float]] = []
        self.lost: list[tuple[float, int]] = []
        self.liability = Liability()
        self.stack = AsyncExitStack()
        self.stages: list[Any] = []
        self.org = secrets.token_hex(6)
        self.reconfigure()
        self.run(self.enter())

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    async def enter(self) -> None:
        for _ in range(self.workers):
            shared = {} if isinstance(self.stores, MemoryStores) else {"org": self.org, "clock": self.clock}
            stage = await self.stack.enter_async_context(self.stores.stage(self.scope, **shared))
            if not shared:
                self.clock = stage.clock
            self.stages.append(stage)

    def reconfigure(self) -> None:
        self.scope = Scope(kind="feature", name="triage", budgets=budgets_of(self.clock, self.raised))
        self.payer = principal(self.scope)
        for stage in self.stages if hasattr(self, "stages") else []:
            stage.store.configure([self.scope], UTC)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    # --- what happens ---

    @rule(worker=st.integers(0, 1), tokens=st.integers(0, 20_000), explicit=st.booleans())
    def admit(self, worker: int, tokens: int, explicit: bool) -> None:
        stage = self.stages[worker % len(self.stages)]
        given = ask(self.payer, output_tokens=tokens, output_is_explicit=explicit)
        before = self.owed(Per.HOUR)
        try:
            hold = self.run(stage.store.admit(given))
        except BudgetExceeded:
            return
        self.open.append((stage, hold, self.clock.now()))
        # The one promise that everything else serves.
        assert before + hold.nano <= self.limit()

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0), cost=st.floats(0, 1), unseen=st.floats(0, 1), times=st.integers(1, 2))
    def settle(self, which: int, cost: float, unseen: float, times: int) -> None:
        stage, hold, at = self.open.pop(which % len(self.open))
        spent = int(hold.nano * cost)
        settlement = Settlement(spent_nano=spent, unseen_nano=int((hold.nano - spent) * unseen))
        self.book(at, settlement)
        self.run(self.settled(stage, hold, settlement, times))

    async def settled(self, stage: Any, hold: Hold, settlement: Settlement, times: int) -> None:
        for _ in range(times):
            stage.store.settle(hold, settlement)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0), cost=st.floats(0, 1))
    def renew(self, which: int, cost: float) -> None:
        stage, hold, at = self.open.pop(which % len(self.open))
        settlement = Settlement(spent_nano=int(hold.nano * cost))
        self.book(at, settlement)
        try:
            hold = self.run(stage.store.renew(hold, settlement))
        except BudgetExceeded:
            return
        self.open.append((stage, hold, self.clock.now()))

    @rule(seconds=st.sampled_from([0.5, 20.0, 600.0, HOUR, 30 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        for stage in self.stages:
            self.run(stage.settled())
        # Steps shorter than a lease, with upkeep in between, as living workers have it.
        while seconds > 0:
            step = min(seconds, 15.0 if seconds <= 600 else seconds)
            if step > 15.0 and self.open:
                return
            self.clock.forward(step)
            self.tell()
            seconds -= step
            for stage in self.stages:
                if hasattr(stage.store, "upkeep"):
                    self.run(stage.store.upkeep.tick())

    @rule(worker=st.integers(0, 1))
    def leases_are_taken(self, worker: int) -> None:
        stage = self.stages[worker % len(self.stages)]
        if hasattr(stage.store, "renew_leases"):
            self.run(stage.store.renew_leases())

    @precondition(lambda self: self.open and self.workers > 1)
    @rule()
    def leases_expire(self) -> None:
        """The first worker is out of reach for longer than a lease; what it held is presumed spent."""
        for stage in self.stages:
            self.run(stage.settled())
        mine = [item for item in self.open if item[0] is self.stages[0]]
        self.open = [item for item in self.open if item[0] is not self.stages[0]]
        for _ in range(3):
            self.clock.forward(15)
            self.tell()
            self.run(self.stages[1].store.upkeep.tick())
        self.lost += [(at, hold.nano) for _, hold, at in mine]

    @rule(hours=st.integers(1, 3))
    def the_limit_is_raised_for_a_time(self, hours: int) -> None:
        for stage in self.stages:
            self.run(stage.settled())
        self.raised = self.clock.now() + hours * HOUR
        self.reconfigure()

    # --- what must hold ---

    @invariant()
    def counters_cover_what_is_owed(self) -> None:
        for stage in self.stages:
            self.run(stage.settled())
        views = {(view.per, view.rolling): view for view in self.stages[-1].store.budgets()}
        for (per, rolling), view in views.items():
            counted = view.spent_nano + view.held_nano + view.unseen_nano
            assert min(view.spent_nano, view.held_nano, view.unseen_nano) >= 0
            assert counted >= self.owed(per, rolling=rolling)
            if per is Per.LIFETIME:
                assert counted == self.owed(per), "nothing is counted twice and nothing is left held"

    def limit(self) -> int:
        return 2 * LIMIT if self.raised is not None and self.clock.now() < self.raised else LIMIT

    def owed(self, per: Per, *, rolling: bool = False) -> int:
        now = self.clock.now()
        if per is Per.MONTH:
            return 0
        if rolling:
            since = now - 24 * HOUR
            ended = sum(cost for at, cost in self.liability.ended if at > since)
            return ended + sum(hold.nano for _, hold, _ in self.open) + self.of(self.lost, since)
        since = {Per.HOUR: now // HOUR * HOUR, Per.LIFETIME: 0.0}[per]
        opened = sum(hold.nano for _, hold, at in self.open if at >= since)
        return self.of(self.liability.spent, since) + opened + self.of(self.lost, since)

    @staticmethod
    def of(entries: list[tuple[float, int]], since: float) -> int:
        return sum(cost for at, cost in entries if at >= since)

    def book(self, at: float, settlement: Settlement) -> None:
        cost = settlement.spent_nano + settlement.unseen_nano
        self.liability.spent.append((at, cost))
        self.liability.ended.append((self.clock.now(), cost))

    def tell(self) -> None:
        for stage in self.stages:
            if hasattr(stage, "tell"):
                stage.tell()


@pytest.mark.parametrize("kind", ["memory", "exact", "leased"])
def test_no_order_of_events_overspends(kind: str, request: pytest.FixtureRequest) -> None:
    class Tried(Machine):
        workers = 1 if kind == "memory" else 2

    if kind == "memory":
        Tried.stores = MemoryStores()
    else:
        url = request.getfixturevalue("redis_url")
        Tried.stores = RedisStores(url) if kind == "exact" else LeasedStores(url)
    examples = 150 if kind == "memory" else 40
    run_state_machine_as_test(
        Tried,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
