"""The supervisor's view of one worker process, from its start to its end."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

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
    supervisors_end,
)


class WorkerProcess:
    """`spawn` it, then wait for it to `start` and to `end`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control_channel: ControlChannel[ToSupervisor],
        learned: Callable[[str], None],
    ) -> None:
        self._process = process
        self._control_channel = control_channel
        self._learned = learned
        self._asked = 0
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._news = asyncio.Event()  # it has started, or it never will
        self._reading = asyncio.create_task(self._read(), name="lifeline")
        self._is_gone = False
        self.is_started = False
        self.failure: str | None = None
        # What it told last, and when.
        self.unready: list[str] = []
        self.metrics: list[FamilySamples] = []
        self.heard_at = time.monotonic()

    @classmethod
    async def spawn(cls, orders: WorkerConfig, learned: Callable[[str], None]) -> "WorkerProcess":
        """A fresh interpreter that has got its orders. Raises OSError.

        `learned` is told the configuration each time that the worker has reloaded it.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.workers.worker", str(theirs.fileno())),
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
        control_channel = await supervisors_end(ours)
        control_channel.send(orders)
        return cls(process, control_channel, learned)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def started(self) -> bool:
        """Wait until it takes requests; False when it ends before."""
        await self._news.wait()
        return self.is_started

    async def ended(self) -> int:
        """Wait for its end and for the last thing that it told. The exit code, negative for a signal."""
        code = await self._process.wait()
        await asyncio.wait({self._reading})
        await self._control_channel.close()
        return code

    async def ask(self, timeout_seconds: float, *, with_metrics: bool) -> None:
        """Have it tell how it is now. One that does not in time stays as it was."""
        if self._is_gone:
            return
        self._asked += 1
        number = self._asked
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
                self._take(message)
        finally:
            self._is_gone = True
            self._news.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(None)

    def _note(self, condition: Condition) -> None:
        self.heard_at = time.monotonic()
        self.unready = condition.unready
        if condition.metrics is not None:
            self.metrics = condition.metrics

    def _take(self, message: ToSupervisor) -> None:
        match message:
            case Started():
                self.is_started = True
                self._news.set()
            case Failed(problem):
                self.failure = problem
            case ConfigInForce(text):
                self._learned(text)
            case Condition(number):
                self._note(message)
                if (answer := self._answers.get(number)) is not None and not answer.done():
                    answer.set_result(None)


def described(code: int) -> str:
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
