"""What finance does at the terminal while a real `tollway serve` goes on: prices, corrections, closing."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.ledger.reports import usage_by
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import APP_KEY, chat, simulators
from tests.ledger.journal.served import Served
from tests.ledger.postgres_server import postgres_server

SCENARIO_SECONDS = 300  # a hang fails the test; nothing is measured against it
FAST = Knobs(ttft_ms=1, ttft_jitter_ms=1, tokens_per_second=10_000, output_tokens=3)
CHANGES = {"server": {"prices_refresh_seconds": 0.1, "log_level": "warning"}}
PRICE = ("openai", "gpt-4o-2024-11-20", "--from", "2026-01-01", "--input", "100", "--output", "400")


class Finance:
    """A terminal beside a running gateway, and a client who asks it something now and then."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def tollway(self, *words: str) -> Result:
        """A command on the gateway's configuration that works."""
        words = (*words, "--config", str(self._served.config))
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env=self._served.environ)
        assert done.exit_code == 0, done.output
        return done

    async def ask(self) -> int:
        """What one request cost, in nano-USD."""
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {APP_KEY}"}) as http:
            answer = await http.post(f"{self._served.data_url}/v1/chat/completions", json=chat())
        assert answer.status_code == 200
        return int(answer.headers["x-tollway-cost-usd"].replace(".", ""))

    async def rows(self) -> int:
        return int(json.loads((await self.tollway("ledger", "status", "--format", "json")).stdout)["rows"])

    async def totals(self) -> dict[str, Any]:
        return dict(json.loads((await self.tollway("ledger", "rebuild", "--format", "json")).stdout))


async def play(served: Served, url: str) -> None:
    finance = Finance(served)
    async with served.running():
        before = await finance.ask()
        await finance.tollway("prices", "set", *PRICE)
        asked = 2
        while (after := await finance.ask()) == before:  # until the gateway has looked for prices
            asked += 1
        assert after == 40 * before  # 2.50 became 100, and 10 became 400
        while await finance.rows() < asked:
            await asyncio.sleep(0.05)
        corrected = await finance.tollway(
            "prices", "reprice", "--since", "2026-01-01", "--until", "2100-01-01", "--yes"
        )
        assert "corrected 0" not in corrected.stdout
        assert f"{after * asked / 10**9:.9f}" == (await finance.totals())["cost_usd"]
        row, correction = usage_by(url, "feature")
        assert (row.requests, correction.requests) == (asked, 0)
        assert (row.cost_usd + correction.cost_usd) * 10**9 == after * asked
        await finance.tollway("ledger", "close", "2026-01", "--yes")
        assert await finance.ask() == after


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_prices_are_entered_and_applied_while_the_gateway_serves(tmp_path: Path, kind: str) -> None:
    async def scenario(url: str) -> None:
        async with asyncio.timeout(SCENARIO_SECONDS), AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = {"server": CHANGES["server"] | {"journal_dir": str(tmp_path / "journal")}}
            await play(Served(tmp_path, hosted, pool, changes, url), url)

    if kind == "sqlite":
        asyncio.run(scenario(f"sqlite:///{tmp_path / 'ledger.db'}"))
    else:
        with postgres_server() as server:
            asyncio.run(scenario(server.url()))
