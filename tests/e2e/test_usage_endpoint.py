"""`GET /admin/v1/usage` on a running gateway: the ledger's numbers, behind the admin token."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.harness import chat, running

PATH = "/admin/v1/usage"


async def test_the_admin_port_reports_usage_by_any_dimension(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for feature, model in [("search", "scout"), ("triage", "scout"), ("triage", "gpt-4o")]:
            await harness.post(chat(model=model, max_tokens=5), x_tollway_feature=feature)
        rows = await harness.rows()
        answer = await harness.admin("GET", f"{PATH}?by=feature,deployment&period=today")
        assert answer.headers["content-type"] == "application/json"
        assert [(row["feature"], row["deployment"], row["requests"]) for row in answer.json()] == [
            ("search", "scout", 1),
            ("triage", "gpt-4o", 1),
            ("triage", "scout", 1),
        ]
        total = sum(row["cost_nano_usd"] for row in rows)
        as_csv = await harness.admin("GET", f"{PATH}?by=day,tags&format=csv")
        (day,) = csv.DictReader(io.StringIO(as_csv.text))
        assert Decimal(day["cost_usd"]) * 10**9 == total
        as_parquet = await harness.admin("GET", f"{PATH}?by=replica&format=parquet")
        table = pq.read_table(io.BytesIO(as_parquet.content))
        assert sum(table["cost_usd"].to_pylist()) * 10**9 == total


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("by=colour", "'colour' is no dimension"),
        ("period=soon", "'soon' is no period"),
        ("period=month&until=2026-01-01T00:00:00Z", "not both"),
        ("form=xml", "form"),
        ("format=xml", "format"),
        ("color=blue", "color"),
    ],
)
async def test_a_question_without_an_answer_is_a_400(query: str, said: str, tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.admin("GET", f"{PATH}?{query}")
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]


async def test_usage_is_not_told_without_the_token(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.http.get(f"{harness.gateway.admin_url}{PATH}")
        assert answer.status_code == 401
