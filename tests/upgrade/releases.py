"""The two versions that meet here: release 0.1.0, taken out of git's history, and the tree as it stands.

Both run on the same interpreter and libraries, by their command line only: what is inside may move.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

# Release 0.1.0. Pinned whole: a branch or a tag could move, and what it wrote for its users does not.
RELEASE_0_1_0 = "b2288355cf344f0a25c404acc0fc826acb51b761"

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".cache" / "releases"
# An editable install of the tree is on the path too, so each process says whose code it has loaded.
_ENTRY = """
import sys
import gateway
expected = sys.argv.pop(1)
assert gateway.__file__ == expected, f"{gateway.__file__} is served instead of {expected}"
from gateway.cli import main
main()
"""


class Release(msgspec.Struct, frozen=True):
    """A version of Tollway; `folder` holds its package `gateway`."""

    name: str
    folder: Path

    def command(self, *words: str) -> list[str]:
        """`tollway WORDS` of this release, to be run with `environment`."""
        package = self.folder / "gateway" / "__init__.py"
        return [sys.executable, "-P", "-c", _ENTRY, str(package), *words]

    def environment(self) -> dict[str, str]:
        """PYTHONPATH comes before what is installed."""
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}

    async def run(self, *words: str) -> str:
        """What a command prints that must succeed."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*words),
            env=self.environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complained = await process.communicate()
        assert process.returncode == 0, f"{self.name}: tollway {' '.join(words)}: {printed + complained!r}"
        return printed.decode()

    async def report(self, config: Path, *words: str) -> Any:
        """The JSON that a command prints about the gateway of `config`."""
        return json.loads(await self.run(*words, "--config", str(config), "--format", "json"))


def current() -> Release:
    """The tree that is being worked on."""
    return Release("current", _ROOT)


def release_0_1_0() -> Release:
    """Release 0.1.0. Skips the test where git does not know it: without it there is nothing to compare."""
    folder = _CACHE / RELEASE_0_1_0
    if not folder.exists():
        if not _is_in_history():
            pytest.skip(
                f"needs release 0.1.0 ({RELEASE_0_1_0[:12]}) from git's history, and this is a copy or a "
                "shallow clone without it: git fetch --unshallow"
            )
        _take_out(folder)
    return Release("0.1.0", folder)


def _is_in_history() -> bool:
    try:
        asked = subprocess.run(
            ["git", "cat-file", "-e", f"{RELEASE_0_1_0}^{{commit}}"],
            cwd=_ROOT,
            check=False,
            capture_output=True,
        )
    except FileNotFoundError:  # no git at all
        return False
    return asked.returncode == 0


def _take_out(folder: Path) -> None:
    """Its name appears once it is whole: several runs of tests may do this at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        whole = Path(partial) / "whole"
        whole.mkdir()
        archive = subprocess.run(
            ["git", "archive", RELEASE_0_1_0, "gateway"], cwd=_ROOT, check=True, capture_output=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(whole, filter="data")
        if not folder.exists():
            try:
                whole.rename(folder)
            except OSError:  # another run was first
                assert folder.exists()
