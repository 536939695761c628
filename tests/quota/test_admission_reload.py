"""A new configuration while serving, over every store: nothing that was spent is forgotten or taken twice."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.core.admission import Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per
from gateway.ports import BudgetView
from tests.core.builders import ask, principal, scope
from tests.quota.stores import UTC, LeasedStores, MemoryStores, RedisStores, run

USUAL = 1_100_000
TOKYO = ZoneInfo("Asia/Tokyo")
NOTHING = Settlement(spent_nano=0)


class Ledger:
    """Says of every window what it was told."""

    def __init__(self) -> None:
        self.spent = self.unseen = 0
        self.asked: list[BudgetView] = []
        self.down = False

    def __call__(self, views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        if self.down:
            raise ConnectionError("the ledger is down")
        self.asked += views
        return [(self.spent, self.unseen)] * len(views)


async def backfilled(stage: Any) -> None:
    """What a shared store does later by itself is done."""
    if not hasattr(stage.store, "upkeep"):
        return
    exact = getattr(stage.store, "exact", stage.store)
    await exact.flush()
    async with asyncio.timeout(30):
        await exact.backfill.done.wait()


def test_a_budget_that_comes_back_begins_with_what_the_ledger_says(stores: Any) -> None:
    with_it = scope(budgets={Per.DAY: 10 * USUAL}, requests=1_000)
    without = scope(requests=1_000)
    ledger = Ledger()

    async def scenario() -> None:
        async with stores.stage(with_it, spent=ledger) as stage:
            stage.store.settle(await stage.store.admit(ask(principal(with_it))), Settlement(spent_nano=USUAL))
            await stage.settled()
            await stage.store.reconfigure([without], UTC)
            for _ in range(3):
                hold = await stage.store.admit(ask(principal(without)))
                stage.store.settle(hold, Settlement(spent_nano=USUAL))
            await stage.settled()
            ledger.spent, ledger.unseen = 4 * USUAL, 5
            await stage.store.reconfigure([with_it], UTC)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (4 * USUAL, 0, 5)
            for _ in range(5):
                await stage.store.admit(ask(principal(with_it)))
            await stage.store.admit(ask(principal(with_it)))  # its cap is lowered by the 5
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(principal(with_it)))

    run(scenario)


def test_another_time_zone_has_other_windows(stores: Any) -> None:
    """At 08:00 UTC the day in Tokyo began nine hours earlier than the one in UTC."""
    triage = scope(budgets={Per.DAY: 10 * USUAL, Per.LIFETIME: 100 * USUAL})
    ledger = Ledger()

    async def scenario() -> None:
        async with stores.stage(triage, spent=ledger) as stage:
            stage.store.settle(await stage.store.admit(ask(principal(triage))), Settlement(spent_nano=USUAL))
            await stage.settled()
            ledger.spent = 3 * USUAL
            ledger.asked.clear()
            await stage.store.reconfigure([triage], TOKYO)
            day, lifetime = await stage.views()
            assert (day.spent_nano, lifetime.spent_nano) == (3 * USUAL, USUAL)
            (asked,) = ledger.asked
            assert (asked.per, asked.window) == (Per.DAY, day.window)
            assert day.window.start == 1_795_359_600.0  # 2026-11-22 15:00 UTC
            # And back: what was counted in the meantime is known to the ledger alone.
            ledger.spent = 4 * USUAL
            await stage.store.reconfigure([triage], UTC)
            day, lifetime = await stage.views()
            assert (day.spent_nano, lifetime.spent_nano) == (4 * USUAL, USUAL)

    run(scenario)


def test_what_is_in_flight_at_a_reload_counts_in_the_budgets_that_it_brings(stores: Any) -> None:
    before, after = scope(requests=1_000), scope(requests=1_000, budgets={Per.DAY: 10 * USUAL})
    ledger = Ledger()

    async def scenario() -> None:
        async with stores.stage(before, spent=ledger) as stage:
            hold = await stage.store.admit(ask(principal(before)))
            ledger.spent = USUAL
            await stage.store.reconfigure([after], UTC)
            assert (await stage.view()).spent_nano == USUAL
            stage.store.settle(hold, Settlement(spent_nano=7))
            ledger.spent += 7
            await backfilled(stage)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (USUAL + 7, 0)

    run(scenario)


def test_memory_holds_what_is_in_flight_against_a_new_budget() -> None:
    before, after = scope(requests=1_000), scope(requests=1_000, budgets={Per.DAY: USUAL})

    async def scenario() -> None:
        async with MemoryStores().stage(before) as stage:
            hold = await stage.store.admit(ask(principal(before)))
            await stage.store.reconfigure([after], UTC)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(principal(after)))
            hold = await stage.store.renew(hold, Settlement(spent_nano=1_000))
            assert hold.nano == USUAL - 1_000
            stage.store.settle(hold, NOTHING)
            assert (await stage.view()).spent_nano == 1_000

    run(scenario)


def test_spending_is_counted_while_the_ledger_is_read() -> None:
    before, after = scope(requests=1_000), scope(requests=1_000, budgets={Per.DAY: 10 * USUAL})

    async def scenario() -> None:
        async with MemoryStores().stage(before, spent=lambda views: [(USUAL, 0) for _ in views]) as stage:
            reload = asyncio.ensure_future(stage.store.reconfigure([after], UTC))
            await asyncio.sleep(0)
            stage.store.settle(await stage.store.admit(ask(principal(before))), Settlement(spent_nano=3))
            await reload
            assert (await stage.view()).spent_nano == USUAL + 3

    run(scenario)


def test_a_ledger_that_is_down_keeps_the_old_configuration_in_memory() -> None:
    before, after = scope(requests=1), scope(budgets={Per.DAY: 10 * USUAL})
    ledger = Ledger()

    async def scenario() -> None:
        async with MemoryStores().stage(before, spent=ledger) as stage:
            ledger.down = True
            with pytest.raises(ConnectionError):
                await stage.store.reconfigure([after], UTC)
            await stage.store.admit(ask(principal(before)))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(principal(before)))
            assert await stage.views() == []

    run(scenario)


def test_tokens_are_corrected_by_the_limit_that_they_were_taken_from(stores: Any) -> None:
    """Else lowering a limit to a tenth would give back ten times what was taken."""
    before, after = scope(tokens=6_000), scope(tokens=600)

    async def scenario() -> None:
        async with stores.stage(before) as stage:
            payer = principal(before)
            other = await stage.store.exact.admit(ask(payer, tokens=3_000)) if leased(stage) else None
            other = other or await stage.store.admit(ask(payer, tokens=3_000))
            hold = await stage.store.admit(ask(payer, tokens=1_000))
            await stage.settled()
            await stage.store.reconfigure([after], UTC)
            stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=0))
            await stage.settled()
            # What the other one took, half a minute of the old limit, is still there.
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(principal(after), tokens=400))
            await stage.store.admit(ask(principal(after), tokens=250))
            stage.store.settle(other, NOTHING)

    run(scenario)


def leased(stage: Any) -> bool:
    return hasattr(stage.store, "exact")


def test_a_limit_that_comes_with_a_reload_counts_what_is_in_flight(stores: Any) -> None:
    before, after = scope(budgets={Per.DAY: 100 * USUAL}), scope(budgets={Per.DAY: 100 * USUAL}, concurrent=3)

    async def scenario() -> None:
        async with stores.stage(before) as stage:
            holds = [await stage.store.admit(ask(principal(before))) for _ in range(2)]
            await stage.store.reconfigure([after], UTC)
            if hasattr(stage.store, "upkeep"):
                await stage.store.upkeep.tick()
            holds.append(await stage.store.admit(ask(principal(after))))
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(ask(principal(after)))
            assert refused.value.limit == "concurrent"
            for hold in holds:
                stage.store.settle(hold, NOTHING)
            await stage.settled()
            for _ in range(3):
                await stage.store.admit(ask(principal(after)))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(principal(after)))

    run(scenario)


@pytest.mark.parametrize("kind", [RedisStores, LeasedStores])
def test_a_worker_that_brings_a_budget_asks_the_ledger_before_it_serves(
    redis_url: str, kind: type[RedisStores]
) -> None:
    """A rollout starts it beside workers whose configuration has no such budget."""
    stores = kind(redis_url)
    before, after = scope(requests=1_000), scope(requests=1_000, budgets={Per.DAY: 10 * USUAL})
    ledger = Ledger()

    async def scenario() -> None:
        org = secrets.token_hex(6)
        async with stores.stage(before, org=org, spent=ledger) as old:
            await old.store.admit(ask(principal(before)))
            ledger.spent = 9 * USUAL
            async with stores.stage(after, org=org, clock=old.clock, spent=ledger) as new:
                assert (await new.view()).spent_nano == 9 * USUAL
                await new.store.admit(ask(principal(after)))
                with pytest.raises(BudgetExceeded):
                    await new.store.admit(ask(principal(after)))

    run(scenario)
