"""Windows that roll, budgets that only tell, limits for a time and limits on trial, over every store."""

from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.core.admission import Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Budget, Limits, Override, Scope
from gateway.core.windows import Per
from tests.core.builders import NOVEMBER, ask, principal, scope
from tests.quota.stores import run

USUAL = 1_100_000
DAY = 86_400.0


def with_budget(budget: Budget, **limits: Any) -> Scope:
    return Scope(kind="feature", name="triage", budgets=(budget,), limits=Limits(**limits))


@pytest.mark.parametrize("per", [Per.MINUTE, Per.HOUR, Per.DAY, Per.WEEK, Per.MONTH])
def test_a_rolling_window_forgets_a_part_at_a_time(stores: Any, per: Per) -> None:
    seconds = {"minute": 60, "hour": 3600, "day": DAY, "week": 7 * DAY, "month": 30 * DAY}[per]
    payer = principal(triage := with_budget(Budget(2 * USUAL, per, rolling=True)))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.forward(seconds / 2)
            stage.store.settle(
                await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL - 5, unseen_nano=5)
            )
            await stage.settled()
            await stage.forward(seconds / 2 - 1)
            with pytest.raises(BudgetExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert refused.value.limit == f"budget_rolling_{per}"
            assert 0 < refused.value.resets_at - stage.clock.now() <= seconds / 30 + 1
            await stage.forward(refused.value.resets_at - stage.clock.now())
            hold = await stage.store.admit(ask(payer))
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (USUAL - 5, USUAL, 5)
            # A hold has no window that could close on it.
            await stage.forward(3 * seconds)
            stage.store.settle(hold, Settlement(spent_nano=9))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (9, 0, 0)
            await stage.forward(1000 * seconds)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (0, 0, 0)

    run(scenario)


def test_a_soft_budget_counts_and_refuses_nothing(stores: Any) -> None:
    hard = scope("org", "acme", budgets={Per.DAY: 10 * USUAL})
    payer = principal(triage := with_budget(Budget(1_000, Per.DAY, soft=True)), hard)

    async def scenario() -> None:
        async with stores.stage(triage, hard) as stage:
            hold = await stage.store.admit(ask(payer))
            assert hold.output_tokens == 1_000
            stage.store.settle(hold, Settlement(spent_nano=USUAL))
            view = await stage.view()
            assert (view.spent_nano, view.limit_nano) == (USUAL, 1_000)
            assert stage.store.used_share(payer) == pytest.approx(1100)

    run(scenario)


def test_an_override_raises_a_limit_until_its_date(stores: Any) -> None:
    raised = Override(3 * USUAL, NOVEMBER + 3600)
    payer = principal(triage := with_budget(Budget(USUAL, Per.DAY, overrides=(raised,))))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.store.admit(ask(payer))
            assert (await stage.view()).limit_nano == 3 * USUAL
            await stage.forward(3600)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))
            view = await stage.view()
            assert (view.limit_nano, view.spent_nano, view.held_nano) == (USUAL, USUAL, USUAL)
            await stage.forward(DAY)
            await stage.store.admit(ask(payer))
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"requests_per_minute": 1}, "requests_per_minute"),
        ({"tokens_per_minute": 1_100}, "tokens_per_minute"),
        ({"concurrent": 1}, "concurrent"),
    ],
)
def test_a_limit_in_shadow_tells_and_refuses_nothing(stores: Any, limits: dict[str, int], name: str) -> None:
    trial = Scope(kind="feature", name="triage", limits=Limits(shadow=True, **limits))
    real = scope("team", "research", requests=3)
    payer = principal(trial, real)

    async def scenario() -> None:
        async with stores.stage(trial, real) as stage:
            first = await stage.store.admit(ask(payer))
            assert stage.shadowed == []
            assert first.requests.limit == 3
            assert first.tokens is None
            second = await stage.store.admit(ask(payer))
            assert stage.shadowed == [("feature:triage", name)]
            for hold in (first, second):
                stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=1_100))
            await stage.settled()
            await stage.forward(20)
            await stage.store.admit(ask(payer))
            # What it would have refused took nothing from it; a refusal by another limit is not its own.
            expected = 1 if name == "concurrent" else 2
            assert len(stage.shadowed) == expected
            await stage.store.admit(ask(payer))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))
            assert len(stage.shadowed) == expected + 1

    run(scenario)


# In New York 2026-11-01 has 25 hours and 2026-03-08 has 23; in Tokyo every day has 24.
@pytest.mark.parametrize(
    ("zone", "now", "day_ends", "month_ends"),
    [
        ("America/New_York", 1_793_505_600.0, 1_793_505_600.0 + 25 * 3600, 1_793_505_600.0 + 3600 + 30 * DAY),
        ("America/New_York", 1_772_946_000.0, 1_772_946_000.0 + 23 * 3600, 1_772_946_000.0 - 3600 + 24 * DAY),
        ("Asia/Tokyo", 1_793_458_800.0, 1_793_458_800.0 + DAY, 1_793_458_800.0 + 30 * DAY),
    ],
)
def test_windows_begin_at_midnight_of_the_org(
    stores: Any, zone: str, now: float, day_ends: float, month_ends: float
) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: USUAL, Per.MONTH: 2 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage, zone=ZoneInfo(zone), now=now) as stage:
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.forward(day_ends - now - 1)
            with pytest.raises(BudgetExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert refused.value.resets_at == day_ends
            await stage.forward(1)
            hold = await stage.store.admit(ask(payer))
            day, month = await stage.views()
            assert (day.window.start, day.spent_nano, month.spent_nano) == (day_ends, 0, USUAL)
            assert month.window.end == month_ends
            await stage.forward(month_ends - stage.clock.now())
            stage.store.settle(hold, Settlement(spent_nano=USUAL))
            day, month = await stage.views()
            assert (month.spent_nano, month.held_nano, day.held_nano) == (0, 0, 0)

    run(scenario)


def test_a_budget_beyond_exact_doubles_is_kept(stores: Any) -> None:
    large = 20_000_000 * 10**9  # 20M USD is beyond 2^53 nano-USD
    payer = principal(triage := with_budget(Budget(large, Per.MONTH)))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer, prompt_nano=large - 10**9 - 7, output_tokens=0))
            stage.store.settle(hold, Settlement(spent_nano=large - 10**9 - 7))
            await stage.settled()
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer, prompt_nano=10**9 + 8, output_tokens=0))
            await stage.store.admit(ask(payer, prompt_nano=10**9 - 10_000, output_tokens=0))

    run(scenario)


def test_budgets_compare_by_value() -> None:
    assert msgspec.structs.replace(Budget(1, Per.DAY), rolling=True).window == "rolling_day"
