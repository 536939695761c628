"""The ledger's database slow, unreachable or locked while a real `tollway serve` is under load.

Requests go on until so many rows wait as the queue may hold; then they are told to come back, and `readyz`
says why. Nothing is lost, whether the gateway lives through it or is killed meanwhile.
"""

import asyncio
import json
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, chat, simulators
from tests.ledger.journal.served import Served
from tests.ledger.postgres_server import PostgresServer, postgres_server

QUEUE_ROWS = 150
CLIENTS = 16
SCENARIO_SECONDS = 300  # a hang fails the test; nothing is measured against it
FAST = Knobs(ttft_ms=1, ttft_jitter_ms=1, tokens_per_second=10_000, output_tokens=3)

CHANGES: dict[str, Any] = {
    "server": {"log_level": "warning", "ledger_queue_rows": QUEUE_ROWS},
    "org": {"budgets": [{"usd": 1000, "per": "lifetime"}]},
}
Rows = list[dict[str, Any]]
Outage = tuple[Any, Callable[[], AbstractContextManager[None]]]


class Sqlite:
    """A ledger in a file, which another process can lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.url = f"sqlite:///{self.path}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    async def rows(self) -> Rows:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM usage_record")]


class Postgres:
    """A ledger on a server of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.url = server.url()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.server.freeze_everything()
        try:
            yield
        finally:
            self.server.thaw()

    @contextmanager
    def crashed(self) -> Iterator[None]:
        self.server.stop(signal.SIGQUIT)
        try:
            yield
        finally:
            self.server.start()

    async def rows(self) -> Rows:
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch("SELECT * FROM usage_record")]
        finally:
            await connection.close()


@pytest.fixture
def outage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Any, Callable[[], AbstractContextManager[None]]]]:
    """A ledger, and what happens to it."""
    if request.param == "sqlite locked":
        sqlite = Sqlite(tmp_path)
        yield sqlite, sqlite.locked
    else:
        with postgres_server() as server:
            postgres = Postgres(server)
            yield postgres, postgres.frozen if request.param == "postgres frozen" else postgres.crashed


class Load:
    """Clients who ask one after the other, and what they were told."""

    def __init__(self, served: Served) -> None:
        self._http = httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {APP_KEY}"})
        self._served = served
        self.answers: list[httpx.Response] = []

    @property
    def refusals(self) -> list[httpx.Response]:
        return [answer for answer in self.answers if answer.status_code != 200]

    async def ask(self) -> None:
        url = f"{self._served.data_url}/v1/chat/completions"
        self.answers.append(await self._http.post(url, json=chat(model="scout", max_tokens=5)))

    async def run(self, requests: int) -> None:
        """Until so many are asked, or each client was refused once."""
        left = iter(range(requests))

        async def client() -> None:
            for _ in left:
                await self.ask()
                if self.answers[-1].status_code != 200:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())

    async def readiness(self) -> tuple[int, str]:
        answer = await self._http.get(f"{self._served.admin_url}/readyz")
        return answer.status_code, answer.text

    async def ready(self) -> None:
        while (await self.readiness())[0] != 200:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self._http.aclose()


def check_refusals(load: Load) -> None:
    """Those who were refused were told when to come back, and never that they are unknown."""
    assert load.refusals
    for refusal in load.refusals:
        assert refusal.status_code == 503, refusal.text
        assert int(refusal.headers["retry-after"]) > 0
        assert refusal.json()["error"]["code"] == "service_unavailable"


def told(served: Served, event: str) -> list[dict[str, Any]]:
    """What the gateway's log says of `event`."""
    lines = (line for line in served.log().splitlines() if line.startswith("{"))
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def leftovers(journal: Path) -> list[str]:
    """Files that hold rows: of journals, and what no database took."""
    return sorted(path.name for path in journal.iterdir() if path.suffix in {".journal2", ".jsonl"})


async def lag_is_over(served: Served) -> None:
    """Wait until the database has all that has ended."""
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {ADMIN_TOKEN}"}) as http:
        while True:
            metrics = (await http.get(f"{served.admin_url}/metrics")).text
            if re.search(r"^tollway_ledger_lag_rows 0(\.0)?$", metrics, re.MULTILINE):
                return
            await asyncio.sleep(0.05)


def play(scenario: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await scenario

    asyncio.run(bounded())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outage", "killed"),
    [
        ("sqlite locked", False),
        ("postgres crashed", False),
        ("postgres frozen", False),
        ("postgres frozen", True),
    ],
    indirect=["outage"],
    ids=["sqlite locked", "postgres crashed", "postgres frozen", "gateway killed too"],
)
def test_an_outage_slows_requests_and_loses_nothing(tmp_path: Path, outage: Outage, killed: bool) -> None:
    database, happens = outage

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = CHANGES | {"server": CHANGES["server"] | {"journal_dir": str(tmp_path / "journal")}}
            served = Served(tmp_path, hosted, pool, changes, database.url)
            load = Load(served)
            stack.push_async_callback(load.close)
            async with served.running() as process:
                await load.run(40)
                assert not load.refusals
                with happens():
                    await load.run(10 * QUEUE_ROWS)
                    check_refusals(load)
                    went_on = len(load.answers) - len(load.refusals) - 40
                    # Some rows of before may have waited already.
                    assert QUEUE_ROWS - 40 <= went_on <= QUEUE_ROWS + 2 * CLIENTS
                    status, why = await load.readiness()
                    assert (status, "ledger" in why) == (503, True), why
                    if killed:
                        process.kill()
                        await process.wait()
                if not killed:
                    await load.ready()
                    await load.run(20)
            async with served.running():  # takes up, before it serves, what the stop or the kill has left
                if killed:
                    await load.run(20)
                    await lag_is_over(served)
            seen = [attempt.attempt_id for one in (hosted, *pool) for attempt in one.attempts()]
            rows = await database.rows()
            assert sorted(row["attempt_id"] for row in rows) == sorted(map(str, seen))
            assert sum(row["outcome"] == "success" for row in rows) == len(load.answers) - len(load.refusals)
            assert leftovers(tmp_path / "journal") == []

    play(scenario())


@pytest.mark.slow
def test_a_stop_without_the_database_says_what_waits_and_the_next_start_counts_it_once(
    tmp_path: Path,
) -> None:
    async def scenario(database: Postgres) -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = CHANGES | {"server": CHANGES["server"] | {"journal_dir": str(tmp_path / "journal")}}
            served = Served(tmp_path, hosted, pool, changes, database.url)
            load = Load(served)
            stack.push_async_callback(load.close)
            async with served.running() as process:
                await load.run(40)
                await lag_is_over(served)
                with database.crashed():
                    await load.run(60)
                    assert not load.refusals
                    process.terminate()
                    assert await process.wait() == 0
                    (left,) = told(served, "journal.rows_left")
                    assert left["rows"] == 60
                    assert "next start" in left["taken_up_by"]
                    assert len(leftovers(tmp_path / "journal")) == 1
            assert len(await database.rows()) == 40
            async with served.running():
                seen = [attempt.attempt_id for one in (hosted, *pool) for attempt in one.attempts()]
                rows = await database.rows()
            assert sorted(row["attempt_id"] for row in rows) == sorted(map(str, seen))
            assert len(seen) == 100
            assert leftovers(tmp_path / "journal") == []

    with postgres_server() as server:
        play(scenario(Postgres(server)))
