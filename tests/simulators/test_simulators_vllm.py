"""The vLLM simulator behaves as a measured vLLM server does, where that differs from OpenAI."""

import asyncio
import functools
import json
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator, vllm_simulator

SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
CHAT = {"model": SCOUT, "messages": [{"role": "user", "content": "What does the harbor report say?"}]}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Er"
    "kJggg=="
)


def asynchronous(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


def http(sim: Simulator, **headers: str) -> httpx.AsyncClient:
    # Plain HTTP: making a TLS context would take longer than the test.
    return httpx.AsyncClient(base_url=sim.url, headers=headers, timeout=60, verify=False)


async def post(
    sim: Simulator, body: Any, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    async with http(sim, **headers) as client:
        return await client.post(path, json=body)


async def metrics(sim: Simulator) -> dict[str, float]:
    """Samples by name, and by name{finished_reason} where there is one."""
    async with http(sim) as client:
        page = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    assert all(
        sample.labels["model_name"] == SCOUT for sample in samples if "cache_config" not in sample.name
    )
    return {
        sample.name
        + (f"{{{reason}}}" if (reason := sample.labels.get("finished_reason")) else ""): sample.value
        for sample in samples
        if "le" not in sample.labels and "sleep_state" not in sample.labels
    }


def events(response: httpx.Response) -> list[Any]:
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    return [
        frame if frame == "data: [DONE]" else json.loads(frame.removeprefix("data: ")) for frame in frames
    ]


def with_parts(*parts: dict) -> dict:
    return {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "Look."}, *parts]}]}


def image(url: str = PIXEL) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


@asynchronous
async def test_chat_completion_has_vllms_fields():
    async with vllm_simulator() as sim:
        response = await post(sim, CHAT, **{"x-request-id": "att-1"})
    body = response.json()
    assert body["id"] == "chatcmpl-att-1"
    assert response.headers["x-request-id"] == "att-1"
    assert response.headers["server"] == "uvicorn"
    assert body["model"] == SCOUT
    assert body["service_tier"] is None
    assert body["kv_transfer_params"] is None
    (choice,) = body["choices"]
    assert choice["stop_reason"] is None
    assert choice["message"]["tool_calls"] == []
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert "completion_tokens_details" not in body["usage"]


@asynchronous
async def test_no_usage_null_in_chunks_only_a_last_chunk_without_choices():
    async with vllm_simulator() as sim:
        streamed = events(
            await post(sim, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
        )
        plain = events(await post(sim, {**CHAT, "stream": True}))
    *chunks, last, done = streamed
    assert done == "data: [DONE]"
    assert not any("usage" in chunk for chunk in [*chunks, *plain[:-1]])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 60
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@asynchronous
async def test_continuous_usage_counts_up():
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with vllm_simulator(Knobs(output_tokens=5)) as sim:
        chunks = events(await post(sim, {**CHAT, "stream": True, "stream_options": options}))[:-1]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 5, 5, 5]
    prompt = chunks[-1]["usage"]["prompt_tokens"]
    assert all(
        chunk["usage"]["total_tokens"] - chunk["usage"]["completion_tokens"] == prompt for chunk in chunks
    )
    # Only the last one has details, as on vLLM.
    assert [chunk for chunk in chunks if "prompt_tokens_details" in chunk["usage"]] == chunks[-1:]


@asynchronous
async def test_continuous_usage_needs_usage_to_be_asked_for():
    options = {"continuous_usage_stats": True}
    async with vllm_simulator(Knobs(output_tokens=5)) as sim:
        chunks = events(await post(sim, {**CHAT, "stream": True, "stream_options": options}))[:-1]
    assert not [chunk for chunk in chunks if "usage" in chunk]


@asynchronous
async def test_each_choice_counts_its_own_usage():
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with vllm_simulator(Knobs(output_tokens=3)) as sim:
        body = {**CHAT, "n": 2, "stream": True, "stream_options": options}
        *chunks, last, _ = events(await post(sim, body))
    own = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["choices"][0]["index"] == 1]
    assert own == [0, 1, 2, 3, 3]
    assert last["usage"]["completion_tokens"] == 6


@asynchronous
async def test_a_stream_may_open_and_keep_alive_before_its_first_token():
    knobs = Knobs(output_tokens=3, ttft_ms=300, comment_every_ms=10, opening_first=True)
    async with vllm_simulator(knobs) as sim:
        response = await post(sim, {**CHAT, "stream": True})
    first, *_ = frames = response.text.split("\n\n")
    assert '"role":"assistant"' in first
    assert ": keep-alive" in frames[1:]
    text = [frame for frame in frames if '"content":"' in frame and '"content":""' not in frame]
    assert len(text) == 3


