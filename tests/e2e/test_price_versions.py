"""Prices entered with `tollway prices` while a gateway serves: by the moment of dispatch, and on the row."""

import datetime as dt
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.core.pricing import PriceVersion
from gateway.core.rates import Rates
from gateway.ledger.price_versions import enter_prices
from gateway.policy.rollout.reloader import How
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import Harness, Json, chat, running, until

GPT_4O = {"provider": "openai", "model": "gpt-4o-2024-11-20"}
OFTEN = {"server": {"prices_refresh_seconds": 0.05}}


def version(name: str, usd_per_million: int = 1, **changes: Any) -> PriceVersion:
    nano = usd_per_million * 10**9
    given: dict[str, Any] = {
        **GPT_4O,
        "tier": "standard",
        "effective_from": 0,
        "version": name,
        "rates": Rates(
            input=nano, cached_input=nano, output=4 * nano, input_audio=nano, output_audio=4 * nano
        ),
        "entered_at": now(),
    }
    return PriceVersion(**(given | changes))


def now() -> int:
    return int(time.time() * 1_000_000)


def enter(harness: Harness, *versions: PriceVersion) -> None:
    enter_prices(f"sqlite:///{harness.ledger}", versions)


async def ask(harness: Harness, **more: Any) -> Json:
    """One request's row."""
    assert (await harness.post(chat(**more))).status_code == 200
    return (await harness.rows())[-1]


async def adopted(harness: Harness, count: int) -> None:
    await until(lambda: len(list(harness.gateway.pipeline.rulebook.routes.prices)) == count)


def priced(row: Json, nano_per_token: int) -> bool:
    tokens = row["input_tokens"] + 4 * row["output_tokens"]
    return bool(row["cost_nano_usd"] == tokens * nano_per_token)


async def test_a_price_entered_while_serving_holds_for_what_is_sent_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path, OFTEN) as harness:
        before = await ask(harness)
        enter(harness, version("autumn"))
        await adopted(harness, 1)
        after = await ask(harness)
        streamed = await ask(harness, stream=True)
    assert before["price_version"].startswith("config-")
    for row in (after, streamed):
        assert row["price_version"] == "autumn"
        assert priced(row, 1000)


async def test_a_price_entered_ahead_comes_into_force_by_the_clock_alone(tmp_path: Path) -> None:
    async with running(tmp_path, {"server": {"prices_refresh_seconds": 3600}}) as harness:
        begins = now() + 1_500_000
        enter(harness, version("now", 1), version("soon", 2, effective_from=begins))
        await harness.gateway.refresh_prices()
        rows = [await ask(harness)]
        await until(lambda: now() >= begins)
        rows.append(await ask(harness))
    for row in rows:
        name, nano = ("now", 1000) if row["at"] < begins else ("soon", 2000)
        assert row["price_version"] == name
        assert priced(row, nano)
    assert rows[-1]["price_version"] == "soon"


async def test_a_reload_takes_up_what_was_entered(tmp_path: Path) -> None:
    async with running(tmp_path, {"server": {"prices_refresh_seconds": 3600}}) as harness:
        enter(harness, version("reloaded"))
        await harness.gateway.adopt(harness.gateway.built, How.ADMIN)
        await adopted(harness, 1)
        assert (await ask(harness))["price_version"] == "reloaded"


async def test_prices_entered_before_the_start_hold_from_the_first_request_on(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        enter(harness, version("from the start"))
    async with running(tmp_path) as harness:
        assert (await ask(harness))["price_version"] == "from the start"


async def test_the_tier_that_the_response_names_decides(tmp_path: Path) -> None:
    flex = version("cheap", 1, tier="flex")
    async with running(tmp_path, OFTEN) as harness:
        enter(harness, version("plain", 2), flex)
        await adopted(harness, 2)
        plain = await ask(harness)
        asked = await ask(harness, service_tier="flex")
    assert plain["price_version"] == "plain"
    assert priced(plain, 2000)
    assert (asked["service_tier"], asked["price_version"]) == ("flex", "cheap")
    assert priced(asked, 1000)


async def test_budgets_and_counterfactuals_follow_the_price_in_force(tmp_path: Path) -> None:
    budget = {"features": {"search": {"budgets": [{"usd": 1, "per": "day"}]}}}
    async with running(tmp_path, OFTEN | budget) as harness:
        enter(harness, version("dear", 100))
        await adopted(harness, 1)
        hosted = await ask(harness)
        local = await ask(harness, model="auto")
        spent = (await harness.metrics()).nano("budget_spent_usd", scope="feature")
    assert spent == hosted["cost_nano_usd"] + local["cost_nano_usd"]
    assert priced(hosted, 100_000)
    elsewhere = local["counterfactual_nano_usd"]
    assert f'"gpt-4o":{100_000 * (local["input_tokens"] + 4 * local["output_tokens"])}' in elsewhere.replace(
        " ", ""
    )


async def test_an_answer_that_outlives_its_price_keeps_it(tmp_path: Path) -> None:
    slow = Knobs(ttft_ms=300, output_tokens=5)
    async with running(tmp_path, OFTEN, external=slow) as harness:
        enter(harness, version("old", 1))
        await adopted(harness, 1)
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await harness.arrived()
            enter(harness, version("new", 2))
            await adopted(harness, 2)
            await client.read_until(b"[DONE]")
        (row,) = await harness.rows()
    assert row["price_version"] == "old"
    assert priced(row, 1000)


async def test_a_gpu_price_with_a_date_starts_by_itself_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    cost = {
        "gpu": "H100",
        "usd_per_gpu_hour": [{"usd": 3.6}, {"since": tomorrow.isoformat(), "usd": 7.2}],
        "saturation_tokens_per_second": 1000,
    }
    changes = {"deployments": {"scout": {"price": None, "cost": cost}}}
    async with running(tmp_path, changes) as harness:
        before = await ask(harness, model="scout")
        # The gateway's clock alone moves on; nothing is loaded again.
        ahead = 86_400.0
        monkeypatch.setattr(SystemClock, "now", lambda _: time.time() + ahead)
        after = await ask(harness, model="scout")
    # A fifth of 1 USD per million tokens is for reading, four fifths for writing.
    assert priced(before, 200)
    assert priced(after, 400)
    assert before["price_version"] != after["price_version"]
