"""Every background loop of a gateway: a defect shows in `readyz` and in a metric, and the loop goes on."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import structlog.testing

from gateway import supervised
from gateway.assembly import memory_release
from gateway.core.audit import EntryKind
from gateway.finance import pool_accrual, price_watch
from gateway.ledger import disks, refused_retention
from gateway.ledger.policies import InForce, PolicyText
from gateway.metrics import alerts
from gateway.metrics.alerts import BudgetAlerts
from gateway.policy.rollout import archive
from gateway.proxy.large_bodies import reader
from gateway.quota.redis import leased, upkeep
from gateway.quota.redis.leased import LeasedAdmission
from gateway.replicas import progress
from tests.e2e.harness import Harness, Json, gateway_over, simulators, until
from tests.privacy.test_entity_stage import PROGRAM
from tests.quota.valkey_server import valkey_server

COST: Json = {"gpu": "H100-80GB", "gpus_per_replica": 8, "usd_per_gpu_hour": 3}
CHANGES: Json = {
    "server": {"watch": True},
    "org": {"budgets": [{"usd": 1, "per": "day", "alert_at": [50]}]},
    "privacy": {
        "entities": {
            "find": ["PERSON"],
            "raise_to": "confidential",
            "deadline_ms": 10_000,
            "command": list(PROGRAM),
        }
    },
    "features": {"search": {"entities": True}},
    "deployments": {
        "scout": {
            "cost": COST | {"saturation_tokens_per_second": 2600},
            "health": {"path": "/health", "interval_seconds": 0.02},
        }
    },
}
SECRET = "what was raised is in the log only"


class Defect:
    """Stands in the place of something, and raises while `is_on`."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.is_on = True
        self.raised = 0
        self.passed = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_on:
            self.raised += 1
            self._raise()
        self.passed += 1
        return self.original(*args, **kwargs)

    def _raise(self) -> NoReturn:
        raise RuntimeError(SECRET)


Inject = Callable[[pytest.MonkeyPatch, Harness], Defect]


def _replaced(patch: pytest.MonkeyPatch, owner: Any, name: str) -> Defect:
    defect = Defect(getattr(owner, name))
    patch.setattr(owner, name, defect)
    return defect


def in_pool_accrual(patch: pytest.MonkeyPatch, _: Harness) -> Defect:
    return _replaced(patch, pool_accrual, "accrue")


def in_price_watch(patch: pytest.MonkeyPatch, _: Harness) -> Defect:
    return _replaced(patch, price_watch, "read_prices")


