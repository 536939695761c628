"""`tollway export focus`: the month as FinOps tools read it, adding up to the ledger and the pools' bills."""

import csv
import datetime as dt
import io
import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.core.pool_cost import GpuPrice, PoolPlan
from gateway.core.usage import usage_of
from gateway.finance.pool_booking import Accruing, accrue
from gateway.ledger.retention import close
from tests.core.builders import used
from tests.ledger.ledger_records import make, run

Database = Any
Row = dict[str, str]

TOKYO = ZoneInfo("Asia/Tokyo")
NANO = 10**9
VALIDATOR = Path(
    os.environ.get("TOLLWAY_TEST_FOCUS_VALIDATOR") or Path(sys.prefix) / "focus" / "bin" / "focus-validator"
)

CONFIG = """
ledger: "{url}"
org: {{name: acme, timezone: Asia/Tokyo}}
zones: {{local: {{cidrs: [127.0.0.0/8]}}, external: {{}}}}
privacy: {{classes: [internal], zones: {{internal: [local, external]}}}}
deployments:
  gpt-4o:
    provider: openai
    model: gpt-4o-2024-11-20
    base_url: http://127.0.0.1:1/v1
    api_key: sk-simulated
    zone: external
    context_tokens: 1000
    max_output_tokens: 100
    price: {{input: 2.5, output: 10}}
  scout:
    provider: vllm
    model: llama-4-scout
    zone: local
    context_tokens: 1000
    max_output_tokens: 100
    replicas: {{urls: ["http://127.0.0.1:1/v1"]}}
    cost: {{gpu: H100, gpus_per_replica: 2, usd_per_gpu_hour: 3, saturation_tokens_per_second: 100,
           idle: {idle}}}
models: {{auto: {{use: [scout, gpt-4o]}}}}
teams: {{research: {{}}, product: {{}}}}
features: {{triage: {{team: research}}, review: {{team: product}}}}
keys: {{app: {{secret: key-of-the-app-0123456789, feature: triage}}}}
"""


def micros(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).replace(tzinfo=TOKYO).timestamp()) * 1_000_000


def write(database: Database, *records: Any) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in records:
            writer.append(record)
        await writer.close()

    run(scenario())


def attempt(number: int, at: str, deployment: str, feature: str, nano: int, tokens: int = 1000) -> Any:
    return make(
        number,
        at=micros(at),
        deployment=deployment,
        dispatched_model="gpt-4o-2024-11-20" if deployment == "gpt-4o" else "llama-4-scout",
        feature=feature,
        team={"triage": "research", "review": "product"}[feature],
        cost_nano_usd=nano,
        usage=used(input_text=2 * tokens, input_cached=tokens // 2, output_text=tokens),
        price_version="list-7",
        tags={},
    )


@pytest.fixture
def idle() -> str:
    return "apart"


@pytest.fixture
def config(sqlite: Database, tmp_path: Path, idle: str) -> Path:
    """A month of hosted and own work, with a late row of the month before, and ten hours of a pool."""
    path = tmp_path / "tollway.yaml"
    path.write_text(CONFIG.format(url=sqlite.url, idle=idle))
    write(
        sqlite,
        attempt(1, "2026-10-01T00:00", "gpt-4o", "triage", 1_000_000_007),
        attempt(2, "2026-10-01T23:59", "gpt-4o", "triage", 11),
        attempt(3, "2026-10-02T00:00", "gpt-4o", "review", 2_500_000_000),
        attempt(4, "2026-10-31T23:59", "gpt-4o", "review", 13),
        attempt(5, "2026-10-05T12:00", "scout", "triage", 17, tokens=400_000),
        attempt(6, "2026-10-05T13:00", "scout", "review", 19, tokens=200_000),
        attempt(7, "2026-11-01T00:00", "gpt-4o", "review", 23),  # of another month
    )
    close(sqlite.url, micros("2026-10-01T00:00"), now=micros("2026-11-05T00:00"))
    write(sqlite, attempt(8, "2026-09-30T12:00", "gpt-4o", "triage", 29))
    plan = PoolPlan(
        deployment="scout",
        gpu="H100",
        replicas=1,
        gpus_per_replica=2,
        prices=(GpuPrice(0, 3 * NANO),),
        saturation_milli=100_000,
    )
    began = micros("2026-10-05T06:00")
    accrue(sqlite.url, [Accruing(plan, began)], micros("2026-10-05T16:00"), TOKYO)
    return path


def export(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["export", "focus", "--config", str(config), "--month", "2026-10", *words])


def rows_of(config: Path, *words: str) -> list[Row]:
    done = export(config, *words)
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout)))