@asynchronous
async def test_odd_values_leave_the_text_and_the_totals_as_they_are():
    options = {"include_usage": True}
    async with vllm_simulator(Knobs(output_tokens=3)) as sim:
        plain = [await post(sim, CHAT), await post(sim, {**CHAT, "stream": True, "stream_options": options})]
        await post(sim, {"odd_values": True}, "/_sim/knobs")
        strange = [
            await post(sim, CHAT),
            await post(sim, {**CHAT, "stream": True, "stream_options": options}),
        ]
    usual, whole = plain[0].json(), json.loads(strange[0].text)
    assert whole["choices"][0]["message"] == usual["choices"][0]["message"]
    assert whole["usage"]["total_tokens"] == usual["usage"]["total_tokens"]
    assert whole["model"] == ["odd"] and "\\ud800" in strange[0].text
    assert "\\ud800" in strange[1].text
    assert len(events(strange[1])) == len(events(plain[1]))


@asynchronous
async def test_error_codes_are_ints():
    async with vllm_simulator(Knobs(max_model_len=200)) as sim:
        unknown = await post(sim, {**CHAT, "model": "llama-9"})
        long = await post(sim, {**CHAT, "max_tokens": 500})
        empty = await post(sim, {**CHAT, "messages": []})
        embeddings = await post(sim, {"model": SCOUT, "input": "x"}, "/v1/embeddings")
        async with http(sim) as client:
            method = await client.get("/v1/chat/completions")
    answers = {"unknown": unknown, "long": long, "empty": empty, "embeddings": embeddings, "method": method}
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "unknown": 404,
        "long": 400,
        "empty": 400,
        "embeddings": 404,
        "method": 405,
    }
    for answer in answers.values():
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == answer.status_code
    assert unknown.json()["error"]["type"] == "NotFoundError"
    assert unknown.json()["error"]["message"] == "The model `llama-9` does not exist."
    assert "maximum context length is 200" in long.json()["error"]["message"]


@asynchronous
async def test_api_key_guards_only_v1():
    async with vllm_simulator(Knobs(api_key="secret-key")) as sim:
        refused = await post(sim, CHAT)
        accepted = await post(sim, CHAT, authorization="Bearer secret-key")
        async with http(sim) as client:
            models = await client.get("/v1/models")
            open_routes = [
                (await client.get(path)).status_code
                for path in ("/health", "/ping", "/load", "/version", "/metrics")
            ]
    assert refused.status_code == models.status_code == 401
    assert refused.json() == {"error": "Unauthorized"}
    assert accepted.status_code == 200
    assert open_routes == [200] * 5


@asynchronous
async def test_operations_routes():
    async with (
        vllm_simulator(Knobs(models=("llama-4-scout",), max_model_len=4096)) as sim,
        http(sim) as client,
    ):
        (card,) = (await client.get("/v1/models")).json()["data"]
        version = (await client.get("/version")).json()
        load = (await client.get("/load")).json()
        tokens = (
            await client.post("/tokenize", json={"model": "llama-4-scout", "prompt": "two words"})
        ).json()
        text = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
        sim.set_knobs(healthy=False)
        health = await client.get("/health")
        request = await client.post("/v1/chat/completions", json={**CHAT, "model": "llama-4-scout"})
    assert (card["id"], card["owned_by"], card["max_model_len"]) == ("llama-4-scout", "vllm", 4096)
    assert version == {"version": "0.32.0"}
    assert load == {"server_load": 0}
    assert tokens["count"] == 3  # the template and 1.06 tokens for each of o200k_base
    assert text == {"prompt": "two words"}
    assert (health.status_code, health.content) == (503, b"")
    assert request.status_code == 500
    assert request.json()["error"]["code"] == 500


