"""Leased admission: no round trip for most requests, nothing past any limit, nothing left behind."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Scope
from gateway.core.windows import Per
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.quota_lease import QuotaLease
from gateway.quota.redis.shared_counters import SharedCounters
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import LeasedStores, run
from tests.quota.test_admission_redis import commands

USUAL = 1_100_000
MUCH = 10**15


class PlainlyLeased(LeasedStores):
    """As it serves, but takes leases when told."""

    def store(self, exact: RedisAdmission, shared: SharedCounters, clock: ToldClock) -> Any:
        return LeasedAdmission(exact, shared, clock)


@pytest.fixture
def plain(redis_url: str) -> PlainlyLeased:
    return PlainlyLeased(redis_url)


def busy_scopes() -> list[Scope]:
    return [
        scope(
            kind,
            kind,
            requests=600_000,
            tokens=10**9,
            concurrent=20_000,
            budgets={Per.DAY: MUCH, Per.MONTH: MUCH},
        )
        for kind in ("key", "feature", "team", "org")
    ]


async def second(stage: Any, payers: Sequence[Any], requests: int) -> None:
    """One second of steady load: each request is admitted, lives for a moment, and is settled."""
    for number in range(requests):
        hold = await stage.store.admit(ask(payers[number % len(payers)]))
        stage.store.settle(hold, Settlement(spent_nano=1_000, rate_tokens=500))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await stage.forward_clock(1.0)
    await stage.store.renew_leases()


def test_steady_load_needs_no_round_trip_for_95_of_100_requests(plain: PlainlyLeased) -> None:
    scopes = busy_scopes()
    payers = [principal(*scopes) for _ in range(2)]

    async def scenario() -> None:
        async with plain.stage(*scopes) as stage:
            stage.forward_clock = lambda seconds: forward(stage, seconds)
            await second(stage, payers, 200)
            before = commands(stage.server)
            for _ in range(5):
                await second(stage, payers, 200)
            await stage.store.flush()
            assert commands(stage.server) - before <= 5 * 200 * 0.05
            for view in await stage.views():
                assert (view.spent_nano, view.held_nano) == (6 * 200 * 1_000, 0)

    run(scenario)


async def forward(stage: Any, seconds: float) -> None:
    stage.clock.forward(seconds)
    stage.tell()


@pytest.mark.parametrize("limit", [37 * USUAL, 4_000 * USUAL])
def test_workers_with_leases_never_pass_a_budget(plain: PlainlyLeased, limit: int) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: limit}))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            plain.stage(triage, org=f"acme-{limit}", clock=clock) as one,
            plain.stage(triage, org=f"acme-{limit}", clock=clock) as two,
        ):
            spent = 0
            for _ in range(6_000):
                for stage in (one, two):
                    try:
                        hold = await stage.store.admit(ask(payer))
                    except BudgetExceeded:
                        continue
                    stage.store.settle(hold, Settlement(spent_nano=USUAL))
                    spent += USUAL
                    assert spent <= limit
                if spent % (100 * USUAL) == 0:
                    await one.store.renew_leases()
                    await two.store.renew_leases()
                if spent == limit:
                    break
            one.store.return_leases()
            two.store.return_leases()
            await one.settled()
            await two.settled()
            view = await one.view()
            assert view.spent_nano == spent
            assert view.held_nano == 0
            assert limit - spent < 2 * USUAL + limit // 20

    run(scenario)


def test_leases_of_a_rate_let_no_instant_see_more_than_a_full_bucket(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(requests=600))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            admitted = 0
            for step in range(40):
                for _ in range(10):
                    await stage.store.admit(ask(payer))
                    admitted += 1
                await stage.store.renew_leases()
                clocked = 1.0 if step < 20 else 1.9
                await forward(stage, clocked)
            burst = 0
            for _ in range(1_000):
                try:
                    await stage.store.admit(ask(payer))
                except LimitExceeded:
                    break
                burst += 1
            assert burst <= 600

    run(scenario)


def test_slots_are_leased_and_never_more_than_there_are(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(concurrent=40))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            plain.stage(triage, org="acme-slots", clock=clock) as one,
            plain.stage(triage, org="acme-slots", clock=clock) as two,
        ):
            holds: list[tuple[Any, Hold]] = []
            for number in range(200):
                for stage in (one, two):
                    try:
                        holds.append((stage, await stage.store.admit(ask(payer))))
                    except LimitExceeded:
                        done, hold = holds.pop(number % len(holds))
                        done.store.settle(hold, Settlement(spent_nano=0))
                assert len(holds) <= 40
                if number % 9 == 0:
                    await one.store.renew_leases()
                    await two.store.renew_leases()
            for stage, hold in holds:
                stage.store.settle(hold, Settlement(spent_nano=0))
            await one.settled()
            await two.settled()
            assert one.server.zcard("tollway:{acme-slots}:slots:feature:triage") == 0
            assert one.server.hlen("tollway:{acme-slots}:holds") == 0

    run(scenario)


def test_a_dead_workers_lease_expires_as_presumed(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 1_000 * USUAL}))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            plain.stage(triage, org="acme-lease", clock=clock) as dead,
            plain.stage(triage, org="acme-lease", clock=clock) as alive,
        ):
            for _ in range(20):
                dead.store.settle(await dead.store.admit(ask(payer)), Settlement(spent_nano=10))
            await dead.store.renew_leases()
            await dead.store.flush()
            hold = await dead.store.admit(ask(payer))
            assert hold.token is not None
            before = await alive.view()
            assert 0 < before.held_nano <= 20 * USUAL
            await forward(alive, 31)
            await alive.store.upkeep.sweep()
            view = await alive.view()
            assert (view.held_nano, view.unseen_nano) == (0, before.held_nano)
            # It was not dead: what it knows replaces what was presumed.
            dead.store.settle(hold, Settlement(spent_nano=10))
            dead.store.return_leases()
            await dead.store.flush()
            view = await alive.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (210, 0, 0)

    run(scenario)


def test_a_lease_lives_as_long_as_its_requests(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 1_000 * USUAL}))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=10))
            await stage.store.renew_leases()
            hold = await stage.store.admit(ask(payer))
            assert isinstance(hold.token, QuotaLease)
            for _ in range(20):
                await forward(stage, 10)
                await stage.store.renew_leases()
                await stage.store.upkeep.tick()
            await stage.store.flush()
            view = (stage.store.budgets())[0]
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (200, USUAL, 0)
            hold = await stage.store.renew(hold, Settlement(spent_nano=10))
            stage.store.settle(hold, Settlement(spent_nano=10))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (220, 0, 0)

    run(scenario)


def test_a_retry_out_of_a_returned_lease_is_held_once(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 1_000 * USUAL}))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=0))
            await stage.store.renew_leases()
            hold = await stage.store.admit(ask(payer))
            assert isinstance(hold.token, QuotaLease)
            stage.store.return_leases()
            hold = await stage.store.renew(hold, Settlement(spent_nano=10))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (10, USUAL, 0)
            stage.store.settle(hold, Settlement(spent_nano=20))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (30, 0, 0)

    run(scenario)


def test_a_retry_may_use_what_this_worker_only_leased(plain: PlainlyLeased) -> None:
    """Money that lies in our own lease must not refuse the second attempt of our own request."""
    payer = principal(triage := scope(budgets={Per.DAY: 1_000 * USUAL}))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            for _ in range(20):
                stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=0))
            await stage.store.renew_leases()
            hold = await stage.store.admit(ask(payer, output_tokens=14_000))
            assert isinstance(hold.token, QuotaLease)
            rest = await stage.store.exact.admit(ask(payer, output_tokens=10**7))
            assert rest.is_capped, "it took all that the server had left"
            hold = await stage.store.renew(hold, Settlement(spent_nano=hold.nano))
            assert 0 < hold.output_tokens < 14_000
            for item in (hold, rest):
                stage.store.settle(item, Settlement(spent_nano=0))
            assert (await stage.view()).held_nano == 0

    run(scenario)


def test_answers_that_outlive_their_lease_give_back_what_they_did_not_use(plain: PlainlyLeased) -> None:
    """Another answer keeps the same lease open meanwhile."""
    payer = principal(triage := scope(tokens=600_000, typical=True))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            wanted = ask(payer, typical_output=900)
            for _ in range(20):
                hold = await stage.store.admit(wanted)
                stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=1_000))
            await stage.store.renew_leases()
            holds = [await stage.store.admit(wanted) for _ in range(20)]
            leases = {id(hold.token) for hold in holds}
            assert len(leases) == 1 and isinstance(holds[0].token, QuotaLease)
            stage.store.return_leases()
            await forward(stage, 2.5)  # until what was leased and not used is worth nothing
            fill = await stage.store.exact.admit(ask(payer, tokens=500_000))
            before = fill.tokens.remaining
            for hold in holds[1:]:
                stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=100))
            await stage.store.renew_leases()
            await stage.store.flush()
            probe = await stage.store.exact.admit(ask(payer, tokens=1))
            assert probe.tokens.remaining == before + 19 * 900 - 1

    run(scenario)


def test_a_debt_of_a_leased_answer_counts_for_the_very_next_request(plain: PlainlyLeased) -> None:
    payer = principal(triage := scope(tokens=6_000, typical=True))

    async def scenario() -> None:
        async with plain.stage(triage) as stage:
            wanted = ask(payer, typical_output=50)
            for _ in range(10):
                hold = await stage.store.admit(wanted)
                stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=105))
            await stage.store.renew_leases()
            hold = await stage.store.admit(wanted)
            assert isinstance(hold.token, QuotaLease)
            stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=9_000))
            with pytest.raises(LimitExceeded) as refused:
                await stage.store.admit(wanted)
            assert refused.value.retry_after_seconds is not None
            assert refused.value.retry_after_seconds > 30

    run(scenario)
