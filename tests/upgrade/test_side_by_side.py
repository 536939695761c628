"""Side by side: during a rollout an old and a new gateway serve the same clients, and count as one.

They share the Valkey that counts limits and budgets, the PostgreSQL that keeps the ledger, and the folder of
journals. What one of them has taken, the other cannot give away. What dies with the old one, the new
one books. What dies with the new one is booked by its writer, a process of its own, before that ends too.
"""

import asyncio
import time

import httpx
import msgspec
import pytest

from tests.upgrade.books import billed, disagreements, total
from tests.upgrade.clients import Load, ask, chat, sender
from tests.upgrade.gateway import Gateway
from tests.upgrade.installation import Installation, Json
from tests.upgrade.installer import Installer
from tests.upgrade.ledgers import Row
from tests.upgrade.prices import NANO
from tests.upgrade.releases import Release
from tests.upgrade.shared_state import Counters, SharedState
from tests.upgrade.upstreams import Seen, Upstreams
from tests.upgrade.waiting import until, until_true

CLIENTS = 12
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENT = 30, 3_000, 8
BUDGET_NANO = 50_000_000  # some two hundred requests
FEATURES: Json = {
    "search": {"team": "product", "budgets": [{"usd": BUDGET_NANO / NANO, "per": "lifetime"}]},
    "by-requests": {"team": "product", "limits": {"requests_per_minute": REQUESTS_PER_MINUTE}},
    "by-tokens": {"team": "product", "limits": {"tokens_per_minute": TOKENS_PER_MINUTE}},
    "at-once": {"team": "product", "limits": {"concurrent": CONCURRENT}},
}

HOSTED = {"ttft_ms": 5, "tokens_per_second": 500, "output_tokens": 40}
REPLICA = {"ttft_ms": 2, "tokens_per_second": 1000, "output_tokens": 30}
LONG_ANSWERS = {"output_tokens": 100}
NO_ANSWER = {"ttft_ms": 3_600_000}


class Rollout(msgspec.Struct, kw_only=True):
    """An old and a new gateway, and all that they share."""

    installation: Installation
    state: SharedState
    upstreams: Upstreams
    is_exact: bool
    victim: str  # old or new
    gateways: dict[str, Gateway] = {}

    async def begin(self, old: Release, new: Release) -> None:
        """Both serve, whoever was killed before."""
        missing = [
            (name, release)
            for name, release in (("old", old), ("new", new))
            if name not in self.gateways or not self.gateways[name].is_alive
        ]
        started = await self.installation.start(*(release for _, release in missing))
        self.gateways |= {name: gateway for (name, _), gateway in zip(missing, started, strict=True)}
        await self.upstreams.behave(HOSTED, REPLICA)

    async def ask_both(self, feature: str, body: Json, each: int) -> list[httpx.Response]:
        """So many requests to each, all at once."""
        both = list(self.gateways.values()) * each
        async with sender() as http:
            return await asyncio.gather(*(ask(http, gateway, feature, body) for gateway in both))

    async def comes_to_rest(self) -> tuple[list[Seen], list[Row]]:
        """What upstreams saw and what is booked, once nothing is held and all that has ended is committed."""
        await until(lambda: self.state.is_at_rest() and not self.installation.dead_journals())
        seen = await self.upstreams.at_rest()
        for gateway in self.gateways.values():
            if gateway.is_alive:
                await until_true(gateway.has_committed_all)
        # One that leases may have taken a part anew meanwhile, and gives it back unused.
        await until(self.state.is_at_rest)
        return seen, await self.installation.ledger.rows()

    def check_understood(self) -> None:
        """Neither has met anything that it does not know."""
        assert self.installation.set_aside() == []
        assert self.state.foreign_keys() == set()
        for gateway in self.gateways.values():
            assert gateway.complaints() == []

    def both_have_answered(self, load: Load, count: int) -> bool:
        return min(load.by_gateway[gateway] for gateway in self.gateways.values()) >= count


@pytest.fixture(scope="module", params=[("exact", "old"), ("leased", "new")], ids=lambda param: param[0])
def installed(request: pytest.FixtureRequest, installer: Installer, upstreams: Upstreams) -> Rollout:
    """One that counts each request in Valkey, and one whose gateways lease parts of what is left."""
    admission, victim = request.param

    async def install() -> Rollout:
        await upstreams.begin(HOSTED, REPLICA)
        installation = await installer.for_several(FEATURES, admission=admission)
        assert installation.state is not None
        return Rollout(
            installation=installation,
            state=installation.state,
            upstreams=upstreams,
            is_exact=admission == "exact",
            victim=victim,
        )

    return asyncio.run(install())


@pytest.fixture
def rollout(installed: Rollout, old: Release, new: Release) -> Rollout:
    asyncio.run(installed.begin(old, new))
    return installed