@asynchronous
async def test_metrics_count_what_happened():
    async with vllm_simulator(Knobs(output_tokens=12)) as sim:
        before = await metrics(sim)
        whole = (await post(sim, CHAT)).json()["usage"]
        await post(sim, {**CHAT, "stream": True, "max_tokens": 4})
        after = await metrics(sim)
    assert before["vllm:request_success_total{stop}"] == 0
    assert after["vllm:prompt_tokens_total"] == 2 * whole["prompt_tokens"]
    assert after["vllm:generation_tokens_total"] == 12 + 4
    assert after["vllm:request_success_total{stop}"] == 1
    assert after["vllm:request_success_total{length}"] == 1
    assert after["vllm:prefix_cache_queries_total"] == 2 * whole["prompt_tokens"]
    assert after["vllm:time_to_first_token_seconds_count"] == 2
    assert after["vllm:e2e_request_latency_seconds_count"] == 2
    assert after["vllm:inter_token_latency_seconds_count"] == 3
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert after["vllm:kv_cache_usage_perc"] == 0
    assert after["vllm:num_preemptions_total"] == 0
    assert "vllm:gpu_cache_usage_perc" not in after


@asynchronous
async def test_running_waiting_and_load_header_while_busy():
    async with vllm_simulator(Knobs(ttft_ms=300, max_num_seqs=1)) as sim:
        first, second = (asyncio.create_task(post(sim, CHAT)) for _ in range(2))
        await asyncio.sleep(0.1)
        busy = await metrics(sim)
        sim.set_knobs(ttft_ms=0)
        third = await post(sim, CHAT, **{"endpoint-load-metrics-format": "JSON"})
        await asyncio.gather(first, second)
        idle = await post(sim, CHAT, **{"endpoint-load-metrics-format": "text"})
    assert busy["vllm:num_requests_running"] == 1
    assert busy["vllm:num_requests_waiting"] == 1
    assert busy["vllm:kv_cache_usage_perc"] > 0
    kind, _, report = third.headers["endpoint-load-metrics"].partition(" ")
    assert kind == "JSON"
    assert json.loads(report)["named_metrics"]["num_requests_waiting"] == 1
    assert idle.headers["endpoint-load-metrics"].startswith("TEXT named_metrics.num_requests_waiting=0.0")
    assert "endpoint-load-metrics" not in first.result().headers


@asynchronous
async def test_overload_is_503_without_retry_after():
    async with vllm_simulator(Knobs(ttft_ms=200, max_num_seqs=1, max_concurrency=2)) as sim:
        tasks = [asyncio.create_task(post(sim, CHAT)) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await post(sim, CHAT)
        answers = await asyncio.gather(*tasks)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == 503
    assert "retry-after" not in refused.headers
    assert [answer.status_code for answer in answers] == [200, 200]


@asynchronous
async def test_each_choice_takes_one_of_the_requests_that_the_queue_has_room_for():
    async with vllm_simulator(Knobs(max_concurrency=3)) as sim:
        fits = await post(sim, CHAT | {"n": 3})
        too_many = await post(sim, CHAT | {"n": 4})
    assert [fits.status_code, too_many.status_code] == [200, 503]


@asynchronous
async def test_a_prompt_counts_once_for_each_choice_in_the_metrics_and_once_in_usage():
    async with vllm_simulator() as sim:
        usage = (await post(sim, CHAT | {"n": 3})).json()["usage"]
        page = await metrics(sim)
    assert page["vllm:prompt_tokens_total"] == 3 * usage["prompt_tokens"]
    assert page["vllm:generation_tokens_total"] == usage["completion_tokens"]


@asynchronous
async def test_images_are_counted_by_tile_and_shown_in_usage():
    async with vllm_simulator() as sim:
        one = (await post(sim, with_parts(image()))).json()["usage"]
        remote = (await post(sim, with_parts(image("https://example.com/never-fetched.png")))).json()["usage"]
        many = await post(sim, with_parts(*[image()] * 6))
        broken = await post(sim, with_parts(image("data:image/png;base64,AAAA")))
    assert one["prompt_tokens_details"]["multimodal_tokens"] == {"image": 147}
    assert remote["prompt_tokens_details"]["multimodal_tokens"] == {"image": 145 * 16 + 147}
    assert many.status_code == broken.status_code == 400
    assert "At most 5 image(s)" in many.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["input_audio", "audio_url", "video_url", "file"])
@asynchronous
async def test_llama_4_takes_text_and_images_only(kind):
    async with vllm_simulator() as sim:
        response = await post(sim, with_parts({"type": kind, kind: {"data": "", "url": ""}}))
    assert response.status_code == 400


@asynchronous
async def test_text_tokens_are_o200k_times_a_factor_rounded_up():
    async with vllm_simulator() as sim:
        messages = [{"role": "user", "content": " word" * 100}]
        usage = (await post(sim, {**CHAT, "messages": messages})).json()["usage"]
    assert usage["prompt_tokens"] == 114  # ceil(107 * 1.06)


