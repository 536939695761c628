"""The OpenAI simulator speaks OpenAI's wire format: to the official client and byte by byte."""

import asyncio
import base64
import functools
import json
import math
import struct
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator, openai_simulator

QUESTION = [{"role": "user", "content": "What does the harbor report say about costs?"}]
CHAT = {"model": "gpt-4o", "messages": QUESTION}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 3},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}


def asynchronous(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


def http(sim: Simulator, key: str = "sk-test") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # Plain HTTP: making a TLS context would take longer than the test.
    return httpx.AsyncClient(base_url=sim.url, headers=headers, timeout=60, verify=False)


def sdk(sim: Simulator) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=0)


async def post(sim: Simulator, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    async with http(sim) as client:
        return await client.post(path, json=body)


def events(response: httpx.Response) -> list[Any]:
    """Decoded events of a stream; the framing is checked on the way."""
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(frame.startswith("data: ") for frame in frames)
    return [frame if frame == "data: [DONE]" else json.loads(frame[6:]) for frame in frames]


@asynchronous
async def test_chat_completion_has_openais_fields():
    async with openai_simulator() as sim:
        response = await post(sim, CHAT)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "gpt-4o-2024-08-06"  # the alias resolves to a snapshot
    assert body["service_tier"] == "default"
    assert body["system_fingerprint"].startswith("fp_")
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None
    assert "harbor report" in choice["message"]["content"]
    assert body["usage"] == {
        "prompt_tokens": 3 + 3 + 1 + 9,
        "completion_tokens": 60,
        "total_tokens": 76,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


@asynchronous
async def test_response_headers():
    async with openai_simulator() as sim:
        response = await post(sim, CHAT)
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["openai-version"] == "2020-10-01"
    assert int(response.headers["openai-processing-ms"]) >= 1
    for name in ("limit", "remaining", "reset"):
        assert response.headers[f"x-ratelimit-{name}-requests"]
        assert response.headers[f"x-ratelimit-{name}-tokens"]


@asynchronous
async def test_stream_is_role_then_one_event_a_token_then_finish_then_done():
    async with openai_simulator(Knobs(output_tokens=20)) as sim:
        response = await post(sim, {**CHAT, "stream": True})
    first, *middle, finish, done = events(response)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert done == "data: [DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert len(middle) == 20
    assert all(set(event["choices"][0]["delta"]) == {"content"} for event in middle)
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    chunks = [first, *middle, finish]
    assert {chunk["id"] for chunk in chunks} == {first["id"]}
    assert {chunk["model"] for chunk in chunks} == {"gpt-4o-2024-08-06"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)


@asynchronous
async def test_include_usage_puts_null_everywhere_and_usage_in_a_chunk_without_choices():
    async with openai_simulator() as sim:
        response = await post(sim, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    *chunks, last, done = events(response)
    assert done == "data: [DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 60
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@asynchronous
async def test_stream_and_whole_answer_say_the_same_and_seeds_differ():
    async with openai_simulator() as sim:
        whole = (await post(sim, CHAT)).json()["choices"][0]["message"]["content"]
        streamed = events(await post(sim, {**CHAT, "stream": True}))[:-1]
        sim.set_knobs(seed=7)
        other = (await post(sim, CHAT)).json()["choices"][0]["message"]["content"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == whole
    assert other != whole


@asynchronous
async def test_characters_of_several_tokens_are_never_split():
    emoji = [{"role": "user", "content": "🧗🏽‍♀️ 鑫𠮷 🫠 ｱ"}]
    async with openai_simulator() as sim:
        response = await post(
            sim, {**CHAT, "messages": emoji, "stream": True, "stream_options": {"include_usage": True}}
        )
    *chunks, usage, _ = events(response)
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "🧗🏽‍♀️ 鑫𠮷 🫠 ｱ" in "".join(texts)
    assert "\ufffd" not in "".join(texts)
    assert len(texts) - 2 < usage["usage"]["completion_tokens"] == 60


@asynchronous
async def test_several_choices_are_numbered_and_all_counted():
    async with openai_simulator(Knobs(output_tokens=30)) as sim:
        whole = (await post(sim, {**CHAT, "n": 3})).json()
        streamed = events(await post(sim, {**CHAT, "n": 3, "stream": True}))[:-1]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in whole["choices"]}) > 1
    assert whole["usage"]["completion_tokens"] == 90
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in streamed if chunk["choices"][0]["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == whole["choices"][index]["message"]["content"]
        assert mine[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@asynchronous
async def test_output_limit_is_honoured(field):
    async with openai_simulator() as sim:
        body = (await post(sim, {**CHAT, field: 5})).json()
        both = await post(sim, {**CHAT, "max_tokens": 5, "max_completion_tokens": 5})
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5
    assert both.status_code == 400


@asynchronous
async def test_stop_string_ends_the_answer():
    async with openai_simulator() as sim:
        body = (await post(sim, {**CHAT, "stop": [" about"]})).json()
    assert body["choices"][0]["message"]["content"] == "You asked"
    assert body["choices"][0]["finish_reason"] == "stop"


@asynchronous
async def test_log_probabilities():
    async with openai_simulator(Knobs(output_tokens=4)) as sim:
        body = (await post(sim, {**CHAT, "logprobs": True, "top_logprobs": 2})).json()
        chunks = events(await post(sim, {**CHAT, "logprobs": True, "stream": True}))
        refused = await post(sim, {**CHAT, "top_logprobs": 2})
    entries = body["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == body["choices"][0]["message"]["content"]
    assert len(entries) == 4
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries)
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] < 0 for entry in entries)
    assert [len(chunk["choices"][0]["logprobs"]["content"]) for chunk in chunks[1:-2]] == [1] * 4
    assert refused.json()["error"]["param"] == "top_logprobs"


@pytest.mark.parametrize(
    ("question", "choice", "called"),
    [
        ("How is the weather in Oslo?", None, True),
        ("please use get_weather", "auto", True),
        ("What is a ledger?", "auto", False),
        ("How is the weather in Oslo?", "none", False),
        ("What is a ledger?", "required", True),
        ("What is a ledger?", {"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
@asynchronous
async def test_tools_are_called_when_forced_or_mentioned(question, choice, called):
    body = {**CHAT, "messages": [{"role": "user", "content": question}], "tools": [WEATHER]}
    async with openai_simulator() as sim:
        answer = (await post(sim, body if choice is None else {**body, "tool_choice": choice})).json()[
            "choices"
        ][0]
    assert (answer["finish_reason"] == "tool_calls") is called
    if called:
        (call,) = answer["message"]["tool_calls"]
        assert answer["message"]["content"] is None
        assert call["id"].startswith("call_")
        assert call["type"] == "function"
        assert call["function"]["name"] == "get_weather"
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER["function"]["parameters"])
    else:
        assert answer["message"]["content"]


@asynchronous
async def test_after_a_tool_result_comes_text():
    messages = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "12 degrees"},
    ]
    async with openai_simulator() as sim:
        body = (await post(sim, {**CHAT, "messages": messages, "tools": [WEATHER]})).json()
    assert body["choices"][0]["finish_reason"] == "stop"


@asynchronous
async def test_streamed_tool_call_is_name_first_then_argument_fragments():
    body = {**CHAT, "tools": [WEATHER], "tool_choice": "required", "stream": True}
    async with openai_simulator() as sim:
        _, first, *fragments, finish, _ = events(await post(sim, body))
        whole = (await post(sim, {**body, "stream": False})).json()["choices"][0]["message"]["tool_calls"][0]
    (opening,) = first["choices"][0]["delta"]["tool_calls"]
    assert opening["index"] == 0
    assert opening["id"].startswith("call_")
    assert opening["function"] == {"name": "get_weather", "arguments": ""}
    deltas = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in fragments]
    assert all(set(delta) == {"index", "function"} for delta in deltas)
    joined = "".join(delta["function"]["arguments"] for delta in deltas)
    assert joined == whole["function"]["arguments"]
    assert finish["choices"][0]["finish_reason"] == "tool_calls"


@asynchronous
async def test_structured_output_is_valid_against_its_schema():
    schema = WEATHER["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": schema}}
    async with openai_simulator() as sim:
        body = (await post(sim, {**CHAT, "response_format": wanted})).json()
        cut = (await post(sim, {**CHAT, "response_format": wanted, "max_tokens": 3})).json()
    jsonschema.validate(json.loads(body["choices"][0]["message"]["content"]), schema)
    assert cut["choices"][0]["finish_reason"] == "length"


@asynchronous
async def test_json_object_needs_the_word_json():
    said = {**CHAT, "messages": [{"role": "user", "content": "Answer in JSON."}]}
    async with openai_simulator() as sim:
        good = await post(sim, {**said, "response_format": {"type": "json_object"}})
        bad = await post(sim, {**CHAT, "response_format": {"type": "json_object"}})
    assert isinstance(json.loads(good.json()["choices"][0]["message"]["content"]), dict)
    assert bad.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"messages": None}, 400, "messages", "missing_required_parameter"),
        ({"messages": []}, 400, "messages", "empty_array"),
        ({"messages": "hello"}, 400, "messages", "invalid_type"),
        ({"messages": ["hello"]}, 400, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_type"),
        ({"temperature": "hot"}, 400, "temperature", "invalid_type"),
        ({"temperature": 3}, 400, "temperature", "decimal_above_max_value"),
        ({"n": 0}, 400, "n", "integer_below_min_value"),
        ({"stream": "yes"}, 400, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None),
        ({"max_tokens": 99_999}, 400, "max_tokens", "invalid_value"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0].function.name", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_value"),
        ({"guided_json": {}}, 400, None, None),  # vLLM's own fields are unknown here
        ({"model": None}, 400, None, None),
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
        ({"model": "gpt-3.5-turbo-instruct"}, 404, "model", None),
        ({"model": "text-embedding-3-small"}, 403, None, None),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            400,
            "messages",
            "invalid_value",
        ),
    ],
)
@asynchronous
async def test_bad_requests_get_openais_envelope(change, status, param, code):
    body = {name: value for name, value in {**CHAT, **change}.items() if value is not None}
    async with openai_simulator() as sim:
        response = await post(sim, body)
        (attempt,) = sim.attempts()
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)
    assert attempt.outcome == f"rejected:{status}"