def in_budget_alerts(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    return _replaced(patch, harness.gateway.parts.admission, "budgets")


def in_alert_webhooks(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    subject: BudgetAlerts = harness.gateway.parts.alerts
    defect = _replaced(patch, subject._connected(), "post")

    async def posted(*_: object, **__: object) -> httpx.Response:
        return httpx.Response(200)

    defect.original = posted
    for _ in range(1000):
        subject._waiting.put_nowait(alerts._Alert("http://127.0.0.1:1/", {"name": "org"}))
    return defect


def in_policy_archive(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    defect = _replaced(patch, archive, "put_in_force")
    text = PolicyText(version="another", text="", whole=True, kept_at=1)
    harness.gateway.parts.archive.note(text, InForce(at=1, version="another", how="watch"))
    return defect


def in_large_bodies(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    harness.gateway.parts.large_bodies._wanted.set()
    return _replaced(patch, reader, "ShieldedProcess")


def in_memory_release(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    harness.gateway.parts.memory_release.soon()
    return _replaced(patch, memory_release, "give_memory_back")


def in_refused_retention(patch: pytest.MonkeyPatch, _: Harness) -> Defect:
    return _replaced(patch, refused_retention, "forget_refused")


def in_config_watch(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    assert harness.gateway.reloader is not None
    return _replaced(patch, harness.gateway.reloader._file, "mark")


def in_replica_probe(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    return _replaced(patch, harness.gateway.parts.upstream, "send")


def in_replica_progress(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    return _replaced(patch, harness.gateway.parts.progress, "_note_silence")


def in_entities(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    stage = harness.gateway.parts.entities._stage
    assert stage is not None
    defect = _replaced(patch, stage, "_listen")
    stage._kill()  # what runs listens already
    return defect


def in_redis_upkeep(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    admission = harness.gateway.parts.admission
    assert isinstance(admission, LeasedAdmission)
    return _replaced(patch, admission.upkeep, "tick")


def in_redis_leases(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    return _replaced(patch, harness.gateway.parts.admission, "renew_leases")


def in_ledger_channel(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    ledger = harness.gateway.parts.ledger
    defect = _replaced(patch, ledger._writer, "_take")
    ledger.note(EntryKind.ACT, {"act": "something to write"})
    return defect


def in_journal_maintenance(patch: pytest.MonkeyPatch, harness: Harness) -> Defect:
    return _replaced(patch, harness.gateway.parts.ledger._journal, "release")


def in_disk_watch(patch: pytest.MonkeyPatch, _: Harness) -> Defect:
    return _replaced(patch, disks, "_measured")


LOOPS: dict[str, Inject] = {
    "ledger-channel": in_ledger_channel,
    "journal-maintenance": in_journal_maintenance,
    "disk-watch": in_disk_watch,
    "pool-accrual": in_pool_accrual,
    "price-watch": in_price_watch,
    "budget-alerts": in_budget_alerts,
    "alert-webhooks": in_alert_webhooks,
    "policy-archive": in_policy_archive,
    "refused-retention": in_refused_retention,
    "config-watch": in_config_watch,
    "replica-probe": in_replica_probe,
    "replica-progress": in_replica_progress,
    "entities": in_entities,
    "large-bodies": in_large_bodies,
    "memory-release": in_memory_release,
}
REDIS_LOOPS: dict[str, Inject] = {
    "redis-upkeep": in_redis_upkeep,
    "redis-leases": in_redis_leases,
}
# While one of these fails, requests should go elsewhere.
ESSENTIAL = {"ledger-channel", "replica-probe", "redis-upkeep", "the writer fails"}
# They run in the same way; what they wait for cannot be made to raise from outside.
OTHER_REDIS_LOOPS = {"redis-link", "redis-settlements", "redis-rebuild", "redis-backfill"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, quick_watch: None) -> None:
    monkeypatch.setattr(supervised, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(pool_accrual, "ACCRUE_SECONDS", 0.02)
    monkeypatch.setattr(alerts, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(disks, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(refused_retention, "TURN_SECONDS", 0.02)
    monkeypatch.setattr(memory_release, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(leased, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(supervised, "STEADY_SECONDS", 1.0)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if (given := os.environ.get("TOLLWAY_TEST_REDIS_URL")) is not None:
        yield given
        return
    with valkey_server() as server:
        yield server.url


@asynccontextmanager
async def running(folder: Path, changes: Json = CHANGES) -> AsyncIterator[Harness]:
    async with (
        simulators() as (hosted, replicas),
        gateway_over(hosted, replicas, folder, changes) as harness,
    ):
        yield harness


async def reasons(harness: Harness) -> list[str]:
    """What `readyz` names: of loops that requests depend on it makes a 503, of others it only tells."""
    answer = await harness.admin("GET", "/readyz")
    told: Json = answer.json()
    found: list[str] = [*told.get("reasons", []), *told.get("degraded", [])]
    essential = any(name in reason for reason in found for name in ESSENTIAL)
    assert answer.status_code == (503 if essential else 200)
    return found


async def wait_until_ready(harness: Harness, *, is_ready: bool) -> list[str]:
    async with asyncio.timeout(60):
        while bool(found := await reasons(harness)) is is_ready:
            harness.gateway.parts.price_watch.refresh_soon()
            await asyncio.sleep(0.01)
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", LOOPS)
async def test_a_defect_is_said_and_counted_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with running(tmp_path) as harness:
        await until(lambda: harness.gateway.parts.entities.is_ready)
        await check(harness, monkeypatch, name, LOOPS[name])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", REDIS_LOOPS)
async def test_a_defect_over_a_shared_state_is_said_and_counted_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str, name: str
) -> None:
    changes = {"state": redis_url, "admission": "leased", "org": {"name": f"loops-{name}"}}
    async with running(tmp_path, changes) as harness:
        await check(harness, monkeypatch, name, REDIS_LOOPS[name])
        loops = {one for one in harness.gateway.parts.tasks.failures if one.startswith("redis-")}
        assert loops == set(REDIS_LOOPS) | OTHER_REDIS_LOOPS


async def check(harness: Harness, patch: pytest.MonkeyPatch, name: str, inject: Inject) -> None:
    assert await reasons(harness) == []
    assert (await harness.metrics()).sum("background_task_failures_total", task=name) == 0
    assert (await harness.metrics()).sum("background_task_up", task=name) == 1
    tasks = harness.gateway.parts.tasks
    with structlog.testing.capture_logs() as logs:
        defect = inject(patch, harness)
        [reason] = await wait_until_ready(harness, is_ready=False)
        assert reason.startswith(f"background task {name} fails")
        assert SECRET not in reason
        assert tasks.up()[name] is False
        await until(lambda: defect.raised >= 3)
        counted = tasks.failures[name]
        assert counted >= 2
        defect.is_on = False
        await wait_until_ready(harness, is_ready=True)
    assert (await harness.metrics()).sum("background_task_failures_total", task=name) >= counted
    assert (await harness.metrics()).sum("background_task_up", task=name) == 1
    await until(lambda: defect.passed > 0)
    said = [(entry["event"], entry["log_level"]) for entry in logs if entry.get("task") == name]
    assert ("task.failed", "error") in said
    assert ("task.recovered", "info") in said
    if name != "replica-probe":  # one for each replica
        assert said == [("task.failed", "error"), ("task.recovered", "info")]


@pytest.mark.usefixtures("quick")
async def test_every_loop_of_the_list_runs_and_none_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert set(harness.gateway.parts.tasks.failures) == set(LOOPS)