@asynchronous
async def test_prefix_cache_works_in_blocks_of_16_and_keeps_the_last_token_to_compute():
    messages = [{"role": "user", "content": " word" * 300}]
    async with vllm_simulator() as sim:
        first, second = [(await post(sim, {**CHAT, "messages": messages})).json()["usage"] for _ in range(2)]
        counted = await metrics(sim)
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached % 16 == 0
    assert 256 <= cached < second["prompt_tokens"]
    assert counted["vllm:prefix_cache_hits_total"] == cached


@asynchronous
async def test_a_warm_cache_brings_the_first_token_sooner():
    messages = [{"role": "user", "content": " word" * 300}]
    async with vllm_simulator() as sim:
        await post(sim, {**CHAT, "messages": messages})
        # All 307 tokens would take 150 seconds, longer than the client waits.
        sim.set_knobs(prefill_tokens_per_second=2)
        warm = await post(sim, {**CHAT, "messages": messages})
        _, attempt = sim.attempts()
    assert warm.status_code == 200
    left = 307 - warm.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert attempt.ttft_ms >= left / 2 * 1000


@asynchronous
async def test_vllms_own_fields_fix_the_length():
    async with vllm_simulator(Knobs(output_tokens=10)) as sim:
        exact = (await post(sim, {**CHAT, "ignore_eos": True, "max_tokens": 33})).json()
        least = (await post(sim, {**CHAT, "min_tokens": 20, "guided_json": {}})).json()
    assert exact["usage"]["completion_tokens"] == 33
    assert exact["choices"][0]["finish_reason"] == "length"
    assert least["usage"]["completion_tokens"] == 20


@asynchronous
async def test_stop_reason_names_the_stop_string():
    async with vllm_simulator() as sim:
        body = (await post(sim, {**CHAT, "stop": ["about"]})).json()
        streamed = events(await post(sim, {**CHAT, "stop": ["about"], "stream": True}))
    assert body["choices"][0]["stop_reason"] == "about"
    assert streamed[-2]["choices"][0]["stop_reason"] == "about"


@asynchronous
async def test_legacy_completions_and_tools():
    tool = {"type": "function", "function": {"name": "lookup_harbor", "parameters": {"type": "object"}}}
    async with vllm_simulator() as sim:
        text = (await post(sim, {"model": SCOUT, "prompt": "Once"}, "/v1/completions")).json()
        call = (await post(sim, {**CHAT, "tools": [tool]})).json()["choices"][0]
    assert text["id"].startswith("cmpl-")
    assert text["usage"]["completion_tokens"] == 16
    assert call["message"]["tool_calls"][0]["id"].startswith("chatcmpl-tool-")
    assert call["finish_reason"] == "tool_calls"


@asynchronous
async def test_head_of_a_stream_leaves_before_the_first_token():
    async with vllm_simulator(Knobs(ttft_ms=400)) as sim, http(sim) as client:
        async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
        # Longer than the client waits for anything.
        sim.set_knobs(ttft_ms=600_000)
        async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            assert response.status_code == 200
        attempt, _ = await sim.settled()
    assert attempt.ttft_ms >= 400


@asynchronous
async def test_abort_all_ends_streams_with_abort_and_done_under_200():
    async with vllm_simulator(Knobs(tokens_per_second=20, output_tokens=200)) as sim:
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        streamed, whole = asyncio.create_task(post(sim, body)), asyncio.create_task(post(sim, CHAT))
        await asyncio.sleep(0.3)
        async with http(sim) as client:
            told = (await client.post("/_sim/abort")).json()
        stream, answer = await streamed, (await whole).json()
        counted = await metrics(sim)
        attempts = await sim.settled()
    *_, finish, usage, done = events(stream)
    assert told == {"aborted": 2}
    assert stream.status_code == 200
    assert finish["choices"][0]["finish_reason"] == "abort"
    assert 0 < usage["usage"]["completion_tokens"] < 100
    assert done == "data: [DONE]"
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert 0 < answer["usage"]["completion_tokens"] < 100
    assert counted["vllm:request_success_total{abort}"] == 2
    assert {attempt.outcome for attempt in attempts} == {"error:abort"}


@asynchronous
async def test_official_client_reads_it_too():
    async with (
        vllm_simulator() as sim,
        openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(**CHAT)
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model=SCOUT, input="x", encoding_format="float")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 60
