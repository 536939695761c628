"""When the shared counters are unreachable, slow, restarted or flushed. Each test has a server of its own."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import LimitExceeded, Unavailable
from gateway.core.tenancy import Budget, Scope
from gateway.core.windows import Per
from gateway.ports import BudgetView
from gateway.quota.redis.client import Timing
from gateway.quota.redis.quota_lease import QuotaLease
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import LeasedStores, RedisStores, ready, run
from tests.quota.test_admission_leased import PlainlyLeased
from tests.quota.valkey_server import ValkeyServer, valkey_server

USUAL = 1_100_000
# Long enough for a busy test machine, short enough for a server that is frozen.
IMPATIENT = Timing(connect_seconds=10.0, reply_seconds=0.5)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        yield server


def stage_on(server: ValkeyServer, *scopes: Scope, kind: type[RedisStores] = RedisStores, **more: Any) -> Any:
    return kind(server.url).stage(*scopes, timing=IMPATIENT, **more)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def restarted(stage: Any, server: ValkeyServer) -> None:
    server.stop()
    server.start()
    stage.tell()


def soft(nano: int, **limits: Any) -> Scope:
    budget = Budget(nano, Per.DAY, soft=True)
    return Scope(kind="feature", name="triage", budgets=(budget,), limits=scope(**limits).limits)


def test_hard_budgets_close_and_open_again(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            server.stop()
            for _ in range(3):
                with pytest.raises(Unavailable) as refused:
                    await stage.store.admit(ask(payer))
                assert refused.value.retry_after_seconds > 0
            await eventually(lambda: stage.store.problem() is not None)
            server.start()
            stage.tell()
            await ready(stage.store)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_a_frozen_server_is_an_unreachable_server(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}, concurrent=1))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            with server.frozen():
                results = await asyncio.gather(
                    *(stage.store.admit(ask(payer)) for _ in range(20)), return_exceptions=True
                )
                assert {type(result) for result in results} == {Unavailable}
            await ready(stage.store)
            # What the server did with those calls when it woke up is given back.
            view = await stage.view()
            await eventually(lambda: stage.shared.settler.waiting == 0)
            assert (view.spent_nano, view.held_nano) == (0, 0)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_rates_fall_back_to_this_workers_part(server: ValkeyServer) -> None:
    payer = principal(triage := scope(requests=10, tokens=1_000_000))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            stage_on(server, triage, org="acme", clock=clock) as one,
            stage_on(server, triage, org="acme", clock=clock) as two,
        ):
            for stage in (one, two, one):
                await stage.store.upkeep.refresh()
            server.stop()
            for _ in range(5):
                hold = await one.store.admit(ask(payer))
                one.store.settle(hold, Settlement(spent_nano=0))
            with pytest.raises(LimitExceeded) as refused:
                await one.store.admit(ask(payer))
            assert refused.value.retry_after_seconds == pytest.approx(12)
            clock.forward(12.01)
            await one.store.admit(ask(payer))

    run(scenario)


def test_meanwhile_limits_hold_the_cap_since_nobody_would_remember_a_debt(server: ValkeyServer) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            server.stop()
            for _ in range(5):
                hold = await stage.store.admit(ask(payer, typical_output=50))
                assert hold.rate_tokens == 1_100
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer, typical_output=50))

    run(scenario)


def test_slots_fall_back_too_and_are_given_back(server: ValkeyServer) -> None:
    payer = principal(triage := scope(concurrent=2))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            server.stop()
            holds = [await stage.store.admit(ask(payer)) for _ in range(2)]
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))
            stage.store.settle(holds[0], Settlement(spent_nano=0))
            stage.store.settle(holds[0], Settlement(spent_nano=0))
            await stage.store.admit(ask(payer))

    run(scenario)


def test_soft_budgets_stay_open_and_count_later(server: ValkeyServer) -> None:
    payer = principal(triage := soft(USUAL))

    async def scenario() -> None:
        spent = [(5 * USUAL, 0)]
        async with stage_on(server, triage, spent=lambda _: spent) as stage:
            await stage.store.admit(ask(payer))
            before = (await stage.view()).spent_nano
            assert before == 5 * USUAL
            server.stop()
            for _ in range(3):
                hold = await stage.store.admit(ask(payer))
                hold = await stage.store.renew(hold, Settlement(spent_nano=10))
                stage.store.settle(hold, Settlement(spent_nano=100))
            server.start()
            stage.tell()
            await ready(stage.store)
            # The ledger's sum and what was settled since: too much when it has both, never too little.
            assert (await stage.view()).spent_nano >= 5 * USUAL

    run(scenario)


@pytest.mark.parametrize("how", ["restart", "flush"])
@pytest.mark.parametrize("kind", [RedisStores, LeasedStores])
def test_lost_counters_are_rebuilt_before_hard_budgets_open(
    server: ValkeyServer, how: str, kind: type[RedisStores]
) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL, Per.MONTH: 100 * USUAL}))
    ledger = {Per.DAY: 0, Per.MONTH: 0}

    def spent(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        return [(ledger[view.per], 5 if ledger[view.per] else 0) for view in views]

    async def scenario() -> None:
        async with stage_on(server, triage, spent=spent, kind=kind) as stage:
            for _ in range(3):
                hold = await stage.store.admit(ask(payer))
                stage.store.settle(hold, Settlement(spent_nano=USUAL))
            open_hold: Hold = await stage.store.admit(ask(payer))
            await stage.settled()
            ledger.update({Per.DAY: 3 * USUAL, Per.MONTH: 7 * USUAL})
            if how == "restart":
                epoch = stage.shared.holds.epoch
                restarted(stage, server)
                await eventually(lambda: stage.shared.holds.epoch != epoch)
            else:
                stage.server.flushall()
                stage.tell()
                with pytest.raises(Unavailable):
                    await stage.store.admit(ask(payer))
            await ready(stage.store)
            day, month = await stage.views()
            assert (day.spent_nano, day.held_nano, day.unseen_nano) == (3 * USUAL, USUAL, 5)
            assert (month.spent_nano, month.held_nano, month.unseen_nano) == (7 * USUAL, USUAL, 5)
            stage.store.settle(open_hold, Settlement(spent_nano=9))
            day, month = await stage.views()
            assert (day.spent_nano, day.held_nano) == (3 * USUAL + 9, 0)
            assert (month.spent_nano, month.held_nano) == (7 * USUAL + 9, 0)

    run(scenario)


def test_a_ledger_that_is_down_too_keeps_hard_budgets_closed(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}))
    down = False
    asked = 0

    def spent(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        nonlocal asked
        asked += 1
        if down:
            raise RuntimeError("the ledger is down")
        return [(USUAL, 0) for _ in views]

    async def scenario() -> None:
        nonlocal down
        async with stage_on(server, triage, spent=spent) as stage:
            down, before = True, asked
            stage.server.flushall()
            stage.tell()
            with pytest.raises(Unavailable):
                await stage.store.admit(ask(payer))
            await eventually(lambda: asked > before)
            with pytest.raises(Unavailable):
                await stage.store.admit(ask(payer))
            assert "rebuilt" in stage.store.problem()
            down = False
            await ready(stage.store)
            assert (await stage.view()).spent_nano == USUAL

    run(scenario)


def test_what_is_leased_is_spent_while_the_server_is_unreachable(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10_000 * USUAL}, requests=100_000))

    async def scenario() -> None:
        async with stage_on(server, triage, kind=PlainlyLeased) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.store.renew_leases()
            await stage.store.flush()
            server.stop()
            stage.clock.forward(5)  # what was leased of the rate is worth nothing now, the money is
            admitted = 0
            for _ in range(1_000):
                try:
                    hold = await stage.store.admit(ask(payer))
                except Unavailable:
                    break
                assert isinstance(hold.token, QuotaLease)
                stage.store.settle(hold, Settlement(spent_nano=USUAL))
                admitted += 1
            assert 20 <= admitted <= 60

    run(scenario)


def test_leases_end_with_their_lease(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10_000 * USUAL}))

    async def scenario() -> None:
        async with stage_on(server, triage, kind=PlainlyLeased) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.store.renew_leases()
            assert isinstance((await stage.store.admit(ask(payer))).token, QuotaLease)
            server.stop()
            stage.clock.forward(25)
            with pytest.raises(Unavailable):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_closing_while_the_server_is_unreachable_ends(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            hold = await stage.store.admit(ask(payer))
            server.stop()
            stage.store.settle(hold, Settlement(spent_nano=1))

    run(scenario)


# --- what `/readyz` says of it ---


def test_ready_means_that_a_hard_budget_can_be_asked(server: ValkeyServer) -> None:
    triage = scope(budgets={Per.DAY: 10 * USUAL})

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            assert (stage.store.unready(), stage.store.degraded()) == (None, [])
            server.stop()
            await eventually(lambda: stage.store.unready() is not None)
            assert stage.store.degraded() == []
            server.start()
            stage.tell()
            await ready(stage.store)
            await eventually(lambda: stage.store.unready() is None)

    run(scenario)


def test_soft_budgets_and_limits_alone_are_only_degraded(server: ValkeyServer) -> None:
    async def scenario() -> None:
        async with stage_on(server, soft(10 * USUAL, requests=5)) as stage:
            server.stop()
            await eventually(lambda: stage.store.degraded() != [])
            assert stage.store.unready() is None

    run(scenario)


def test_leases_that_bridge_an_outage_keep_ready_until_they_are_spent(server: ValkeyServer) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10_000 * USUAL}))

    async def scenario() -> None:
        async with stage_on(server, triage, kind=PlainlyLeased) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.store.renew_leases()
            server.stop()
            await eventually(lambda: stage.store.problem() is not None)
            assert stage.store.unready() is None
            [said] = stage.store.degraded()
            assert "1 leases admit what they have left" in said
            stage.clock.forward(25)  # the lease ends
            assert stage.store.unready() is not None
            assert stage.store.degraded() == []

    run(scenario)


@pytest.mark.parametrize("name", ["state", "holds", "due", "presumed", "alive", "slots:feature:triage"])
def test_foreign_data_under_its_keys_is_not_ready_and_heals(server: ValkeyServer, name: str) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}, concurrent=5))

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            await stage.store.admit(ask(payer))
            # All of them are tollway:{ORG}:NAME, and the told clock's is one of them.
            [told] = stage.server.keys("*:told")
            key = told.removesuffix(b"state:told") + name.encode()
            stage.server.set(key, "somebody else's")
            await eventually(lambda: stage.store.unready() is not None)
            assert "WRONGTYPE" in stage.store.unready()
            stage.server.delete(key)
            await eventually(lambda: stage.store.unready() is None)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_a_server_without_memory_is_not_ready(server: ValkeyServer) -> None:
    triage = scope(budgets={Per.DAY: 10 * USUAL})

    async def scenario() -> None:
        async with stage_on(server, triage) as stage:
            stage.server.config_set("maxmemory", 1)
            await eventually(lambda: stage.store.unready() is not None)
            stage.server.config_set("maxmemory", 0)
            await eventually(lambda: stage.store.unready() is None)

    run(scenario)
