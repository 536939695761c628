"""The worked week of docs/tco.md: the command, the admin API and the metrics give its numbers to the cent."""

import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gateway.app import Gateway
from gateway.cli import app
from gateway.core.balancing import Fleet
from gateway.core.money import NANO_PER_USD
from gateway.core.pool_cost import SECOND
from gateway.finance.pool_accrual import PoolAccrual, PoolUse
from gateway.finance.tco.compare import TcoRows
from gateway.finance.tco.question import TcoPeriod, WrongTime, answer
from gateway.finance.tco.what_if import WrongWhatIf
from gateway.metrics.names import LabelNames
from gateway.metrics.scrape import ScrapeSources
from gateway.metrics.telemetry import PrometheusTelemetry
from gateway.supervised import TaskRegistry
from tests.finance.tco import week

PAGE = Path(__file__).parents[3] / "docs" / "tco.md"
Json = dict[str, Any]
WEEK = ("--since", "2026-11-02", "--until", "2026-11-09")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = week.config(tmp_path_factory.mktemp("week"))
    week.write(path)
    return path


def asked(config: Path, *more: str) -> Json:
    result = CliRunner().invoke(app, ["tco", "--config", str(config), *WEEK, "--format", "json", *more])
    assert result.exit_code == 0, result.output
    found: Json = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def actual(config: Path) -> Json:
    found: Json = asked(config)["actual"]
    return found


def by_name(rows: list[Json]) -> dict[str, Json]:
    return {row["name"]: row["cost"] for row in rows}


# --- the steps of the page, in its order ---


def test_step_1_the_bill(actual: Json) -> None:
    (pool,) = actual["pools"]
    assert pool["gpu_hours"] == 8 * 168
    assert (pool["gpu_usd"], pool["overhead_usd"], pool["bill_usd"]) == (4_032.0, 1_680.0, 5_712.0)
    assert pool["estimated_usd"] == 0


def test_step_2_work_and_utilisation(actual: Json) -> None:
    (pool,) = actual["pools"]
    assert pool["utilisation"] == 0.4
    assert (pool["workload_usd"], pool["idle_usd"], pool["idle_apart_usd"]) == (2_284.8, 3_427.2, 0)
    assert (pool["input_tokens"], pool["output_tokens"]) == (511_200_000, 174_600_000)


def test_step_3_what_each_feature_pays(actual: Json) -> None:
    rows = by_name(actual["rows"])
    paid = {
        name: [
            row[f"{key}_usd"] for key in ("hosted", "pool_workload", "pool_idle", "fully_loaded", "marginal")
        ]
        for name, row in rows.items()
    }
    assert paid == {
        "review": [450.0, 0, 0, 450.0, 450.0],
        "search": [0, 571.2, 856.8, 1_428.0, 9.45],
        "triage": [167.5, 1_713.6, 2_570.4, 4_451.5, 192.34],
    }
    totals = actual["totals"]
    assert (totals["hosted_usd"], totals["fully_loaded_usd"], totals["marginal_usd"]) == (
        617.5,
        6_329.5,
        651.79,
    )


def test_step_4_what_a_million_tokens_cost(actual: Json) -> None:
    (pool,) = actual["pools"]
    assert round(pool["usd_per_million_tokens"], 4) == 8.3290
    assert round(pool["usd_per_million_input_tokens"], 4) == 4.7222
    assert round(pool["usd_per_million_output_tokens"], 4) == 18.8889
    assert pool["transfer_usd"] == 241.92


def test_step_5_the_same_traffic_all_on_either_side(actual: Json) -> None:
    rows = by_name(actual["rows"])
    assert {name: row["on"]["gpt-4o"] for name, row in rows.items()} == {
        "review": 450.0,
        "search": 604.8,
        "triage": 1_981.9,
    }
    assert actual["totals"]["on"] == {"gpt-4o": 3_036.7, "llama-4-scout": 5_712.0}
    everything = actual["pools"][0]["all_traffic"]
    assert (everything["replicas"], everything["usd"]) == (1, 5_712.0)
    assert round(everything["utilisation"], 4) == 0.5042
    assert [side["tokenizer"]["bytes_per_token"] for side in (*actual["pools"], *actual["hosted"])] == [4, 5]


