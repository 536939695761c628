"""Clients that leave at any moment: whatever an upstream saw is in the ledger once, and nothing is held."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import Harness, Json, chat, running

STREAMS = 500
AT_ONCE = 50
SLOTS = 2 * AT_ONCE  # a client that has left may come back before its slot does
TOKENS = 100
BUDGET = {
    "features": {
        "search": {"budgets": [{"usd": 100, "per": "day"}], "limits": {"concurrent": SLOTS}},
    }
}
NANO_PER_TOKEN = {"gpt-4o": (2_500, 10_000), "scout": (300, 1_200)}
PACED = Knobs(output_tokens=TOKENS, tokens_per_second=2000, ttft_ms=5, ttft_jitter_ms=5)
SOMETIMES_FAILING = {
    ErrorKind.SERVER_ERROR: Knobs(
        output_tokens=TOKENS, tokens_per_second=2000, error_rate=0.2, error_kind=ErrorKind.SERVER_ERROR
    ),
    ErrorKind.RESET_MID: Knobs(
        output_tokens=TOKENS, tokens_per_second=2000, error_rate=0.2, error_kind=ErrorKind.RESET_MID
    ),
}


@pytest.mark.parametrize("failure", [None, *SOMETIMES_FAILING])
async def test_every_attempt_is_in_the_ledger_once(tmp_path: Path, failure: ErrorKind | None) -> None:
    first = SOMETIMES_FAILING[failure] if failure else PACED
    async with running(tmp_path, BUDGET, external=PACED, replicas=[first, PACED]) as harness:
        streams = STREAMS if failure is None else STREAMS // 4
        await load(harness, streams)
        await harness.settled()
        rows = await harness.rows()
        assert len({row["request_id"] for row in rows}) > 0.9 * streams
        assert {row["outcome"] for row in rows} >= {"success", "client_disconnect"}
        assert_booked_once(rows, harness.attempts())
        assert_nothing_is_billed_that_was_not_made(rows, harness.attempts())
        assert_what_may_be_billed_is_kept_back(rows, harness.attempts())
        metrics = await harness.metrics()
        assert metrics.nano("budget_held_usd") == 0
        assert metrics.sum("replica_inflight") == 0
        assert harness.outstanding() == 0
        assert metrics.nano("cost_usd_total") == sum(row["cost_nano_usd"] for row in rows)
        await assert_all_slots_are_free(harness)


async def load(harness: Harness, streams: int) -> None:
    random = Random(20261123)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, point: float) -> None:
        async with slots:
            await leave_at(harness, chat(f"Number {number}.", model=("auto", "gpt-4o")[number % 2]), point)

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(one(number, random.random()))


async def leave_at(harness: Harness, body: Json, point: float) -> None:
    """Stream and leave: at 0 with the request just written, at 1 with all but the last event read."""
    events = int(point * (TOKENS + 3))
    async with await harness.raw() as client:
        await client.request(body | {"stream": True})
        if events:
            await client.read_while(lambda seen: seen.count(b"\n\n") < events and not has_ended(seen))


def has_ended(received: bytes) -> bool:
    return b"[DONE]" in received or b'data: {"error"' in received or b"HTTP/1.1 429" in received


def assert_booked_once(rows: Iterable[Json], attempts: Iterable[SeenAttempt]) -> None:
    booked = Counter(row["attempt_id"] for row in rows)
    seen = Counter(attempt.attempt_id for attempt in attempts)
    assert set(booked.values()) == set(seen.values()) == {1}
    assert seen.keys() <= booked.keys()
    # A request can be cut off on its way, after it was written and before the upstream has read it.
    unread = {row["outcome"] for row in rows if row["attempt_id"] not in seen}
    assert unread <= {"connect_error", "client_disconnect"}


def assert_nothing_is_billed_that_was_not_made(rows: Iterable[Json], attempts: Iterable[SeenAttempt]) -> None:
    made = {attempt.attempt_id: attempt for attempt in attempts}
    for row in rows:
        attempt = made.get(row["attempt_id"])
        assert row["output_tokens"] <= (attempt.completion_tokens if attempt else 0)
        if attempt is not None and not row["estimated"] and row["outcome"] == "success":
            assert row["input_tokens"] == attempt.prompt_tokens
            assert row["output_tokens"] == attempt.completion_tokens


def assert_what_may_be_billed_is_kept_back(rows: Iterable[Json], attempts: Iterable[SeenAttempt]) -> None:
    made = {attempt.attempt_id: attempt for attempt in attempts}
    for row in rows:
        attempt = made.get(row["attempt_id"])
        if attempt is not None and row["estimated"]:
            prompt, output = NANO_PER_TOKEN[row["deployment"]]
            billed = attempt.prompt_tokens * prompt + attempt.completion_tokens * output
            assert billed <= row["cost_nano_usd"] + row["unseen_nano_usd"]


async def assert_all_slots_are_free(harness: Harness) -> None:
    responses = await asyncio.gather(*(harness.post(chat(model="scout")) for _ in range(SLOTS)))
    assert 429 not in {response.status_code for response in responses}
