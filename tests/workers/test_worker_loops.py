"""The loops between supervisor and workers: a defect is said and counted, and the loop goes on."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing
import uvloop

from gateway import supervised
from gateway.app import Gateway
from gateway.config.build import build
from gateway.config.load import load
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.supervised import TaskRegistry
from gateway.workers import supervisor as supervisor_module
from gateway.workers.control_channel import (
    Condition,
    ConditionRequest,
    ConfigInForce,
    ControlChannel,
    supervisor_channel,
    worker_channel,
)
from gateway.workers.process import WorkerProcess
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import _Reporter
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, config_text

DEFECT = RuntimeError("a defect")
SAID = "background task {} fails: RuntimeError; the log says why, it is tried again"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def supervisor(folder: Path) -> Supervisor:
    file = folder / "tollway.yaml"
    file.write_text(config_text({}))
    names = ("EXTERNAL", "REPLICA_1", "REPLICA_2")
    urls = {name: f"http://127.0.0.1:{port}" for port, name in enumerate(names, 1)}
    keys = {"ADMIN_TOKEN": ADMIN_TOKEN, "APP_KEY": APP_KEY, "NARROW_KEY": NARROW_KEY}
    loaded = load(file, {**urls, **keys, "LEDGER": f"sqlite:///{folder}/ledger.db"})
    built, problems = build(loaded, PriceCatalogue())
    assert built is not None, problems
    return Supervisor(loaded, built.settings, 1)


def test_a_defect_in_polling_the_workers_is_in_readyz_and_a_metric_and_polling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        subject = supervisor(tmp_path)
        polls, fails = 0, True

        async def poll(_: float, *, with_metrics: bool) -> None:
            nonlocal polls
            polls += 1
            if fails:
                raise DEFECT

        monkeypatch.setattr(subject._pool, "poll", poll)
        # As `run` does, without processes.
        monkeypatch.setattr(subject._pool, "start", asyncio.Event().wait)
        stop = asyncio.Event()
        with structlog.testing.capture_logs() as logs:
            serving = asyncio.create_task(subject.run(stop, lambda: None))
            await until(lambda: SAID.format("worker-poll") in subject.unready_reasons())
            await until(lambda: polls >= 3)
            fails = False
            await until(lambda: SAID.format("worker-poll") not in subject.unready_reasons())
            before = polls
            await until(lambda: polls > before + 2)
            text = (await subject.metrics()).decode()
            stop.set()
            await serving
        failed = subject._tasks.failures["worker-poll"]
        assert failed >= 2
        assert f'tollway_background_task_failures_total{{task="worker-poll"}} {failed:.1f}' in text
        assert 'tollway_background_task_up{task="worker-poll"} 1.0' in text
        said = [entry["event"] for entry in logs if entry.get("task") == "worker-poll"]
        assert said == ["task.failed", "task.recovered"]

    run(scenario())


def test_a_defect_in_starting_the_workers_ends_the_supervisor_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        subject = supervisor(tmp_path)

        async def start() -> None:
            raise DEFECT

        monkeypatch.setattr(subject._pool, "start", start)
        with pytest.raises(RuntimeError, match="a defect"):
            await subject.run(asyncio.Event(), lambda: None)

    run(scenario())


class Reporting:
    """As much of a gateway as a report needs. The first `defects` reports fail."""

    def __init__(self, defects: int) -> None:
        self.parts = self
        self.tasks = TaskRegistry()
        self.reloader = None
        self._defects = defects

    def unready_reasons(self) -> list[str]:
        if self._defects:
            self._defects -= 1
            raise DEFECT
        return self.tasks.problems()

    def degraded_reasons(self) -> list[str]:
        return []


async def ends() -> tuple[ControlChannel[Any], ControlChannel[Any]]:
    ours, theirs = socket.socketpair()
    return await supervisor_channel(ours), await worker_channel(theirs)


def test_a_defect_in_a_workers_report_is_said_and_the_next_question_is_answered() -> None:
    async def scenario() -> None:
        supervisors, workers = await ends()
        gateway, stop = Reporting(2), asyncio.Event()
        reporter = _Reporter(cast("Gateway", gateway), workers, stop)
        with structlog.testing.capture_logs() as logs:
            reporter.task.start()
            for number in range(1, 4):
                supervisors.send(ConditionRequest(number, with_metrics=False))
            answer = await supervisors.receive()
            assert answer == Condition(3, [SAID.format("worker-report")], [], None)
            await until(lambda: gateway.tasks.problems() == [])
            assert gateway.tasks.failures == {"worker-report": 2}
            assert not reporter.supervisor_gone
            await supervisors.close()
            await stop.wait()
            assert reporter.supervisor_gone
            await reporter.task.close()
            await workers.close()
        assert [entry["event"] for entry in logs] == [
            "task.failed",
            "task.recovered",
            "worker.supervisor_gone",
        ]

    run(scenario())


def test_a_worker_that_cannot_be_heard_is_hung_up_on_and_so_started_again() -> None:
    class Process:
        pid = 7
        returncode = None

        async def wait(self) -> int:
            return 0

    async def scenario() -> None:
        supervisors, workers = await ends()

        def fail(_: str) -> None:
            raise DEFECT

        process = WorkerProcess(cast("asyncio.subprocess.Process", Process()), supervisors, fail)
        with structlog.testing.capture_logs() as logs:
            workers.send(ConfigInForce("text"))
            assert await workers.receive() is None  # which ends a worker
            assert await process.started() is False
            assert await process.ended() == 0
        await workers.close()
        assert [(entry["event"], entry["log_level"]) for entry in logs] == [
            ("supervisor.channel_failed", "error")
        ]

    run(scenario())
