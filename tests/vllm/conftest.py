"""Real engines: opt-in, because they take 3.6 GB of disk and minutes to start. `make test-vllm` runs them.

Without TOLLWAY_TEST_VLLM, the path of a Python that has vLLM, nothing here is collected.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.coroutines import pytest_pyfunc_call, runner
from tests.vllm.engine import Engine

__all__ = ["pytest_pyfunc_call", "runner"]

PYTHON = os.environ.get("TOLLWAY_TEST_VLLM", "")
collect_ignore_glob = [] if PYTHON else ["test_*.py"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama 4."""
    folder = tmp_path_factory.mktemp("llama4")
    script = Path(__file__).with_name("make_checkpoint.py")
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def engines(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner
) -> Iterator[list[Engine]]:
    """Two servers with room for four requests each."""
    folder = tmp_path_factory.mktemp("engines")
    found = [Engine(PYTHON, checkpoint, folder / f"{name}.log") for name in ("first", "second")]
    try:
        for engine in found:
            engine.start()
        for engine in found:
            runner.run(engine.ready())
        yield found
    finally:
        for engine in found:
            engine.end()
