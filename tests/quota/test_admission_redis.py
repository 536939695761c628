"""What only a shared store does: many workers, leases of holds, settling exactly once, one round trip."""

import asyncio
import itertools
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from gateway.clock import SystemClock
from gateway.core.admission import Settlement, fit_output, hold_nano
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Principal
from gateway.core.windows import Per
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.client import RedisClient
from gateway.quota.redis.layout import SettlementRow
from gateway.quota.redis.replies import Applied, Gap
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.shared_counters import share_counters
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import PATIENT, MemoryStores, RedisStores, ready, run

USUAL = 1_100_000


@pytest.fixture
def shared(redis_url: str) -> RedisStores:
    return RedisStores(redis_url)


def test_workers_share_every_counter(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 3 * USUAL}, concurrent=3, requests=10))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            shared.stage(triage, org="acme-shared", clock=clock) as one,
            shared.stage(triage, org="acme-shared", clock=clock) as two,
        ):
            hold = await one.store.admit(ask(payer))
            await two.store.admit(ask(payer))
            last = await one.store.admit(ask(payer))
            assert last.requests.remaining == 7
            with pytest.raises(LimitExceeded):
                await two.store.admit(ask(payer))
            one.store.settle(hold, Settlement(spent_nano=5))
            await one.settled()
            view = await two.view()
            assert (view.spent_nano, view.held_nano) == (5, 2 * USUAL)

    run(scenario)


def test_concurrent_admits_of_two_workers_never_pass_the_limit(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 100 * USUAL}))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            shared.stage(triage, org="acme-race", clock=clock) as one,
            shared.stage(triage, org="acme-race", clock=clock) as two,
        ):
            asks = [stage.store.admit(ask(payer)) for _ in range(100) for stage in (one, two)]
            results = await asyncio.gather(*asks, return_exceptions=True)
            refused = [result for result in results if isinstance(result, BudgetExceeded)]
            assert len(refused) == 100
            assert (await one.view()).held_nano == 100 * USUAL

    run(scenario)


def test_one_round_trip_and_one_command_a_request(shared: RedisStores) -> None:
    scopes = [
        scope(
            kind,
            kind,
            requests=1000,
            tokens=10**8,
            concurrent=500,
            budgets={Per.DAY: 10**15, Per.MONTH: 10**15},
        )
        for kind in ("key", "feature", "team", "org")
    ]
    payer = principal(*scopes)

    async def scenario() -> None:
        async with shared.stage(*scopes) as stage:
            before = commands(stage.server)
            holds = await asyncio.gather(*(stage.store.admit(ask(payer)) for _ in range(200)))
            assert commands(stage.server) - before == 200
            for hold in holds:
                stage.store.settle(hold, Settlement(spent_nano=1))
            await stage.store.flush()
            # All settlements of one tick are one command.
            assert commands(stage.server) - before == 201

    run(scenario)


def commands(server: Any) -> int:
    stats = server.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("fcall", "evalsha"))


def test_a_hold_lives_while_its_worker_does(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 3 * USUAL}, concurrent=1))

    async def scenario() -> None:
        async with shared.stage(triage) as stage:
            hold = await stage.store.admit(ask(payer))
            for _ in range(10):
                await stage.forward(15)
                await stage.store.upkeep.tick()
            with pytest.raises(LimitExceeded):
                await stage.store.admit(ask(payer))
            stage.store.settle(hold, Settlement(spent_nano=1))
            view = await stage.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (1, 0, 0)

    run(scenario)


def test_a_dead_workers_hold_counts_as_spent_until_it_is_known(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 3 * USUAL}, concurrent=1))

    async def scenario() -> None:
        clock = ToldClock()
        async with (
            shared.stage(triage, org="acme-dead", clock=clock) as dead,
            shared.stage(triage, org="acme-dead", clock=clock) as alive,
        ):
            hold = await dead.store.admit(ask(payer))
            await alive.forward(31)
            await alive.store.admit(ask(payer))  # its slot is free by itself
            assert await alive.store.upkeep.sweep() == 1
            assert await alive.store.upkeep.sweep() == 0
            view = await alive.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (0, USUAL, USUAL)
            dead.store.settle(hold, Settlement(spent_nano=70, unseen_nano=7))
            await dead.settled()
            view = await alive.view()
            assert (view.spent_nano, view.held_nano, view.unseen_nano) == (70, USUAL, 7)

    run(scenario)


def test_a_repeated_batch_changes_nothing_and_none_overtakes(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 9 * USUAL}))

    async def scenario() -> None:
        async with shared.stage(triage) as stage:
            holds = [await stage.store.admit(ask(payer)) for _ in range(2)]
            counters, worker = stage.shared.store, stage.shared.holds.worker_id
            rows = [[SettlementRow(hold.token.id, 50, 0, -1)] for hold in holds]
            for _ in range(3):
                assert isinstance(await counters.settle(worker, 1, rows[0]), Applied)
            assert isinstance(await counters.settle(worker, 3, rows[1]), Gap)
            await stage.store.upkeep.refresh()
            view = stage.store.budgets()[0]
            assert (view.spent_nano, view.held_nano) == (50, USUAL)

    run(scenario)


