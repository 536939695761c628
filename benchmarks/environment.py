"""Where and on what a benchmark ran: enough to tell two results apart."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from benchmarks import peers
from benchmarks.interpreter import ROOT, Interpreter
from benchmarks.nginx_servers import nginx_binary
from benchmarks.processes import Cores, Skipped
from benchmarks.unary import wrk_binary

PACKAGES = ("tollway", "uvicorn", "uvloop", "httptools")


class Environment(msgspec.Struct, frozen=True):
    """`load_average` is over the minute before the start: above 0.5 somebody else was at work.

    `interpreter` is the Python that ran the subjects, `before` the older commit in the same run, if any.
    """

    date: str
    kernel: str
    cpu_model: str
    cpus: int
    cores: Cores
    load_average: float
    commit: str
    before: str | None
    interpreter: Interpreter
    versions: dict[str, str]


def _said(command: list[str]) -> str:
    """The first line a command prints, wherever it prints it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0] if lines else ""


def _tool_versions() -> dict[str, str]:
    found = {}
    with contextlib.suppress(Skipped, OSError):
        found["nginx"] = _said([nginx_binary(), "-v"]).rpartition("/")[2]
    with contextlib.suppress(Skipped, OSError):
        match = re.search(r"\d[\w.+-]*", _said([wrk_binary(), "-v"]))
        found["wrk"] = match.group() if match else "unknown"
    return found


def _package_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(names, platform.machine())


def _commit() -> str:
    """Short hash, with a plus when the tree has changes; `unknown` outside a git checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = _said([*git, "rev-parse", "--short", "HEAD"])
        changed = _said([*git, "status", "--porcelain", "--untracked-files=no"])
    except OSError:
        return "unknown"
    return f"{commit}+" if changed else commit


def observe(cores: Cores, interpreter: Interpreter, before: str | None) -> Environment:
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        kernel=platform.release(),
        cpu_model=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        cores=cores,
        load_average=round(os.getloadavg()[0], 2),
        commit=_commit(),
        before=before,
        interpreter=interpreter,
        versions={**_package_versions(), **_tool_versions(), **peers.versions()},
    )