def test_step_6_break_even(actual: Json) -> None:
    (even,) = actual["pools"][0]["break_even"]
    assert even["against"] == "gpt-4o"
    assert round(even["utilisation"], 4) == 0.9580
    assert round(even["tokens_per_month"] / 1e6) == 7_137
    assert round(even["hosted_usd_per_million_tokens"], 4) == 3.5276
    points = {round(point["utilisation"], 2): point["pool_usd_per_million_tokens"] for point in even["curve"]}
    assert len(points) == 20
    assert round(points[0.4], 4) == 8.3790  # the 8.3290 of step 4, and 0.05 for one token more
    assert round(points[1.0], 4) == 3.3816


def test_step_7_what_if(config: Path) -> None:
    found = asked(config, "--what-if", "usd_per_gpu_hour=1.5,gpt4o.output=20")["what_if"]
    (pool,) = found["report"]["pools"]
    assert (pool["gpu_usd"], pool["bill_usd"]) == (2_016.0, 3_696.0)
    assert found["report"]["totals"]["hosted_usd"] == 897.5
    assert found["report"]["totals"]["fully_loaded_usd"] == 4_593.5
    assert found["difference_usd"] == -1_736.0


def test_the_page_says_the_same_numbers() -> None:
    section = PAGE.read_text().partition("## A worked week")[2].partition("\n## ")[0]
    for number in (
        *(
            "4,032.00",
            "1,680.00",
            "5,712.00",
            "2,284.80",
            "3,427.20",
            "1,713.60",
            "571.20",
            "2,570.40",
            "856.80",
        ),
        *(
            "4,451.50",
            "1,428.00",
            "450.00",
            "6,329.50",
            "192.34",
            "9.45",
            "651.79",
            "8.3290",
            "4.7222",
            "18.8889",
        ),
        *(
            "241.92",
            "1,981.90",
            "604.80",
            "3,036.70",
            "50.42%",
            "95.80%",
            "7,137",
            "3.5276",
            "3,696.00",
            "4,593.50",
        ),
        "1,736.00",
    ):
        assert re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", section), number


# --- the same numbers everywhere ---


def test_teams_and_models_add_up_to_the_same_bill(config: Path, actual: Json) -> None:
    for by, names in (("team", ["legal", "research"]), ("model", ["auto", "gpt-4o"])):
        found = asked(config, "--by", by)["actual"]
        assert [row["name"] for row in found["rows"]] == names
        assert found["totals"] == actual["totals"]
        for key in ("hosted_usd", "pool_workload_usd", "pool_idle_usd", "fully_loaded_usd"):
            nano = sum(round(row["cost"][key] * NANO_PER_USD) for row in found["rows"])
            assert nano == round(actual["totals"][key] * NANO_PER_USD)


class _Clock:
    def __init__(self) -> None:
        self.at = week.STARTS

    def now(self) -> float:
        return self.at / SECOND

    def monotonic(self) -> float:
        return 0.0


