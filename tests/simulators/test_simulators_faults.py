"""Every way to fail, seen from the client's side of a real connection."""

import asyncio
import functools
import json
import time
from typing import Any

import httpx
import openai
import pytest

from gateway.simulators.knobs import ErrorKind, ErrorShape, Knobs, RetryAfter
from gateway.simulators.running import Simulator, SimulatorKind

MODELS = {SimulatorKind.OPENAI: "gpt-4o", SimulatorKind.VLLM: "meta-llama/Llama-4-Scout-17B-16E-Instruct"}
both_kinds = pytest.mark.parametrize("kind", list(SimulatorKind))
streamed_or_not = pytest.mark.parametrize("stream", [True, False])


def asynchronous(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


def failing(kind: SimulatorKind, error: ErrorKind, **knobs: Any) -> Simulator:
    return Simulator(kind, Knobs(error_kind=error, fail_next=1, **knobs))


async def post(sim: Simulator, *, timeout: float = 5, **fields: Any) -> httpx.Response:
    headers = {"authorization": "Bearer sk-test"}
    messages = [{"role": "user", "content": "What does the harbor report say?"}]
    body = {"model": MODELS[sim.kind], "messages": messages, **fields}
    # Plain HTTP: making a TLS context would take longer than the test.
    async with httpx.AsyncClient(base_url=sim.url, headers=headers, timeout=timeout, verify=False) as client:
        return await client.post("/v1/chat/completions", json=body)


def frames(response: httpx.Response) -> list[str]:
    return [frame.removeprefix("data: ") for frame in response.text.split("\n\n") if frame]


async def raw_answer(sim: Simulator, *, stream: bool) -> tuple[bytes, BaseException | None]:
    """Every byte that came, and the error that ended the connection."""
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    body = json.dumps(
        {"model": MODELS[sim.kind], "messages": [{"role": "user", "content": "x"}], "stream": stream}
    )
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n"
    head += f"content-length: {len(body)}"
    writer.write(f"{head}\r\n\r\n{body}".encode())
    received, error = b"", None
    try:
        async with asyncio.timeout(60):
            while chunk := await reader.read(65536):
                received += chunk
    except (ConnectionError, TimeoutError) as exc:
        error = exc
    writer.close()
    return received, error


@streamed_or_not
@both_kinds
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ErrorKind.RATE_LIMIT, 429),
        (ErrorKind.INSUFFICIENT_QUOTA, 429),
        (ErrorKind.SERVER_ERROR, 500),
        (ErrorKind.UNAVAILABLE, 503),
        (ErrorKind.REFUSAL, 400),
    ],
)
@asynchronous
async def test_error_answers_come_in_the_servers_own_envelope(kind, error, status, stream):
    async with failing(kind, error) as sim:
        response = await post(sim, stream=stream)
        (attempt,) = await sim.settled()
    assert response.status_code == status
    code = response.json()["error"]["code"]
    assert (
        code == status
        if kind is SimulatorKind.VLLM
        else code in ("rate_limit_exceeded", "insufficient_quota", None)
    )
    assert (attempt.outcome, attempt.status, attempt.usage_sent) == (f"error:{error}", status, False)


@asynchronous
async def test_openais_rate_limit_says_when_to_come_back():
    async with failing(SimulatorKind.OPENAI, ErrorKind.RATE_LIMIT, retry_after_ms=1500) as sim:
        response = await post(sim)
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert response.headers["retry-after-ms"] == "1500"
    assert response.headers["retry-after"] == "2"


@both_kinds
@asynchronous
async def test_bad_gateway_is_an_html_page(kind):
    async with failing(kind, ErrorKind.BAD_GATEWAY) as sim:
        response = await post(sim)
    assert response.status_code == 502
    assert response.headers["content-type"] == "text/html"
    assert response.text.startswith("<html>")


@both_kinds
@asynchronous
async def test_gateway_timeout_is_a_page_too(kind):
    async with failing(kind, ErrorKind.GATEWAY_TIMEOUT) as sim:
        response = await post(sim)
    assert (response.status_code, response.headers["content-type"]) == (504, "text/html")
    assert "504 Gateway Time-out" in response.text


@both_kinds
@asynchronous
async def test_a_refusal_is_the_one_that_the_knobs_describe(kind):
    wanted = {"refusal_status": 413, "refusal_code": "too_large", "refusal_message": "No."}
    async with failing(kind, ErrorKind.REFUSAL, **wanted) as sim:
        response = await post(sim)
    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (413, "No.")
    assert error["code"] == (413 if kind is SimulatorKind.VLLM else "too_large")


@both_kinds
@asynchronous
async def test_an_error_may_stand_in_place_of_the_answer(kind):
    async with failing(kind, ErrorKind.ERROR_BODY, refusal_message="No.") as sim:
        response = await post(sim)
    assert response.status_code == 200
    assert response.json()["error"]["message"] == "No."


