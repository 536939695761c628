"""Routes and accounts go one by one: with the key that expires, or that a reload changes; requests go on."""

import asyncio
import datetime as dt
import time
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.core.tenancy import Principal
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import NARROW_KEY, Harness, chat, running

BUDGETS = {"features": {"search": {"budgets": [{"usd": 10, "per": "lifetime"}]}}}


def kept_accounts(harness: Harness) -> dict[str, Principal]:
    """By key, the principals that have an account."""
    accounts: dict[Principal, object] = harness.gateway.pipeline._admission._accounts  # type: ignore[attr-defined]
    return {principal.key: principal for principal in accounts}


def kept_routes(harness: Harness) -> set[str]:
    return {principal.key for principal, _ in harness.gateway.pipeline.rulebook.routes._routes}


async def ask_as(harness: Harness, key: str) -> int:
    answer = await harness.post(chat(max_tokens=20), authorization=f"Bearer {key}")
    return answer.status_code


async def test_an_expired_key_takes_its_routes_and_account_and_disturbs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = dt.datetime.now(dt.UTC).date()
    changes = BUDGETS | {"keys": {"narrow": {"expires_on": (today + dt.timedelta(days=1)).isoformat()}}}
    knobs = Knobs(output_tokens=40, tokens_per_second=40)
    async with running(tmp_path, changes, external=knobs) as harness:
        assert (await harness.post(chat(max_tokens=1))).status_code == 200
        async with await harness.raw() as client:
            await client.request(chat(stream=True, max_tokens=40), key=NARROW_KEY)
            await client.read_until(b"\n\n", count=3)
            assert kept_accounts(harness).keys() == kept_routes(harness) == {"app", "narrow"}
            monkeypatch.setattr(SystemClock, "now", lambda _: time.time() + 2 * 86_400)
            assert await ask_as(harness, NARROW_KEY) == 401
            assert kept_accounts(harness).keys() == kept_routes(harness) == {"app"}
            await client.read_until(b"[DONE]")
        await harness.settled()
        metrics = await harness.metrics()
        assert metrics.nano("budget_held_usd") == 0
        rows = await harness.rows()
        assert metrics.nano("budget_spent_usd") == sum(row["cost_nano_usd"] for row in rows)


async def test_a_reload_keeps_the_accounts_about_which_nothing_changes(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGETS, external=Knobs(output_tokens=5)) as harness:
        for key in ("app", "narrow"):
            await harness.post(
                chat(max_tokens=5), **({} if key == "app" else {"authorization": f"Bearer {NARROW_KEY}"})
            )
        before = kept_accounts(harness)
        accounts = dict(harness.gateway.pipeline._admission._accounts)  # type: ignore[attr-defined]
        slow = asyncio.create_task(harness.post(chat(max_tokens=5)))
        changes = BUDGETS | {"keys": {"narrow": {"limits": {"requests_per_minute": 100}}}}
        assert (await harness.reload(changes)).status_code == 200
        assert (await slow).status_code == 200
        after = harness.gateway.pipeline._admission._accounts  # type: ignore[attr-defined]
        assert after[before["app"]] is accounts[before["app"]]
        assert before["narrow"] not in after
        assert (await harness.post(chat(max_tokens=5))).status_code == 200
        assert kept_accounts(harness)["app"] is before["app"]
        await harness.settled()
        rows = await harness.rows()
        spent = (await harness.metrics()).nano("budget_spent_usd")
        assert spent == sum(row["cost_nano_usd"] for row in rows)
