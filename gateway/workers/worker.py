"""A worker: a gateway on a shared data port, for as long as its supervisor lives."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from gateway.app import Gateway
from gateway.config.build import Built
from gateway.garbage import collect_seldom
from gateway.http.server.listening import PortTaken, join
from gateway.ledger.errors import LedgerUnavailable
from gateway.metrics.logs import configure_logs
from gateway.policy.rollout.config_file import ConfigFile
from gateway.private_files import FILE_MODE
from gateway.supervised import SupervisedTask
from gateway.workers.control_channel import (
    FINAL,
    Condition,
    ConditionRequest,
    ConfigInForce,
    ControlChannel,
    Failed,
    Started,
    ToWorker,
    WorkerConfig,
    worker_channel,
)

_log = structlog.get_logger("tollway.worker")


def work(own: socket.socket) -> int:
    """Run until the supervisor says to stop, or has gone. The exit code of the process.

    `own` is the worker's end of the control channel.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(own))


async def _work(own: socket.socket) -> int:
    """The exit code of the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what serves is not read yet
    control_channel = await worker_channel(own)
    config = await control_channel.receive()
    if not isinstance(config, WorkerConfig):
        return 0
    try:
        file = ConfigFile(Path(config.file), os.environ)
        built = _built(file, config)
        lines = configure_logs(built.settings.server.log_level, worker=config.number)
        gateway = Gateway(
            built,
            file,
            _listeners(built, config),
            writer_path=Path(config.writer_path),
            request_lines=lines,
        )
        collect_seldom()
        reporter = _Reporter(gateway, control_channel, stop)
        reporter.task.start()
        if await gateway.start_unless(stop, joins=config.joins):
            await _serve(gateway, control_channel, stop)
    except (PortTaken, LedgerUnavailable, _ConfigRefused) as exc:
        control_channel.send(Failed(str(exc)))
        await control_channel.close()
        return 1
    await reporter.task.close()
    if reporter.supervisor_gone:
        _clean_up(Path(config.admin_path))
    control_channel.send(_condition(gateway, FINAL, with_metrics=True))
    await control_channel.close()
    return 0


async def _serve(gateway: Gateway, control_channel: ControlChannel[ToWorker], stop: asyncio.Event) -> None:
    if gateway.reloader is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reloader.reload_soon)
    control_channel.send(Started())
    try:
        await stop.wait()
    finally:
        await gateway.stop()


class _Reporter:
    """Answers the supervisor until it has gone, and then sets `stop`."""

    def __init__(
        self, gateway: Gateway, control_channel: ControlChannel[ToWorker], stop: asyncio.Event
    ) -> None:
        self._gateway = gateway
        self._control_channel = control_channel
        self._stop = stop
        self._reported_text: str | None = None
        self.supervisor_gone = False
        self.task = SupervisedTask("worker-report", self._answer_next, gateway.parts.tasks, is_essential=True)

    async def _answer_next(self) -> None:
        message = await self._control_channel.receive()
        if message is None:
            _log.warning("worker.supervisor_gone")
            self.supervisor_gone = True
            self._stop.set()
            await asyncio.Event().wait()  # nothing will come any more
        if isinstance(message, ConditionRequest):
            self._report_config()
            self._control_channel.send(
                _condition(self._gateway, message.number, with_metrics=message.with_metrics)
            )

    def _report_config(self) -> None:
        reloader = self._gateway.reloader
        text = reloader.text if reloader is not None else None
        if text is not None and text is not self._reported_text:
            self._control_channel.send(ConfigInForce(text))
            self._reported_text = text


def _clean_up(admin_path: Path) -> None:
    """What a supervisor that was killed could not remove; the last worker finds the folder empty."""
    admin_path.unlink(missing_ok=True)
    with suppress(OSError):
        admin_path.parent.rmdir()


def _condition(gateway: Gateway, number: int, *, with_metrics: bool) -> Condition:
    metrics = gateway.metrics() if with_metrics else None
    return Condition(number, gateway.unready_reasons(), gateway.degraded_reasons(), metrics)


class _ConfigRefused(Exception):
    """The configuration that the supervisor accepted is not accepted here."""


def _built(file: ConfigFile, config: WorkerConfig) -> Built:
    found = file.read(config.text)
    if found.built is None:
        raise _ConfigRefused("; ".join(map(str, found.problems)))
    return found.built


def _listeners(built: Built, config: WorkerConfig) -> tuple[socket.socket, socket.socket]:
    admin = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError):  # left behind by a worker that was killed
        Path(config.admin_path).unlink()
    admin.bind(config.admin_path)
    Path(config.admin_path).chmod(FILE_MODE)
    admin.setblocking(False)
    return join(built.settings.server.data.host, config.data_port), admin
