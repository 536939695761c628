"""`limits.estimate: typical` under real traffic: who waits, who does not, and what answers may be."""

import asyncio
from pathlib import Path

import pytest

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import Harness, Json, Streamed, chat, running, until
from tests.e2e.test_budgets import NEVER_MS, assert_too_fast, budget, limits

CROWD = 120


def typical(tokens_per_minute: int) -> Json:
    return {
        "features": {"search": {"limits": {"tokens_per_minute": tokens_per_minute, "estimate": "typical"}}}
    }


async def learned(harness: Harness) -> None:
    """A hundred short answers have shown what is typical."""
    for _ in range(100):
        assert (await harness.post(chat())).status_code == 200


async def refused_of_a_crowd(harness: Harness) -> int:
    """How many of 120 short requests are refused that are under way at once. None of them ends meanwhile."""
    harness.external.set_knobs(ttft_ms=NEVER_MS)
    crowd = [asyncio.create_task(harness.post(chat())) for _ in range(CROWD)]
    await until(lambda: harness.in_flight() + sum(task.done() for task in crowd) == CROWD)
    refused = [task.result() for task in crowd if task.done()]
    for response in refused:
        assert_too_fast(response)
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    return len(refused)


@pytest.mark.parametrize("is_typical", [True, False])
async def test_short_answers_do_not_refuse_each_other_once_they_are_known_to_be_short(
    tmp_path: Path, is_typical: bool
) -> None:
    changes = typical(60_000) if is_typical else limits(tokens_per_minute=60_000)
    async with running(tmp_path, changes) as harness:
        await learned(harness)
        shown = (await harness.metrics()).sum("typical_output_tokens", feature="search", model="gpt-4o")
        assert shown == (64 if is_typical else 0)
        refused = await refused_of_a_crowd(harness)
        assert refused == 0 if is_typical else refused > 0


async def test_an_answer_is_not_shortened_by_a_limit_that_expects_a_short_one(tmp_path: Path) -> None:
    async with running(tmp_path, typical(60_000)) as harness:
        await learned(harness)
        harness.external.set_knobs(output_tokens=16_000)
        response = await harness.post(chat())
        assert "x-tollway-output-cap" not in response.headers
        assert response.json()["usage"]["completion_tokens"] == 16_000
        assert response.json()["choices"][0]["finish_reason"] == "stop"


async def test_longer_answers_are_a_debt_and_what_was_learned_outlives_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path, typical(60_000)) as harness:
        await learned(harness)
        assert (await harness.reload(typical(2_000))).status_code == 200
        harness.external.set_knobs(output_tokens=15_000)
        long = await harness.post(chat())
        assert long.json()["usage"]["completion_tokens"] == 15_000
        waits = await harness.post(chat(max_tokens=1))
        assert_too_fast(waits)
        assert int(waits.headers["retry-after"]) > 60


async def test_a_client_that_leaves_owes_what_it_was_sent(tmp_path: Path) -> None:
    async with running(tmp_path, typical(60_000)) as harness:
        await learned(harness)
        assert (await harness.reload(typical(2_000))).status_code == 200
        harness.external.set_knobs(output_tokens=16_000, tokens_per_second=20_000)
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b"\n\n", count=5_000)
        await harness.settled()
        waits = await harness.post(chat(max_tokens=1))
        assert_too_fast(waits)
        assert int(waits.headers["retry-after"]) > 30


async def test_budgets_hold_the_longest_answer_all_the_same(tmp_path: Path) -> None:
    changes = typical(10_000_000)
    changes["features"]["search"] |= budget(1.0)["features"]["search"]
    async with running(tmp_path, changes) as harness:
        await learned(harness)
        harness.external.set_knobs(ttft_ms=NEVER_MS)
        waiting = asyncio.create_task(harness.post(chat()))
        await harness.arrived(101)
        assert await harness.held_nano() >= 16_384 * 10_000
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("changes", [budget(0.01), limits(tokens_per_minute=4_000)], ids=["budget", "limit"])
async def test_an_answer_that_a_lowered_cap_shortens_says_so_in_body_and_header(
    tmp_path: Path, changes: Json, stream: bool
) -> None:
    async with running(tmp_path, changes, external=Knobs(output_tokens=5_000)) as harness:
        response = await harness.post(chat(stream=stream))
        cap = int(response.headers["x-tollway-output-cap"])
        [attempt] = harness.external.attempts(contains=f'"max_completion_tokens":{cap}')
        assert attempt.completion_tokens == cap < 5_000
        body = Streamed(response.content).chunks[-1] if stream else response.json()
        assert body["choices"][0]["finish_reason"] == "length"
