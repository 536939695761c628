"""The pool on two real vLLM servers: full, frozen, silent, and every token in the ledger.

The tests stand in the order in which they run: the last two end a server each.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.estimate import COUNTED_MARGIN_TOKENS
from gateway.finance.engine_counters import EngineTokens, counted_between, read_counters, reconcile
from gateway.ledger.past_attempts import EngineAttempt
from gateway.replicas import progress
from tests.e2e.harness import Harness, Json, RawClient, chat, gateway_over, nothing_left_over, simulators
from tests.vllm.engine import CONTEXT_TOKENS, IN_SERVER, MODEL, Engine

ENDLESS = 1900  # tokens: more than a test waits for
PATIENCE_SECONDS = 300.0
_SAYS_SOMETHING = re.compile(rb'"content":"[^"]')
ALONE: Json = {"replicas": {"urls": ["${REPLICA_1}/v1"]}}
HEALTH: Json = {"interval_seconds": 0.5, "timeout_seconds": 30, "silence_seconds": 3, "stuck_seconds": 20}


@asynccontextmanager
async def gateway(folder: Path, engines: list[Engine], **scout: object) -> AsyncIterator[Harness]:
    """A gateway over the engines as replicas of scout."""
    changes = {
        "deployments": {
            "scout": {
                "model": MODEL,
                "accepts": ["text"],
                "context_tokens": CONTEXT_TOKENS,
                "max_output_tokens": CONTEXT_TOKENS - 64,
                "health": HEALTH,
                "timeouts": {"first_byte_seconds": PATIENCE_SECONDS, "total_seconds": 2 * PATIENCE_SECONDS},
                **scout,
            }
        }
    }
    async with (
        nothing_left_over(),
        simulators(replicas=()) as (hosted, _),
        gateway_over(hosted, engines, folder, changes) as harness,  # type: ignore[arg-type]
    ):
        harness.http.timeout = httpx.Timeout(PATIENCE_SECONDS)
        yield harness


def ask(text: str = "Ships carry grain.", **more: Any) -> Json:
    return chat(text, "scout", **more)


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def occupied(engine: Engine) -> AsyncIterator[None]:
    """The server is full with requests of somebody else."""
    body = {"model": MODEL, "prompt": "grain", "max_tokens": ENDLESS, "ignore_eos": True, "stream": True}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:

        async def hold(begun: asyncio.Event) -> None:
            async with client.stream("POST", f"{engine.url}/v1/completions", json=body) as response:
                assert response.status_code == 200
                async for _ in response.aiter_bytes():
                    begun.set()

        begun = [asyncio.Event() for _ in range(IN_SERVER)]
        tasks = [asyncio.create_task(hold(event)) for event in begun]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for event in begun:
                    await event.wait()
            yield
            assert not any(task.done() for task in tasks), "it was not full all the time"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await engine.settled()


def states(harness: Harness) -> dict[str, Any]:
    pool = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"]
    return {state.replica.name: state for state in pool.replicas}


async def test_mixed_requests_reconcile_with_the_engines_to_the_token(
    tmp_path: Path, engines: list[Engine]
) -> None:
    """Usage has a prompt once, the engine counts it once for each choice."""
    before = [read_counters(await engine.settled()) for engine in engines]
    draw = random.Random(23)
    async with gateway(tmp_path, engines) as harness:

        async def one(number: int) -> int:
            text = f"Ship {number} " + "grain and letters " * draw.randrange(30)
            body = ask(text, n=draw.choice([1, 1, 2, 3]), stream=draw.random() < 0.5, max_tokens=12)
            return (await harness.post(body)).status_code

        for number in range(30):
            assert await one(number) == 200
        rows = await harness.rows()
    after = [read_counters(await engine.settled()) for engine in engines]
    for engine, begin, end in zip(engines, before, after, strict=True):
        own = [
            EngineAttempt(row["input_tokens"], row["output_tokens"], row["estimated"], row["facts"])
            for row in rows
            if row["replica"] == engine.name
        ]
        found = reconcile(counted_between(begin, end), own)
        assert found.attempts > 5
        assert found.estimated == 0
        assert found.drift == EngineTokens(0, 0)


async def prose_of(engine: Engine, tokens: int) -> str:
    """English that the server counts as `tokens` with its template, or a few less."""
    sentence = "The ship left the harbour at dawn. "
    few, more = await engine.count(sentence * 10), await engine.count(sentence * 20)
    text = sentence * (10 + (tokens - few) * 10 // (more - few))
    assert tokens - 20 <= await engine.count(text) <= tokens
    return text


async def teach_digits(harness: Harness, draw: random.Random) -> None:
    """As many prompts as one average needed to take every text for digits."""
    for _ in range(31):
        digits = "".join(draw.choices("0123456789", k=600))
        assert (await harness.post(ask(digits, max_tokens=1))).status_code == 200


async def test_prompts_of_digits_leave_an_english_one_all_that_its_context_has(
    tmp_path: Path, engines: list[Engine]
) -> None:
    """It names no cap. The one that it gets fills the context but for the margin of a count."""
    text = await prose_of(engines[0], CONTEXT_TOKENS - 150)
    async with gateway(tmp_path, engines) as harness:
        await teach_digits(harness, random.Random(18))
        answer = await harness.post(ask(text, ignore_eos=True))
        assert answer.status_code == 200
        usage = answer.json()["usage"]
        assert usage["prompt_tokens"] == await engines[0].count(text)
        assert usage["total_tokens"] == CONTEXT_TOKENS - COUNTED_MARGIN_TOKENS
        fits = await harness.post(ask(text, max_tokens=100))
        assert (fits.status_code, fits.json()["usage"]["prompt_tokens"]) == (200, usage["prompt_tokens"])


async def test_what_is_too_long_is_refused_for_its_size_and_not_for_privacy(
    tmp_path: Path, engines: list[Engine]
) -> None:
    too_long = await prose_of(engines[0], CONTEXT_TOKENS + 400)
    async with gateway(tmp_path, engines) as harness:
        await teach_digits(harness, random.Random(81))
        answer = await harness.post(chat(too_long, "auto"), x_tollway_privacy="confidential")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert str(CONTEXT_TOKENS) in error["message"].replace(",", "")
        assert len(await harness.rows()) == 31


@asynccontextmanager
async def stream_that_stands_still(
    harness: Harness, engine: Engine
) -> AsyncIterator[tuple[RawClient, EngineTokens]]:
    """A stream that is under way, its engine frozen, and what the server had counted for it by then.

    The server in front of the engine goes on, so all that was made is with the gateway.
    """
    before = read_counters(await engine.settled())
    state = states(harness)[engine.name]
    async with await harness.raw() as client:
        await client.request(ask(stream=True, max_tokens=ENDLESS, ignore_eos=True))
        await client.read_until(b"data: ", count=20)
        engine.freeze()

        def stands_still() -> bool:
            (attempt,) = state.under_way
            return attempt.last_seen_at is not None and time.monotonic() - attempt.last_seen_at > 1.0

        await until(stands_still)
        yield client, counted_between(before, read_counters(await engine.page()))


async def test_a_stream_whose_client_left_is_booked_at_what_the_engine_had_counted(
    tmp_path: Path, engines: list[Engine]
) -> None:
    engine = engines[0]
    async with gateway(tmp_path, [engine], **ALONE, continuous_usage=True) as harness:
        before = read_counters(await engine.settled())
        try:
            async with stream_that_stands_still(harness, engine) as (_, counted):
                pass
            await until(lambda: not harness.in_flight())
            (row,) = await harness.rows()
        finally:
            engine.thaw()
        assert (row["outcome"], bool(row["estimated"])) == ("client_disconnect", False)
        assert EngineTokens(row["input_tokens"], row["output_tokens"]) == counted
        assert counted.output >= 16
        made = counted_between(before, read_counters(await engine.settled())).output
        assert row["cost_nano_usd"] == counted.prompt * 300 + counted.output * 1_200
        assert row["cost_nano_usd"] + row["unseen_nano_usd"] >= counted.prompt * 300 + made * 1_200


async def test_a_full_server_hides_no_idle_one_and_counts_as_up(
    tmp_path: Path, engines: list[Engine]
) -> None:
    full, idle = engines
    async with gateway(tmp_path, engines) as harness, occupied(full):
        answers = [await harness.post(ask(f"Ship {number}", max_tokens=4)) for number in range(20)]
        assert [answer.status_code for answer in answers] == [200] * 20
        metrics = await harness.metrics()
        assert metrics.sum("replica_up", deployment="scout") == 2
        found = Counter((row["replica"], row["status"]) for row in await harness.rows())
        assert found[idle.name, 200] == 20
        assert found[full.name, 503] >= 1


async def test_a_pool_that_is_full_is_up_and_says_to_be_busy(tmp_path: Path, engines: list[Engine]) -> None:
    async with gateway(tmp_path, engines) as harness, occupied(engines[0]), occupied(engines[1]):
        for _ in range(6):
            assert (await harness.post(ask(max_tokens=4))).status_code >= 500
        metrics = await harness.metrics()
        assert metrics.sum("replica_up", deployment="scout") == 2
        assert metrics.sum("replica_busy", deployment="scout") == 2


async def test_a_frozen_engine_is_found_by_what_it_does_not_make_and_comes_back(
    tmp_path: Path, engines: list[Engine]
) -> None:
    frozen, other = engines
    async with gateway(tmp_path, engines) as harness:
        found = states(harness)
        async with await harness.raw() as one, await harness.raw() as another:
            for client in (one, another):
                await client.request(ask(stream=True, max_tokens=ENDLESS, ignore_eos=True))
            await until(lambda: all(any(each.last_seen_at for each in s.under_way) for s in found.values()))
            frozen.freeze()
            try:
                await until(lambda: found[frozen.name].is_stuck and not found[frozen.name].in_flight)
                assert not found[frozen.name].is_up
                assert found[other.name].is_up
                assert await frozen.is_well()
                answers = [await harness.post(ask(max_tokens=4)) for _ in range(5)]
                assert [answer.status_code for answer in answers] == [200] * 5
            finally:
                frozen.thaw()
            await until(lambda: found[frozen.name].is_up)
        await until(lambda: not harness.in_flight())
        ended = {row["replica"]: row["outcome"] for row in await harness.rows() if row["stream"]}
        # The other's stream goes on meanwhile, and may come to its own end.
        assert ended.pop(frozen.name) == "upstream_error"
        assert ended.keys() == {other.name}
        assert ended[other.name] in {"client_disconnect", "success"}
    for engine in engines:
        await engine.settled()


async def test_streams_end_soon_after_their_server_was_told_to_stop(
    tmp_path: Path, engines: list[Engine]
) -> None:
    """vLLM without --shutdown-timeout: its engine is gone, its port is closed, its streams stay open."""
    stopped, _ = engines
    async with gateway(tmp_path, engines) as harness:

        async def read(begun: asyncio.Event) -> bytes:
            body, content = ask(stream=True, max_tokens=400, ignore_eos=True), b""
            async with harness.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for piece in answer.aiter_bytes():
                    content += piece
                    if _SAYS_SOMETHING.search(content):
                        begun.set()
            return content

        begun = [asyncio.Event() for _ in range(6)]
        tasks = [asyncio.create_task(read(event)) for event in begun]
        await until(lambda: all(event.is_set() for event in begun))
        stopped.terminate()
        answers = await asyncio.gather(*tasks)
        rows = {row["attempt_id"]: row for row in await harness.rows()}
        broken = [row for row in rows.values() if row["outcome"] != "success"]
        assert {row["replica"] for row in broken} == {stopped.name}
        assert len(broken) == 3
        assert sum(b'data: {"error"' in answer for answer in answers) == 3
        assert sum(answer.endswith(b"data: [DONE]\n\n") for answer in answers) == 3
        assert all(row["estimated"] and row["cost_nano_usd"] > 0 for row in broken)
        later = [await harness.post(ask(max_tokens=4)) for _ in range(3)]
        assert [answer.status_code for answer in later] == [200] * 3


async def test_a_stream_whose_server_died_is_booked_at_what_it_had_counted(
    tmp_path: Path, engines: list[Engine]
) -> None:
    _, killed = engines
    async with gateway(tmp_path, [killed], **ALONE, continuous_usage=True) as harness:
        async with stream_that_stands_still(harness, killed) as (client, counted):
            killed.kill()
            await client.read_until(b'data: {"error"')
        await until(lambda: not harness.in_flight())
        (row,) = await harness.rows()
        assert (row["outcome"], bool(row["estimated"])) == ("upstream_error", False)
        assert EngineTokens(row["input_tokens"], row["output_tokens"]) == counted


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.2)
