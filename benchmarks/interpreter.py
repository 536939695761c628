"""The Python that runs the subjects: which build it is, and an environment for another one.

A build without profile-guided optimisation (PGO) is some 14% slower, so its tables must not be quoted.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec

from benchmarks.processes import Skipped

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
ENVIRONMENTS = ROOT / ".cache" / "bench-python"
VARIABLE = "TOLLWAY_BENCH_PYTHON"
INSTALL_TIMEOUT_SECONDS = 900
# Debian and Ubuntu build with `make profile-opt` and leave no option behind; this one is theirs alone.
# PROFILE_TASK says nothing: configure sets it in every build.
SIGNS_OF_PGO = ("--enable-optimizations", "--with-wheel-pkg-dir=/usr/share/python-wheels")
QUESTION = """
import json, platform, sys, sysconfig
names = [platform.python_implementation(), platform.python_version(), sysconfig.get_config_var("CONFIG_ARGS")]
print(json.dumps([*names, sys.base_prefix]))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """One build of Python. `python` is the program that subjects are started with."""

    python: str
    implementation: str
    version: str
    prefix: str
    pgo: bool

    def name(self) -> str:
        return f"{self.implementation} {self.version} ({self.prefix}, PGO: {'yes' if self.pgo else 'NO'})"


def observe(python: str) -> Interpreter:
    """Ask `python` what it is. Raises Skipped when it does not run."""
    try:
        done = subprocess.run(
            [python, "-c", QUESTION], capture_output=True, text=True, timeout=30, check=True
        )
        implementation, version, options, prefix = msgspec.json.decode(done.stdout, type=list[str | None])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError, ValueError) as exc:
        raise Skipped(f"{python} is no Python that runs: {exc}") from exc
    pgo = any(sign in (options or "") for sign in SIGNS_OF_PGO)
    return Interpreter(python, str(implementation), str(version), str(prefix), pgo)


def with_dependencies(python: str) -> str:
    """The Python of an environment of `python` that has the gateway's dependencies, made once.

    The gateway itself is not installed: its tree comes by PYTHONPATH, so another commit can run on it too.
    Raises Skipped with what is missing.
    """
    seen = observe(python)
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + seen.prefix.encode()).hexdigest()
    folder = ENVIRONMENTS / f"{seen.version}-{wanted[:12]}"
    made, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return str(made)
    make_environment(python, folder, REQUIREMENTS)
    stamp.touch()
    return str(made)


def make_environment(python: str, folder: Path, requirements: Path) -> None:
    """A virtual environment with `requirements`, by hash, wheels only. Raises Skipped."""
    run([python, "-m", "venv", "--clear", str(folder)], "apt-get install python3-venv may be missing")
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(requirements)]
    run(command, "pip could not install it")


def run(command: list[str], hint: str, folder: Path | None = None) -> None:
    """One step of an installation. Raises Skipped with `hint` and what the command said last."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Skipped(f"{hint}: {exc}") from exc
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Skipped(f"{hint}: {lines[-1] if lines else 'no output'}")
