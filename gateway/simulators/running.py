"""Starting and stopping a simulator: in a running event loop, as the main program, or as a process."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import msgspec
import uvicorn
import uvloop
from uvicorn.server import ServerState

from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.dialect import Dialect
from gateway.simulators.knobs import Knobs
from gateway.simulators.openai import OpenAIDialect
from gateway.simulators.serving import SimulatorApp
from gateway.simulators.state import State
from gateway.simulators.tokens import load_tokenizer
from gateway.simulators.transport import SimulatorProtocol
from gateway.simulators.vllm import DEFAULT_MODEL, VllmDialect

_STOP_SECONDS = 2.0
_GRACE_SECONDS = 0.5
_SILENT_SECONDS = 600.0
_LISTENING = "listening on "


class SimulatorPortTaken(RuntimeError):
    """The host and port cannot be listened on. The message is one line for a person."""


class SimulatorKind(StrEnum):
    """The servers that can be simulated."""

    OPENAI = "openai"
    VLLM = "vllm"


class Simulator:
    """A simulator in the running event loop: `async with openai_simulator() as sim: ... sim.url ...`.

    Port 0 takes a free one. Raises PortTaken and InvalidKnob on entering.
    """

    def __init__(self, kind: SimulatorKind, knobs: Knobs, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.kind = kind
        self.host = host
        self.port = port
        self._knobs = knobs
        self._server_state = ServerState()
        self._state: State | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Without /v1: `http://127.0.0.1:40123`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def state(self) -> State:
        if self._state is None:
            raise RuntimeError("the simulator has not been started")
        return self._state

    @property
    def knobs(self) -> Knobs:
        return self.state.knobs

    def attempts(self, contains: str | None = None) -> list[SeenAttempt]:
        """Every attempt so far, in order, or those whose body contains the text."""
        return self.state.attempts.list(contains)

    def set_knobs(self, **changes: Any) -> Knobs:
        """Change knobs at once, for requests under way too where that makes sense. Raises InvalidKnob."""
        return self.state.change(changes)

    def abort_all(self) -> int:
        """End every generation with finish_reason "abort". Returns how many."""
        return self.state.abort_all()

    def fall_silent(self) -> None:
        """Take no more connections and make no more tokens; the connections that there are stay open."""
        self.set_knobs(frozen=True)
        if self._server is not None:
            self._server.close()

    async def settled(self, timeout_seconds: float = 2.0) -> list[SeenAttempt]:
        """All attempts once none of them runs. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            # Polled: an event set by every attempt would cost load tests more than this costs tests.
            while any(attempt.is_running for attempt in self.attempts()):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return self.attempts()

    async def __aenter__(self) -> Self:
        dialect: Dialect = _dialect(self.kind, self._knobs)
        self._state = State(self._knobs, load_tokenizer(), dialect.new_prefix_cache())
        if isinstance(dialect, VllmDialect):
            dialect.metrics.watch(self._state.slots)
        listener = _listener(self.host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            SimulatorApp(dialect, self._state),
            http=SimulatorProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=75,
        )
        config.load()
        self._server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        # uvicorn's protocol without uvicorn's Server: no signal handlers, no tick, stops at once.
        self._server = await asyncio.get_running_loop().create_server(
            lambda: SimulatorProtocol(config, self._server_state, {}), sock=listener, backlog=2048
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._server_state.connections):
            connection.transport.abort()
        if tasks := set(self._server_state.tasks):
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in self._server_state.tasks:
            task.cancel()


def openai_simulator(knobs: Knobs | None = None, *, host: str = "127.0.0.1", port: int = 0) -> Simulator:
    return Simulator(SimulatorKind.OPENAI, knobs or Knobs(), host=host, port=port)


def vllm_simulator(knobs: Knobs | None = None, *, host: str = "127.0.0.1", port: int = 0) -> Simulator:
    return Simulator(SimulatorKind.VLLM, knobs or Knobs(), host=host, port=port)


def run_blocking(kind: SimulatorKind, knobs: Knobs, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Prints one "listening on URL" line. Raises PortTaken and InvalidKnob."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(kind, knobs, host, port))


async def _serve(kind: SimulatorKind, knobs: Knobs, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(kind, knobs, host=host, port=port) as simulator:
        print(f"{kind} simulator {_LISTENING}{simulator.url}", flush=True)
        await stop.wait()
        if simulator.knobs.silent_on_sigterm:
            simulator.fall_silent()
            await simulator.settled(_SILENT_SECONDS)
        elif kind is SimulatorKind.VLLM and simulator.abort_all():
            await asyncio.sleep(_GRACE_SECONDS)  # vLLM ends its streams with "abort" before it goes


class SimulatorProcess:
    """A simulator in its own process, for load tests: `with SimulatorProcess(Kind.VLLM, Knobs()) as sim:`."""

    def __init__(self, kind: SimulatorKind, knobs: Knobs, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._command = [
            sys.executable,
            "-m",
            "gateway.simulators",
            kind.value,
            "--host",
            host,
            "--port",
            str(port),
        ]
        self._command += list(_flags(knobs))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the simulator has not been started")
        return self._process

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)  # noqa: S603  # our own command
        line = self._first_line()
        if _LISTENING not in line:
            self.__exit__(None, None, None)
            raise RuntimeError(f"the simulator did not start: {' '.join(self._command)}")
        self.url = line.partition(_LISTENING)[2].strip()
        return self

    def _first_line(self) -> str:
        return self.process.stdout.readline().decode() if self.process.stdout else ""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process as process:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS + _GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _flags(knobs: Knobs) -> Iterator[str]:
    """The command line that sets these knobs."""
    defaults = msgspec.to_builtins(Knobs())
    for name, value in msgspec.to_builtins(knobs).items():
        flag = f"--{name.replace('_', '-')}"
        if name == "models":
            for model in value:
                yield from ("--model", model)
        elif isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        elif value != defaults[name]:
            yield from (flag, str(value))


def _dialect(kind: SimulatorKind, knobs: Knobs) -> Dialect:
    if kind is SimulatorKind.OPENAI:
        return OpenAIDialect()
    return VllmDialect(knobs.models[0] if knobs.models else DEFAULT_MODEL)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise SimulatorPortTaken(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    listener.setblocking(False)
    return listener