@asynchronous
async def test_a_body_that_is_no_json_object():
    async with openai_simulator() as sim, http(sim) as client:
        for body in (b"{", b"[]", b"\xff"):
            response = await client.post("/v1/chat/completions", content=body)
            assert response.status_code == 400
            assert "could not parse the JSON body" in response.json()["error"]["message"]


@asynchronous
async def test_too_long_a_prompt():
    async with openai_simulator(Knobs(max_model_len=100)) as sim:
        long = [{"role": "user", "content": "word " * 200}]
        response = await post(sim, {**CHAT, "messages": long})
        almost = (await post(sim, {**CHAT, "messages": [{"role": "user", "content": "word " * 80}]})).json()
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert almost["choices"][0]["finish_reason"] == "length"
    assert almost["usage"]["total_tokens"] == 100


@asynchronous
async def test_keys():
    async with openai_simulator() as sim:
        async with http(sim, key="") as client:
            none = await client.post("/v1/chat/completions", json=CHAT)
        sim.set_knobs(api_key="sk-right-key-0001")
        async with http(sim, key="sk-wrong-key-0002") as client:
            wrong = await client.post("/v1/chat/completions", json=CHAT)
        async with http(sim, key="sk-right-key-0001") as client:
            right = await client.post("/v1/chat/completions", json=CHAT)
    assert none.status_code == wrong.status_code == 401
    assert none.json()["error"]["code"] is None
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert "sk-wrong-key-0002" not in wrong.text
    assert right.status_code == 200


