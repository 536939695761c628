"""What every store of limits and budgets does. Money in nano-USD."""

from typing import Any

import pytest

from gateway.core.admission import Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per
from tests.core.builders import NOVEMBER, ask, principal, scope
from tests.quota.stores import UTC, run

DAY = 86_400.0
NOTHING = Settlement(spent_nano=0)
USUAL = 1_100_000  # what the usual ask holds: 100 prompt tokens and 1,000 of output


def test_a_budget_is_held_then_spent(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            assert (hold.nano, hold.output_tokens, hold.is_capped) == (USUAL, 1_000, False)
            held = await stage.view()
            assert (held.spent_nano, held.held_nano, held.limit_nano) == (0, USUAL, 10 * USUAL)
            stage.store.settle(hold, Settlement(spent_nano=400_000, unseen_nano=50_000))
            spent = await stage.view()
            assert (spent.spent_nano, spent.held_nano, spent.unseen_nano) == (400_000, 0, 50_000)
            assert stage.store.used_share(payer) == pytest.approx(450_000 / (10 * USUAL))

    run(scenario)


def test_settling_twice_does_nothing(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}, concurrent=1))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            for _ in range(3):
                stage.store.settle(hold, Settlement(spent_nano=100))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (100, 0)
            await stage.store.admit(ask(payer))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_holds_never_pass_the_limit(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 3 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for _ in range(3):
                await stage.store.admit(ask(payer))
            with pytest.raises(BudgetExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert refused.value.scope == "feature:triage"
            assert refused.value.limit == "budget_day"
            assert refused.value.only_held
            assert refused.value.resets_at == NOVEMBER + 16 * 3600

    run(scenario)


def test_what_is_spent_is_not_only_held(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.LIFETIME: USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            with pytest.raises(BudgetExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert not refused.value.only_held
            assert refused.value.resets_at is None

    run(scenario)


@pytest.mark.parametrize("poor", ["key", "feature", "team", "org"])
def test_every_scope_has_its_say_and_a_refusal_takes_nothing(stores: Any, poor: str) -> None:
    scopes = [
        scope(
            kind,
            f"{kind}-name",
            requests=100,
            tokens=1_000_000,
            concurrent=10,
            budgets={Per.DAY: 1_000 if kind == poor else 100 * USUAL, Per.MONTH: 1000 * USUAL},
        )
        for kind in ("key", "feature", "team", "org")
    ]
    payer = principal(*scopes)

    async def scenario() -> None:
        async with stores.stage(*scopes) as stage:
            with pytest.raises(BudgetExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert refused.value.scope == f"{poor}:{poor}-name"
            assert {(view.spent_nano, view.held_nano) for view in await stage.views()} == {(0, 0)}
            hold = await stage.store.admit(ask(payer, prompt_nano=1, output_tokens=0))
            assert hold.requests.remaining == 99
            assert hold.tokens.remaining == 1_000_000 - 100

    run(scenario)


def test_requests_a_minute(stores: Any) -> None:
    payer = principal(triage := scope(requests=7))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for left in reversed(range(7)):
                hold = await stage.store.admit(ask(payer))
                stage.store.settle(hold, NOTHING)
                assert (hold.requests.limit, hold.requests.remaining) == (7, left)
            for _ in range(3):  # refused ones do not count
                with pytest.raises(LimitExceeded) as refused:
                    await stage.store.admit(ask(payer))
                assert refused.value.limit == "requests_per_minute"
                assert refused.value.retry_after_seconds == pytest.approx(60 / 7, abs=0.01)
            await stage.forward(60 / 7 + 0.001)
            await stage.store.admit(ask(payer))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_tokens_a_minute_with_debt_and_credit(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            first = await stage.store.admit(ask(payer, tokens=5_000))
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(ask(payer, tokens=2_000))
            assert refused.value.limit == "tokens_per_minute"
            assert refused.value.retry_after_seconds == pytest.approx(10, abs=0.01)
            # Used at once: everything beyond 1,000 comes back.
            stage.store.settle(first, Settlement(spent_nano=0, rate_tokens=1_000))
            await stage.settled()
            second = await stage.store.admit(ask(payer, tokens=5_000))
            assert second.tokens.remaining == 0
            # Used more: the rest is a debt.
            stage.store.settle(second, Settlement(spent_nano=0, rate_tokens=8_000))
            await stage.settled()
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(ask(payer, tokens=1))
            assert refused.value.retry_after_seconds == pytest.approx(30, abs=0.05)

    run(scenario)


def test_a_late_refund_gives_back_only_what_has_not_drained(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer, tokens=6_000))
            await stage.forward(40)
            other = await stage.store.admit(ask(payer, tokens=3_000))
            stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=0))
            stage.store.settle(other, NOTHING)
            await stage.settled()
            # 4,000 have drained and 3,000 came: of the 6,000 only the 2,000 that had not drained come back.
            await stage.forward(2)  # until leases that were returned no longer count
            again = await stage.store.admit(ask(payer, tokens=3_000))
            assert again.tokens.remaining == pytest.approx(200, abs=1)

    run(scenario)


def test_a_request_larger_than_the_limit_is_told_so(stores: Any) -> None:
    payer = principal(triage := scope(tokens=1_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(ask(payer, tokens=1_001))
            assert refused.value.retry_after_seconds == float("inf")
            # Unless only the cap that nobody asked for made it so large.
            hold = await stage.store.admit(ask(payer, output_tokens=5_000, output_is_explicit=False))
            assert (hold.output_tokens, hold.tokens.remaining) == (900, 0)

    run(scenario)


@pytest.mark.parametrize("choices", [1, 3])
def test_answers_without_a_cap_take_no_more_than_a_minutes_tokens(stores: Any, choices: int) -> None:
    """Every one of them may be as long as its cap, so together the caps must fit."""
    payer = principal(triage := scope(tokens=60_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = []
            with pytest.raises(LimitExceeded):
                while True:
                    uncapped = ask(payer, output_tokens=16_384, output_is_explicit=False, choices=choices)
                    holds.append(await stage.store.admit(uncapped))
            most = sum(100 + hold.output_tokens * choices for hold in holds)
            assert most == sum(hold.rate_tokens for hold in holds) <= 60_000
            assert len(holds) > 8 // choices, "one of them does not take all"
            assert min(hold.output_tokens for hold in holds) >= 1_024
            # All of it is used, most of it at the last moment: what is admitted later has to wait for it.
            await stage.forward(30)
            for hold in holds:
                stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=hold.rate_tokens))
            await stage.settled()
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer, tokens=45_000))

    run(scenario)


def test_concurrency_is_freed_by_settling(stores: Any) -> None:
    payer = principal(triage := scope(concurrent=2))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = [await stage.store.admit(ask(payer)) for _ in range(2)]
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(ask(payer))
            assert refused.value.limit == "concurrent"
            stage.store.settle(holds[0], NOTHING)
            await stage.settled()
            await stage.store.admit(ask(payer))
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_the_output_cap_shrinks_to_what_fits(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 600_000}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            assert (hold.output_tokens, hold.nano, hold.is_capped) == (500, 600_000, True)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_a_default_cap_takes_a_share_only(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 8_100_000}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer, output_tokens=100_000, output_is_explicit=False))
            assert hold.output_tokens == 2_000
            assert hold.nano == 2_100_000

    run(scenario)


def test_a_window_that_ends_mid_stream_keeps_its_counters_to_itself(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 2 * USUAL, Per.MONTH: 10 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            await stage.forward(DAY)
            other = await stage.store.admit(ask(payer))
            stage.store.settle(hold, Settlement(spent_nano=500_000, unseen_nano=1))
            day, month = await stage.views()
            assert (day.spent_nano, day.held_nano, day.unseen_nano) == (0, USUAL, 0)
            assert (month.spent_nano, month.held_nano, month.unseen_nano) == (500_000, USUAL, 1)
            stage.store.settle(other, Settlement(spent_nano=7))
            day, month = await stage.views()
            assert (day.spent_nano, day.held_nano) == (7, 0)
            assert (month.spent_nano, month.held_nano) == (500_007, 0)

    run(scenario)


def test_renewing_books_the_attempt_and_holds_for_the_next(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 3 * USUAL}, concurrent=1, requests=10, tokens=10_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            hold = await stage.store.renew(hold, Settlement(spent_nano=USUAL, unseen_nano=100_000))
            assert hold.nano == USUAL
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (USUAL, USUAL, 100_000)
            with pytest.raises(LimitExceeded):  # the slot stays taken
                await stage.store.admit(ask(payer))
            stage.store.settle(hold, Settlement(spent_nano=5, rate_tokens=10))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (USUAL + 5, 0)
            other = await stage.store.admit(ask(payer))
            assert other.requests.remaining == 8
            assert other.tokens.remaining == 10_000 - 10 - 1_100

    run(scenario)


def test_a_renewal_without_room_gives_everything_back(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: USUAL}, concurrent=1, tokens=10_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            with pytest.raises(BudgetExceeded):
                await stage.store.renew(hold, Settlement(spent_nano=USUAL, rate_tokens=100))
            stage.store.settle(hold, NOTHING)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (USUAL, 0)
            free = await stage.store.admit(ask(payer, prompt_nano=0, output_tokens=0))
            assert free.tokens.remaining == 10_000 - 100 - 100

    run(scenario)


def test_a_changed_limit_keeps_what_was_spent(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}))
    lower = principal(smaller := scope(budgets={Per.DAY: 2 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            hold = await stage.store.admit(ask(payer))
            await stage.settled()
            stage.store.configure([smaller], UTC)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(lower))
            stage.store.settle(hold, NOTHING)
            view = await stage.view()
            assert (view.limit_nano, view.spent_nano, view.held_nano) == (2 * USUAL, USUAL, 0)
            await stage.store.admit(ask(lower))

    run(scenario)


def test_a_clock_set_back_opens_no_window_anew(stores: Any) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: USUAL}))

    async def scenario() -> None:
        midnight = NOVEMBER + 16 * 3600
        async with stores.stage(triage, now=midnight + 1) as stage:
            hold = await stage.store.admit(ask(payer))
            stage.store.settle(hold, Settlement(spent_nano=USUAL))
            await stage.settled()
            await stage.jump(-2)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))
            await stage.jump(2)
            with pytest.raises(BudgetExceeded):
                await stage.store.admit(ask(payer))

    run(scenario)


