"""A whole gateway on shared state: two of them share one budget, and what is spent agrees with the ledger."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop

from tests.e2e.harness import running

MODES = ["exact", "leased"]


@pytest.mark.parametrize("mode", MODES)
def test_two_gateways_share_a_budget(redis_url: str, tmp_path: Path, mode: str) -> None:
    changes: dict[str, Any] = {
        "state": redis_url,
        "admission": mode,
        "org": {"name": f"acme-{mode}", "budgets": [{"usd": "0.05", "per": "day"}]},
    }

    async def scenario() -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        async with running(tmp_path / "one", changes) as one, running(tmp_path / "two", changes) as two:
            refused = answered = 0
            clients = [one.client(), two.client()]
            for number in range(400):
                try:
                    await clients[number % 2].chat.completions.create(
                        model="gpt-4o",
                        messages=[{"role": "user", "content": "Say something long."}],
                        max_tokens=200,
                    )
                    answered += 1
                except openai.RateLimitError as refusal:
                    assert refusal.code == "insufficient_quota"
                    refused += 1
                    if refused > 4:
                        break
            rows = [*await one.rows(), *await two.rows()]
            spent = sum(row["cost_nano_usd"] for row in rows)
            assert answered
            assert refused
            assert spent <= 50_000_000

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
