"""The process behind `tollway serve --workers N`."""

import asyncio
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from gateway import __version__
from gateway.admin.server import admin_app, admin_listening
from gateway.assembly.building import port_states, refusal_allowances
from gateway.assembly.graph import ledger_writer_settings
from gateway.clock import SystemClock
from gateway.config.load import Loaded
from gateway.config.schema import Settings
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.listening import listen, reserve, url_of
from gateway.ledger.process.owner import WriterOwner
from gateway.metrics.across import exposition_of, samples_of, summed
from gateway.metrics.scrape import collect_ports, collect_refusal_limits, collect_tasks, collect_writer
from gateway.metrics.telemetry import CONTENT_TYPE
from gateway.proxy.refusal_limits import RefusalLimits
from gateway.supervised import SupervisedTask, TaskRegistry
from gateway.workers.admin_proxy import proxy_router
from gateway.workers.control_channel import WorkerConfig
from gateway.workers.pool import Worker, WorkerPool, WorkersFailed

_log = structlog.get_logger("tollway.supervisor")

POLL_SECONDS = 1.0
METRICS_EVERY = 5  # polls: the most that a metric can lose when a worker is killed
ANSWER_SECONDS = 2.0
# After the streams: what the gateway's own bounds allow for ledger, shared state and what was cut off.
CLOSING_SECONDS = 25.0

EXIT_NOT_IN_ORDER = 1


class Supervisor:
    """`run` it once. Raises PortTaken when made.

    Many attributes: two ports, the workers, and the ledger's writer, each with what it is made of.
    """

    def __init__(self, loaded: Loaded, settings: Settings, count: int) -> None:
        self._file = loaded.file
        self._text = loaded.text
        self._server = settings.server
        self._admin_socket = listen(settings.server.admin.host, settings.server.admin.port)
        try:
            self._reserved = reserve(settings.server.data.host, settings.server.data.port)
        except BaseException:
            self._admin_socket.close()
            raise
        self._folder = Path(tempfile.mkdtemp(prefix="tollway-"))
        workers = [Worker(number, self._folder / f"{number}.sock") for number in range(1, count + 1)]
        self._pool = WorkerPool(workers, self._worker_config, self._keep_config)
        token = settings.server.admin.token
        self._refusal_limits = RefusalLimits(refusal_allowances(settings), SystemClock())
        app = admin_app(
            token=None if token is None else token.get_secret_value(),
            metrics=self.metrics,
            metrics_content_type=CONTENT_TYPE,
            ready=self.unready_reasons,
            degraded=self.degraded_reasons,
            version=__version__,
            limits=self._refusal_limits,
            routers=[proxy_router(self._serving, self._poll)],
            has_schema=False,
        )
        _, self._admin_port = port_states(settings)
        self._admin = admin_listening(app, self._admin_socket, self._admin_port, WriteCoalescer())
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._stopping = False
        self._tasks = TaskRegistry()
        self._ledger_writer = WriterOwner(ledger_writer_settings(settings), self._tasks)
        self._polls = 0
        self._polled_at = 0.0  # when the latest poll began
        self._polling = SupervisedTask(
            "worker-poll", self._poll_again, self._tasks, wait=self._until_due, is_essential=True
        )

    @property
    def data_url(self) -> str:
        return url_of(self._server.data.host, _port(self._reserved))

    @property
    def admin_url(self) -> str:
        return url_of(self._server.admin.host, self._admin.port)

    async def run(self, stop: asyncio.Event, announce: Callable[[], None]) -> None:
        """Serve until `stop`. `announce` is called once all workers take requests.

        Raises WorkersFailed when they cannot serve, or did not stop in order.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._pool.reload)
        await self._admin.start()
        await self._ledger_writer.start()
        work = asyncio.create_task(self._work(announce), name="supervisor")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        ends: set[asyncio.Future[Any]] = {stopping, work, self._pool.failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            in_order = await self._stop(work)
        if self._pool.failed.done():
            raise self._pool.failed.result()
        if not in_order:
            raise WorkersFailed("not every worker stopped in time; see the lines above", EXIT_NOT_IN_ORDER)
        if not work.cancelled():
            work.result()  # a defect, which has ended the start

    async def metrics(self) -> bytes:
        """The sum over all workers, the dead ones included, in Prometheus' text format."""
        await self._poll(with_metrics=True)
        own = [*samples_of(self._process.collect()), *samples_of(self._pool.own_metrics())]
        writer = self._ledger_writer
        own += samples_of([collect_refusal_limits(self._refusal_limits.counts)])
        own += samples_of([*collect_writer(writer), *collect_tasks(self._tasks, writer)])
        own += samples_of(collect_ports([self._admin_port]))
        every = summed([own, self._pool.metrics()])
        return await asyncio.to_thread(exposition_of, every)

    def unready_reasons(self) -> list[str]:
        """Why no worker takes requests, or nobody can say so; empty when one does."""
        if self._stopping:
            return ["shutting down"]
        reasons = [worker.unready() for worker in self._pool.workers]
        unready = [] if not all(reasons) else [reason for some in reasons for reason in some]
        return unready + self._tasks.problems()

    def degraded_reasons(self) -> list[str]:
        """What fails in workers and keeps no request away."""
        return [reason for worker in self._pool.workers for reason in worker.degraded()]

    async def _work(self, announce: Callable[[], None]) -> None:
        """Start the workers, keep polling them, and return once they have failed."""
        self._polling.start(is_due=True)
        await self._pool.start()
        if not self._pool.failed.done():
            announce()
        await asyncio.wait({self._pool.failed})

    async def _until_due(self) -> None:
        await asyncio.sleep(max(0.0, self._polled_at + POLL_SECONDS - time.monotonic()))

    async def _poll_again(self) -> None:
        self._polled_at = time.monotonic()
        with_metrics = self._polls % METRICS_EVERY == 0
        self._polls += 1
        await self._poll(with_metrics=with_metrics)

    def _keep_config(self, text: str) -> None:
        """The next worker that starts gets what the others have in force, whatever the file holds by then."""
        self._text = text

    async def _poll(self, *, with_metrics: bool = False) -> None:
        await self._pool.poll(ANSWER_SECONDS, with_metrics=with_metrics)

    async def _stop(self, work: "asyncio.Task[None]") -> bool:
        """Whether every worker ended in order."""
        self._stopping = True
        _log.info("supervisor.stopping")
        work.cancel()
        await asyncio.wait({work})
        await self._polling.close()
        self._reserved.close()
        in_order = await self._pool.stop(self._server.drain_seconds + CLOSING_SECONDS)
        await self._ledger_writer.close()
        await self._admin.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        _log.info("supervisor.stopped")
        return in_order

    def _worker_config(self, worker: Worker) -> WorkerConfig:
        return WorkerConfig(
            number=worker.number,
            file=self._file,
            text=self._text,
            data_port=_port(self._reserved),
            joins=any(other.serving for other in self._pool.workers),
            admin_path=str(worker.admin_path),
            writer_path=str(self._ledger_writer.path),
        )

    def _serving(self) -> list[tuple[int, Path]]:
        """Where admin requests can go, the workers that are ready first."""
        serving = [worker for worker in self._pool.workers if worker.serving is not None]
        serving.sort(key=lambda worker: bool(worker.unready()))
        return [(worker.number, worker.admin_path) for worker in serving]


def _port(bound: socket.socket) -> int:
    port: int = bound.getsockname()[1]
    return port
