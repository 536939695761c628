"""Clients of others in their default settings: they are told the base URL and the key, and nothing else.

Each script of `scripts/` is a program as a user of that library writes it: it fails where something is not
as the library promises, and prints how much was answered. It runs in the environment of `make clients`, so
the libraries are of the versions that users have, and not those that the gateway is tested with.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import APP_KEY, Harness, Json, running

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("TOLLWAY_TEST_CLIENTS") or Path(sys.prefix) / "clients")
PATIENCE_SECONDS = 300.0

PYTHON = ENVIRONMENTS / "python" / "bin" / "python"
LLAMA_INDEX = ENVIRONMENTS / "llama-index" / "bin" / "python"
NODE_MODULES = ENVIRONMENTS / "node" / "node_modules"

# A model of OpenAI under its own name, since libraries look up what they know of it.
CHANGES: Json = {
    "models": {"text-embedding-3-small": {"use": ["embedder"]}},
    "deployments": {"embedder": {"zone": "local"}},  # it may read token ids, whatever they say
}


@pytest.fixture(scope="module")
def harness(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    context = running(tmp_path_factory.mktemp("clients"), CHANGES)
    harness = runner.run(context.__aenter__())
    yield harness
    runner.run(context.__aexit__(None, None, None))


def _tiktoken_files() -> str:
    """A folder with vocabularies, which tiktoken otherwise fetches: the gateway's own dependency has them."""
    found = find_spec("litellm")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")


async def ran(harness: Harness, home: Path, *command: str | Path) -> Json:
    """What a client's program printed last. It knows the gateway from its environment only."""
    url = harness.gateway.data_url
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",  # as LlamaIndex calls it
            "OPENAI_API_KEY": APP_KEY,
            "AZURE_OPENAI_ENDPOINT": url,
            "AZURE_OPENAI_API_KEY": APP_KEY,
            "OPENAI_API_VERSION": "2024-10-21",
            "TIKTOKEN_CACHE_DIR": _tiktoken_files(),
            "AI_SDK_LOG_WARNINGS": "false",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complained.decode()[-4000:]
    found: Json = json.loads(said.splitlines()[-1])
    return found


async def check(harness: Harness, home: Path, *command: str | Path, least: int) -> None:
    """Run a client's program: all that it asked was answered, at the first attempt, and booked exactly."""
    before = len(await harness.rows())
    found = await ran(harness, home, *command)
    rows = (await harness.rows())[before:]
    booked = [row for row in rows if row["outcome"] == "success"]
    assert len(booked) == found["answers"] >= least
    assert not [row for row in booked if row["estimated"]]
    assert {row["attempt_id"].rpartition(":")[2] for row in rows} == {"1"}


@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make clients` makes it")
@pytest.mark.parametrize(
    ("script", "least"),
    [("openai_python", 9), ("langchain_python", 7), ("pydantic_ai_python", 4), ("instructor_python", 3)],
)
async def test_python_clients_work_as_they_come(
    harness: Harness, tmp_path: Path, script: str, least: int
) -> None:
    await check(harness, tmp_path, PYTHON, HERE / "scripts" / f"{script}.py", least=least)


@pytest.mark.skipif(not LLAMA_INDEX.exists(), reason=f"no {LLAMA_INDEX}: `make clients` makes it")
async def test_llama_index_works_as_it_comes(harness: Harness, tmp_path: Path) -> None:
    await check(harness, tmp_path, LLAMA_INDEX, HERE / "scripts" / "llama_index_python.py", least=5)


@pytest.mark.skipif(
    not NODE_MODULES.exists(), reason=f"no {NODE_MODULES}: `make clients` makes it where Node is"
)
@pytest.mark.parametrize(("script", "least"), [("openai_node", 6), ("ai_sdk", 5)])
async def test_node_clients_work_as_they_come(
    harness: Harness, tmp_path: Path, script: str, least: int
) -> None:
    # Node looks for modules beside the program.
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    program = shutil.copy(HERE / "scripts" / f"{script}.mjs", tmp_path)
    await check(harness, tmp_path, "node", program, least=least)
