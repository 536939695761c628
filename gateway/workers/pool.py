"""The workers of one supervisor: each number has one living process, or will have one again."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Metric

from gateway.metrics.across import FamilySamples, lasting, summed
from gateway.metrics.families import WORKER_RESTARTS, WORKER_UP
from gateway.workers.control_channel import WorkerConfig
from gateway.workers.process import WorkerProcess, exit_reason
from gateway.workers.restarts import DEATHS, LONGEST_PAUSE_SECONDS, WITHIN_SECONDS, Restarts

_log = structlog.get_logger("tollway.supervisor")

EXIT_KEEPS_DYING = 3
SILENCE_SECONDS = 10.0


class WorkersFailed(Exception):
    """The workers cannot serve. The message is one line for a person."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Worker:
    """One worker number, and the processes that run under it one after the other."""

    def __init__(self, number: int, admin_path: Path) -> None:
        self.number = number
        self.admin_path = admin_path
        self.process: WorkerProcess | None = None
        self.restarts = 0
        self.must_reload = False
        self.down_reason = "starting"  # why there is no process that takes requests
        self.left: list[FamilySamples] = []  # what those that died had counted

    @property
    def serving(self) -> WorkerProcess | None:
        """Its process, if that takes requests."""
        return self.process if self.process is not None and self.process.is_started else None

    def unready(self) -> list[str]:
        """Why it wants no requests, as far as is known."""
        process = self.process
        reasons = process.unready if process is not None else []
        if self.serving is None:
            reasons = reasons or [self.down_reason]
        elif (silence := time.monotonic() - self.serving.heard_at) > SILENCE_SECONDS:
            reasons = [f"has not answered for {silence:.0f} s"]
        return [f"worker {self.number}: {reason}" for reason in reasons]

    def degraded(self) -> list[str]:
        """What fails in it and keeps no request away."""
        reasons = self.process.degraded if self.process is not None else []
        return [f"worker {self.number}: {reason}" for reason in reasons]

    def metrics(self) -> list[FamilySamples]:
        """What its processes have counted, the dead ones included."""
        return self.left if self.process is None else summed([self.left, self.process.metrics])

    def mark_dead(self) -> None:
        """Its process has ended."""
        if self.process is not None:
            self.left = summed([self.left, lasting(self.process.metrics)])
        self.process = None


