"""Relaying: who hangs up when, what fails where, and what the books say afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import orjson
import pytest

from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import (
    APP_KEY,
    CARD,
    PATIENCE_SECONDS,
    Harness,
    Json,
    Streamed,
    chat,
    running,
    unused_url,
)

NEVER_MS = 600_000
FAST = {"timeouts": {"first_byte_seconds": 0.4, "between_bytes_seconds": 0.4, "total_seconds": 1.0}}
FAST_TIMEOUTS = {"deployments": {"scout": FAST, "gpt-4o": FAST}}
BUDGET = {"features": {"search": {"budgets": [{"usd": 100, "per": "month"}]}}}
ONE_SLOT = {"features": {"search": {"limits": {"concurrent": 1}, "budgets": [{"usd": 100, "per": "month"}]}}}

OUTCOMES = {
    ErrorKind.RATE_LIMIT: "rate_limited",
    ErrorKind.INSUFFICIENT_QUOTA: "rate_limited",
    ErrorKind.TIMEOUT: "timeout",
    ErrorKind.STALL_MID: "timeout",
    ErrorKind.UNAVAILABLE: "busy",
}
BEFORE_THE_FIRST_BYTE = [
    ErrorKind.RATE_LIMIT,
    ErrorKind.INSUFFICIENT_QUOTA,
    ErrorKind.SERVER_ERROR,
    ErrorKind.BAD_GATEWAY,
    ErrorKind.UNAVAILABLE,
    ErrorKind.TIMEOUT,
    ErrorKind.RESET_BEFORE,
    ErrorKind.GARBAGE,
]
# A whole answer reaches the client only when it is complete, so there these come before its first byte too.
WITHIN_A_WHOLE_ANSWER = [
    ErrorKind.RESET_MID,
    ErrorKind.STALL_MID,
    ErrorKind.TRUNCATED_JSON,
    ErrorKind.ERROR_EVENT,
    ErrorKind.ABORT,
]
WITHIN_A_STREAM = [
    ErrorKind.RESET_MID,
    ErrorKind.STALL_MID,
    ErrorKind.ERROR_EVENT,
    ErrorKind.ABORT,
    ErrorKind.TRUNCATED_JSON,
]


def failing(kind: ErrorKind) -> Knobs:
    """Paced, so that what comes before the failure does not arrive together with it."""
    return Knobs(error_rate=1.0, error_kind=kind, tokens_per_second=1000)


async def assert_hung_up(harness: Harness) -> Json:
    """The external simulator lost its client at once; everything is settled. Returns the only row."""
    async with asyncio.timeout(1.0):
        [attempt] = await harness.external.settled()
    assert attempt.outcome == "disconnected"
    await harness.settled()
    [row] = await harness.rows()
    assert row["attempt_id"] == attempt.attempt_id
    assert row["outcome"] == "client_disconnect"
    assert row["estimated"]
    assert await harness.held_nano() == 0
    return row


# A client that leaves


async def test_a_client_that_leaves_while_waiting_for_a_whole_answer(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGET, external=Knobs(ttft_ms=NEVER_MS)) as harness:
        async with await harness.raw() as client:
            await client.request(chat())
            await harness.arrived()
        row = await assert_hung_up(harness)
        assert row["input_tokens"] > 0
        assert row["output_tokens"] == 0


async def test_a_client_that_leaves_before_the_first_token(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGET, external=Knobs(ttft_ms=NEVER_MS)) as harness:
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await harness.arrived()
        row = await assert_hung_up(harness)
        assert row["ttft_ms"] is None


async def test_a_client_that_leaves_mid_stream_pays_for_the_tokens_it_was_sent(tmp_path: Path) -> None:
    async with running(
        tmp_path, BUDGET, external=Knobs(tokens_per_second=500, output_tokens=100_000)
    ) as harness:
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b'"content":"', count=12)
        row = await assert_hung_up(harness)
        assert row["output_tokens"] >= 11
        [attempt] = harness.external.attempts()
        assert row["output_tokens"] <= attempt.completion_tokens
        assert row["cost_nano_usd"] == row["input_tokens"] * 2_500 + row["output_tokens"] * 10_000


async def test_what_a_broken_stream_may_have_cost_unseen_stays_out_of_reach(tmp_path: Path) -> None:
    """An under-estimate never refunds: what the upstream may bill is not available to others."""
    async with running(
        tmp_path, BUDGET, external=Knobs(tokens_per_second=500, output_tokens=100_000)
    ) as harness:
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b'"content":"', count=12)
        await harness.external.settled()
        await harness.settled()
        metrics = await harness.metrics()
        [attempt] = harness.external.attempts()
        billed = attempt.prompt_tokens * 2_500 + attempt.completion_tokens * 10_000
        assert metrics.nano("budget_spent_usd") + metrics.nano("budget_unseen_usd") >= billed


async def test_a_client_that_reads_nothing_and_leaves(tmp_path: Path) -> None:
    """Backpressure reaches the upstream: the gateway does not gather what the client leaves unread."""
    async with running(tmp_path, BUDGET, external=Knobs(output_tokens=16_384)) as harness:
        async with await harness.raw(receive_buffer_bytes=4096) as client:
            await client.request(chat(stream=True, logprobs=True, top_logprobs=20))
            await harness.arrived()
            await until_stalled(harness.external.attempts()[0])
        row = await assert_hung_up(harness)
        assert 0 < row["output_tokens"] < 16_384


async def test_a_client_that_leaves_while_sending_its_request_leaves_no_trace(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGET) as harness:
        async with await harness.raw() as client:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ")
            await client.send(APP_KEY.encode() + b"\r\ncontent-length: 1000\r\n\r\n{")
        await harness.settled()
        assert harness.attempts() == []
        assert await harness.rows() == []


async def test_a_client_that_leaves_gives_its_slot_back(tmp_path: Path) -> None:
    async with running(tmp_path, ONE_SLOT, external=Knobs(ttft_ms=NEVER_MS)) as harness:
        async with await harness.raw() as client:
            await client.request(chat())
            await harness.arrived()
            assert (await harness.post(chat())).status_code == 429
        await harness.settled()
        harness.external.set_knobs(ttft_ms=0)
        assert (await harness.post(chat())).status_code == 200


async def test_a_client_that_leaves_is_not_the_replica_s_failure(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=[Knobs(ttft_ms=NEVER_MS)] * 2) as harness:
        for number in range(1, 9):
            async with await harness.raw() as client:
                await client.request(chat(model="scout"))
                await harness.arrived(number)
        await harness.settled()
        assert (await harness.metrics()).sum("replica_up", deployment="scout") == 2


async def test_two_requests_at_once_on_one_connection_and_a_client_that_leaves(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGET, external=Knobs(ttft_ms=NEVER_MS)) as harness:
        async with await harness.raw() as client:
            await client.request(chat())
            await harness.arrived()
            await client.request(chat())
        await assert_hung_up(harness)


# The gateway stops


async def test_stopping_books_what_is_cut_off(tmp_path: Path) -> None:
    knobs = Knobs(tokens_per_second=100, output_tokens=100_000)
    async with running(tmp_path, external=knobs) as harness, await harness.raw() as client:
        await client.request(chat(stream=True))
        await client.read_until(b'"content":"', count=3)
        await harness.stop()
        [row] = harness.stored_rows()
        assert row["outcome"] == "shutdown"
        assert row["output_tokens"] >= 2


async def test_a_stream_that_a_stop_cuts_off_ends_with_the_reason(tmp_path: Path) -> None:
    knobs = Knobs(tokens_per_second=100, output_tokens=100_000)
    async with running(tmp_path, external=knobs) as harness, await harness.raw() as client:
        await client.request(chat(stream=True))
        await client.read_until(b'"content":"', count=3)
        await harness.stop()
        received = await client.read_to_end()
    assert b"[DONE]" not in received
    assert received.endswith(b"\r\n\r\n")
    last = received.rpartition(b"data: ")[2].partition(b"\n")[0]
    error = orjson.loads(last)["error"]
    assert error["code"] == "service_unavailable"
    assert error["message"] == "The gateway stops. Send the request again."


async def test_an_answer_that_a_stop_cuts_off_is_an_error(tmp_path: Path) -> None:
    async with running(tmp_path, external=Knobs(ttft_ms=NEVER_MS)) as harness, await harness.raw() as client:
        await client.request(chat())
        await harness.arrived()
        await harness.stop()
        received = await client.read_to_end()
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in received
    assert b"connection: close\r\n" in received


async def test_stopping_lets_a_stream_finish(tmp_path: Path) -> None:
    knobs = Knobs(tokens_per_second=200, output_tokens=60)
    async with running(tmp_path, external=knobs) as harness, await harness.raw() as client:
        await client.request(chat(stream=True))
        await client.read_until(b'"content":"', count=3)
        await harness.stop()
        assert b"data: [DONE]" in await client.read_to_end()
        [row] = harness.stored_rows()
        assert (row["outcome"], row["output_tokens"]) == ("success", 60)


# An upstream that fails before the first byte


@pytest.mark.parametrize("kind", BEFORE_THE_FIRST_BYTE + WITHIN_A_WHOLE_ANSWER)
async def test_a_failed_answer_is_the_next_candidate_s_turn(tmp_path: Path, kind: ErrorKind) -> None:
    async with running(tmp_path, FAST_TIMEOUTS, replicas=[failing(kind)] * 2) as harness:
        response = await harness.post(chat(model="auto"))
        await assert_failed_over(harness, kind)
        assert response.status_code == 200
        assert response.json()["choices"][0]["finish_reason"] == "stop"
        assert response.headers["x-tollway-deployment"] == "gpt-4o"
        assert response.headers["x-tollway-decision"] == "failover"


@pytest.mark.parametrize("kind", BEFORE_THE_FIRST_BYTE)
async def test_a_stream_that_fails_to_begin_is_the_next_candidate_s_turn(
    tmp_path: Path, kind: ErrorKind
) -> None:
    async with running(tmp_path, FAST_TIMEOUTS, replicas=[failing(kind)] * 2) as harness:
        response = await harness.post(chat(model="auto", stream=True))
        await assert_failed_over(harness, kind)
        assert response.headers["x-tollway-deployment"] == "gpt-4o"
        streamed = Streamed(response.content)
        assert streamed.is_done
        assert streamed.errors == []


async def assert_failed_over(harness: Harness, kind: ErrorKind) -> None:
    await harness.settled()
    *failed, last = await harness.rows()
    # A kept connection that dies unseen is no verdict on its replica: it is asked again on a fresh one.
    tried = [row for row in failed if row["outcome"] != "stale_connection"]
    assert [row["deployment"] for row in tried] == ["scout", "scout"]
    assert {row["outcome"] for row in tried} == {OUTCOMES.get(kind, "upstream_error")}
    assert (last["deployment"], last["outcome"]) == ("gpt-4o", "success")
    assert {row["request_id"] for row in failed} == {last["request_id"]}
    assert {row["attempt_id"] for row in (*failed, last)} == {
        attempt.attempt_id for attempt in harness.attempts()
    }


async def test_an_abort_instead_of_the_first_token_is_the_next_candidate_s_turn(tmp_path: Path) -> None:
    """vLLM answers 200 and finish_reason "abort" while it shuts down."""
    async with running(tmp_path, replicas=[Knobs(ttft_ms=NEVER_MS)] * 2) as harness:
        answering = asyncio.create_task(harness.post(chat(model="auto", stream=True)))
        for number in (1, 2):
            await harness.arrived(number)
            for replica in harness.replicas:
                replica.abort_all()
        streamed = Streamed((await answering).content)
        assert streamed.is_done
        assert b"abort" not in b"".join(streamed.events)


async def test_nothing_of_an_answer_that_failed_reaches_the_client(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=[failing(ErrorKind.ABORT)] * 2) as harness:
        [failed, right] = [await harness.post(chat(model=model)) for model in ("auto", "gpt-4o")]
        assert failed.json()["choices"] == right.json()["choices"]


async def test_when_every_candidate_fails_the_client_gets_one_error(tmp_path: Path) -> None:
    broken = failing(ErrorKind.SERVER_ERROR)
    async with running(tmp_path, external=broken, replicas=[broken] * 2) as harness:
        response = await harness.post(chat(model="auto"))
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_error"
        assert [row["deployment"] for row in await harness.rows()] == ["scout", "scout", "gpt-4o"]


async def test_when_every_candidate_is_at_its_limit_the_client_is_told_when_to_retry(tmp_path: Path) -> None:
    busy = failing(ErrorKind.RATE_LIMIT)
    async with running(tmp_path, external=busy, replicas=[busy] * 2) as harness:
        response = await harness.post(chat(model="auto"))
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(response.headers["retry-after-ms"]) > 0


async def test_failover_stays_inside_the_plan(tmp_path: Path) -> None:
    broken = failing(ErrorKind.SERVER_ERROR)
    async with running(tmp_path, replicas=[broken] * 2) as harness:
        labelled = await harness.post(chat(model="auto"), x_tollway_privacy="confidential")
        detected = await harness.post(chat(f"Card {CARD}", model="auto"))
        assert (labelled.status_code, detected.status_code) == (502, 502)
        assert harness.external.attempts() == []


async def test_a_failed_attempt_costs_nothing_when_it_was_refused(tmp_path: Path) -> None:
    broken = failing(ErrorKind.SERVER_ERROR)
    async with running(tmp_path, BUDGET, replicas=[broken] * 2) as harness:
        await harness.post(chat(model="auto"))
        *failed, last = await harness.rows()
        assert [row["cost_nano_usd"] for row in failed] == [0, 0]
        metrics = await harness.metrics()
        assert metrics.nano("budget_spent_usd") == last["cost_nano_usd"]
        assert metrics.nano("budget_unseen_usd") == 0


# An upstream that fails after the first byte


@pytest.mark.parametrize("kind", WITHIN_A_STREAM)
async def test_a_stream_that_breaks_ends_in_one_error_event(tmp_path: Path, kind: ErrorKind) -> None:
    changes = FAST_TIMEOUTS | BUDGET
    async with running(tmp_path, changes, external=failing(kind)) as harness:
        response = await harness.post(chat(stream=True))
        streamed = Streamed(response.content)
        assert response.status_code == 200
        assert len(streamed.chunks) > 1  # all of it is JSON
        assert len(streamed.errors) == 1
        assert set(streamed.errors[0]) == {"message", "type", "param", "code"}
        assert streamed.events[-1].startswith(b'data: {"error"')
        await harness.settled()
        [row] = await harness.rows()
        assert row["outcome"] == OUTCOMES.get(kind, "upstream_error")
        assert row["estimated"]
        assert 25 <= row["output_tokens"] <= 31
        assert await harness.held_nano() == 0


@pytest.mark.parametrize("kind", [ErrorKind.RESET_MID, ErrorKind.ERROR_EVENT, ErrorKind.ABORT])
async def test_the_official_client_raises_on_a_stream_that_breaks(tmp_path: Path, kind: ErrorKind) -> None:
    async with running(tmp_path, external=failing(kind)) as harness:
        with pytest.raises(openai.APIError) as broken:
            async for _ in await harness.client().chat.completions.create(**chat(), stream=True):
                pass
        assert broken.value.code == "upstream_error"


async def test_after_the_first_byte_nothing_is_retried(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=[failing(ErrorKind.RESET_MID)] * 2) as harness:
        await harness.post(chat(model="auto", stream=True))
        assert len(harness.attempts()) == 1


async def test_a_stream_without_usage_is_booked_by_what_was_seen(tmp_path: Path) -> None:
    async with running(tmp_path, external=failing(ErrorKind.NO_USAGE)) as harness:
        response = await harness.post(chat(stream=True))
        assert Streamed(response.content).is_done
        [row] = await harness.rows()
        assert (row["outcome"], row["estimated"]) == ("success", True)
        assert 50 <= row["output_tokens"] <= 60


# Replicas


@asynccontextmanager
async def one_of_two(tmp_path: Path, first: Knobs) -> AsyncIterator[Harness]:
    async with running(tmp_path, FAST_TIMEOUTS, replicas=[first, Knobs()]) as harness:
        yield harness


@pytest.mark.parametrize("kind", [kind for kind in BEFORE_THE_FIRST_BYTE if kind is not ErrorKind.TIMEOUT])
async def test_one_failing_replica_fails_no_request(tmp_path: Path, kind: ErrorKind) -> None:
    async with one_of_two(tmp_path, failing(kind)) as harness:
        responses = [await harness.post(chat(model="scout", stream=number % 2 == 0)) for number in range(8)]
        assert {response.status_code for response in responses} == {200}
        assert harness.external.attempts() == []


async def test_one_dead_replica_fails_no_request(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"replicas": {"urls": [f"{unused_url()}/v1", "${REPLICA_1}/v1"]}}}}
    async with running(tmp_path, changes, replicas=[Knobs()]) as harness:
        responses = [await harness.post(chat(model="scout")) for _ in range(8)]
        assert {response.status_code for response in responses} == {200}
        assert {row["outcome"] for row in await harness.rows()} <= {"success", "connect_error"}


async def test_an_unhealthy_replica_is_left_out(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"health": {"interval_seconds": 0.02}}}}
    async with running(tmp_path, changes, replicas=[Knobs(healthy=False), Knobs()]) as harness:
        await until_up(harness, 1)
        responses = [await harness.post(chat(model="scout")) for _ in range(8)]
        assert {response.status_code for response in responses} == {200}
        assert harness.replicas[0].attempts() == []


async def test_a_replica_that_recovers_is_used_again(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"health": {"interval_seconds": 0.02}}}}
    async with running(tmp_path, changes, replicas=[Knobs(healthy=False), Knobs()]) as harness:
        await until_up(harness, 1)
        harness.replicas[0].set_knobs(healthy=True)
        await until_up(harness, 2)
        for _ in range(4):
            await harness.post(chat(model="scout"))
        assert len(harness.replicas[0].attempts()) == 2


async def test_requests_of_one_moment_are_spread_over_the_replicas(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=[Knobs(ttft_ms=50)] * 2) as harness:
        await asyncio.gather(*(harness.post(chat(model="scout")) for _ in range(20)))
        assert [len(replica.attempts()) for replica in harness.replicas] == [10, 10]


async def test_with_no_replica_left_the_client_is_told_when_to_retry(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"replicas": {"urls": [f"{unused_url()}/v1"]}}}}
    async with running(tmp_path, changes, replicas=[]) as harness:
        await until_up(harness, 0)
        response = await harness.post(chat(model="scout"))
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1


async def test_failing_answers_do_not_shut_the_only_candidate_for_everyone(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.external.set_knobs(fail_next=5, error_kind=ErrorKind.SERVER_ERROR)
        failed = [await harness.post(chat()) for _ in range(5)]
        assert {response.status_code for response in failed} == {502}
        assert (await harness.post(chat())).status_code == 200


async def test_a_poisonous_request_takes_no_replica_away_from_others(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for replica in harness.replicas:
            replica.set_knobs(fail_next=4, error_kind=ErrorKind.SERVER_ERROR)
        poisoned = [await harness.post(chat(model="scout")) for _ in range(4)]
        assert {response.status_code for response in poisoned} == {502}
        assert (await harness.metrics()).sum("replica_up", deployment="scout") == 2
        assert (await harness.post(chat(model="scout"))).status_code == 200


# An upstream that refuses


async def test_what_vllm_refuses_comes_in_openai_s_envelope(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.post(chat(model="auto", temperature=5))
        error = response.json()["error"]
        assert response.status_code == 400
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == "400"
        assert "temperature" in error["message"]
        [row] = await harness.rows()
        assert (row["outcome"], row["status"], row["cost_nano_usd"]) == ("client_error", 400, 0)


async def test_a_refused_request_does_not_count_against_the_replica(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for _ in range(10):
            await harness.post(chat(model="scout", temperature=5))
        assert (await harness.metrics()).sum("replica_up", deployment="scout") == 2
        assert (await harness.post(chat(model="scout"))).status_code == 200


async def test_our_own_wrong_key_is_not_the_client_s(tmp_path: Path) -> None:
    async with running(tmp_path, external=Knobs(api_key="another-key")) as harness:
        response = await harness.post(chat())
        assert response.status_code == 502
        assert "key" not in response.json()["error"]["message"]


async def test_our_own_wrong_model_name_is_not_the_client_s(tmp_path: Path) -> None:
    async with running(tmp_path, external=Knobs(models=("another-model",))) as harness:
        response = await harness.post(chat())
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_account_rejected"
        assert response.headers["x-should-retry"] == "false"


# What goes out


async def test_the_upstream_gets_our_key_and_no_header_of_the_client(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        await harness.post(
            chat(), openai_organization="org-of-the-client", cookie="a=b", x_forwarded_for="10.1.2.3"
        )
        [attempt] = harness.external.attempts()
        assert attempt.headers["authorization"] == "...-key"
        assert not {"cookie", "openai-organization", "x-forwarded-for"} & set(attempt.headers)


async def test_an_idempotency_key_goes_along_as_a_digest(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for key in ("once-only", "once-only", "another"):
            await harness.post(chat(), idempotency_key=key)
        sent = [attempt.headers["idempotency-key"] for attempt in harness.external.attempts()]
        assert sent[0] == sent[1] != sent[2]
        assert "once-only" not in sent


# Books


async def test_the_books_are_closed_before_the_client_reads_done(tmp_path: Path) -> None:
    async with running(tmp_path, BUDGET) as harness:
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b"[DONE]")
            metrics = await harness.metrics()
            [row] = await harness.rows()
        assert metrics.nano("budget_held_usd") == 0
        assert metrics.nano("budget_spent_usd") == metrics.nano("cost_usd_total") == row["cost_nano_usd"] > 0


async def test_the_cost_header_is_the_ledger_s_cost(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.post(chat())
        [row] = await harness.rows()
        usage = response.json()["usage"]
        nano = int(response.headers["x-tollway-cost-usd"].replace(".", ""))
        assert nano == row["cost_nano_usd"]
        assert nano == usage["prompt_tokens"] * 2_500 + usage["completion_tokens"] * 10_000


async def test_the_row_says_who_asked_what_and_what_it_would_have_cost_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        body = chat(model="auto", metadata={"ticket": "42"})
        response = await harness.post(body, x_tollway_feature="triage", x_tollway_tags="step=draft")
        [row] = await harness.rows()
        assert (row["key"], row["feature"], row["team"]) == ("app", "triage", "product")
        assert (row["model"], row["deployment"], row["zone"]) == ("auto", "scout", "local")
        assert row["request_id"] == response.headers["x-request-id"]
        assert orjson.loads(row["tags"]) == {"ticket": "42", "step": "draft"}
        usage = response.json()["usage"]
        elsewhere = orjson.loads(row["counterfactual_nano_usd"])["gpt-4o"]
        assert elsewhere == usage["prompt_tokens"] * 2_500 + usage["completion_tokens"] * 10_000


async def until_up(harness: Harness, count: int) -> None:
    """Return once so many replicas of Scout are in use."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await harness.metrics()).sum("replica_up", deployment="scout") != count:
            await asyncio.sleep(0.01)


async def until_stalled(attempt: SeenAttempt) -> None:
    """Return once the simulator sends no more because nobody reads."""
    sent = -1
    while attempt.completion_tokens != sent:
        sent = attempt.completion_tokens
        await asyncio.sleep(0.1)
