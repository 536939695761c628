"""A worker's process: a gateway on a shared data port, for as long as its supervisor lives.

python -m gateway.workers.worker FD      FD is the worker's end of the lifeline
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from gateway.app import Gateway
from gateway.assembly import tune_garbage_collector
from gateway.config.build import Built
from gateway.http.server.listening import PortTaken, join
from gateway.ledger.errors import LedgerUnavailable
from gateway.metrics.logs import configure_logs
from gateway.policy.rollout.config_file import ConfigFile
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
    workers_end,
)

_log = structlog.get_logger("tollway.worker")


def main() -> None:
    """Run until the supervisor says to stop, or has gone."""
    own = socket.socket(fileno=int(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_work(own)))


async def _work(own: socket.socket) -> int:
    """The exit code of the process."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what serves is not read yet
    control_channel = await workers_end(own)
    orders = await control_channel.receive()
    if not isinstance(orders, WorkerConfig):
        return 0
    try:
        file = ConfigFile(Path(orders.file), os.environ)
        built = _built(file, orders)
        configure_logs(built.settings.server.log_level, worker=orders.number)
        gateway = Gateway(built, file, _listeners(built, orders))
        reporting = asyncio.create_task(_report(gateway, control_channel, stop), name="lifeline")
        if await gateway.start_unless(stop, joins=orders.joins):
            await _serve(gateway, control_channel, stop)
    except (PortTaken, LedgerUnavailable, _ConfigRefused) as exc:
        control_channel.send(Failed(str(exc)))
        await control_channel.close()
        return 1
    if reporting.done():
        _clean_up(Path(orders.admin_path))
    reporting.cancel()
    await asyncio.wait({reporting})
    control_channel.send(_condition(gateway, FINAL, with_metrics=True))
    await control_channel.close()
    return 0


async def _serve(gateway: Gateway, control_channel: ControlChannel[ToWorker], stop: asyncio.Event) -> None:
    if gateway.reloader is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reloader.reload_soon)
    tune_garbage_collector()
    control_channel.send(Started())
    try:
        await stop.wait()
    finally:
        await gateway.stop()


async def _report(gateway: Gateway, control_channel: ControlChannel[ToWorker], stop: asyncio.Event) -> None:
    """Answer the supervisor until it has gone, and then stop."""
    told: str | None = None
    while (message := await control_channel.receive()) is not None:
        if isinstance(message, ConditionRequest):
            text = gateway.reloader.text if gateway.reloader is not None else None
            if text is not None and text is not told:
                control_channel.send(ConfigInForce(text))
                told = text
            control_channel.send(_condition(gateway, message.number, with_metrics=message.with_metrics))
    _log.warning("worker.supervisor_gone")
    stop.set()


def _clean_up(admin_path: Path) -> None:
    """What a supervisor that was killed could not remove; the last worker finds the folder empty."""
    admin_path.unlink(missing_ok=True)
    with suppress(OSError):
        admin_path.parent.rmdir()


def _condition(gateway: Gateway, number: int, *, with_metrics: bool) -> Condition:
    return Condition(number, gateway.unready_reasons(), gateway.metrics() if with_metrics else None)


class _ConfigRefused(Exception):
    """The configuration that the supervisor accepted is not accepted here."""


def _built(file: ConfigFile, orders: WorkerConfig) -> Built:
    found = file.read(orders.text)
    if found.built is None:
        raise _ConfigRefused("; ".join(map(str, found.problems)))
    return found.built


def _listeners(built: Built, orders: WorkerConfig) -> tuple[socket.socket, socket.socket]:
    admin = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError):  # left behind by a worker that was killed
        Path(orders.admin_path).unlink()
    admin.bind(orders.admin_path)
    admin.setblocking(False)
    return join(built.settings.server.data.host, orders.data_port), admin


if __name__ == "__main__":
    main()
