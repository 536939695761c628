"""A start while the ledger's database is unavailable: it waits, says so, and begins to serve by itself.

Keys, limits and privacy come from the file. What a request costs, and what budgets have left, stand in the
ledger: until that is known nothing is sent.
"""

import asyncio
import re
import signal
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.ledger.url import database_of
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import APP_KEY, chat, simulators
from tests.ledger.journal.served import Served
from tests.ledger.postgres_server import PostgresServer, postgres_server

SCENARIO_SECONDS = 300  # a hang fails the test; nothing is measured against it
FAST = Knobs(ttft_ms=1, ttft_jitter_ms=1, tokens_per_second=10_000, output_tokens=3)
BUDGET = {"org": {"budgets": [{"usd": 1000, "per": "lifetime"}]}}
WAITS = re.compile(r'"data": "(\S+)", "admin": "(\S+)", "event": "gateway.waiting"')


async def ask(served: Served, key: str = APP_KEY) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as http:
        headers = {"authorization": f"Bearer {key}"}
        url = f"{served.data_url}/v1/chat/completions"
        return await http.post(url, json=chat(model="scout", max_tokens=5), headers=headers)


async def probe(served: Served, path: str = "/readyz") -> tuple[int, str]:
    async with httpx.AsyncClient() as http:
        answer = await http.get(served.admin_url + path)
        return answer.status_code, answer.text


async def ready(served: Served) -> None:
    while (await probe(served))[0] != 200:
        await asyncio.sleep(0.05)


def play(scenario: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await scenario

    asyncio.run(bounded())


async def check_waiting(served: Served, words: str) -> None:
    """It lives, is not ready and says why; a request is told to come back, a stranger is not let in."""
    assert (await probe(served, "/healthz"))[0] == 200
    status, why = await probe(served)
    assert status == 503
    assert words in why
    stranger, known = await asyncio.gather(ask(served, "nobodys-key-0123456789"), ask(served))
    assert stranger.status_code == 401
    assert known.status_code == 503
    assert int(known.headers["retry-after"]) > 0


@pytest.mark.slow
def test_a_start_without_postgresql_waits_and_then_serves_with_what_was_spent(tmp_path: Path) -> None:
    async def scenario(server: PostgresServer) -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = BUDGET | {"server": {"journal_dir": str(tmp_path / "journal")}}
            served = Served(tmp_path, hosted, pool, changes, server.url())
            async with served.running() as process:
                assert (await ask(served)).status_code == 200
                server.stop(signal.SIGQUIT)
                process.kill()
                await process.wait()
            async with served.running(WAITS):
                await check_waiting(served, "ledger postgresql://")
                assert len(pool[0].attempts()) + len(pool[1].attempts()) == 1
                server.start()
                await ready(served)
                assert (await ask(served)).status_code == 200
                spent = await served.spent_nano()
            connection = await asyncpg.connect(server.url())
            rows = await connection.fetch("SELECT * FROM usage_record")
            await connection.close()
        assert len(rows) == 2
        assert spent == sum(row["cost_nano_usd"] for row in rows)

    with postgres_server() as server:
        play(scenario(server))


@pytest.mark.slow
def test_a_start_on_a_locked_sqlite_file_waits_and_then_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            served = Served(tmp_path, hosted, pool, BUDGET)
            database_of(f"sqlite:///{served.ledger}").create_or_migrate()
            with closing(sqlite3.connect(served.ledger, isolation_level=None)) as other:
                other.execute("PRAGMA locking_mode=EXCLUSIVE")
                other.execute("PRAGMA journal_mode=DELETE")
                other.execute("BEGIN EXCLUSIVE")
                await stack.enter_async_context(served.running(WAITS))
                await check_waiting(served, "database is locked")
            await ready(served)
            assert (await ask(served)).status_code == 200

    play(scenario())


def test_a_stop_while_waiting_ends_the_process_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = {"server": {"journal_dir": str(tmp_path / "journal")}}
            nobody = "postgresql://tollway@127.0.0.1:1/tollway"
            served = Served(tmp_path, hosted, pool, changes, nobody)
            async with served.running(WAITS) as process:
                process.terminate()
                assert await process.wait() == 0
            assert "Traceback" not in served.log()

    play(scenario())


@pytest.mark.parametrize("wrong", ["database", "file"])
def test_what_no_waiting_would_mend_ends_the_start_with_one_line(tmp_path: Path, wrong: str) -> None:
    async def scenario(url: str, words: str) -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            changes = {"server": {"journal_dir": str(tmp_path / "journal")}}
            served = Served(tmp_path, hosted, pool, changes, url)
            with pytest.raises(AssertionError, match=words):  # what it said stands in the failed start
                await stack.enter_async_context(served.running())
            assert "Traceback" not in served.log()

    if wrong == "file":
        play(scenario(f"sqlite:///{tmp_path}", "tollway serve: ledger .*unable to open"))
    else:
        with postgres_server() as server:
            play(scenario(server.url("nowhere"), 'tollway serve: ledger .*database "nowhere" does not exist'))
