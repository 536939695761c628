"""What an upstream refuses, or says in place of an answer: who answers then, and what clients do with it."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.simulators.knobs import ErrorKind, ErrorShape, Knobs, RetryAfter
from tests.e2e.harness import PNG_URL, Harness, Json, Streamed, chat, running

REASON = "At most 5 image(s) may be provided in one prompt."
KEY = "sk-simulated-account-key"
LATE = {"first_byte_seconds": 0.3, "between_bytes_seconds": 0.3, "total_seconds": 0.6}


def refusing(kind: ErrorKind = ErrorKind.REFUSAL, **knobs: Any) -> Knobs:
    return Knobs(error_rate=1.0, error_kind=kind, **knobs)


def images(count: int, model: str = "auto") -> Json:
    parts: list[Json] = [{"type": "image_url", "image_url": {"url": PNG_URL}} for _ in range(count)]
    return {
        "model": model,
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}],
    }


async def tries_of(harness: Harness, body: Json) -> tuple[openai.APIStatusError, int]:
    """What the official client makes of it, and how many times it asked."""
    tries: list[int] = []

    async def count(response: httpx.Response) -> None:
        tries.append(response.status_code)

    http = httpx.AsyncClient(event_hooks={"response": [count]})
    client = harness.client(max_retries=2, http_client=http)
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**body)
    return caught.value, len(tries)


# What a candidate cannot do


async def test_six_images_go_to_the_one_that_takes_them(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.post(images(6))
        assert response.status_code == 200
        assert response.headers["x-tollway-deployment"] == "gpt-4o"
        rows = await harness.rows()
        assert [(row["deployment"], row["outcome"]) for row in rows] == [
            ("scout", "client_error"),
            ("gpt-4o", "success"),
        ]
        assert rows[0]["cost_nano_usd"] == 0
        assert (await harness.metrics()).sum("replica_up", deployment="scout") == 2


async def test_where_nobody_takes_them_the_client_hears_why(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        error, tries = await tries_of(harness, images(6, model="scout"))
        assert (error.status_code, tries) == (400, 1)
        assert REASON in error.message


async def test_a_candidate_that_refuses_is_no_way_out_for_private_data(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.post(images(6), x_tollway_privacy="confidential")
        assert response.status_code == 400
        assert harness.external.attempts() == []


# Its reason


# Under 200 neither is an error in place of an answer: they are no answer at all.
PAGES = {ErrorShape.PLAIN, ErrorShape.HTML}
SHAPES = [(shape, ErrorKind.REFUSAL) for shape in ErrorShape]
SHAPES += [(shape, ErrorKind.ERROR_BODY) for shape in ErrorShape if shape not in PAGES]


@pytest.mark.parametrize(("shape", "kind"), SHAPES)
async def test_the_reason_reaches_the_client_in_every_shape(
    tmp_path: Path, shape: ErrorShape, kind: ErrorKind
) -> None:
    reason = "'messages' must not be empty."
    knobs = refusing(kind, error_shape=shape, refusal_message=reason)
    async with running(tmp_path, external=knobs) as harness:
        for stream in (False, True):
            response = await harness.post(chat(stream=stream))
            error = response.json()["error"]
            assert reason in error["message"]
            assert list(error)[:4] == ["message", "type", "param", "code"]
            if kind is ErrorKind.REFUSAL:
                assert response.status_code == 400
                assert response.headers["x-should-retry"] == "false"
            if shape is ErrorShape.AZURE:
                assert "content_filter_result" in error.get("innererror", {}) or kind is ErrorKind.ERROR_BODY


async def test_our_key_in_an_upstream_s_message_stays_with_us(tmp_path: Path) -> None:
    knobs = refusing(refusal_message=f"You sent {KEY} and sk-si******-key.")
    async with running(tmp_path, external=knobs) as harness:
        response = await harness.post(chat())
        assert response.json()["error"]["message"] == "You sent [hidden] and [hidden]"


async def test_an_error_in_place_of_an_answer_is_not_charged_and_the_next_one_answers(tmp_path: Path) -> None:
    knobs = refusing(ErrorKind.ERROR_BODY, refusal_message="The prompt is too long.")
    async with running(tmp_path, replicas=[knobs] * 2) as harness:
        whole = await harness.post(chat(model="auto"))
        streamed = Streamed((await harness.post(chat(model="auto", stream=True))).content)
        assert whole.headers["x-tollway-deployment"] == "gpt-4o"
        assert streamed.is_done
        assert streamed.errors == []
        rows = await harness.rows()
        refused = [row for row in rows if row["deployment"] == "scout"]
        assert [(row["outcome"], row["cost_nano_usd"], row["unseen_nano_usd"]) for row in refused] == [
            ("client_error", 0, 0)
        ] * 2


# When to come back


@pytest.mark.parametrize("form", [RetryAfter.MILLISECONDS, RetryAfter.SECONDS, RetryAfter.DATE])
@pytest.mark.parametrize(
    ("kind", "status", "outcome"),
    [(ErrorKind.RATE_LIMIT, 429, "rate_limited"), (ErrorKind.UNAVAILABLE, 503, "busy")],
)
async def test_the_upstream_s_wait_is_passed_on(
    tmp_path: Path, kind: ErrorKind, status: int, outcome: str, form: RetryAfter
) -> None:
    external = refusing(kind, retry_after_ms=37_000, retry_after=form)
    longer = refusing(kind, retry_after_ms=50_000, retry_after=form)
    async with running(tmp_path, external=external, replicas=[longer] * 2) as harness:
        response = await harness.post(chat(model="auto"))
        assert response.status_code == status
        assert 30 <= int(response.headers["retry-after"]) <= 37
        assert 30_000 <= int(response.headers["retry-after-ms"]) <= 37_000
        assert response.headers["x-should-retry"] == "true"
        assert {row["outcome"] for row in await harness.rows()} == {outcome}
        assert (await harness.metrics()).sum("attempts_total", outcome=outcome) == 3
        assert (await harness.metrics()).sum("replica_up") == 4


async def test_a_full_queue_is_busy_and_told_as_that(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"replicas": {"urls": ["${REPLICA_1}/v1"]}}}}
    full = Knobs(max_concurrency=1, ttft_ms=600_000)
    async with running(tmp_path, changes, replicas=[full]) as harness:
        async with await harness.raw() as waiting:
            await waiting.request(chat(model="scout"))
            await harness.arrived()
            response = await harness.post(chat(model="scout"))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "upstream_busy")
        assert "The engine is currently busy" in error["message"]
        assert int(response.headers["retry-after"]) >= 1
        await harness.settled()
        assert {row["outcome"] for row in await harness.rows()} == {"busy", "client_disconnect"}


# Our own account


ACCOUNTS = [
    Knobs(api_key="another-key"),
    Knobs(models=("another-model",)),
    refusing(ErrorKind.INSUFFICIENT_QUOTA),
    refusing(refusal_status=402),
    refusing(refusal_status=403),
]


@pytest.mark.parametrize("knobs", ACCOUNTS)
async def test_our_account_s_trouble_is_told_to_operators_and_not_retried(
    tmp_path: Path, knobs: Knobs
) -> None:
    async with running(tmp_path, external=knobs) as harness:
        assert (await harness.metrics()).sum("upstream_account_rejected_total", deployment="gpt-4o") == 0
        error, tries = await tries_of(harness, chat())
        assert (error.status_code, error.code, tries) == (502, "upstream_account_rejected", 1)
        assert KEY[:8] not in error.message
        metrics = await harness.metrics()
        assert metrics.sum("upstream_account_rejected_total", deployment="gpt-4o") == 1
        assert metrics.sum("upstream_account_rejected_total", deployment="scout") == 0
        assert [row["outcome"] for row in await harness.rows()] == ["account_rejected"]


# Time


async def test_an_answer_in_one_piece_may_take_longer_than_a_stream_s_first_byte(tmp_path: Path) -> None:
    changes = {"deployments": {"gpt-4o": {"timeouts": LATE | {"total_seconds": 60}}}}
    async with running(tmp_path, changes, external=Knobs(ttft_ms=900)) as harness:
        response = await harness.post(chat())
        assert response.status_code == 200
        assert len(harness.attempts()) == 1


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.GATEWAY_TIMEOUT])
async def test_after_a_time_out_nobody_asks_and_pays_again(tmp_path: Path, kind: ErrorKind) -> None:
    changes = {
        "deployments": {"gpt-4o": {"timeouts": LATE}},
        "models": {"auto": {"use": ["gpt-4o", "scout"]}},
        "features": {"search": {"budgets": [{"usd": 100, "per": "month"}]}},
    }
    async with running(tmp_path, changes, external=refusing(kind)) as harness:
        error, tries = await tries_of(harness, chat(model="auto"))
        assert (error.status_code, error.code, tries) == (504, "upstream_timeout", 1)
        assert len(harness.attempts()) == 1
        await harness.settled()
        [row] = await harness.rows()
        assert (row["outcome"], row["estimated"]) == ("timeout", True)
        assert row["unseen_nano_usd"] > 0


async def test_a_stream_whose_work_stopped_is_tried_elsewhere(tmp_path: Path) -> None:
    changes = {
        "deployments": {"gpt-4o": {"timeouts": LATE}},
        "models": {"auto": {"use": ["gpt-4o", "scout"]}},
    }
    async with running(tmp_path, changes, external=refusing(ErrorKind.TIMEOUT)) as harness:
        response = await harness.post(chat(model="auto", stream=True))
        assert Streamed(response.content).is_done
        assert response.headers["x-tollway-deployment"] == "scout"


# Every error answer says whether to retry


async def test_every_error_of_the_gateway_says_whether_to_retry(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answers = [
            await harness.post(b"{"),
            await harness.post(chat(model="none")),
            await harness.post(chat(), path="/v1/nothing"),
            await harness.http.get("/v1/chat/completions"),
            await harness.post(chat(), authorization="Bearer wrong"),
            await harness.post(chat("Card 4111 1111 1111 1111")),
        ]
        assert [answer.status_code for answer in answers] == [400, 404, 404, 405, 401, 403]
        assert {answer.headers.get("x-should-retry") for answer in answers} == {"false"}
        async with await harness.raw() as client:
            await client.send(b"nonsense\r\n\r\n")
            answered = await client.read_to_end()
        assert b"\r\nx-should-retry: false\r\n" in answered


# Limits that a server stated


async def test_a_limit_that_was_stated_is_not_run_into_again(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for _ in range(3):
            response = await harness.post(images(6))
            assert response.headers["x-tollway-deployment"] == "gpt-4o"
        assert sum(len(replica.attempts()) for replica in harness.replicas) == 1
        assert (await harness.post(images(5))).headers["x-tollway-deployment"] == "scout"
        # Where there is nobody else it is asked all the same: it may have other limits by now.
        assert (await harness.post(images(6, model="scout"))).status_code == 400
        assert sum(len(replica.attempts()) for replica in harness.replicas) == 3


async def test_the_last_one_left_is_asked_and_its_failure_told(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert (await harness.post(images(6))).status_code == 200
        harness.external.set_knobs(error_rate=1.0, error_kind=ErrorKind.UNAVAILABLE)
        assert (await harness.post(images(6))).status_code == 503
        harness.external.set_knobs(error_kind=ErrorKind.INSUFFICIENT_QUOTA)
        response = await harness.post(images(6))
        assert response.status_code == 400
        assert REASON in response.json()["error"]["message"]
