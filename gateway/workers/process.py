"""The supervisor's view of one worker process, from its start to its end."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway.metrics.across import FamilySamples
from gateway.workers.control_channel import (
    Condition,
    ConditionRequest,
    ConfigInForce,
    ControlChannel,
    Failed,
    Started,
    ToSupervisor,
    WorkerConfig,
    supervisor_channel,
)

_log = structlog.get_logger("tollway.supervisor")


class WorkerProcess:
    """`spawn` it, then wait for it to `start` and to `end`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control_channel: ControlChannel[ToSupervisor],
        on_config: Callable[[str], None],
    ) -> None:
        self._process = process
        self._control_channel = control_channel
        self._on_config = on_config
        self._last_number = 0
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._news = asyncio.Event()  # it has started, or it never will
        self._reading = asyncio.create_task(self._read(), name="control-channel")
        self._is_gone = False
        self.is_started = False
        self.failure: str | None = None
        # Its latest Condition, and when it came.
        self.unready: list[str] = []
        self.degraded: list[str] = []
        self.metrics: list[FamilySamples] = []
        self.heard_at = time.monotonic()

    @classmethod
    async def spawn(cls, config: WorkerConfig, on_config: Callable[[str], None]) -> "WorkerProcess":
        """A fresh interpreter that has got its `config`. Raises OSError.

        `on_config` gets the configuration each time that the worker has reloaded it.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.workers.worker_process", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=_environment(os.environ),
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops its workers in order
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        control_channel = await supervisor_channel(ours)
        control_channel.send(config)
        return cls(process, control_channel, on_config)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def started(self) -> bool:
        """Wait until it takes requests; False when it ends before."""
        await self._news.wait()
        return self.is_started

    async def ended(self) -> int:
        """Wait for its end and for its last message. The exit code, negative for a signal."""
        code = await self._process.wait()
        await asyncio.wait({self._reading})
        await self._control_channel.close()
        return code

    async def ask(self, timeout_seconds: float, *, with_metrics: bool) -> None:
        """Ask for its Condition. Without an answer in time the latest one stays."""
        if self._is_gone:
            return
        self._last_number += 1
        number = self._last_number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._control_channel.send(ConditionRequest(number, with_metrics))
        try:
            await asyncio.wait({answer}, timeout=timeout_seconds)
        finally:
            del self._answers[number]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _read(self) -> None:
        try:
            while (message := await self._control_channel.receive()) is not None:
                self._receive(message)
        except Exception:  # the task's end: a worker that cannot be heard stops, and is started again
            _log.exception("supervisor.channel_failed", pid=self.pid)
            await self._control_channel.close()
        finally:
            self._is_gone = True
            self._news.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(None)

    def _keep_condition(self, condition: Condition) -> None:
        self.heard_at = time.monotonic()
        self.unready = condition.unready
        self.degraded = condition.degraded
        if condition.metrics is not None:
            self.metrics = condition.metrics

    def _receive(self, message: ToSupervisor) -> None:
        match message:
            case Started():
                self.is_started = True
                self._news.set()
            case Failed(problem):
                self.failure = problem
            case ConfigInForce(text):
                self._on_config(text)
            case Condition(number):
                self._keep_condition(message)
                if (answer := self._answers.get(number)) is not None and not answer.done():
                    answer.set_result(None)


def exit_reason(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """With the places in which this process finds its modules, so that a worker runs the same ones."""
    return {**environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
