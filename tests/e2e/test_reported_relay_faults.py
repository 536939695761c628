"""How other gateways lost money on the way of a request, each as a specification that names its ticket.

What a store of limits and budgets has to do with is in tests/quota/test_reported_budget_faults.py.
"""

import asyncio
from pathlib import Path

import pytest

from tests.core.files import problems
from tests.e2e.harness import chat, running

SEARCH_BUDGET = {"features": {"search": {"budgets": [{"usd": "0.02", "per": "lifetime"}]}}}


def test_a_model_without_a_price_is_not_served(tmp_path: Path) -> None:
    """LiteLLM #35524: models without a price skipped the reservation."""
    (found,) = problems(
        tmp_path,
        ("model: gpt-4o-2024-11-20", "model: gpt-9"),
        ("    price: {input: 2.50, cached_input: 1.25, output: 10.00}", "    # no price"),
    )
    assert "nobody knows what gpt-9 at openai costs" in str(found)


@pytest.mark.parametrize("model", ["gpt-4o", "scout", "auto"])
async def test_a_budget_binds_whatever_name_the_model_was_asked_by(tmp_path: Path, model: str) -> None:
    """Envoy AI Gateway #1866: quota inert when model names differed; LiteLLM #25874: own GPUs were free."""
    async with running(tmp_path, SEARCH_BUDGET) as harness:
        answers = [await harness.post(chat(model=model, max_tokens=1_000)) for _ in range(3)]
        assert answers[0].status_code == 200
        await harness.settled()
        rows = await harness.rows()
        metrics = await harness.metrics()
        assert sum(row["cost_nano_usd"] for row in rows) > 0
        assert metrics.nano("budget_spent_usd", scope="feature", name="search") == sum(
            row["cost_nano_usd"] for row in rows
        )


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/files", "/v1/fine_tuning/jobs", "/openai/v1/chat"])
async def test_no_route_passes_by_the_budgets(tmp_path: Path, path: str) -> None:
    """Bifrost #2873: passthrough routes bypassed budgets; LiteLLM #35358: batches were never billed."""
    async with running(tmp_path, SEARCH_BUDGET) as harness:
        assert (await harness.post(chat(), path=path)).status_code == 404
        assert harness.attempts() == []


async def test_a_stream_that_its_client_left_is_in_the_ledger(tmp_path: Path) -> None:
    """LiteLLM #35958: interrupted streams were not logged."""
    async with running(tmp_path, SEARCH_BUDGET) as harness:
        harness.external.set_knobs(tokens_per_second=50)
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b"data: ", 3)
        await harness.settled()
        (row,) = await harness.rows()
        assert row["cost_nano_usd"] > 0
        assert row["estimated"]


async def test_stopping_drops_no_row(tmp_path: Path) -> None:
    """LiteLLM #34805: rows were dropped at shutdown."""
    async with running(tmp_path) as harness:
        answers = await asyncio.gather(*(harness.post(chat(f"Question {n}")) for n in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        await harness.stop()
        assert len(harness.stored_rows()) == 20
