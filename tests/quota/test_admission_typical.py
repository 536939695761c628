"""Limits with `estimate: typical`: what every store holds, and what becomes of answers that are longer.

The ask of these tests has a prompt of 100 tokens, a cap of 1,000 and a typical output of 50. Budgets hold the
cap: 1.1 million nano-USD.
"""

import contextlib
from random import Random
from typing import Any

import pytest

from gateway.core.admission import Ask, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Principal
from gateway.core.windows import Per
from tests.core.builders import ask, principal, scope
from tests.quota.memory_stage import Stage as MemoryStage
from tests.quota.stores import run

USUAL = 1_100_000
# Returned leases of a rate keep its bucket smaller for so long.
UNTIL_LEASES_ARE_OVER = 2.0


def short(payer: Principal, **changes: Any) -> Ask:
    return ask(payer, **{"typical_output": 50, "output_is_explicit": False, **changes})


def used(tokens: int) -> Settlement:
    return Settlement(spent_nano=0, rate_tokens=tokens)


async def wait_of(stage: Any, wanted: Ask) -> float:
    with pytest.raises(LimitExceeded) as refused:
        await stage.store.admit(wanted)
    assert refused.value.limit == "tokens_per_minute"
    return refused.value.retry_after_seconds or 0.0


def test_a_limit_holds_what_is_typical_and_a_budget_the_cap(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True, budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = []
            with pytest.raises(LimitExceeded):
                while True:
                    holds.append(await stage.store.admit(short(payer)))
            # Near the end of a limit a part of it lies idle in leases.
            assert 6_000 - 350 <= sum(hold.typical_tokens for hold in holds) <= 6_000
            assert {(hold.output_tokens, hold.nano, hold.typical_tokens) for hold in holds} == {
                (1_000, USUAL, 150)
            }
            assert (await stage.view()).held_nano == len(holds) * USUAL

    run(scenario)


@pytest.mark.parametrize("explicit", [True, False])
def test_while_nothing_is_known_the_cap_is_held(stores: Any, explicit: bool) -> None:
    async def holds(**limits: bool) -> list[tuple[int, int, int]]:
        payer = principal(triage := scope(tokens=6_000, **limits))
        async with stores.stage(triage) as stage:
            found = []
            for _ in range(5):
                hold = await stage.store.admit(
                    ask(payer, output_tokens=1_400, output_is_explicit=explicit)
                    if len(found) < 3
                    else ask(payer, tokens=10)
                )
                found.append((hold.output_tokens, hold.rate_tokens, hold.tokens.remaining))
            return found

    async def scenario() -> None:
        assert await holds(typical=True) == await holds()

    run(scenario)


def test_what_is_used_beyond_is_a_debt_that_others_wait_for(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(short(payer))
            stage.store.settle(hold, used(9_000))
            await stage.settled()
            # 9,000 of a minute's 6,000 are gone: 3,000 have to drain, and 150 more to admit the next.
            assert await wait_of(stage, short(payer)) == pytest.approx(31.5, abs=0.05)
            await stage.forward(31.4)
            await wait_of(stage, short(payer))
            await stage.forward(0.2)
            await stage.store.admit(short(payer))

    run(scenario)


def test_a_debt_counts_at_once(stores: Any) -> None:
    """Nobody gives a lease back or waits for anything: the very next request must see it."""
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = [await stage.store.admit(short(payer)) for _ in range(4)]
            stage.store.settle(holds[1], used(9_000))
            assert await wait_of(stage, short(payer)) > 30
            stage.store.settle(holds[2], used(6_000))
            assert await wait_of(stage, short(payer)) > 85

    run(scenario)


def test_what_is_not_used_comes_back(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for _ in range(40):
                stage.store.settle(await stage.store.admit(short(payer)), used(105))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            hold = await stage.store.admit(short(payer))
            assert hold.tokens.remaining == pytest.approx(6_000 - (40 * 105 - 200) - 150, abs=1)

    run(scenario)


def test_what_is_not_used_comes_back_however_long_the_answer_took(stores: Any) -> None:
    """Answers take seconds and minutes. By then what they held has drained, and their true size counts."""
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            slow = await stage.store.admit(short(payer, typical_output=900))
            await stage.forward(30)
            await stage.store.admit(short(payer, prompt_tokens=5_400))
            stage.store.settle(slow, used(100))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            await counted(stage, payer, 6_000, 5_450 - 900 - 200)

    run(scenario)


def test_of_an_answer_that_nobody_counted_what_was_seen_is_owed_and_nothing_comes_back(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(short(payer))
            stage.store.settle(hold, Settlement(spent_nano=0, least_rate_tokens=120))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            # What was taken has drained, and no credit came on top of that.
            hold = await stage.store.admit(short(payer, prompt_tokens=5_700))
            stage.store.settle(hold, Settlement(spent_nano=0, least_rate_tokens=9_000))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            assert await wait_of(stage, short(payer)) == pytest.approx(29.5, abs=0.05)

    run(scenario)


def test_each_limit_holds_what_it_says(stores: Any) -> None:
    limits = [scope("key", "app", tokens=6_000, typical=True), scope("org", "acme", tokens=6_000)]
    payer = principal(*limits)

    async def scenario() -> None:
        async with stores.stage(*limits) as stage:
            holds = [await stage.store.admit(short(payer, output_is_explicit=True)) for _ in range(5)]
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(short(payer, output_is_explicit=True))
            assert refused.value.scope == "org:acme"
            for hold in holds:
                stage.store.settle(hold, used(1_100))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            # Both have counted 5,500 by now.
            hold = await stage.store.admit(short(payer, output_tokens=550, output_is_explicit=True))
            assert hold.tokens.remaining == pytest.approx(50, abs=1)

    run(scenario)


def test_a_cap_that_is_lower_than_typical_is_what_is_held(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True, budgets={Per.DAY: 120_000}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(short(payer))
            assert (hold.output_tokens, hold.nano) == (20, 120_000)
            assert hold.tokens.remaining == 6_000 - 120

    run(scenario)


def test_a_further_attempt_holds_the_money_of_its_cap_and_no_more_tokens(stores: Any) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True, budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(short(payer))
            hold = await stage.store.renew(hold, Settlement(spent_nano=100))
            assert (hold.output_tokens, hold.nano) == (1_000, USUAL)
            stage.store.settle(hold, Settlement(spent_nano=200, rate_tokens=1_150))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (300, 0)
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            hold = await stage.store.admit(short(payer))
            assert hold.tokens.remaining == pytest.approx(6_000 - (1_150 - 200) - 150, abs=1)

    run(scenario)


def test_a_debt_of_more_than_an_hour_counts_as_one_of_an_hour(stores: Any) -> None:
    payer = principal(triage := scope(tokens=60, typical=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(short(payer, prompt_tokens=5))
            stage.store.settle(hold, used(10_000))
            await stage.settled()
            # An hour, and the 55 tokens of the next one, less what a minute lets pass.
            assert await wait_of(stage, short(payer, prompt_tokens=5)) == pytest.approx(3_595, abs=2.5)

    run(scenario)


def test_a_limit_on_trial_counts_what_is_typical(stores: Any) -> None:
    payer = principal(triage := scope(tokens=300, typical=True, shadow=True))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = [await stage.store.admit(short(payer)) for _ in range(2)]
            assert stage.shadowed == []
            await stage.store.admit(short(payer))
            assert stage.shadowed == [("feature:triage", "tokens_per_minute")]
            for hold in holds:
                stage.store.settle(hold, used(600))
            await stage.settled()
            await stage.forward(60)
            await stage.store.admit(short(payer))
            assert len(stage.shadowed) == 2  # 1,200 are counted, and 300 have drained

    run(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_answers_use_budgets_hold_and_every_token_is_counted_once(stores: Any, seed: int) -> None:
    """All happens at one instant: nothing drains, and the limits must have counted exactly what was used."""
    random = Random(seed)
    limit, money = 40_000, 30 * USUAL
    scopes = [
        scope("key", "app", tokens=limit, typical=True),
        scope(tokens=2 * limit, typical=True, budgets={Per.DAY: money}),
        scope("org", "acme", tokens=10**7),
    ]
    payer = principal(*scopes)

    async def scenario() -> None:
        async with stores.stage(*scopes) as stage:
            open_holds: list[Any] = []
            tokens = 0
            for _ in range(150):
                if open_holds and random.random() < 0.5:
                    hold = open_holds.pop(random.randrange(len(open_holds)))
                    wrote = random.choice([random.randint(0, 50), random.randint(0, hold.output_tokens)])
                    tokens += hold.ask.prompt_tokens + wrote
                    cost = hold.ask.prompt_nano + wrote * 1_000
                    stage.store.settle(
                        hold, Settlement(spent_nano=cost // 20, rate_tokens=hold.ask.prompt_tokens + wrote)
                    )
                    continue
                try:
                    wanted = short(payer, output_is_explicit=random.random() < 0.5)
                    open_holds.append(await stage.store.admit(wanted))
                except (LimitExceeded, BudgetExceeded):
                    continue
                view = await stage.view()
                assert view.spent_nano + view.held_nano + view.unseen_nano <= money
            for hold in open_holds:
                tokens += hold.ask.prompt_tokens
                stage.store.settle(hold, used(hold.ask.prompt_tokens))
            await stage.settled()
            await stage.forward(UNTIL_LEASES_ARE_OVER)
            backlog = tokens - limit * UNTIL_LEASES_ARE_OVER / 60
            await counted(stage, payer, limit, backlog)

    run(scenario)


async def counted(stage: Any, payer: Principal, limit: int, backlog: float) -> None:
    """`backlog` tokens are what the limit has still to let pass."""
    probe = ask(payer, prompt_nano=0, tokens=1)
    if backlog > limit:
        assert await wait_of(stage, probe) == pytest.approx((backlog + 1 - limit) * 60 / limit, abs=0.01)
    else:
        hold = await stage.store.admit(probe)
        assert hold.tokens.remaining == pytest.approx(limit - backlog - 1, abs=2)


def test_120_short_answers_at_once_under_400_000_tokens_a_minute() -> None:
    """Each of them may have 16,384 tokens, and 99 of 100 have 64."""

    def refused(**limits: bool) -> int:
        stage = MemoryStage(scope(tokens=400_000, **limits))
        held = 0
        for _ in range(120):
            with contextlib.suppress(LimitExceeded):
                stage.admit(
                    prompt_tokens=16, output_tokens=16_384, output_is_explicit=False, typical_output=64
                )
                held += 1
        return 120 - held

    assert refused() == 87
    assert refused(typical=True) == 0
