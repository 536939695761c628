"""A serving gateway books what its own GPUs cost, busy or not, and tells it as metrics."""

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.core.money import NANO_PER_USD
from gateway.core.pool_cost import SECOND
from gateway.finance import pool_accrual
from gateway.ledger.pool_costs import pool_spans, pool_sums
from gateway.ledger.spans import Span
from gateway.ledger.url import database_of
from tests.e2e.harness import Harness, chat, running, until

EVER = Span(None, None)
COST: dict[str, Any] = {
    "gpu": "H100-80GB",
    "gpus_per_replica": 8,
    "usd_per_gpu_hour": 3,
    "overhead_usd_per_month": 8000,
    "saturation_tokens_per_second": 2600,
}
POOL = {"deployments": {"scout": {"cost": COST}}}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_accrual, "ACCRUE_SECONDS", 0.02)


def spans_of(harness: Harness) -> Any:
    with database_of(f"sqlite:///{harness.ledger}").reading() as ledger:
        return pool_spans(ledger, EVER)


@pytest.mark.usefixtures("often")
async def test_each_moment_of_serving_is_booked_once_and_counted_as_booked(tmp_path: Path) -> None:
    before = int(time.time() * SECOND)
    async with running(tmp_path, POOL) as harness:
        await until(lambda: len(spans_of(harness)) >= 3)
        await harness.gateway.book_pools()
        found = spans_of(harness)
        assert before <= found[0].starts
        assert [one.starts for one in found[1:]] == [one.ends for one in found[:-1]]
        assert {one.estimated for one in found} == {False}
        counted = (await harness.metrics()).nano("pool_cost_usd_total", deployment="scout")
        # More was booked between the two readings, so the second says at least as much.
        assert (
            sum(one.nano_usd for one in spans_of(harness))
            >= counted
            >= sum(one.nano_usd for one in found)
            > 0
        )


async def test_the_latest_hour_gives_utilisation_and_what_a_million_tokens_cost(tmp_path: Path) -> None:
    async with running(tmp_path, POOL) as harness:
        assert (await harness.post(chat(model="scout"))).status_code == 200
        (row,) = await harness.rows()
        await harness.gateway.book_pools()
        with database_of(f"sqlite:///{harness.ledger}").reading() as ledger:
            cost = pool_sums(ledger, EVER)["scout"]
        work = row["input_tokens"] + 4 * row["output_tokens"]
        metrics = await harness.metrics()
        assert cost.capacity_tokens is not None
        assert float(metrics.sum("pool_utilisation_ratio", deployment="scout")) == work / (
            5 * cost.capacity_tokens
        )
        effective = metrics.nano("pool_effective_usd_per_million_tokens", deployment="scout")
        assert effective == cost.nano_usd * 1_000_000 // (row["input_tokens"] + row["output_tokens"])


@pytest.mark.usefixtures("often")
async def test_a_stop_books_until_its_own_moment(tmp_path: Path) -> None:
    async with running(tmp_path, POOL) as harness:
        began_to_stop = int(time.time() * SECOND)
    assert spans_of(harness)[-1].ends >= began_to_stop


@pytest.mark.usefixtures("often")
async def test_another_price_holds_from_the_reload_that_brings_it(tmp_path: Path) -> None:
    async with running(tmp_path, POOL) as harness:
        changed = {"deployments": {"scout": {"cost": COST | {"usd_per_gpu_hour": 2}}}}
        await harness.reload(changed)
        await harness.gateway.book_pools()
        found = spans_of(harness)
    prices = [one.nano_usd_per_gpu_hour // NANO_PER_USD for one in found]
    assert sorted(prices, reverse=True) == prices
    assert set(prices) == {3, 2}
    assert [one.starts for one in found[1:]] == [one.ends for one in found[:-1]]
