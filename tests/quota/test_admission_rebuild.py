"""Counters that were lost come back from the ledger: whole, once, when every worker has paused."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import Unavailable
from gateway.core.tenancy import Scope
from gateway.core.windows import Per
from gateway.ports import BudgetView
from gateway.quota.redis.connection import StoreUnavailable
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import LeasedStores, RedisStores, ready, run
from tests.quota.test_admission_leased import PlainlyLeased
from tests.quota.test_admission_unreachable import eventually
from tests.quota.valkey_server import ValkeyServer, valkey_server

USUAL = 1_100_000


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        yield server


class Paper:
    """A ledger that commits when it is flushed, and calls back at the moments that matter."""

    def __init__(self) -> None:
        self.booked: list[int] = []
        self.committed = 0  # so many of them
        self.halted_at: int | None = None
        self.left_by_the_dead: list[int] = []
        self.moments: dict[str, Callable[[], None]] = {}
        self.may_flush = asyncio.Event()
        self.may_flush.set()

    async def replay_dead_workers(self) -> None:
        self._reached("take over")
        self.booked += self.left_by_the_dead
        self.left_by_the_dead = []

    def pause_commits(self) -> None:
        self.halted_at = len(self.booked)

    async def flush(self) -> None:
        self._reached("flush")
        await self.may_flush.wait()
        self.committed = len(self.booked) if self.halted_at is None else self.halted_at

    def resume_commits(self) -> None:
        self.halted_at = None

    def spent(self, views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        self._reached("read")
        return [(sum(self.booked[: self.committed]), 0) for _ in views]

    def _reached(self, moment: str) -> None:
        if (call := self.moments.pop(moment, None)) is not None:
            call()


class Worker:
    """A stage that books as a gateway does: in the ledger first, then in the counters."""

    def __init__(self, stage: Any, paper: Paper) -> None:
        self.stage = stage
        self.paper = paper

    def settle(self, hold: Hold, nano: int) -> None:
        self.paper.booked.append(nano)
        self.stage.store.settle(hold, Settlement(spent_nano=nano))

    async def lose_everything(self) -> None:
        """The server has forgotten all, and this worker has noticed."""
        self.stage.server.flushall()
        self.stage.tell()
        with pytest.raises(Unavailable):
            await self.stage.store.admit(ask(self.stage.payer))


def stage_of(server: ValkeyServer, paper: Paper, *scopes: Scope, kind: Any = RedisStores, **more: Any) -> Any:
    return kind(server.url).stage(*scopes, spent=paper.spent, books=paper, **more)


@pytest.mark.parametrize("moment", ["take over", "flush", "read"])
@pytest.mark.parametrize("kind", [RedisStores, LeasedStores])
def test_a_request_that_ends_while_spending_is_rebuilt_counts_once(
    server: ValkeyServer, moment: str, kind: type[RedisStores]
) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        paper = Paper()
        async with stage_of(server, paper, triage, kind=kind) as stage:
            stage.payer = payer
            worker = Worker(stage, paper)
            worker.settle(await stage.store.admit(ask(payer)), 1_000)
            late = await stage.store.admit(ask(payer))
            await stage.settled()
            paper.moments[moment] = lambda: worker.settle(late, 30)
            await worker.lose_everything()
            await ready(stage.store)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (1_030, 0, 0)

    run(scenario)


def test_what_dead_workers_left_is_brought_in_first(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        paper = Paper()
        async with stage_of(server, paper, triage) as stage:
            stage.payer = payer
            paper.left_by_the_dead = [7_000]
            await Worker(stage, paper).lose_everything()
            await ready(stage.store)
            assert (await stage.view()).spent_nano == 7_000

    run(scenario)


def test_budgets_open_when_every_worker_has_paused_or_a_lease_is_over(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        clock, first, second = ToldClock(), Paper(), Paper()
        async with (
            stage_of(server, first, triage, org="acme", clock=clock) as one,
            stage_of(server, second, triage, org="acme", clock=clock) as two,
        ):
            one.payer = two.payer = payer
            for stage in (one, two, one):
                await stage.store.upkeep.refresh()
            for seconds in (0, 31):
                second.may_flush.clear()
                await Worker(one, first).lose_everything()
                await eventually(lambda: first.halted_at is not None)
                with pytest.raises(Unavailable):
                    await one.store.admit(ask(payer))
                if seconds:
                    clock.forward(seconds)
                    one.tell()
                    await ready(one.store)
                second.may_flush.set()
                await ready(one.store)
                await ready(two.store)
            assert first.halted_at is second.halted_at is None

    run(scenario)


def test_a_connection_that_broke_off_registers_the_holds_the_next_time(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        paper = Paper()
        async with stage_of(server, paper, triage) as stage:
            stage.payer = payer
            hold = await stage.store.admit(ask(payer))
            rebuild = stage.store.rebuild
            register, broken = rebuild._register, 0

            async def breaks_once() -> None:
                nonlocal broken
                broken += 1
                if broken == 1:
                    raise StoreUnavailable("the connection was lost")
                await register()

            monkeypatch.setattr(rebuild, "_register", breaks_once)
            await Worker(stage, paper).lose_everything()
            await eventually(lambda: broken > 1)
            await ready(stage.store)
            assert (await stage.view()).held_nano == hold.nano

    run(scenario)


def test_leases_that_the_server_has_lost_are_not_held_for_ever(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10_000 * USUAL}))

    async def scenario() -> None:
        paper = Paper()
        async with stage_of(server, paper, triage, kind=PlainlyLeased) as stage:
            stage.payer = payer
            worker = Worker(stage, paper)
            for _ in range(20):
                worker.settle(await stage.store.admit(ask(payer)), USUAL)
            await stage.store.renew_leases()
            late = await stage.store.admit(ask(payer))
            assert late.token.id in stage.shared.holds.ids()
            epoch = stage.shared.holds.epoch
            stage.server.flushall()
            stage.tell()
            await eventually(lambda: stage.shared.holds.epoch != epoch)
            await ready(stage.store)
            worker.settle(late, 5)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (20 * USUAL + 5, 0)
            assert not stage.shared.holds.ids()

    run(scenario)