def test_a_cancelled_admit_leaves_nothing_behind(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 9 * USUAL}, concurrent=1))

    async def scenario() -> None:
        async with shared.stage(triage) as stage:
            task = asyncio.ensure_future(stage.store.admit(ask(payer)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            view = await stage.view()
            assert (view.spent_nano, view.held_nano) == (0, 0)
            await stage.store.admit(ask(payer))

    run(scenario)


def test_a_window_that_a_wild_clock_opened_does_not_outlive_it(shared: RedisStores) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: USUAL}))

    async def scenario() -> None:
        async with shared.stage(triage) as stage:
            await stage.jump(400 * 86_400.0)
            stage.store.settle(await stage.store.admit(ask(payer)), Settlement(spent_nano=USUAL))
            await stage.jump(-400 * 86_400.0)
            await stage.store.admit(ask(payer))

    run(scenario)


@pytest.mark.parametrize("explicit", [True, False])
def test_the_server_computes_caps_as_the_core_does(shared: RedisStores, explicit: bool) -> None:
    rates = [1, 7, 999_999, 1_000_000_000, 2_500_000_001, 76_800_000_000_003]

    async def scenario() -> None:
        for limit in [99_999, 1_234_567_891, 4_000_000_000_000_001]:
            payer = principal(triage := scope(budgets={Per.DAY: limit}))
            async with shared.stage(triage) as stage:
                for rate in rates:
                    for tokens in (1, 15, 4_096, 1_000_003):
                        given = ask(
                            payer,
                            prompt_nano=99_990,
                            output_nano_per_million=rate,
                            output_tokens=tokens,
                            output_is_explicit=explicit,
                        )
                        expected = fit_output(given, limit)
                        if expected is None:
                            with pytest.raises(BudgetExceeded):
                                await stage.store.admit(given)
                            continue
                        hold = await stage.store.admit(given)
                        assert (hold.output_tokens, hold.nano) == (expected, hold_nano(given, expected))
                        stage.store.settle(hold, Settlement(spent_nano=0))
                        await stage.store.flush()

    run(scenario)


@pytest.mark.parametrize("choices", [1, 3])
def test_the_server_fits_caps_into_tokens_as_memory_does(shared: RedisStores, choices: int) -> None:
    prompts, wanted = (1, 90, 700), (3, 16, 900, 1_023, 1_025, 16_384)

    async def outcome(stage: Any, payer: Principal, prompt: int, output: int) -> object:
        given = ask(
            payer,
            prompt_tokens=prompt,
            output_tokens=output,
            output_is_explicit=False,
            choices=choices,
        )
        try:
            hold = await stage.store.admit(given)
        except LimitExceeded as refused:
            return round(refused.retry_after_seconds, 3)
        stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=None))
        return hold.output_tokens, hold.rate_tokens, hold.tokens.remaining

    async def scenario() -> None:
        for per_minute in (50, 1_000, 9_999, 200_000):
            triage = scope(tokens=per_minute)
            payer = principal(triage)
            async with shared.stage(triage) as stage, MemoryStores().stage(triage) as memory:
                for prompt, output in itertools.product(prompts, wanted):
                    expected = await outcome(memory, payer, prompt, output)
                    assert await outcome(stage, payer, prompt, output) == pytest.approx(expected, abs=0.002)
                    await memory.forward(2)
                    await stage.forward(2)

    run(scenario)


def test_versions_of_the_functions_live_side_by_side(redis_url: str) -> None:
    old, new = Scripts(), Scripts("-- changed\nlocal function clock(_keys)\n  return 1\nend")
    assert old.library != new.library
    with redis.Redis.from_url(redis_url) as server:
        for scripts in (old, new, old):
            try:
                server.execute_command("FUNCTION", "LOAD", scripts.source)
            except redis.ResponseError as exc:
                assert "already exists" in str(exc)
        listed = str(server.execute_command("FUNCTION", "LIST"))
        assert old.library in listed
        assert new.library in listed


def test_without_function_the_same_text_runs_as_scripts(redis_url: str) -> None:
    payer = principal(triage := scope(budgets={Per.DAY: 2 * USUAL}))

    async def scenario() -> None:
        with redis.Redis.from_url(redis_url) as server:
            server.execute_command(
                "ACL", "SETUSER", "narrow", "on", ">pass", "~*", "+@all", "-function", "-fcall"
            )
        url = redis_url.replace("redis://", "redis://narrow:pass@")
        client = RedisClient(parse_target(url), "acme-narrow", Scripts(), PATIENT)
        clock = SystemClock()
        shared = share_counters(client, clock, ZoneInfo("UTC"))
        store = RedisAdmission(shared, clock, quarantine_seconds=0.0)
        store.configure([triage], ZoneInfo("UTC"))
        await store.start()
        try:
            await ready(store)
            hold = await store.admit(ask(payer))
            store.settle(hold, Settlement(spent_nano=USUAL))
            await store.admit(ask(payer))
            with pytest.raises(BudgetExceeded):
                await store.admit(ask(payer))
        finally:
            await store.close()

    run(scenario)
