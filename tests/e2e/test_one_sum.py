"""One run of traffic, five books: rows, budget counters, metrics, the usage report and the FOCUS export."""

import asyncio
import datetime as dt
from decimal import Decimal
from pathlib import Path

from sqlalchemy import create_engine, select

from gateway.core import calendar
from gateway.core.focus import Version, focus_table
from gateway.finance.charges import Sides, charges_of, period_of
from gateway.ledger.tables import pool_cost
from tests.e2e.harness import Harness, Json, chat, running

CHANGES: Json = {
    "org": {"name": "acme", "budgets": [{"usd": 100, "per": "month"}]},
    "deployments": {
        "scout": {
            "cost": {
                "gpu": "H100",
                "gpus_per_replica": 8,
                "usd_per_gpu_hour": 2.99,
                "saturation_tokens_per_second": 2600,
                "idle": "apart",
            }
        }
    },
}


async def traffic(harness: Harness) -> None:
    asked = [
        (feature, chat(f"Question {number}.", model=model, max_tokens=7 + number, stream=number % 3 == 0))
        for number, (feature, model) in enumerate(
            (feature, model) for feature in ("search", "triage") for model in ("auto", "scout", "gpt-4o") * 4
        )
    ]
    answers = await asyncio.gather(
        *(harness.post(body, x_tollway_feature=feature) for feature, body in asked)
    )
    assert {answer.status_code for answer in answers} == {200}
    await harness.settled()


def pool_bill(ledger: Path) -> int:
    engine = create_engine(f"sqlite:///{ledger}")
    try:
        with engine.connect() as connection:
            columns = pool_cost.c.gpu_nano_usd, pool_cost.c.overhead_nano_usd
            return sum(gpu + overhead for gpu, overhead in connection.execute(select(*columns)))
    finally:
        engine.dispose()


async def test_all_books_hold_the_same_sum_to_the_nano_dollar(tmp_path: Path) -> None:
    month = dt.datetime.now(dt.UTC).date().replace(day=1)
    async with running(tmp_path, CHANGES) as harness:
        await traffic(harness)
        rows = await harness.rows()
        spent = sum(row["cost_nano_usd"] for row in rows)
        hosted = sum(row["cost_nano_usd"] for row in rows if row["deployment"] == "gpt-4o")
        assert 0 < hosted < spent
        metrics = await harness.metrics()
        assert metrics.nano("cost_usd_total") == spent
        assert metrics.nano("budget_spent_usd", scope="org") == spent
        report = await harness.admin("GET", "/admin/v1/usage?by=feature,deployment,day")
        assert sum(round(row["cost_usd"] * 10**9) for row in report.json()) == spent
        deployments = harness.gateway.pipeline.rulebook.routes.policy.deployments
        await harness.stop()  # books the pool until now

        sides = Sides(
            providers={name: one.provider for name, one in deployments.items()},
            models={name: one.model for name, one in deployments.items()},
            pools={},
        )
        charges = charges_of(f"sqlite:///{harness.ledger}", month, dt.UTC, sides)
        table = focus_table(charges, Version.V1_3, "acme", period_of(calendar.month(month), dt.UTC))
        names = [column.name for column in table.columns]

        def total(column: str) -> Decimal:
            return sum((Decimal(str(row[names.index(column)])) for row in table.rows), Decimal(0)) * 10**9

        assert total("x_LedgerCost") == spent
        assert total("BilledCost") == hosted
        bill = pool_bill(harness.ledger)
        assert bill > 0
        assert total("EffectiveCost") == hosted + bill
        assert total("x_RequestCount") / 10**9 == len({row["request_id"] for row in rows})