def total(rows: list[Row], column: str) -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal(0))


def test_the_export_adds_up_to_the_ledger_and_the_bill_of_the_pool(config: Path) -> None:
    rows = rows_of(config)
    hosted = 1_000_000_007 + 11 + 2_500_000_000 + 13 + 29
    pool = 10 * 2 * 3 * NANO
    assert total(rows, "x_LedgerCost") * NANO == hosted + 17 + 19
    assert total(rows, "BilledCost") * NANO == hosted
    assert total(rows, "EffectiveCost") * NANO == hosted + pool
    assert total(rows, "x_RequestCount") == 7
    assert total(rows, "x_InputTokens") == 2 * (5 * 1000 + 600_000)


def tagged(number: int, at: str, deployment: str, tags: dict[str, str], **more: Any) -> Any:
    return msgspec.structs.replace(attempt(number, at, deployment, "triage", 100, **more), tags=tags)


def test_requests_with_other_tags_are_charges_of_their_own(config: Path, sqlite: Database) -> None:
    tags: list[dict[str, str]] = [{"顧客": "東京"}, {"顧客": "東京"}, {"customer": "a", "stage": "1"}, {}]
    write(sqlite, *(tagged(20 + n, "2026-10-20T12:00", "gpt-4o", given) for n, given in enumerate(tags)))
    write(sqlite, *(tagged(30 + n, "2026-10-05T14:00", "scout", given) for n, given in enumerate(tags)))
    rows = rows_of(config)
    hosted = [row for row in rows if row["ChargePeriodStart"] == "2026-10-19T15:00:00Z"]
    expected = {'{"顧客":"東京"}': "2", '{"customer":"a","stage":"1"}': "1", "": "1"}
    # Of the meters of one group the first has the requests.
    assert {
        row["x_Tags"]: row["x_RequestCount"] for row in hosted if row["x_RequestCount"] != "0"
    } == expected
    assert len(hosted) == 3 * 3
    own = [row for row in rows if row["x_CostType"] == "Workload" and row["x_Feature"] == "triage"]
    assert {row["x_Tags"]: row["x_RequestCount"] for row in own} == expected | {"": "2"}

    together = rows_of(config, "--no-tags")
    assert len(together) < len(rows)
    assert {row["x_Tags"] for row in together} == {""}
    for column in ("x_LedgerCost", "BilledCost", "EffectiveCost", "x_RequestCount", "x_InputTokens"):
        assert total(together, column) == total(rows, column)


def test_a_charge_names_its_provider_its_service_and_its_region(config: Path) -> None:
    def names(changes: dict[str, str]) -> dict[str, tuple[str, ...]]:
        changed = config.with_name("changed.yaml")
        text = config.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        changed.write_text(text)
        columns = ("ServiceProviderName", "ServiceName", "RegionId", "RegionName")
        return {row["ResourceId"]: tuple(row[name] for name in columns) for row in rows_of(changed)}

    own = ("acme", "LLM inference on own GPUs", "", "")
    assert names({}) == {"gpt-4o": ("OpenAI", "OpenAI API", "", ""), "scout": own}
    azure = {"provider: openai": "provider: azure\n    region: swedencentral"}
    assert names(azure)["gpt-4o"] == ("Microsoft", "Azure OpenAI", "swedencentral", "swedencentral")
    other = {"provider: openai": "provider: openai-compatible"}
    assert names(other)["gpt-4o"] == ("gpt-4o", "gpt-4o API", "", "")
    named = {"provider: openai": "provider: openai-compatible\n    provider_name: Mistral AI"}
    assert names(named)["gpt-4o"] == ("Mistral AI", "Mistral AI API", "", "")
    homes = {"provider: vllm": "provider: vllm\n    region: tokyo-2"}
    assert names(homes)["scout"] == ("acme", "LLM inference on own GPUs", "tokyo-2", "tokyo-2")


