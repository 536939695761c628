"""SIGTERM under streaming load, as a rolling update does it: real processes and a real Valkey.

No stream is cut within the grace period, nobody new gets in, the ledger is complete, and nothing stays held.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvloop
from typer.testing import CliRunner

from gateway.cli import app
from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator
from tests.e2e.harness import APP_KEY, Streamed, chat, read_rows, simulators
from tests.ledger.journal.served import Served
from tests.ledger.ledger_records import until
from tests.quota.valkey_server import valkey_server

STREAMS = 40
# A stream takes a second and a half: long enough for SIGTERM to arrive in its middle.
SLOW = Knobs(output_tokens=60, tokens_per_second=40)


class Reader:
    """One client's stream: `began` with its first bytes, then all of it."""

    def __init__(self, client: httpx.AsyncClient, url: str, text: str) -> None:
        self.began = False
        self.status = 0
        self._content = bytearray()
        self.task = asyncio.create_task(self._read(client, url, text))

    async def _read(self, client: httpx.AsyncClient, url: str, text: str) -> None:
        body = chat(text, model="auto", stream=True, max_tokens=60)
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            self.status = answer.status_code
            async for chunk in answer.aiter_raw():
                self.began = True
                self._content += chunk

    @property
    def streamed(self) -> Streamed:
        return Streamed(bytes(self._content))


class Scenario:
    """A gateway process between clients and simulators, which it shares Valkey with nobody but us."""

    def __init__(self, served: Served, upstreams: list[Simulator]) -> None:
        self.served = served
        self._upstreams = upstreams

    def attempts(self) -> int:
        return sum(len(simulator.attempts()) for simulator in self._upstreams)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.served.ledger)

    async def budget(self) -> dict[str, Any]:
        """The org's budget as the shared state has it."""
        return await asyncio.to_thread(self._budget)  # the command runs a loop of its own

    def _budget(self) -> dict[str, Any]:
        words = ["budgets", "--config", str(self.served.config), "--format", "json"]
        done = CliRunner().invoke(app, words, env=self.served.environ)
        assert done.exit_code == 0, done.output
        (line,) = json.loads(done.stdout)
        found: dict[str, Any] = line
        return found


@asynccontextmanager
async def running_scenario(folder: Path, state: str, drain_seconds: float) -> AsyncIterator[Scenario]:
    changes = {
        "state": state,
        "server": {"drain_seconds": drain_seconds},
        "org": {"budgets": [{"usd": 100, "per": "lifetime"}]},
    }
    async with simulators(SLOW, (SLOW, SLOW)) as (hosted, pool):
        yield Scenario(Served(folder, hosted, pool, changes), [hosted, *pool])


async def takes_connections(url: str) -> bool:
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def streaming_when_told_to_stop(
    here: Scenario, process: asyncio.subprocess.Process
) -> tuple[list[Reader], int]:
    """The streams that were under way at SIGTERM, ended; and how many were when nobody new got in."""
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {APP_KEY}"}
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=30, trust_env=False) as client:
        readers = [Reader(client, here.served.data_url, f"Ship {number}.") for number in range(STREAMS)]
        await until(lambda: all(reader.began for reader in readers))
        process.terminate()
        while await takes_connections(here.served.data_url):
            await asyncio.sleep(0.01)
        still_open = sum(not reader.task.done() for reader in readers)
        await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)
        await process.wait()
        return readers, still_open


@pytest.fixture
def state() -> Iterator[str]:
    with valkey_server() as server:
        yield server.url


def test_within_the_grace_period_no_stream_is_cut_and_the_books_are_whole(tmp_path: Path, state: str) -> None:
    async def scenario() -> None:
        async with running_scenario(tmp_path, state, drain_seconds=30) as here:
            async with here.served.running() as process:
                readers, still_open = await streaming_when_told_to_stop(here, process)
            assert process.returncode == 0, here.served.log()
            assert [reader.status for reader in readers] == [200] * STREAMS
            assert all(reader.streamed.is_done and not reader.streamed.errors for reader in readers)
            assert still_open > 0
            rows = here.rows()
            assert len(rows) == here.attempts() >= STREAMS
            streams = [row for row in rows if row["stream"]]
            assert {(row["outcome"], row["output_text_tokens"]) for row in streams} == {("success", 60)}
            budget = await here.budget()
            assert budget["held_usd"] == 0
            assert round(budget["spent_usd"] * 10**9) == sum(row["cost_nano_usd"] for row in rows) > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_after_the_grace_period_streams_are_cut_and_the_books_are_whole_all_the_same(
    tmp_path: Path, state: str
) -> None:
    async def scenario() -> None:
        async with running_scenario(tmp_path, state, drain_seconds=0.2) as here:
            async with here.served.running() as process:
                readers, _ = await streaming_when_told_to_stop(here, process)
            assert process.returncode == 0, here.served.log()
            cut = [reader.streamed for reader in readers if not reader.streamed.is_done]
            assert cut
            rows = here.rows()
            assert len(rows) == here.attempts() >= STREAMS
            assert sum(row["outcome"] == "shutdown" for row in rows) >= len(cut)
            budget = await here.budget()
            assert budget["held_usd"] == 0
            assert round(budget["spent_usd"] * 10**9) == sum(row["cost_nano_usd"] for row in rows) > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
