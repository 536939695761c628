"""How other gateways lost money or locked people out, each as a specification that names its ticket.

First over every store, then between two workers; whole gateways are in tests/e2e. The arithmetic behind some
of them is specified in tests/quota/test_memory_known_faults.py.
"""

import asyncio
import secrets
from typing import Any

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import LeasedStores, RedisStores, run

USUAL = 1_100_000
NOTHING = Settlement(spent_nano=0, rate_tokens=0)


# --- over every store ---


def test_concurrent_requests_do_not_race_past_a_budget(stores: Any) -> None:
    """LiteLLM #34732, and Azure API Management, whose manual says that concurrent requests pass limits."""
    payer = principal(triage := scope(budgets={Per.DAY: 5 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            asked = [stage.store.admit(ask(payer)) for _ in range(50)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            holds = [answer for answer in answers if isinstance(answer, Hold)]
            assert sum(hold.nano for hold in holds) <= 5 * USUAL
            assert all(isinstance(answer, Hold | BudgetExceeded) for answer in answers)
            assert len(holds) >= 5

    run(scenario)


def test_reservations_leave_nothing_behind_that_refuses_later(stores: Any) -> None:
    """LiteLLM #27639: leaked reservations gave phantom 429s."""
    payer = principal(triage := scope(budgets={Per.DAY: 2 * USUAL}, requests=10_000, concurrent=1))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for number in range(60):
                hold = await stage.store.admit(ask(payer))
                if number % 3 == 0:
                    hold = await stage.store.renew(hold, NOTHING)
                stage.store.settle(hold, NOTHING)
                await stage.settled()
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (0, 0, 0)

    run(scenario)


def test_a_budget_is_not_pinned_while_nothing_is_spent(stores: Any) -> None:
    """LiteLLM #38647: a $25 budget refused everything while its spend read $0."""
    payer = principal(triage := scope(budgets={Per.DAY: 25 * USUAL}))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            holds = [await stage.store.admit(ask(payer)) for _ in range(25)]
            with pytest.raises(BudgetExceeded, match="left"):
                await stage.store.admit(ask(payer))
            for hold in holds:
                stage.store.settle(hold, NOTHING)
            await stage.settled()
            assert (await stage.store.admit(ask(payer))).nano == USUAL

    run(scenario)


def test_slots_come_back_on_every_way_out(stores: Any) -> None:
    """LiteLLM #20256: concurrency slots leaked until Redis was restarted."""
    payer = principal(triage := scope(budgets={Per.MINUTE: 2 * USUAL}, concurrent=2))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            for _ in range(5):
                first = await stage.store.admit(ask(payer))
                second = await stage.store.admit(ask(payer, output_tokens=100))
                with pytest.raises(LimitExceeded):
                    await stage.store.admit(ask(payer))
                with pytest.raises(BudgetExceeded):
                    await stage.store.renew(first, Settlement(spent_nano=0, unseen_nano=2 * USUAL))
                stage.store.settle(second, Settlement(spent_nano=0, rate_tokens=None))
                await stage.forward(60)

    run(scenario)


def test_a_refused_request_consumes_nothing(stores: Any) -> None:
    """LiteLLM #39309, and envoyproxy/ratelimit: denied hits counted against the limit."""
    payer = principal(triage := scope(requests=100, tokens=2_000))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            await stage.store.admit(ask(payer, tokens=1_500))
            for _ in range(30):
                with pytest.raises(LimitExceeded) as refused:
                    await stage.store.admit(ask(payer, tokens=1_000))
            assert refused.value.retry_after_seconds == pytest.approx(15, abs=2.1)  # leases are out
            hold = await stage.store.admit(ask(payer, tokens=1))
            assert hold.requests.remaining == 98

    run(scenario)


def test_spending_counts_once_in_each_scope(stores: Any) -> None:
    """LiteLLM #21894: several tags counted the same spend twice, 67% too much."""
    kinds = ("key", "feature", "team", "org")
    scopes = [scope(kind, f"the-{kind}", budgets={Per.DAY: 100 * USUAL}) for kind in kinds]

    async def scenario() -> None:
        async with stores.stage(*scopes) as stage:
            for _ in range(3):
                hold = await stage.store.admit(ask(principal(*scopes)))
                stage.store.settle(hold, Settlement(spent_nano=700))
            assert [view.spent_nano for view in await stage.views()] == [2_100] * 4

    run(scenario)


def test_a_cancelled_stream_is_neither_free_nor_charged_in_full(stores: Any) -> None:
    """LiteLLM #37558 recorded zero; new-api #5235 refunded all when usage was missing, #5288 charged all."""
    payer = principal(triage := scope(budgets={Per.DAY: 10 * USUAL}, tokens=1_100))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            seen = Settlement(spent_nano=300_000, unseen_nano=200_000, rate_tokens=None)
            stage.store.settle(hold, seen)
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (300_000, 0, 200_000)
            with pytest.raises(LimitExceeded):  # nor do its tokens come back
                await stage.store.admit(ask(payer, tokens=200))

    run(scenario)


def test_no_second_burst_at_the_turn_of_the_minute(stores: Any) -> None:
    """LiteLLM's "sliding" window is fixed, anchored at the first request: twice the limit at its end."""
    payer = principal(triage := scope(requests=60))

    async def scenario() -> None:
        async with stores.stage(triage) as stage:
            passed = 0
            for seconds in (59.0, 1.0, 1.0):
                for _ in range(70):
                    try:
                        stage.store.settle(await stage.store.admit(ask(payer)), NOTHING)
                        passed += 1
                    except LimitExceeded:
                        break
                await stage.forward(seconds)
            assert passed <= 60 + 60

    run(scenario)


# --- between workers ---


@pytest.mark.parametrize("kind", [RedisStores, LeasedStores])
def test_limits_belong_to_all_workers_together(redis_url: str, kind: type[RedisStores]) -> None:
    """LiteLLM #40291: limits per pod; Bifrost #3547: state of each replica let requests past the caps."""
    triage = scope(requests=20, concurrent=50, budgets={Per.DAY: 12 * USUAL})
    payer, org, stores = principal(triage), secrets.token_hex(6), kind(redis_url)

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            stores.stage(triage, org=org, clock=clock) as one,
            stores.stage(triage, org=org, clock=clock) as two,
        ):
            nano = 0
            for number in range(60):
                try:
                    hold = await (one, two)[number % 2].store.admit(ask(payer))
                except (LimitExceeded, BudgetExceeded):
                    continue
                nano += hold.nano
            assert 10 * USUAL < nano <= 12 * USUAL

    run(scenario)
