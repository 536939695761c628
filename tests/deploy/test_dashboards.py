"""The dashboards: as their source says, described, and every query answered by a real Prometheus."""

import asyncio
import importlib.util
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy import create_engine, func, select

from gateway.ledger.tables import pool_cost
from gateway.metrics.families import FAMILIES, WORKER_FAMILIES
from tests.e2e.harness import ADMIN_TOKEN, Harness, chat, running, unused_url

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "grafana" / "dashboards"
NAMES = ("finance", "ops", "developer")
PATIENCE_SECONDS = 30
CHANGES = {
    "deployments": {
        "gpt-4o": {"retires_on": "2099-01-14"},
        "scout": {
            "price": {"input": 300, "output": 1200},
            "cost": {
                "gpu": "H100-80GB",
                "gpus_per_replica": 8,
                "usd_per_gpu_hour": 2.99,
                "saturation_tokens_per_second": 2600,
            },
        },
    },
    "org": {"name": "acme", "budgets": [{"usd": 5000, "per": "day"}, {"usd": 90000, "per": "lifetime"}]},
    "features": {"triage": {"limits": {"requests_per_minute": 3}}},
}

Json = dict[str, Any]
Found = dict[frozenset[tuple[str, str]], float]


def panels(name: str) -> list[Json]:
    every: list[Json] = json.loads((FOLDER / f"{name}.json").read_text())["panels"]
    return [panel for panel in every if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    return [
        (f"{name}: {panel['title']}", target["expr"])
        for name in NAMES
        for panel in panels(name)
        for target in panel["targets"]
    ]


@contextmanager
def source() -> Iterator[Any]:
    """deploy/grafana/boards.py, which imports what lies beside it."""
    before = set(sys.modules)
    sys.path.insert(0, str(DEPLOY / "grafana"))
    try:
        spec = importlib.util.spec_from_file_location("boards", DEPLOY / "grafana" / "boards.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(DEPLOY / "grafana"))
        for name in set(sys.modules) - before:
            del sys.modules[name]


def test_the_files_are_what_their_source_makes() -> None:
    with source() as boards:
        assert boards.texts() == {path.name: path.read_text() for path in FOLDER.glob("*.json")}, (
            "run python deploy/grafana/boards.py"
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_unit_a_description_and_a_place_of_its_own(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(name):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_queries_read_metrics_and_recordings_that_exist() -> None:
    known = {family.name for family in (*FAMILIES, *WORKER_FAMILIES)}
    known |= {f"{family.name}_bucket" for family in FAMILIES if family.kind == "histogram"}
    used = {name for _, expr in queries() for name in re.findall(r"(?<![\w:])tollway_\w+", expr)}
    assert used <= known
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    made = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    assert {name for _, expr in queries() for name in re.findall(r"\b\w+:\w+(?::\w+)?", expr)} <= made


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    async def ask(self, expr: str) -> Found:
        for variable, value in (
            ("$__rate_interval", "1m"),
            ("$__range", "1m"),
            ("$feature", ".*"),
            ("$deployment", ".*"),
        ):
            expr = expr.replace(variable, value)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http:
            answer = (await http.get(f"{self._url}/api/v1/query", params={"query": expr})).json()
        assert answer["status"] == "success", (expr, answer)
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in answer["data"]["result"]}

    async def until(self, expr: str, least: float) -> None:
        """Return once `expr` has a value of at least `least`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any(value >= least for value in (await self._quietly(expr)).values()):
                await asyncio.sleep(0.2)

    async def _quietly(self, expr: str) -> Found:
        try:
            return await self.ask(expr)
        except (httpx.TransportError, ValueError):  # it is still starting
            return {}


@asynccontextmanager
async def prometheus(folder: Path, admin_url: str) -> AsyncIterator[Prometheus]:
    """Debian's, with the rules of deploy/, over one gateway."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian's package prometheus)")
    job = {
        "job_name": "tollway",
        "authorization": {"credentials": ADMIN_TOKEN},
        "static_configs": [{"targets": [admin_url.removeprefix("http://")]}],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus" / "*.yaml")],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = unused_url()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(url)
    finally:
        process.terminate()
        await process.wait()


async def traffic(harness: Harness) -> None:
    """Both sides, both features, streams and whole answers, a refusal by privacy."""
    for feature in ("search", "triage"):
        for model in ("auto", "gpt-4o"):
            body = chat(f"Some question for {model}", model=model, stream=model == "auto")
            assert (await harness.post(body, x_tollway_feature=feature)).status_code in (200, 429)
    assert (
        await harness.post(chat("hello", model="gpt-4o"), x_tollway_privacy="restricted")
    ).status_code == 403


def by(found: Found, *labels: str) -> dict[tuple[str, ...], int]:
    """In nano-USD, by these labels. A label that a series lacks is an error."""
    return {tuple(dict(key)[label] for label in labels): round(value * 1e9) for key, value in found.items()}


def expression(dashboard: str, title: str) -> str:
    (panel,) = [panel for panel in panels(dashboard) if panel["title"] == title]
    return str(panel["targets"][0]["expr"])


async def every_query_is_answered(server: Prometheus) -> None:
    # One process has no workers; tests/workers shows that these are exported where there are some.
    with_workers = {family.name for family in WORKER_FAMILIES}
    for title, expr in queries():
        if not any(name in expr for name in with_workers):
            assert await server.ask(expr), f"{title}: no data for {expr}"


async def the_ledger_says_the_same(server: Prometheus, harness: Harness) -> None:
    spent: dict[str, dict[tuple[str, ...], int]] = {
        "feature": defaultdict(int),
        "deployment": defaultdict(int),
    }
    elsewhere: dict[tuple[str, ...], int] = defaultdict(int)
    for row in await harness.rows():
        for label, sums in spent.items():
            sums[row[label],] += row["cost_nano_usd"]
        for name, nano in json.loads(row["counterfactual_nano_usd"]).items():
            elsewhere[row["feature"], name] += nano
    for title, label in (("Cost counted so far", "feature"), ("Cost by deployment", "deployment")):
        assert by(await server.ask(expression("finance", title)), label) == spent[label]
    assert by(await server.ask(expression("developer", "Cost so far")), "deployment") == spent["deployment"]
    other = await server.ask(expression("finance", "What the other side would have cost"))
    assert by(other, "feature", "deployment") == elsewhere
    total = sum(spent["feature"].values())
    assert total > 10**7  # more than a cent, so that equal to the cent says something
    left = await server.ask('tollway_budget_spent_usd{scope="org", window="lifetime"}')
    assert [round(value * 1e9) for value in left.values()] == [total]
    engine = create_engine(f"sqlite:///{harness.ledger}")
    with engine.connect() as connection:
        bill = select(func.sum(pool_cost.c.gpu_nano_usd + pool_cost.c.overhead_nano_usd))
        booked = connection.execute(bill).scalar_one()
    engine.dispose()
    shown = await server.ask(expression("finance", "Pools: what was booked"))
    assert by(shown, "deployment") == {("scout",): booked} and booked > 0


def test_every_query_has_data_that_the_ledger_confirms(tmp_path: Path) -> None:
    async def act() -> None:
        async with (
            running(tmp_path, CHANGES, writer_process=True) as harness,
            prometheus(tmp_path, harness.gateway.admin_url) as server,
        ):
            await traffic(harness)
            await harness.settled()
            await server.until('sum(tollway_requests_total{outcome="success"})', 4)
            await traffic(harness)
            await harness.settled()
            rows = len(await harness.rows())
            await harness.gateway.book_pools()
            await server.until("sum(tollway_attempts_total)", rows)
            # Evaluated from samples of before: one round later the recordings have seen all of it.
            await asyncio.sleep(2.5)
            await every_query_is_answered(server)
            await the_ledger_says_the_same(server, harness)

    asyncio.run(act())
