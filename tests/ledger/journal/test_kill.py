"""kill -9 at any moment: what the upstreams saw is what the ledger knows, attempt by attempt.

A real `tollway serve` under 200 connections, killed again and again at random moments and started on the same
ledger. An attempt may be in the ledger that no upstream saw, when the kill came between its intent and its
dispatch, most often while its connection was being opened; then it is presumed.
"""

import asyncio
import random
import re
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import APP_KEY, chat, read_rows, simulators
from tests.ledger.journal.served import Served
from tests.ledger.ledger_records import until

ROUNDS = 20
CONNECTIONS = 200
SOONEST_SECONDS, LATEST_SECONDS = 0.02, 0.6  # from the first request to the kill
SCENARIO_SECONDS = 300

HOSTED = Knobs(ttft_ms=10, ttft_jitter_ms=10, tokens_per_second=400, output_tokens=40)
POOL = Knobs(ttft_ms=2, ttft_jitter_ms=2, output_tokens=5, error_rate=0.05)
CHANGES = {
    "server": {"log_level": "error"},
    "org": {"budgets": [{"usd": 1000, "per": "lifetime"}]},
}


class Client:
    """One connection that sends one request after another until the gateway dies."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.answered: list[str] = []  # ids of the requests whose whole answer has arrived

    async def run(self, url: str) -> None:
        parts = urlsplit(url)
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                while True:
                    await self._exchange(reader, writer)
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._number += 1
        model = ("gpt-4o", "scout", "auto")[self._number % 3]
        body = orjson.dumps(chat(model=model, stream=self._number % 2 == 0, max_tokens=50))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {APP_KEY}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(answer.split()[1])
        if (length := re.search(r"content-length: (\d+)", answer)) is not None:
            await reader.readexactly(int(length[1]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        if status == 200:
            self.answered.append(answer.partition("x-request-id: ")[2].split("\r\n")[0])


async def load(served: Served, process: asyncio.subprocess.Process, seconds: float) -> list[str]:
    """All connections busy, and after `seconds` the gateway is killed. Ids of the requests answered."""
    clients = [Client(number) for number in range(CONNECTIONS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(served.data_url))
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    return [request_id for client in clients for request_id in client.answered]


async def scenario(folder: Path, chance: random.Random) -> None:
    answered: list[str] = []
    async with simulators(HOSTED, [POOL, POOL]) as (hosted, pool):
        served = Served(folder, hosted, pool, CHANGES)
        for _ in range(ROUNDS):
            async with served.running() as process:
                await check_spending(served)
                answered += await load(served, process, chance.uniform(SOONEST_SECONDS, LATEST_SECONDS))
        async with served.running():
            await check_spending(served)
            seen = [attempt for simulator in (hosted, *pool) for attempt in simulator.attempts()]
            await until(lambda: not any(attempt.is_running for attempt in seen))
        check_books(served, [attempt.attempt_id for attempt in seen], answered)
        assert not list(served.journal.glob("*.journal2"))


async def check_spending(served: Served) -> None:
    """Budgets open again with everything that the ledger has come to know, presumed rows included."""
    rows = read_rows(served.ledger)
    assert await served.spent_nano() == sum(row["cost_nano_usd"] for row in rows)


def check_books(served: Served, seen: list[str | None], answered: list[str]) -> None:
    rows = {row["attempt_id"]: row for row in read_rows(served.ledger)}
    assert len(set(seen)) == len(seen) > ROUNDS
    assert set(seen) <= set(rows)
    unseen = [rows[attempt_id] for attempt_id in set(rows) - set(seen)]
    assert {row["outcome"] for row in unseen} <= {"presumed"}
    presumed = [row for row in rows.values() if row["outcome"] == "presumed"]
    assert len(unseen) <= ROUNDS * CONNECTIONS
    assert len(presumed) > ROUNDS  # or the kills came at no interesting moment
    for row in presumed:
        assert row["estimated"]
        assert 0 < row["cost_nano_usd"] <= row["held_nano_usd"]
        assert row["input_tokens"] > 0
    by_request = Counter(row["request_id"] for row in rows.values() if row["outcome"] == "success")
    assert all(by_request[request_id] == 1 for request_id in answered)
    print(f"{len(seen)} seen, {len(rows)} rows, {len(presumed)} presumed, {len(unseen)} of them not sent")


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_no_attempt_and_books_none_twice(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")

    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await scenario(tmp_path, random.Random(seed))

    asyncio.run(bounded())
