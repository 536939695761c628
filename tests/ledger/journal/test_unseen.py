"""What nobody saw the end of stays in the budgets: after kill -9 they open with spent and unseen money.

An attempt under way at the kill is booked as presumed: its cost is that of the prompt, and `unseen_nano_usd`
the rest of its hold, since the upstream may have generated up to it.
"""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, Metrics, chat, read_rows, simulators
from tests.ledger.journal.served import Served
from tests.ledger.ledger_records import until

SCENARIO_SECONDS = 300
FAST = Knobs(ttft_ms=1, ttft_jitter_ms=1, tokens_per_second=10_000, output_tokens=3)
NEVER = Knobs(ttft_ms=600_000, ttft_jitter_ms=0)
OUTPUT_TOKENS = 10_000  # of gpt-4o: 0.10 USD, and a little for the prompt
CHANGES = {"org": {"budgets": [{"usd": "0.15", "per": "lifetime"}]}}


async def ask(served: Served) -> httpx.Response:
    async with httpx.AsyncClient(timeout=None) as http:
        url = f"{served.data_url}/v1/chat/completions"
        headers = {"authorization": f"Bearer {APP_KEY}"}
        return await http.post(url, json=chat(max_tokens=OUTPUT_TOKENS), headers=headers)


async def used_nano(served: Served) -> tuple[int, int]:
    """Spent and unseen of the org's budget."""
    async with httpx.AsyncClient() as http:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        metrics = Metrics((await http.get(f"{served.admin_url}/metrics", headers=headers)).text)
    return metrics.nano("budget_spent_usd", scope="org"), metrics.nano("budget_unseen_usd", scope="org")


async def ask_and_be_cut_off(served: Served) -> None:
    with suppress(httpx.HTTPError):
        await ask(served)


def test_a_budget_after_kill_9_holds_what_was_spent_and_what_was_unseen(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            never, _ = await stack.enter_async_context(simulators(NEVER, [FAST, FAST]))
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            stuck = Served(tmp_path, never, pool, CHANGES)
            async with stuck.running() as process, asyncio.TaskGroup() as clients:
                clients.create_task(ask_and_be_cut_off(stuck))
                await until(never.attempts)
                process.kill()
            again = Served(tmp_path, hosted, pool, CHANGES)
            async with again.running():
                (presumed,) = read_rows(again.ledger)
                assert presumed["outcome"] == "presumed"
                assert presumed["cost_nano_usd"] + presumed["unseen_nano_usd"] == presumed["held_nano_usd"]
                assert await used_nano(again) == (presumed["cost_nano_usd"], presumed["unseen_nano_usd"])
                # What is left does not cover another answer of that length.
                answer = await ask(again)
                left_nano = 150_000_000 - presumed["held_nano_usd"]
                assert 0 < int(answer.headers["x-tollway-output-cap"]) * 10_000 <= left_nano

    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await scenario()

    asyncio.run(bounded())
