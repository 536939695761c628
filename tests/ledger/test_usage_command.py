"""`tollway usage`, as an analyst uses it: any grouping, any period, any format, one set of numbers."""

import csv
import io
import json
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.ledger.postgres.partitions import Month
from tests.ledger.command_config import config_file
from tests.ledger.ledger_records import make, run

Database = Any


@pytest.fixture
def config(sqlite: Database, tmp_path: Path) -> Path:
    path = config_file(tmp_path, sqlite.url)

    async def scenario() -> None:
        writer = sqlite.writer()
        await writer.start()
        for number in range(6):  # two in each of September, October, November of Tokyo
            at = Month(2026, 9 + number % 3).starts - 9 * 3600 * 10**6 + number
            tags = {"customer": "[bold]Ø\x1b"} if number == 5 else {}
            feature = "triage" if number < 3 else "review"
            writer.append(
                make(number, at=at, feature=feature, cost_nano_usd=10**number, tags=tags, service_tier=None)
            )
        await writer.close()

    run(scenario())
    return path


def usage(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["usage", *words, "--config", str(config)])


def read(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_json_has_the_dimensions_counts_and_cost(config: Path) -> None:
    rows = read(usage(config, "--by", "feature, month", "--period", "2026-Q4", "--format", "json"))
    assert [(row["feature"], row["month"], row["cost_usd"]) for row in rows] == [
        ("review", "2026-10", 1e-05),
        ("review", "2026-11", 1e-04),
        ("triage", "2026-10", 1e-08),
        ("triage", "2026-11", 1e-07),
    ]
    tokens = make().usage
    assert rows[0] == {
        "feature": "review",
        "month": "2026-10",
        "requests": 1,
        "attempts": 1,
        "input_tokens": tokens.input_tokens,
        "cached_input_tokens": tokens.cached_tokens,
        "output_tokens": tokens.output_tokens,
        "cost_usd": 1e-05,
        "counterfactual_usd": {"gpt-4o": 9.000000001},
    }


def test_a_period_is_one_of_the_orgs_calendar(config: Path) -> None:
    by_period = read(usage(config, "--period", "2026-11", "--format", "json"))
    by_moments = read(usage(config, "--since", "2026-11-01", "--until", "2026-12-01", "--format", "json"))
    in_utc = read(usage(config, "--since", "2026-11-01T09:00:00", "--format", "json"))
    assert by_period == by_moments
    assert len(by_period) == 2
    assert in_utc == []


def test_csv_and_parquet_hold_the_same_numbers_exactly(config: Path, tmp_path: Path) -> None:
    asked = ["--by", "feature,tag:customer,service_tier"]
    out = tmp_path / "usage.parquet"
    as_csv = list(csv.DictReader(io.StringIO(usage(config, *asked, "--format", "csv").stdout)))
    assert usage(config, *asked, "--format", "parquet", "--out", str(out)).exit_code == 0
    as_parquet = pq.read_table(out).to_pylist()
    assert [row["cost_usd"] for row in as_csv] == ["0.000011000", "0.000100000", "0.000000111"]
    assert sum(row["cost_usd"] for row in as_parquet) == Decimal("0.000111111")
    assert [
        {name: f"{value:f}" if isinstance(value, Decimal) else str(value) for name, value in row.items()}
        for row in as_parquet
    ] == as_csv
    first = out.read_bytes()
    usage(config, *asked, "--format", "parquet", "--out", str(out))
    assert out.read_bytes() == first


def test_without_pyarrow_parquet_says_what_to_install(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = usage(config, "--format", "parquet")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "tollway usage: Parquet needs pyarrow: pip install 'tollway[parquet]', or take csv\n",
    )


def test_a_table_shows_values_that_clients_wrote_as_they_are(config: Path) -> None:
    shown = usage(config, "--by", "tag:customer").stdout
    assert "[bold]Ø\N{REPLACEMENT CHARACTER}" in shown
    assert "\x1b" not in shown
    assert shown.startswith("the beginning to now (")
    assert re.search(r"^ total .* 0\.000111", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "colour"], "'colour' is no dimension: use org, team, feature"),
        (["--by", ""], "'' is no dimension"),
        (["--by", "feature,feature"], "each once"),
        (["--period", "soon"], "'soon' is no period: write today, yesterday"),
        (["--period", "month", "--since", "2026-11-01"], "not both"),
        (["--out", "/nowhere/at/all", "--format", "csv"], "No such file or directory"),
    ],
)
def test_what_cannot_be_answered_says_what_to_ask_instead(config: Path, words: list[str], said: str) -> None:
    refused = usage(config, *words)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert refused.stdout == ""