@both_kinds
@asynchronous
async def test_an_error_may_be_the_first_event_of_a_stream(kind):
    async with failing(kind, ErrorKind.ERROR_BODY, refusal_message="No.") as sim:
        response = await post(sim, stream=True)
    assert response.status_code == 200
    [frame] = frames(response)
    assert json.loads(frame)["error"]["message"] == "No."


@pytest.mark.parametrize("shape", list(ErrorShape))
@asynchronous
async def test_errors_come_in_the_shapes_of_other_servers(shape):
    wanted = {"refusal_message": "No such luck.", "error_shape": shape}
    async with failing(SimulatorKind.VLLM, ErrorKind.REFUSAL, **wanted) as sim:
        response = await post(sim)
    assert response.status_code == 400
    assert "No such luck." in response.text
    is_json = response.headers["content-type"] == "application/json"
    assert is_json is (shape not in {ErrorShape.PLAIN, ErrorShape.HTML})


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (RetryAfter.OWN, set()),
        (RetryAfter.NONE, set()),
        (RetryAfter.MILLISECONDS, {"retry-after-ms"}),
        (RetryAfter.SECONDS, {"retry-after"}),
        (RetryAfter.DATE, {"retry-after"}),
    ],
)
@asynchronous
async def test_the_wait_is_told_in_every_form(form, names):
    wanted = {"retry_after_ms": 37_000, "retry_after": form}
    async with failing(SimulatorKind.VLLM, ErrorKind.UNAVAILABLE, **wanted) as sim:
        response = await post(sim)
    told = {name: value for name, value in response.headers.items() if name.startswith("retry-after")}
    assert set(told) == names
    assert all(value in {"37", "37000"} or value.endswith("GMT") for value in told.values())


@both_kinds
@asynchronous
async def test_timeout_never_answers(kind):
    async with failing(kind, ErrorKind.TIMEOUT) as sim:
        with pytest.raises(httpx.ReadTimeout):
            await post(sim, timeout=0.2)
        (attempt,) = await sim.settled()
        await asyncio.sleep(0.02)
    assert attempt.outcome == "error:timeout"
    assert attempt.status is None
    assert attempt.disconnected_after_ms > 190


@both_kinds
@streamed_or_not
@asynchronous
async def test_reset_before_sends_no_byte(kind, stream):
    async with failing(kind, ErrorKind.RESET_BEFORE) as sim:
        received, error = await raw_answer(sim, stream=stream)
        (attempt,) = await sim.settled()
    assert received == b""
    assert isinstance(error, ConnectionResetError)
    assert attempt.outcome == "error:reset_before"
    assert attempt.disconnected_after_ms is None  # it was this side that left


@both_kinds
@streamed_or_not
@asynchronous
async def test_reset_mid_cuts_the_answer_in_two(kind, stream):
    async with failing(kind, ErrorKind.RESET_MID) as sim:
        received, error = await raw_answer(sim, stream=stream)
        (attempt,) = await sim.settled()
    assert isinstance(error, ConnectionResetError)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"You asked" in received or b'" asked"' in received
    assert b'finish_reason":"stop' not in received
    assert attempt.outcome == "error:reset_mid"
    assert attempt.completion_tokens == (30 if stream else 60)
    assert not attempt.usage_sent


@both_kinds
@streamed_or_not
@asynchronous
async def test_stall_mid_keeps_the_connection_open(kind, stream):
    async with failing(kind, ErrorKind.STALL_MID) as sim:
        with pytest.raises(httpx.ReadTimeout):
            await post(sim, timeout=0.2, stream=stream)
        (attempt,) = await sim.settled()
        await asyncio.sleep(0.02)
    assert attempt.outcome == "error:stall_mid"
    assert attempt.status == 200
    assert attempt.disconnected_after_ms > 190


@both_kinds
@asynchronous
async def test_garbage_is_not_http(kind):
    async with failing(kind, ErrorKind.GARBAGE) as sim:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(sim)
        (attempt,) = await sim.settled()
    assert attempt.outcome == "error:garbage"


@both_kinds
@asynchronous
async def test_error_event_ends_a_stream(kind):
    async with failing(kind, ErrorKind.ERROR_EVENT) as sim:
        response = await post(sim, stream=True)
        sim.set_knobs(fail_next=1)
        whole = await post(sim)
    texts = frames(response)
    assert response.status_code == 200
    assert (texts[-1] == "[DONE]") is (kind is SimulatorKind.VLLM)  # vLLM adds [DONE] even after an error
    error = json.loads(texts[-2] if kind is SimulatorKind.VLLM else texts[-1])["error"]
    assert error["message"]
    assert whole.status_code == 500


@asynchronous
async def test_error_event_makes_the_official_client_raise():
    async with (
        failing(SimulatorKind.OPENAI, ErrorKind.ERROR_EVENT) as sim,
        openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="k", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError):
            _ = [chunk async for chunk in stream]


