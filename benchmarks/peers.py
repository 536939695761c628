"""The peers, SMG and vllm-router: installed on first use into an environment of their own, started bare."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.processes import Skipped

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "peers-requirements.txt"
ENVIRONMENT = ROOT / ".cache" / "bench-peers"
INSTALL_TIMEOUT_SECONDS = 240

# vllm-router's command imports its Python debugging balancer, and that aiohttp, fastapi and uvicorn. Its own
# router and its own argument parser need none of them.
VLLM_ROUTER = """
import argparse
from vllm_router.router import Router
from vllm_router.router_args import RouterArgs
parser = argparse.ArgumentParser()
RouterArgs.add_cli_args(parser)
Router.from_args(RouterArgs.from_cli_args(parser.parse_args())).start()
"""


def ensure_installed() -> Path:
    """The environment's Python, installed once for each version of the requirements. Raises Skipped."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    print(f"Installing the peers into {ENVIRONMENT} (once) ...", file=sys.stderr)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "-r", str(REQUIREMENTS)]
    _install(command)
    stamp.write_text(wanted)
    return python


def _install(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise Skipped(f"pip did not finish in {INSTALL_TIMEOUT_SECONDS} s") from exc
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Skipped(f"pip could not install it: {lines[-1] if lines else 'no output'}")


def _common_flags(port: int, metrics_port: int, upstream_port: int) -> list[str]:
    """One worker, the cheapest policy: proxying and nothing else."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream_port}"]
    flags += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]
    return [*flags, "--policy", "round_robin"]


def smg_command(port: int, metrics_port: int, upstream_port: int) -> list[str]:
    """Raises Skipped when it cannot be installed."""
    smg = ensure_installed().with_name("smg")
    flags = _common_flags(port, metrics_port, upstream_port)
    return [str(smg), "launch", *flags, "--backend", "vllm", "--log-level", "warn"]


def vllm_router_command(port: int, metrics_port: int, upstream_port: int) -> list[str]:
    """Raises Skipped when it cannot be installed."""
    flags = _common_flags(port, metrics_port, upstream_port)
    return [str(ensure_installed()), "-c", VLLM_ROUTER, *flags, "--log-level", "warning"]


def versions() -> dict[str, str]:
    """Pinned versions by package, from the requirements file."""
    pins = (line.split(" ")[0] for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    return dict(pin.split("==", 1) for pin in pins if not pin.startswith("#"))