async def test_requests_a_minute_are_counted_together(rollout: Rollout) -> None:
    begin = time.monotonic()
    answers = await rollout.ask_both("by-requests", chat("scout", 5), 2 * REQUESTS_PER_MINUTE)
    drained = (time.monotonic() - begin) * REQUESTS_PER_MINUTE / 60
    admitted = sum(answer.status_code == 200 for answer in answers)
    assert admitted <= REQUESTS_PER_MINUTE + drained
    assert admitted >= (REQUESTS_PER_MINUTE if rollout.is_exact else 1)


async def test_tokens_a_minute_are_counted_together(rollout: Rollout) -> None:
    await rollout.upstreams.behave(HOSTED, LONG_ANSWERS)
    begin = time.monotonic()
    await rollout.ask_both("by-tokens", chat("scout", 100), 40)
    drained = (time.monotonic() - begin) * TOKENS_PER_MINUTE / 60
    _, rows = await rollout.comes_to_rest()
    used = total(rows, "input_tokens", feature="by-tokens") + total(
        rows, "output_tokens", feature="by-tokens"
    )
    assert 0 < used <= TOKENS_PER_MINUTE + drained


async def test_slots_of_requests_under_way_are_shared(rollout: Rollout) -> None:
    """No more than the limit get one, and each is given back when its client leaves."""
    await rollout.upstreams.behave(HOSTED, NO_ANSWER)
    both = list(rollout.gateways.values()) * 2 * CONCURRENT
    async with sender() as http:
        asked = [asyncio.create_task(ask(http, one, "at-once", chat("scout", 5))) for one in both]

        async def everyone_knows() -> bool:
            refused = sum(task.done() for task in asked)
            return refused + await rollout.upstreams.running() == len(asked)

        await until_true(everyone_knows)
        admitted = await rollout.upstreams.running()
        for task in asked:
            task.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert admitted <= CONCURRENT
    assert admitted >= (CONCURRENT if rollout.is_exact else 1)
    assert not any(isinstance(answer, httpx.Response) and answer.is_success for answer in answers)
    await until(lambda: not rollout.state.slots())


async def test_counters_that_were_lost_are_made_again_by_both_together(rollout: Rollout) -> None:
    """Hard budgets open once both stand still: what one of them has not booked by then would be forgotten."""
    load = Load(list(rollout.gateways.values()), "search")
    async with load.running(CLIENTS):
        await until(lambda: rollout.both_have_answered(load, 5))
        rollout.state.lose_everything()
        await until(rollout.state.is_open)
        answered = len(load.answered)
        await until(lambda: len(load.answered) > answered + 10)
    seen, rows = await rollout.comes_to_rest()
    assert disagreements(seen, rows, load.answered) == []
    assert rollout.state.budgets() == {
        f"org:{rollout.state.org}|lifetime": _booked(rows),
        "team:product|rolling_month": _booked(rows),
        "feature:search|lifetime": _booked(rows, feature="search"),
    }
    rollout.check_understood()


async def test_a_budget_is_not_overspent_though_one_of_them_is_killed(
    rollout: Rollout, old: Release, new: Release
) -> None:
    """Its journal is brought in, and the other goes on until the budget of both has run out."""
    load = Load(list(rollout.gateways.values()), "search")
    async with load.running(CLIENTS):
        await until(lambda: rollout.both_have_answered(load, 10))
        rollout.gateways[rollout.victim].kill()
        await until(lambda: load.refused["insufficient_quota"] > CLIENTS)
    seen, rows = await rollout.comes_to_rest()
    assert disagreements(seen, rows, load.answered) == []
    searches = {row["attempt_id"] for row in rows if row["feature"] == "search"}
    true = sum(billed(attempt) for attempt in seen if attempt.attempt_id in searches)
    counted = rollout.state.budgets()["feature:search|lifetime"]
    assert 0 < true <= _booked(rows, feature="search").used <= BUDGET_NANO
    assert true <= counted.used <= BUDGET_NANO
    assert counted.held == 0
    rollout.check_understood()
    await check_told_the_same(rollout.installation, old, new)


async def check_told_the_same(installation: Installation, old: Release, new: Release) -> None:
    """Whatever version an operator has at hand."""
    by_old, by_new, audit = await asyncio.gather(
        old.report(installation.config, "budgets"),
        new.report(installation.config, "budgets"),
        new.report(installation.config, "audit", "verify"),
    )
    assert [_amounts(budget) for budget in by_new] == [_amounts(budget) for budget in by_old]
    assert audit["ok"], audit["findings"]


def _booked(rows: list[Row], **where: str) -> Counters:
    """What the ledger says that is spent, when nothing is held any more."""
    return Counters(total(rows, "cost_nano_usd", **where), 0, total(rows, "unseen_nano_usd", **where))


def _amounts(budget: Json) -> Json:
    """Without the moments: those of a rolling window move on."""
    return {name: value for name, value in budget.items() if not name.endswith("_at")}