@both_kinds
@asynchronous
async def test_abort_finishes_half_way_under_200(kind):
    async with failing(kind, ErrorKind.ABORT) as sim:
        stream = await post(sim, stream=True)
        sim.set_knobs(fail_next=1)
        whole = (await post(sim)).json()
        attempts = await sim.settled()
    *_, finish, done = frames(stream)
    assert done == "[DONE]"
    assert json.loads(finish)["choices"][0]["finish_reason"] == "abort"
    assert whole["choices"][0]["finish_reason"] == "abort"
    assert whole["usage"]["completion_tokens"] == 30
    assert [(attempt.outcome, attempt.completion_tokens) for attempt in attempts] == [("error:abort", 30)] * 2


@both_kinds
@asynchronous
async def test_truncated_json_is_well_framed_but_incomplete(kind):
    async with failing(kind, ErrorKind.TRUNCATED_JSON) as sim:
        whole = await post(sim)
        sim.set_knobs(fail_next=1)
        stream = await post(sim, stream=True)
    assert whole.status_code == stream.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        whole.json()
    with pytest.raises(json.JSONDecodeError):
        json.loads(frames(stream)[-1])


@both_kinds
@asynchronous
async def test_no_usage_leaves_only_the_usage_out(kind):
    async with failing(kind, ErrorKind.NO_USAGE) as sim:
        whole = (await post(sim)).json()
        sim.set_knobs(fail_next=1)
        stream = await post(sim, stream=True, stream_options={"include_usage": True})
        attempts = await sim.settled()
    assert "usage" not in whole
    assert whole["choices"][0]["finish_reason"] == "stop"
    *chunks, done = frames(stream)
    assert done == "[DONE]"
    assert all(json.loads(chunk)["choices"] for chunk in chunks)
    assert [(attempt.completion_tokens, attempt.usage_sent) for attempt in attempts] == [(60, False)] * 2


@asynchronous
async def test_embeddings_fail_too():
    body = {"model": "text-embedding-3-small", "input": "alpha"}
    headers = {"authorization": "Bearer k"}
    async with (
        Simulator(SimulatorKind.OPENAI, Knobs()) as sim,
        httpx.AsyncClient(base_url=sim.url, headers=headers) as client,
    ):
        answers = []
        for error in (ErrorKind.SERVER_ERROR, ErrorKind.TRUNCATED_JSON, ErrorKind.NO_USAGE):
            sim.set_knobs(fail_next=1, error_kind=error)
            answers.append(await client.post("/v1/embeddings", json=body))
    assert [answer.status_code for answer in answers] == [500, 200, 200]
    with pytest.raises(json.JSONDecodeError):
        answers[1].json()
    assert "usage" not in answers[2].json()


@asynchronous
async def test_fail_next_counts_down_and_spares_refused_requests():
    async with Simulator(SimulatorKind.OPENAI, Knobs(fail_next=2)) as sim:
        statuses = [(await post(sim, **fields)).status_code for fields in ({"n": 0}, {}, {}, {})]
        left = sim.knobs.fail_next
    assert statuses == [400, 500, 500, 200]
    assert left == 0


@asynchronous
async def test_error_rate_is_drawn_from_the_seed():
    async def draw(seed: int) -> list[int]:
        async with Simulator(SimulatorKind.OPENAI, Knobs(error_rate=0.5, seed=seed)) as sim:
            return [(await post(sim, max_tokens=1)).status_code for _ in range(20)]

    first, again, other = await draw(1), await draw(1), await draw(2)
    assert first == again != other
    assert 4 <= first.count(500) <= 16


@asynchronous
async def test_unhealthy_openai_answers_500_everywhere():
    async with Simulator(SimulatorKind.OPENAI, Knobs(healthy=False)) as sim:
        response = await post(sim)
        async with httpx.AsyncClient(base_url=sim.url, headers={"authorization": "Bearer k"}) as client:
            models = await client.get("/v1/models")
    assert response.status_code == models.status_code == 500


@asynchronous
async def test_openai_over_max_concurrency_is_a_rate_limit():
    async with Simulator(SimulatorKind.OPENAI, Knobs(ttft_ms=200, max_concurrency=1)) as sim:
        task = asyncio.create_task(post(sim))
        await asyncio.sleep(0.1)
        refused = await post(sim)
        answer = await task
    assert (refused.status_code, answer.status_code) == (429, 200)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@both_kinds
@streamed_or_not
@asynchronous
async def test_pacing(kind, stream):
    async with Simulator(kind, Knobs(ttft_ms=100, tokens_per_second=100, output_tokens=21)) as sim:
        start = time.monotonic()
        await post(sim, stream=stream)
        took = time.monotonic() - start
        (attempt,) = await sim.settled()
    assert took >= 0.3  # 100 ms, then 20 more tokens at 10 ms
    assert attempt.ttft_ms >= 100


@asynchronous
async def test_jitter_varies_within_its_bounds():
    async with Simulator(SimulatorKind.OPENAI, Knobs(ttft_ms=30, ttft_jitter_ms=20)) as sim:
        for _ in range(8):
            await post(sim, max_tokens=1)
        delays = [attempt.ttft_ms for attempt in sim.attempts()]
    assert max(delays) - min(delays) > 5
    assert min(delays) >= 10