def test_the_metrics_count_the_bill(tmp_path: Path) -> None:
    config = week.config(tmp_path)
    week.write(config, booked=False)
    found = week.built(config)
    clock = _Clock()
    telemetry = PrometheusTelemetry(
        names=LabelNames(
            models=frozenset(),
            deployments=frozenset({"llama-4-scout"}),
            features=frozenset(),
            teams=frozenset(),
        ),
        sources=ScrapeSources(
            budgets=tuple,
            fleet=lambda: Fleet([]),
            ledger_lag_rows=lambda: 0,
            ledger_writable=lambda: True,
            ready=lambda: True,
            degraded=lambda: 0,
            policy_version=lambda: "policy",
            tasks=TaskRegistry(),
            refusals_not_kept=lambda: 0,
            refusals_limited=dict,
            log_lines_lost=lambda: 0,
            shedder=SimpleNamespace(refused={}, is_shedding=False),
        ),
        clock=clock,
        version="1",
    )
    used: list[PoolUse] = []

    async def serve() -> None:
        accrual = PoolAccrual(
            found.settings.ledger_url,
            clock,
            telemetry.pool_booked,
            used.extend,
            TaskRegistry(),
        )
        accrual.configure(found.pools, found.tenancy.time_zone)
        await accrual.start()
        for day in range(1, 8):
            clock.at = week.STARTS + day * 86_400 * SECOND
            await accrual.refresh()
        await accrual.close()

    asyncio.run(serve())
    counted = {
        sample.name: sample.value
        for family in telemetry.samples()
        for sample in family.samples
        if ("deployment", "llama-4-scout") in sample.labels
    }
    assert counted["tollway_pool_cost_usd_total"] == 5_712.0
    assert counted["tollway_pool_gpu_seconds_total"] == 1_344 * 3_600
    assert asked(config)["actual"]["totals"]["fully_loaded_usd"] == 6_329.5
    # The week's last hour: no row of triage or search was sent in it.
    assert (used[-1].utilisation, used[-1].nano_usd_per_million_tokens) == (0.0, None)


def test_the_admin_api_gives_what_the_command_prints(tmp_path: Path) -> None:
    config = week.config(tmp_path)
    week.write(config)
    gateway_config = week.built(config)

    async def get() -> Json:
        gateway = Gateway(gateway_config)
        await gateway.start()
        try:
            async with httpx.AsyncClient() as client:
                response = await client.get(
                    f"{gateway.admin_url}/admin/v1/tco",
                    params={"since": "2026-11-02", "until": "2026-11-09", "what_if": "replicas=2"},
                    headers={"authorization": "Bearer admin-token-0123456789"},
                )
                wrong = await client.get(
                    f"{gateway.admin_url}/admin/v1/tco",
                    params={"since": "yesterday"},
                    headers={"authorization": "Bearer admin-token-0123456789"},
                )
        finally:
            await gateway.stop()
        assert (response.status_code, wrong.status_code) == (200, 400)
        assert "write 7d" in wrong.json()["error"]["message"]
        found: Json = response.json()
        return found

    assert asyncio.run(get()) == asked(config, "--what-if", "replicas=2")


def test_the_table_is_readable_and_says_where_both_sides_meet(config: Path) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["tco", "--config", str(config), *WEEK])
    assert result.exit_code == 0, result.output
    assert re.search(r"triage .*167\.50 .*1,713\.60 .*2,570\.40 .*4,451\.50 ", result.stdout)
    assert "break-even at 95.8%, about 7,140,000,000 tokens a month" in result.stdout
    assert "#" not in result.stdout, "the curve is drawn by --chart"


def test_no_number_is_cut_in_a_narrow_terminal(config: Path) -> None:
    result = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["tco", "--config", str(config), *WEEK])
    assert "…" not in result.stdout


# --- the other policies for idle GPUs, and what is not known ---


@pytest.mark.parametrize(
    ("idle", "search", "apart"), [("even", 571.2 + 1_713.6, 0), ("apart", 571.2, 3_427.2)]
)
def test_idle_gpus_are_paid_for_as_configured(tmp_path: Path, idle: str, search: float, apart: float) -> None:
    config = week.config(tmp_path, idle=idle)
    week.write(config)
    found = asked(config)["actual"]
    assert by_name(found["rows"])["search"]["fully_loaded_usd"] == search
    assert found["pools"][0]["idle_apart_usd"] == apart
    assert found["totals"]["fully_loaded_usd"] == 6_329.5


def test_without_a_saturation_idle_time_and_break_even_are_said_to_be_unknown(tmp_path: Path) -> None:
    config = week.config(tmp_path, saturation=None)
    week.write(config)
    found = asked(config)["actual"]
    (pool,) = found["pools"]
    assert (pool["utilisation"], pool["break_even"], pool["all_traffic"]) == (None, [], None)
    assert (pool["bill_usd"], found["totals"]["fully_loaded_usd"]) == (5_712.0, 6_329.5)
    assert any("saturation_tokens_per_second` is not configured" in one for one in found["missing"])