def test_a_clock_that_ran_far_ahead_refuses_nobody_for_ever(stores: Any) -> None:
    payer = principal(triage := scope(requests=1, tokens=1_100))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            await stage.jump(400 * DAY)
            stage.store.settle(await stage.store.admit(ask(payer)), NOTHING)
            await stage.jump(-400 * DAY)
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))
            await stage.forward(3_601)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_a_principal_without_limits_is_always_admitted(stores: Any) -> None:
    payer = principal()

    async def scenario() -> None:
        async with stores.stage() as stage:
            holds = [await stage.store.admit(ask(payer)) for _ in range(50)]
            assert all(hold.requests is None and hold.tokens is None for hold in holds)
            assert stage.store.used_share(payer) == 0
            for hold in holds:
                stage.store.settle(hold, Settlement(spent_nano=5))
            assert await stage.views() == []

    run(scenario)


def test_a_look_at_the_limits_takes_nothing_and_tells_when_none_can_pass(stores: Any) -> None:
    payer = principal(triage := scope(requests=2))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for _ in range(5):
                stage.store.peek(payer)
            for _ in range(2):
                stage.store.settle(await stage.store.admit(ask(payer)), NOTHING)
            with pytest.raises(LimitExceeded) as admitted:
                await stage.store.admit(ask(payer))
            with pytest.raises(LimitExceeded) as looked:
                stage.store.peek(payer)
            assert looked.value.scope == admitted.value.scope
            assert looked.value.limit == admitted.value.limit == "requests_per_minute"
            assert 0 < looked.value.retry_after_seconds <= 30
            await stage.forward(30)
            stage.store.peek(payer)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_a_look_at_the_limits_believes_no_refusal_of_one_request_alone(stores: Any) -> None:
    payer = principal(triage := scope(tokens=2_000, concurrent=2))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer, prompt_tokens=5_000))
            stage.store.peek(payer)
            hold = await stage.store.admit(ask(payer))
            stage.store.peek(payer)
            stage.store.settle(hold, NOTHING)

    run(scenario)
