"""Streams through a whole gateway: late first tokens, odd values, and usage with each chunk."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.simulators.knobs import ErrorKind, Knobs
from gateway.simulators.running import Simulator
from tests.e2e.harness import SCOUT, Harness, Json, Streamed, chat, running

NEVER_MS = 600_000
MASKING: Json = {"features": {"search": {"mask": ["email"]}}}


def one_pool(**scout: Any) -> Json:
    return {"deployments": {"scout": {**scout, "replicas": {"urls": ["${REPLICA_1}/v1"]}}}}


async def test_what_only_keeps_alive_leaves_the_way_open_for_another_candidate(tmp_path: Path) -> None:
    dying = Knobs(
        opening_first=True,
        comment_every_ms=5,
        ttft_ms=50,
        error_rate=1.0,
        error_kind=ErrorKind.RESET_MID,
        break_after_tokens=0,
    )
    async with running(tmp_path, replicas=(dying, dying)) as harness:
        response = await harness.post(chat("Hello", model="auto", stream=True))
        rows = await harness.rows()
    stream = Streamed(response.content)
    assert response.headers["x-tollway-deployment"] == "gpt-4o"
    assert stream.is_done
    assert not stream.errors
    assert b"keep-alive" not in response.content
    assert [(row["deployment"], row["outcome"]) for row in rows] == [
        ("scout", "upstream_error"),
        ("scout", "upstream_error"),
        ("gpt-4o", "success"),
    ]
    assert [row["ttft_ms"] is None for row in rows] == [True, True, False]


async def test_a_client_hears_that_it_is_answered_while_the_model_thinks(tmp_path: Path) -> None:
    thinking = Knobs(opening_first=True, comment_every_ms=5, ttft_ms=NEVER_MS)
    async with running(tmp_path, one_pool(commit_after_seconds=0.05), replicas=(thinking,)) as harness:
        async with await harness.raw() as client:
            await client.request(chat("Hello", model="scout", stream=True))
            received = await client.read_until(b'"role":"assistant"')
        await harness.settled()
        [row] = await harness.rows()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"x-tollway-deployment: scout" in received
    assert b"keep-alive" not in received.partition(b"\r\n\r\n")[2]
    assert (row["outcome"], row["ttft_ms"]) == ("client_disconnect", None)


async def test_the_first_token_is_not_the_first_byte(tmp_path: Path) -> None:
    knobs = Knobs(opening_first=True, comment_every_ms=10, ttft_ms=300)
    async with running(tmp_path, one_pool(), replicas=(knobs,)) as harness:
        await harness.post(chat("Hello", model="scout", stream=True))
        [row] = await harness.rows()
        metrics = await harness.metrics()
        learned = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"].ttft_seconds
    assert row["ttft_ms"] >= 300
    assert metrics.sum("time_to_first_token_seconds_sum", deployment="scout") * 1000 >= 300
    assert learned is not None
    assert learned >= 0.3


# --- odd values ---


@pytest.mark.parametrize("masks", [False, True], ids=["as it is", "masked"])
@pytest.mark.parametrize("model", ["scout", "gpt-4o"])
async def test_odd_values_reach_the_client_as_they_are(tmp_path: Path, model: str, masks: bool) -> None:
    text = "Write to bob@example.com" if masks else "Write a letter"
    knobs = Knobs(odd_values=True, output_tokens=20, prompt_caching=False)
    async with running(
        tmp_path, MASKING if masks else {}, external=knobs, replicas=(knobs, knobs)
    ) as harness:
        whole = await harness.post(chat(text, model=model))
        streamed = await harness.post(chat(text, model=model, stream=True))
        direct = await direct_answers(harness, model, masks)
        rows = await harness.rows()
        attempts = [attempt for attempt in harness.attempts() if attempt.attempt_id is not None]
    if masks and model == "gpt-4o":  # what has an original put back is written anew
        assert whole.json() == json.loads(direct[0])
        assert text_of(streamed.content) == text_of(direct[1]).replace("[EMAIL_1]", "bob@example.com")
    else:
        assert (whole.content, streamed.content) == tuple(direct)
    assert b"\\ud800" in whole.content
    assert b"\\ud800" in streamed.content
    assert not any(row["estimated"] for row in rows)
    seen = {attempt.attempt_id: (attempt.prompt_tokens, attempt.completion_tokens) for attempt in attempts}
    assert {row["attempt_id"]: (row["input_tokens"], row["output_tokens"]) for row in rows} == seen
    assert {row["reported_model"] for row in rows} == {None}


def text_of(stream: bytes) -> str:
    """What a client puts together, which reads lone surrogates, as Python's does."""
    chunks = [json.loads(event[6:]) for event in stream.split(b"\n\n") if event.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])