@asynchronous
async def test_models():
    async with openai_simulator() as sim, http(sim) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/gpt-4o-2024-11-20")).json()
        unknown = await client.get("/v1/models/gpt-9")
        sim.set_knobs(models=["gpt-4o"])
        fewer = (await client.get("/v1/models")).json()
        attempts = sim.attempts()
    assert listed["object"] == "list"
    assert "gpt-4o" in [card["id"] for card in listed["data"]]
    assert one["owned_by"] == "system"
    assert one["shutdown_date"] == "2027-01-14"
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert [card["id"] for card in fewer["data"]] == ["gpt-4o"]
    assert attempts == []  # only what carries a prompt is an attempt


@asynchronous
async def test_unknown_routes_and_methods():
    async with openai_simulator() as sim, http(sim) as client:
        route = await client.post("/v1/telepathy", json={})
        method = await client.get("/v1/chat/completions")
        attempts = sim.attempts()
    assert route.status_code == 404
    assert route.json()["error"]["message"] == "Invalid URL (POST /v1/telepathy)"
    assert method.status_code == 405
    assert [attempt.outcome for attempt in attempts] == ["rejected:404"]


@asynchronous
async def test_legacy_completions():
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": ["Once upon", "a time"], "max_tokens": 6}
    async with openai_simulator() as sim:
        whole = (await post(sim, body, "/v1/completions")).json()
        short = (
            await post(sim, {**body, "max_tokens": None, "prompt": "x", "echo": True}, "/v1/completions")
        ).json()
        streamed = events(await post(sim, {**body, "prompt": [40, 41], "stream": True}, "/v1/completions"))
        chat_model = await post(sim, {**body, "model": "gpt-4o"}, "/v1/completions")
    assert whole["id"].startswith("cmpl-")
    assert whole["object"] == "text_completion"
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert whole["usage"]["completion_tokens"] == 12
    assert short["usage"]["completion_tokens"] == 16
    assert short["choices"][0]["text"].startswith("x")
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed[:-1]] == [None] * 6 + ["length"]
    assert chat_model.status_code == 404
    assert "v1/chat/completions" in chat_model.json()["error"]["message"]