def test_a_deployment_that_is_not_in_force_yet_does_not_stop_the_export(config: Path) -> None:
    before = rows_of(config)
    later = "deployments:\n  claude: {provider: litellm, model: bedrock/claude, zone: external}\n"
    config.write_text(config.read_text().replace("deployments:\n", later))
    assert rows_of(config) == before


def test_a_service_is_charged_by_day_of_the_orgs_calendar_and_feature(config: Path) -> None:
    hosted = [row for row in rows_of(config) if row["x_CostType"] == "Hosted"]
    assert [
        (
            row["ChargePeriodStart"],
            row["ChargePeriodEnd"],
            row["x_Feature"],
            row["ChargeClass"],
        )
        for row in hosted[1::3]
    ] == [
        ("2026-09-30T15:00:00Z", "2026-10-01T15:00:00Z", "triage", ""),
        ("2026-09-30T15:00:00Z", "2026-10-01T15:00:00Z", "triage", "Correction"),
        ("2026-10-01T15:00:00Z", "2026-10-02T15:00:00Z", "review", ""),
        ("2026-10-30T15:00:00Z", "2026-10-31T15:00:00Z", "review", ""),
    ]
    days = [hosted[at : at + 3] for at in range(0, 12, 3)]
    assert [total(day, "BilledCost") * NANO for day in days] == [1_000_000_018, 29, 2_500_000_000, 13]
    assert [row["x_Unit"] for row in days[0]] == ["cached_text", "input_text", "output_text"]
    columns = ("x_RequestCount", "x_InputTokens", "x_CachedInputTokens", "x_OutputTokens")
    assert [int(total(days[0], column)) for column in columns] == [2, 4000, 1000, 2000]
    first = hosted[0]
    assert first["x_PriceVersion"] == "list-7"
    assert (first["ServiceProviderName"], first["SubAccountId"]) == ("OpenAI", "research")
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == (
        "2026-09-30T15:00:00Z",
        "2026-10-31T15:00:00Z",
    )
    assert json.loads(first["Tags"])["tollway/feature"] == "triage"


GPT_4O = {"input_text": 2_500_000_000, "cached_text": 1_250_000_000, "output_text": 10_000_000_000}


def booked(number: int, nano: int, rates: dict[str, int], units: dict[str, int], **more: Any) -> Any:
    usage = {"usage": usage_of(units), "rates": rates}
    one = attempt(number, "2026-10-20T12:00", "gpt-4o", "triage", nano)
    return msgspec.structs.replace(one, **usage, **more)


def test_each_unit_is_a_meter_whose_price_times_quantity_is_its_cost(config: Path, sqlite: Database) -> None:
    text = {"input_text": 400, "cached_text": 1_000, "output_text": 70}
    cost = 400 * 2_500 + 1_000 * 1_250 + 70 * 10_000
    doubled = {unit: 2 * rate for unit, rate in GPT_4O.items()}
    searched = {"search_queries": 10_000_000 * 1_000_000, "input_text": 2_500_000_000}
    write(
        sqlite,
        booked(41, cost, GPT_4O, text),
        booked(42, cost, GPT_4O, text),
        booked(43, 2 * cost, doubled, text, service_tier="priority"),
        booked(44, 3 * 10_000_000 + 2_500, searched, {"search_queries": 3, "input_text": 1}),
    )
    rows = [row for row in rows_of(config) if row["ChargePeriodStart"] == "2026-10-19T15:00:00Z"]
    for row in rows:
        listed = Decimal(row["PricingQuantity"]) * Decimal(row["ListUnitPrice"])
        assert listed == Decimal(row["ListCost"]) == Decimal(row["BilledCost"])
        assert row["ListUnitPrice"] == row["ContractedUnitPrice"]
    assert total(rows, "BilledCost") * NANO == 4 * cost + 30_002_500
    assert total(rows, "x_RequestCount") == 4
    columns = ("SkuMeter", "ConsumedQuantity", "ConsumedUnit", "PricingUnit", "ListUnitPrice", "BilledCost")
    meters = {row["SkuPriceId"].partition("/gpt-4o-2024-11-20/")[2]: row for row in rows}
    assert {name: tuple(row[column] for column in columns) for name, row in meters.items()} == {
        "cached_text@list-7/1.25": (
            "Cached Text Tokens", "2000", "Tokens", "1000000 Tokens", "1.250000000", "0.002500000",
        ),
        "cached_text@list-7/2.5": (
            "Cached Text Tokens", "1000", "Tokens", "1000000 Tokens", "2.500000000", "0.002500000",
        ),
        "input_text@list-7/2.5": (
            "Input Text Tokens", "801", "Tokens", "1000000 Tokens", "2.500000000", "0.002002500",
        ),
        "input_text@list-7/5": (
            "Input Text Tokens", "400", "Tokens", "1000000 Tokens", "5.000000000", "0.002000000",
        ),
        "output_text@list-7/10": (
            "Output Text Tokens", "140", "Tokens", "1000000 Tokens", "10.000000000", "0.001400000",
        ),
        "output_text@list-7/20": (
            "Output Text Tokens", "70", "Tokens", "1000000 Tokens", "20.000000000", "0.001400000",
        ),
        "search_queries@list-7/10": (
            "Search Queries", "3", "Searches", "1000 Searches", "10.000000000", "0.030000000",
        ),
    }  # fmt: skip