def test_nothing_is_guessed_where_nothing_is_booked(tmp_path: Path) -> None:
    config = week.config(tmp_path)
    week.write(config, booked=False)
    found = asked(config)["actual"]
    assert found["pools"] == []
    assert any("llama-4-scout: nothing is booked for this period" in one for one in found["missing"])
    assert set(found["totals"]["on"]) == {"gpt-4o"}


def test_a_period_that_was_not_booked_throughout_says_so(config: Path) -> None:
    question = TcoPeriod(since="2026-10-31", until="2026-11-12", by=TcoRows.TEAM)
    result = answer(week.built(config).tco_sources, question, week.UNTIL).actual
    assert "llama-4-scout: booked only since 2026-11-02" in result.missing
    assert "llama-4-scout: booked only until 2026-11-09" in result.missing


# --- other assumptions ---


def totals(config: Path, what_if: str) -> Any:
    question = TcoPeriod(since="2026-11-02", until="2026-11-09", what_if=what_if)
    found = answer(week.built(config).tco_sources, question, week.UNTIL).what_if
    assert found is not None
    return found.report


def test_all_traffic_at_home_is_the_bill_and_nothing_else(config: Path) -> None:
    report = totals(config, "share.local=1")
    assert report.totals.fully_loaded_usd == 5_712.0
    assert round(report.pools[0].utilisation, 4) == 0.5042


def test_all_traffic_outside_costs_what_the_report_says_and_the_pool_stands_idle(config: Path) -> None:
    report = totals(config, "share.llama-4-scout=0")
    assert (report.totals.hosted_usd, report.totals.pool_idle_usd) == (3_036.7, 5_712.0)


def test_twice_the_replicas_cost_twice_the_gpus_and_are_used_half_as_much(config: Path) -> None:
    (pool,) = totals(config, "replicas=2").pools
    assert (pool.gpu_usd, pool.overhead_usd, pool.utilisation) == (8_064.0, 1_680.0, 0.2)


def test_another_saturation_and_overhead(config: Path) -> None:
    (pool,) = totals(config, "saturation_tokens_per_second=500,overhead_usd_per_month=0").pools
    assert (pool.overhead_usd, pool.utilisation, pool.idle_usd) == (0, 0.8, 806.4)


@pytest.mark.parametrize(
    ("what_if", "words"),
    [
        ("replicas", "has no value"),
        ("replicas=many", "is no number"),
        ("replicas=-1", "from 0 on"),
        ("share.local=2", "from 0 to 1"),
        ("gpt5.output=1", "gpt5 is none of gpt-4o"),
        ("colour=1", "is no assumption"),
        ("maverick.replicas=1", "maverick is none of llama-4-scout"),
    ],
)
def test_an_assumption_that_cannot_be_made_says_what_to_write(config: Path, what_if: str, words: str) -> None:
    with pytest.raises(WrongWhatIf, match=words):
        totals(config, what_if)


@pytest.mark.parametrize("since", ["tomorrow", "2026-13-01", "2026-11-09"])
def test_a_period_that_cannot_be_read_or_ends_before_it_begins_is_refused(config: Path, since: str) -> None:
    with pytest.raises(WrongTime):
        answer(week.built(config).tco_sources, TcoPeriod(since=since, until="2026-11-09"), week.UNTIL)


# --- the picture ---


def test_the_curve_is_drawn_where_the_library_is_there(config: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="only tollway[charts] installs it")
    picture = tmp_path / "curve.png"
    asked(config, "--chart", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "gateway.finance.tco.chart", raising=False)


@pytest.mark.usefixtures("no_library")
def test_without_the_library_the_command_says_what_to_install(config: Path, tmp_path: Path) -> None:
    arguments = ["tco", "--config", str(config), *WEEK, "--chart", str(tmp_path / "curve.png")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "pip install 'tollway[charts]'" in result.output