@asynchronous
async def test_embeddings_are_unit_vectors_in_both_encodings():
    body = {"model": "text-embedding-3-small", "input": ["alpha", "beta"], "dimensions": 256}
    async with openai_simulator() as sim:
        floats = (await post(sim, body, "/v1/embeddings")).json()
        coded = (await post(sim, {**body, "encoding_format": "base64"}, "/v1/embeddings")).json()
        whole = (await post(sim, {**body, "dimensions": None}, "/v1/embeddings")).json()
        refused = [
            await post(sim, {**body, **change}, "/v1/embeddings")
            for change in ({"input": None}, {"input": [""]}, {"dimensions": 9999}, {"model": "gpt-4o"})
        ]
        attempts = sim.attempts()
    first, second = (item["embedding"] for item in floats["data"])
    assert len(first) == 256
    assert first != second
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-9)
    decoded = struct.unpack("<256f", base64.b64decode(coded["data"][0]["embedding"]))
    assert decoded == pytest.approx(first, abs=1e-6)
    assert len(whole["data"][0]["embedding"]) == 1536
    assert floats["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert [response.status_code for response in refused] == [400, 400, 400, 403]
    assert (attempts[0].outcome, attempts[0].prompt_tokens, attempts[0].usage_sent) == ("completed", 2, True)


@asynchronous
async def test_prompt_cache_counts_a_repeated_beginning_in_steps_of_128():
    system = {"role": "system", "content": "".join(f"Rule {number} applies. " for number in range(400))}

    def question(text):
        return {**CHAT, "messages": [system, {"role": "user", "content": text}]}

    async with openai_simulator() as sim:
        counts = [
            (await post(sim, question(text))).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            for text in ("first?", "second?")
        ]
        short = [(await post(sim, CHAT)).json()["usage"] for _ in range(2)]
        sim.set_knobs(prompt_caching=False)
        off = (await post(sim, question("third?"))).json()["usage"]
    assert counts[0] == 0
    assert counts[1] >= 1024
    assert counts[1] % 128 == 0
    assert counts[1] < off["prompt_tokens"]
    assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in short] == [0, 0]
    assert off["prompt_tokens_details"]["cached_tokens"] == 0


@asynchronous
async def test_service_tier_is_echoed():
    async with openai_simulator() as sim:
        body = (await post(sim, {**CHAT, "service_tier": "priority"})).json()
        auto = (await post(sim, {**CHAT, "service_tier": "auto"})).json()
    assert (body["service_tier"], auto["service_tier"]) == ("priority", "default")


@asynchronous
async def test_official_client_reads_everything():
    async with openai_simulator() as sim, sdk(sim) as client:
        whole = await client.chat.completions.create(model="gpt-4o", messages=QUESTION)
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        vector = await client.embeddings.create(model="text-embedding-3-small", input="alpha")
        models = await client.models.list()
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="gpt-4o", messages=[])
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 60
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert len(vector.data[0].embedding) == 1536
    assert "gpt-4o" in [model.id for model in models.data]
    assert refused.value.code == "empty_array"


@asynchronous
async def test_official_client_parses_streamed_tool_calls():
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    asked = {"model": "gpt-4o", "messages": QUESTION, "tools": [strict], "tool_choice": "required"}
    async with (
        openai_simulator() as sim,
        sdk(sim) as client,
        client.chat.completions.stream(**asked) as stream,
    ):
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