def test_what_was_bounded_by_its_hold_keeps_its_list_cost(config: Path, sqlite: Database) -> None:
    write(sqlite, booked(41, 1_000, GPT_4O, {"input_text": 300, "output_text": 25}, flags="contradiction"))
    rows = [row for row in rows_of(config) if row["ChargePeriodStart"] == "2026-10-19T15:00:00Z"]
    assert {row["x_Unit"]: (row["ListCost"], row["BilledCost"]) for row in rows} == {
        "input_text": ("0.000750000", "0.000000750"),
        "output_text": ("0.000250000", "0.000000250"),
    }


def test_what_older_versions_booked_is_one_charge_at_its_average(config: Path, sqlite: Database) -> None:
    write(sqlite, booked(41, 1_000, {}, {"input_text": 300, "output_text": 100}))
    (row,) = [row for row in rows_of(config) if row["ChargePeriodStart"] == "2026-10-19T15:00:00Z"]
    assert (row["SkuMeter"], row["x_Unit"], row["ConsumedQuantity"]) == ("Tokens", "", "400")
    assert (row["ListUnitPrice"], row["ListCost"]) == ("0.002500000", "0.000001000")
    assert (row["x_InputTokens"], row["x_OutputTokens"], row["BilledCost"]) == ("300", "100", "0.000001000")


def test_idle_gpus_are_a_charge_of_their_own(config: Path) -> None:
    pool = sorted(
        (row for row in rows_of(config) if row["ResourceId"] == "scout"), key=lambda row: row["x_Feature"]
    )
    assert [(row["x_CostType"], row["x_Feature"]) for row in pool] == [
        ("Idle", ""),
        ("Workload", "review"),
        ("Workload", "triage"),
    ]
    idle, review, triage = pool
    assert all(row["BilledCost"] == "0.000000000" for row in pool)
    assert Decimal(triage["EffectiveCost"]) == 2 * Decimal(review["EffectiveCost"])
    assert (idle["AllocatedResourceId"], triage["AllocatedResourceId"]) == ("", "triage")
    assert {row["AllocatedMethodId"] for row in pool} == {"tollway-weighted-tokens-idle-apart"}
    ratios = [
        json.loads(row["AllocatedMethodDetails"], parse_float=Decimal)["Elements"][0]["AllocatedRatio"]
        for row in pool
    ]
    assert sum(ratios) == 1
    assert sum(Decimal(row["PricingQuantity"]) for row in pool) == 20  # GPU-hours


@pytest.mark.parametrize("idle", ["proportional", "even"])
def test_idle_that_is_shared_stands_beside_the_work_it_was_shared_by(config: Path, idle: str) -> None:
    pool = [row for row in rows_of(config) if row["ResourceId"] == "scout"]
    assert sorted((row["x_CostType"], row["x_Feature"]) for row in pool) == [
        ("Idle", "review"),
        ("Idle", "triage"),
        ("Workload", "review"),
        ("Workload", "triage"),
    ]
    assert total(pool, "EffectiveCost") == 60
    assert total(pool, "x_RequestCount") == 2