async def direct_answers(harness: Harness, model: str, masks: bool) -> list[bytes]:
    """What the simulator says to the bodies that the gateway sends, as a client without usage sees it."""
    simulator: Simulator = harness.external if model == "gpt-4o" else harness.replicas[0]
    text = "Write to [EMAIL_1]" if masks and model == "gpt-4o" else "Write to bob@example.com"
    name = "gpt-4o-2024-11-20" if model == "gpt-4o" else SCOUT
    body = chat(text if masks else "Write a letter", model=name)
    url = f"{simulator.url}/v1/chat/completions"
    headers = {"authorization": "Bearer sk-simulated-account-key"}
    answers = [
        (await harness.http.post(url, json=body | more, headers=headers)).content
        for more in ({}, {"stream": True})
    ]
    return [answer.replace(b"[EMAIL_1]", b"bob@example.com") for answer in answers]


# --- usage with each chunk ---


@pytest.mark.parametrize("kind", [ErrorKind.RESET_MID, ErrorKind.ABORT, ErrorKind.ERROR_EVENT])
async def test_a_stream_that_breaks_off_is_booked_exactly(tmp_path: Path, kind: ErrorKind) -> None:
    knobs = Knobs(error_rate=1.0, error_kind=kind, tokens_per_second=500, break_after_tokens=17)
    async with running(tmp_path, one_pool(continuous_usage=True), replicas=(knobs,)) as harness:
        response = await harness.post(chat("Hello", model="scout", stream=True))
        [row] = await harness.rows()
        [attempt] = harness.attempts()
    assert b'"upstream_error"' in response.content
    assert b'"usage"' not in response.content
    assert (row["outcome"], bool(row["estimated"])) == ("upstream_error", False)
    assert (row["input_tokens"], row["output_tokens"]) == (attempt.prompt_tokens, 17)
    assert row["cost_nano_usd"] == row["input_tokens"] * 300 + 17 * 1_200


async def test_a_stream_whose_client_left_is_booked_at_what_was_counted(tmp_path: Path) -> None:
    knobs = Knobs(tokens_per_second=500, output_tokens=8_000)
    async with running(tmp_path, one_pool(continuous_usage=True), replicas=(knobs,)) as harness:
        async with await harness.raw() as client:
            await client.request(chat("Hello", model="scout", stream=True))
            await client.read_until(b'"content":"', count=12)
        await harness.settled()
        [row] = await harness.rows()
        [attempt] = harness.attempts()
        metrics = await harness.metrics()
    assert (row["outcome"], bool(row["estimated"])) == ("client_disconnect", False)
    assert row["input_tokens"] == attempt.prompt_tokens
    assert 11 <= row["output_tokens"] <= attempt.completion_tokens
    billed = attempt.prompt_tokens * 300 + attempt.completion_tokens * 1_200
    assert row["cost_nano_usd"] + row["unseen_nano_usd"] >= billed
    assert metrics.sum("time_to_first_token_seconds_count", deployment="scout") == 1


async def test_a_whole_stream_looks_the_same_with_and_without(tmp_path: Path) -> None:
    knobs = Knobs(output_tokens=30, prompt_caching=False)
    seen = []
    for counts in (False, True):
        folder = tmp_path / str(counts)
        folder.mkdir()
        async with running(folder, one_pool(continuous_usage=counts), replicas=(knobs,)) as harness:
            plain = await harness.post(chat("Hello", model="scout", stream=True))
            asked = await harness.post(
                chat("Hello", model="scout", stream=True, stream_options={"include_usage": True})
            )
            rows = await harness.rows()
        told = [{**chunk, "id": "", "created": 0} for chunk in Streamed(plain.content).chunks]
        told += [{**chunk, "id": "", "created": 0} for chunk in Streamed(asked.content).chunks]
        seen.append((told, [(row["input_tokens"], row["output_tokens"], row["estimated"]) for row in rows]))
    assert seen[0] == seen[1]
    assert sum("usage" in chunk for chunk in seen[1][0]) == 1


async def test_a_client_that_asks_for_usage_with_each_chunk_gets_it(tmp_path: Path) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with running(tmp_path, one_pool(continuous_usage=True)) as harness:
        response = await harness.post(chat("Hello", model="scout", stream=True, stream_options=options))
        [attempt] = harness.attempts()
    chunks = Streamed(response.content).chunks
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == attempt.completion_tokens
    assert all("usage" in chunk for chunk in chunks)
