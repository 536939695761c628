"""Usage as providers spell it, through a whole gateway: the row, the money, the flags, and the metric."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.core.usage import usage_of
from gateway.finance.usage_report import UsageQuestion, usage_document, usage_rows
from gateway.ledger.row_usage import usage_of_row
from gateway.simulators.knobs import Knobs
from tests.core.wire_shapes import EXACT, Shape
from tests.e2e.harness import Harness, Json, chat, running

# The simulator has members of its own, which these leave out.
TOTALS = ("prompt_tokens", "completion_tokens", "total_tokens")
OWN = dict.fromkeys((*TOTALS, "prompt_tokens_details", "completion_tokens_details"))


def spelt(usage: dict[str, Any], **knobs: Any) -> Knobs:
    return Knobs(usage=OWN | usage, output_tokens=3, **knobs)


async def ask(harness: Harness, **more: Any) -> Json:
    """One request's row."""
    assert (await harness.post(chat(**more))).status_code == 200
    return (await harness.rows())[-1]


# One of each family; the others are read alike, and tested without a gateway.
FAMILIES = ("xai: reasoning", "anthropic: caches", "deepseek", "openai responses", "openrouter")
CHOSEN = [next(shape for shape in EXACT if shape.name.startswith(family)) for family in FAMILIES]


@pytest.mark.parametrize("shape", CHOSEN, ids=lambda shape: shape.name)
async def test_every_spelling_is_booked_exactly_streamed_or_not(tmp_path: Path, shape: Shape) -> None:
    async with running(tmp_path, external=spelt(shape.usage)) as harness:
        rows = [await ask(harness), await ask(harness, stream=True)]
    for row in rows:
        assert usage_of_row(row) == usage_of(shape.units)
        assert not row["estimated"]
        assert row["reported"] == "{}"


async def test_a_contradiction_is_flagged_in_row_metric_and_report(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 2000}
    async with running(tmp_path, external=spelt(usage)) as harness:
        row = await ask(harness)
        flagged = (await harness.metrics()).sum("usage_flagged_total", flag="contradiction")
    assert (row["flags"], bool(row["estimated"])) == ("contradiction", True)
    assert orjson.loads(row["reported"]) == usage
    assert row["cost_nano_usd"] <= row["held_nano_usd"]
    assert flagged == 1
    question = UsageQuestion(by="flags")
    (found,) = usage_rows(f"sqlite:///{harness.ledger}", question, now=0.0, timezone="UTC")
    assert (found.group, found.requests) == ({"flags": "contradiction"}, 1)


async def test_an_unknown_tier_is_flagged(tmp_path: Path) -> None:
    async with running(tmp_path, external=Knobs(reported_tier="hyper")) as harness:
        row = await ask(harness)
    assert (row["service_tier"], row["flags"]) == ("hyper", "unknown_tier")


async def test_reports_take_usage_apart_by_unit(tmp_path: Path) -> None:
    anthropic = next(shape for shape in EXACT if shape.name.startswith("anthropic: caches"))
    async with running(tmp_path, external=spelt(anthropic.usage)) as harness:
        await ask(harness)
        await ask(harness)
        await harness.rows()
    question = UsageQuestion(by="token_type,model")
    rows = usage_rows(f"sqlite:///{harness.ledger}", question, now=0.0, timezone="UTC")
    found = orjson.loads(usage_document(rows, question, "json"))
    assert {(one["token_type"], one["model"], one["amount"]) for one in found} == {
        (unit, "gpt-4o", 2 * amount) for unit, amount in anthropic.units.items()
    }
    csv = usage_document(rows, question, "csv").decode().splitlines()
    assert csv[0] == "token_type,model,amount,cost_usd"
    by_unit = {line.split(",")[0]: Decimal(line.split(",")[3]) for line in csv[1:]}
    (whole,) = rows
    assert sum(by_unit.values()) == whole.cost_usd
    assert all(by_unit.values())
    assert {one["token_type"]: one["cost_usd"] for one in found} == {
        unit: float(usd) for unit, usd in by_unit.items()
    }


async def test_a_lying_usage_is_booked_within_its_hold_everywhere(tmp_path: Path) -> None:
    lie = {"prompt_tokens": 9, "completion_tokens": 100_000_000, "total_tokens": 100_000_009}
    async with running(tmp_path, external=spelt(lie)) as harness:
        rows = [await ask(harness, max_tokens=50), await ask(harness, max_tokens=50, stream=True)]
        metrics = await harness.metrics()
    for row in rows:
        assert 0 < row["cost_nano_usd"] <= row["held_nano_usd"]
        assert (row["output_tokens"], row["flags"], bool(row["estimated"])) == (50, "beyond_hold", True)
        assert orjson.loads(row["reported"]) == lie
    assert metrics.sum("usage_flagged_total", flag="beyond_hold") == 2
    assert metrics.sum("tokens_total", type="output") == 100
    booked = sum(row["cost_nano_usd"] for row in rows)
    assert round(metrics.sum("cost_usd_total") * 10**9) == booked


@pytest.mark.parametrize("count", [None, 0, -3])
async def test_a_usage_of_nothing_beside_text_is_missing(tmp_path: Path, count: int | None) -> None:
    usage = dict.fromkeys(TOTALS, count)
    async with running(tmp_path, external=Knobs(usage=usage, output_tokens=3)) as harness:
        rows = [await ask(harness, max_tokens=50), await ask(harness, max_tokens=50, stream=True)]
    for row in rows:
        assert row["estimated"]
        assert row["input_tokens"] > 0
        assert row["output_tokens"] > 0
        assert row["cost_nano_usd"] + row["unseen_nano_usd"] <= row["held_nano_usd"]