@pytest.mark.parametrize("version", ["1.3", "1.4"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_month_exported_twice_is_the_same_to_the_byte(
    config: Path, tmp_path: Path, version: str, ending: str
) -> None:
    first, second = (tmp_path / f"{name}.{ending}" for name in ("first", "second"))
    for out in (first, second):
        assert export(config, "--version", version, "--out", str(out)).exit_code == 0
    assert first.read_bytes() == second.read_bytes()


def test_parquet_holds_the_same_charges(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "october.parquet"
    export(config, "--out", str(out))
    table = pq.read_table(out)
    rows = rows_of(config)
    assert table.column_names == list(rows[0])
    assert [f"{one:f}" for one in table["EffectiveCost"].to_pylist()] == [
        row["EffectiveCost"] for row in rows
    ]
    assert table["ChargePeriodStart"][0].as_py() == dt.datetime(2026, 9, 30, 15, tzinfo=dt.UTC)


def test_an_invoice_is_named_once_it_is_reconciled(config: Path) -> None:
    assert {row["InvoiceId"] for row in rows_of(config)} == {""}
    named = rows_of(config, "--version", "1.4", "--invoice", "gpt-4o=INV-7")
    assert {(row["x_CostType"], row["InvoiceId"], row["InvoiceDetailId"]) for row in named} == {
        ("Hosted", "INV-7", "INV-7/gpt-4o"),
        ("Workload", "", ""),
        ("Idle", "", ""),
    }
    refused = export(config, "--invoice", "gpt-5=INV-7")
    assert refused.exit_code == 2
    assert "DEPLOYMENT=ID" in refused.stderr


def test_a_month_that_is_not_over_says_so(config: Path) -> None:
    done = CliRunner().invoke(app, ["export", "focus", "--config", str(config), "--month", "2999-01"])
    assert done.exit_code == 0
    assert "2999-01 is not over: a later export of it will hold more." in done.stderr


# One rule of the validator refuses every InvoiceId that is NULL, and InvoiceId-C-004-C every one that is not:
# it does not know which charges are on an invoice. Nothing passes both.
CONTRADICTION = ["InvoiceId-C-005-C"]


def failures(path: Path) -> list[str]:
    """Rules of FOCUS 1.2 that `path` breaks. The validator carries no later ones and would download them."""
    if not VALIDATOR.exists():
        pytest.skip(f"no focus-validator at {VALIDATOR}: `make focus` needs Python 3.12 or newer")
    (rules,) = VALIDATOR.parents[1].glob("lib/python*/site-packages")
    command = [str(VALIDATOR), "--data-file", str(path), "--validate-version", "1.2", "--block-download"]
    # It looks for the list of currencies below the folder that it runs in.
    done = subprocess.run(command, capture_output=True, text=True, cwd=rules, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"Total: (\d+) \| Pass: (\d+) \| Fail: (\d+)", done.stdout)
    assert found is not None, done.stdout[-2000:]
    broken = re.findall(r"^❌ (\S+): FAIL", done.stdout, re.MULTILINE)
    assert int(found[2]) > 100
    assert len(broken) == int(found[3])
    return broken


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("idle", ["apart", "even"])
def test_the_validator_of_focus_accepts_the_export(
    config: Path, tmp_path: Path, idle: str, ending: str
) -> None:
    out = tmp_path / f"october.{ending}"
    export(config, "--out", str(out))
    assert failures(out) == CONTRADICTION


def test_of_1_4_the_validator_misses_what_1_4_took_out(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "october.csv"
    export(config, "--version", "1.4", "--out", str(out))
    by_column = {rule.partition("-")[0] for rule in failures(out)} - {"InvoiceId"}
    # Rules of the dataset ask for the two columns, and one of BilledCost compares with the first.
    assert by_column == {"CostAndUsage", "ProviderName", "PublisherName", "BilledCost"}
    header = out.read_text().partition("\r\n")[0].split(",")
    assert {"InvoiceDetailId", "ServiceProviderName", "HostProviderName"} <= set(header)
    assert not {"ProviderName", "PublisherName"} & set(header)