class WorkerPool:
    """`start`, then `stop`. `failed` is done when the workers can serve no more."""

    def __init__(
        self,
        workers: Sequence[Worker],
        config_for: Callable[[Worker], WorkerConfig],
        on_config: Callable[[str], None],
    ) -> None:
        """`on_config` gets the configuration each time that a worker has reloaded it."""
        self.workers = workers
        self._config_for = config_for
        self._on_config = on_config
        self._runners: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.failed: asyncio.Future[WorkersFailed] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Return once all workers take requests, or `failed` is done.

        The first one starts alone: it makes or migrates the ledger and takes up what dead workers left
        behind, and what keeps it from starting is said once.
        """
        await self._start(self.workers[:1])
        if not self.failed.done():
            await self._start(self.workers[1:])

    async def stop(self, seconds: float) -> bool:
        """SIGTERM to all, SIGKILL after `seconds`. False when a worker did not end in order."""
        self._stop.set()
        self.signal(signal.SIGTERM)
        if not self._runners:
            return True
        _, late = await asyncio.wait(self._runners, timeout=seconds)
        if late:
            _log.error("supervisor.workers_killed", workers=[w.number for w in self.workers if w.process])
            self.signal(signal.SIGKILL)
            await asyncio.wait(late)
        return not late

    def reload(self) -> None:
        """Have every worker read the configuration again, one that starts just now as soon as it can."""
        for worker in self.workers:
            worker.must_reload = worker.serving is None
            if worker.serving is not None:
                worker.serving.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker that lives."""
        for worker in self.workers:
            if worker.process is not None:
                worker.process.signal(number)

    async def poll(self, timeout_seconds: float, *, with_metrics: bool) -> None:
        """Ask all workers how they are. The condition of one that does not answer in time stays."""
        processes = [worker.process for worker in self.workers if worker.process is not None]
        await asyncio.gather(
            *(process.ask(timeout_seconds, with_metrics=with_metrics) for process in processes)
        )

    def metrics(self) -> list[FamilySamples]:
        """The sum over all workers, as of their latest answers."""
        return summed(worker.metrics() for worker in self.workers)

    def own_metrics(self) -> Iterator[Metric]:
        """What only the supervisor knows: WORKER_FAMILIES."""
        up, restarts = WORKER_UP.gauge(), WORKER_RESTARTS.counter()
        for worker in self.workers:
            label = [str(worker.number)]
            up.add_metric(label, 0 if worker.unready() else 1)
            restarts.add_metric(label, worker.restarts)
        yield from (up, restarts)

    async def _start(self, workers: Sequence[Worker]) -> None:
        starts = []
        for worker in workers:
            first = asyncio.get_running_loop().create_future()
            runner = asyncio.create_task(self._run_worker(worker, first), name=f"worker {worker.number}")
            self._runners.append(runner)
            starts.append(first)
        if starts:
            ends: set[asyncio.Future[Any]] = {asyncio.gather(*starts), self.failed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    # --- one worker ---

    async def _run_worker(self, worker: Worker, first: "asyncio.Future[None]") -> None:
        """Start the worker again whenever it ends, until the pool stops or has failed."""
        restarts = Restarts()
        try:
            while True:
                await self._pause(await self._run_process(worker, first, restarts))
                if self._stop.is_set() or self.failed.done():
                    return
                worker.restarts += 1
        except Exception as exc:  # the task's end: without it nobody would look after this worker
            _log.exception("supervisor.defect", worker=worker.number)
            self._fail(f"worker {worker.number} is not looked after any more: {exc!r}", EXIT_KEEPS_DYING)
        finally:
            if not first.done():
                first.set_result(None)

    async def _run_process(self, worker: Worker, first: "asyncio.Future[None]", restarts: Restarts) -> float:
        """Run one process to its end. Seconds until the next one starts."""
        try:
            process = worker.process = await WorkerProcess.spawn(self._config_for(worker), self._on_config)
        except OSError as exc:
            worker.down_reason = f"cannot be started: {exc.strerror}"
            return self._could_not_start(worker, first, restarts)
        if self._stop.is_set():
            process.signal(signal.SIGTERM)
        if await process.started():
            _log.info("supervisor.worker_started", worker=worker.number, pid=process.pid)
            if worker.must_reload:
                worker.must_reload = False
                process.signal(signal.SIGHUP)
            if not first.done():
                first.set_result(None)
        code = await process.ended()
        worker.mark_dead()
        worker.down_reason = process.failure or f"starts again after {exit_reason(code)}"
        if self._stop.is_set():
            return 0.0
        if process.failure is not None:
            return self._could_not_start(worker, first, restarts)
        if code == 0 and process.is_started:
            _log.info("supervisor.worker_ended", worker=worker.number)  # somebody asked it to
            return 0.0
        _log.error("supervisor.worker_died", worker=worker.number, how=exit_reason(code), pid=process.pid)
        return self._pause_after_death(worker, restarts, exit_reason(code))

    def _could_not_start(self, worker: Worker, first: "asyncio.Future[None]", restarts: Restarts) -> float:
        """It said why, so another try may help, as long as others serve meanwhile."""
        if not first.done():
            self._fail(worker.down_reason, 1)
            return 0.0
        _log.error("supervisor.worker_not_started", worker=worker.number, problem=worker.down_reason)
        if any(other.serving for other in self.workers):
            return LONGEST_PAUSE_SECONDS
        return self._pause_after_death(worker, restarts, worker.down_reason)

    def _pause_after_death(self, worker: Worker, restarts: Restarts, reason: str) -> float:
        pause = restarts.died(time.monotonic())
        if pause is None:
            often = f"{DEATHS} times within {WITHIN_SECONDS:g} s"
            self._fail(
                f"worker {worker.number} died {often} (the last time: {reason}), and starting it again "
                "does not help; the lines above say why",
                EXIT_KEEPS_DYING,
            )
            return 0.0
        return pause

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _fail(self, message: str, exit_code: int) -> None:
        if not self.failed.done():
            self.failed.set_result(WorkersFailed(message, exit_code))
