"""The official clients, unchanged but for their base URL, through `tollway serve` in a process of its own."""

import asyncio
import base64
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.privacy.vocabularies import bundled_file
from gateway.simulators.knobs import Knobs
from gateway.simulators.running import SimulatorKind, SimulatorProcess
from tests.e2e.harness import (
    ADMIN_TOKEN,
    APP_KEY,
    CARD,
    NARROW_KEY,
    SCOUT,
    STANDARD,
    Json,
    chat,
    config_text,
    image_parts,
)

POOR_KEY = "key-without-money-0123456789"
SINGLE_KEY = "key-with-one-slot-0123456789"
OWN_FEATURES = {
    "poor": {"team": "product", "budgets": [{"usd": 0.000001, "per": "month"}]},
    "single": {"team": "product", "limits": {"concurrent": 1}},
}
OWN_KEYS = {
    "poor": {"secret": POOR_KEY, "feature": "poor"},
    "single": {"secret": SINGLE_KEY, "feature": "single"},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASK_WEATHER = "What is the weather in Kyoto?"
_IDENTITY = re.compile(rb'"id":"[^"]*",|"created":\d+,')


class Served(NamedTuple):
    """Where the gateway of this module listens, and the simulators behind it."""

    url: str
    external: str
    local: str

    def client(self, key: str = APP_KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=20, **options)

    def async_client(self, key: str = APP_KEY, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=20, **options)

    def post(self, body: Json) -> httpx.Response:
        return _post(self.url, body)

    def direct(self, body: Json) -> httpx.Response:
        """The same request to the simulator that serves it, past the gateway."""
        url, model = {"gpt-4o": (self.external, "gpt-4o-2024-11-20"), "scout": (self.local, SCOUT)}[
            body["model"]
        ]
        return _post(url, {**body, "model": model})

    @contextmanager
    def endless_stream(self, key: str) -> Iterator[httpx.Response]:
        """A stream that has begun and will not end."""
        knobs = f"{self.external}/_sim/knobs"
        httpx.post(knobs, json={"tokens_per_second": 0.001})
        headers = {"authorization": f"Bearer {key}"}
        url = f"{self.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=chat(stream=True), headers=headers) as stream:
            arriving = stream.iter_raw()  # kept: when it is collected, the stream is closed
            next(arriving)
            httpx.post(knobs, json={"tokens_per_second": 0})
            yield stream


def _post(url: str, body: Json) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {APP_KEY}"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    changes = {
        "features": OWN_FEATURES,
        "keys": OWN_KEYS,
        "server": {"log_level": "warning", "access_log": "off"},
    }
    replica = {"replicas": {"urls": ["${REPLICA_1}/v1"]}}
    (folder / "tollway.yaml").write_text(config_text({**changes, "deployments": {"scout": replica}}))
    with (
        SimulatorProcess(SimulatorKind.OPENAI, Knobs()) as external,
        SimulatorProcess(SimulatorKind.VLLM, Knobs()) as local,
    ):
        environ = {
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "APP_KEY": APP_KEY,
            "NARROW_KEY": NARROW_KEY,
            "LEDGER": f"sqlite:///{folder / 'ledger.db'}",
            "EXTERNAL": external.url,
            "REPLICA_1": local.url,
        }
        command = [str(Path(sys.executable).parent / "tollway"), "serve", "--config", "tollway.yaml"]
        with subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Served(_announced_url(process), external.url, local.url)
            finally:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert said == ""


def _announced_url(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if " serves " in line:
            return line.split(" serves ")[1].split("/v1")[0]
    raise AssertionError("the gateway did not start")


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


# Answers


def test_a_chat_completion_looks_as_from_openai(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**chat())
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


def test_the_response_headers_say_who_answered_and_what_it_cost(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(**chat(model="auto"))
    assert answer.headers["x-tollway-deployment"] == "scout"
    assert answer.headers["x-tollway-zone"] == "local"
    assert float(answer.headers["x-tollway-cost-usd"]) > 0
    assert answer.headers["x-request-id"].startswith("req_")


def test_the_shared_account_s_rate_limits_are_not_shown(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(**chat())
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert "openai-organization" not in answer.headers


def test_a_stream_brings_the_same_text_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**chat())
    with client.chat.completions.create(**chat(), stream=True) as stream:
        chunks = list(stream)
    assert _content(chunks) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_include_usage_shows_no_usage(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**chat(), stream=True) as stream:
        chunks = list(stream)
    assert [chunk for chunk in chunks if chunk.usage is not None or not chunk.choices] == []


def test_a_stream_with_include_usage_ends_with_the_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(**chat(), stream=True, stream_options=options) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 60
    assert [chunk for chunk in chunks[:-1] if chunk.usage is not None] == []


@pytest.mark.parametrize("asked", [None, {}, {"include_usage": False}, {"include_usage": True}])
@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
def test_a_stream_passes_byte_for_byte(served: Served, model: str, asked: Json | None) -> None:
    """Also where the gateway asks for the usage and the client did not."""
    body = chat(model=model, stream=True, **({} if asked is None else {"stream_options": asked}))
    answer, upstream = served.post(body), served.direct(body)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert _anonymous(answer.content) == _anonymous(upstream.content)
    assert answer.headers["content-type"] == upstream.headers["content-type"]


def test_tools_are_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**chat(ASK_WEATHER), tools=[WEATHER])
    [call] = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)


def test_streamed_tool_calls_assemble_to_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**chat(ASK_WEATHER), tools=[WEATHER])
    [expected] = whole.choices[0].message.tool_calls or []
    with client.chat.completions.stream(**chat(ASK_WEATHER), tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or []
    assert expected.type == "function"
    assert call.function.name == expected.function.name
    assert call.function.arguments == expected.function.arguments


@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
def test_images_are_read_and_counted(client: openai.OpenAI, model: str) -> None:
    content: Any = image_parts("What is this?")
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    plain = client.chat.completions.create(**chat("What is this?", model=model))
    assert answer.usage is not None
    assert plain.usage is not None
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens + 50


def test_a_response_format_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
        "required": ["title", "pages"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "book", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**chat("Describe a book."), response_format=form)
    assert json.loads(answer.choices[0].message.content or "").keys() == {"title", "pages"}


def test_log_probabilities_come_through(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**chat(), logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content or []
    assert len(entries[0].top_logprobs) == 2


def test_log_probabilities_are_refused_where_no_deployment_has_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**chat(model="scout"), logprobs=True)
    assert refused.value.code == "unsupported_capability"


def test_two_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**chat(), n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 120


def test_two_streamed_choices(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**chat(), n=2)
    with client.chat.completions.create(**chat(), n=2, stream=True) as stream:
        chunks = list(stream)
    for choice in whole.choices:
        assert _content(chunks, choice.index) == choice.message.content


def test_embeddings_as_floats_and_in_base64_are_the_same(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="embed", input=["one", "two"], encoding_format="float")
    encoded = client.embeddings.create(model="embed", input=["one", "two"], encoding_format="base64")
    assert len(floats.data) == len(encoded.data) == 2
    for plain, packed in zip(floats.data, encoded.data, strict=True):
        raw: Any = packed.embedding
        values = struct.unpack(f"<{len(plain.embedding)}f", base64.b64decode(raw))
        assert values == pytest.approx(plain.embedding, abs=1e-6)
    assert floats.usage.prompt_tokens == 2


def test_embeddings_without_a_format_are_decoded_by_the_client(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="embed", input="one")
    assert len(answer.data[0].embedding) == 1536


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="scout", prompt="Once upon a time", max_tokens=12)
    with client.completions.create(
        model="scout", prompt="Once upon a time", max_tokens=12, stream=True
    ) as stream:
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert whole.choices[0].text == streamed
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12


# Models


def test_the_list_holds_all_models_of_a_key_without_restrictions(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == set(STANDARD["models"])


def test_the_list_holds_only_what_a_key_may_use(served: Served) -> None:
    with served.client(NARROW_KEY) as client:
        assert [model.id for model in client.models.list()] == ["gpt-4o"]


def test_a_model_can_be_retrieved(client: openai.OpenAI) -> None:
    model = client.models.retrieve("gpt-4o")
    assert (model.id, model.object) == ("gpt-4o", "model")


@pytest.mark.parametrize("name", ["scout", "no-such-model"])
def test_a_model_that_is_not_allowed_is_as_unknown_as_one_that_is_not_there(
    served: Served, name: str
) -> None:
    with served.client(NARROW_KEY) as client:
        with pytest.raises(openai.NotFoundError) as retrieved:
            client.models.retrieve(name)
        with pytest.raises(openai.NotFoundError) as asked:
            client.chat.completions.create(**chat(model=name))
    assert retrieved.value.code == asked.value.code == "model_not_found"
    assert retrieved.value.message == asked.value.message


# Errors


def test_a_wrong_key_is_an_authentication_error(served: Served) -> None:
    with served.client("wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
        client.chat.completions.create(**chat())
    assert refused.value.code == "invalid_api_key"


def test_a_privacy_violation_is_a_permission_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(**chat(f"My card is {CARD}."))
    assert refused.value.code == "privacy_policy_violation"
    assert CARD not in refused.value.message


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(**chat(model="gpt-5"))
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"


def test_a_malformed_request_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=[])
    assert refused.value.param == "messages"


def test_what_the_upstream_refuses_is_told_in_its_own_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**chat(), temperature=5)
    assert refused.value.param == "temperature"
    assert "5" in refused.value.message


def test_an_empty_budget_is_not_worth_a_retry(served: Served) -> None:
    tries: list[int] = []
    with (
        served.client(POOR_KEY, http_client=_counting(tries)) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.chat.completions.create(**chat())
    assert refused.value.code == "insufficient_quota"
    assert tries == [429]


def test_a_full_slot_is_worth_a_retry(served: Served) -> None:
    """The client retries by itself, and succeeds once the stream that took the only slot has ended."""
    tries: list[int] = []
    with served.endless_stream(SINGLE_KEY) as taking_the_slot:
        http_client = _counting(tries, then=taking_the_slot.close)
        with served.client(SINGLE_KEY, http_client=http_client) as client:
            assert client.chat.completions.create(**chat()).choices
    assert tries == [429, 200]


# Other clients


def test_the_asynchronous_client(served: Served) -> None:
    async def scenario() -> tuple[ChatCompletion, list[ChatCompletionChunk]]:
        async with served.async_client() as client:
            whole = await client.chat.completions.create(**chat())
            async with await client.chat.completions.create(**chat(), stream=True) as stream:
                return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(scenario())
    assert _content(chunks) == whole.choices[0].message.content


def _langchain(served: Served, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", base_url=f"{served.url}/v1", api_key=APP_KEY, **options)


def test_langchain_invokes_and_streams(served: Served) -> None:
    model = _langchain(served)
    whole = model.invoke("Tell me about ships.")
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 60
    assert "".join(str(chunk.content) for chunk in model.stream("Tell me about ships.")) == whole.content


def test_langchain_streams_with_usage(served: Served) -> None:
    chunks = list(_langchain(served, stream_usage=True).stream("Tell me about ships."))
    counted = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
    assert sum(counted) == 60


def test_langchain_binds_tools(served: Served) -> None:
    answer = _langchain(served).bind_tools([WEATHER]).invoke([HumanMessage(ASK_WEATHER)])
    [call] = answer.tool_calls
    assert call["name"] == "get_weather"


@pytest.fixture
def tiktoken_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own tokenizer would be downloaded."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(bundled_file("cl100k_base").parent))


def test_langchain_embeds_by_token_ids_as_it_comes(served: Served, tiktoken_files: None) -> None:
    embeddings = OpenAIEmbeddings(model="embed", base_url=f"{served.url}/v1", api_key=APP_KEY)
    texts = ["Ships of the seventeenth century.", "船の歴史について。", "long " * 9_000]
    vectors = embeddings.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [1536] * 3
    assert len(embeddings.embed_query("Which ships?")) == 1536
    # The default asks by ids, so what they say is what keeps them at home.
    with pytest.raises(openai.PermissionDeniedError, match="the detector credit_card found something"):
        embeddings.embed_documents(["Nothing here.", f"Please charge {CARD}."])


def _content(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in choices)


def _anonymous(content: bytes) -> bytes:
    """A stream without what differs from one answer to the next."""
    return _IDENTITY.sub(b"", content)


def _counting(tries: list[int], then: Callable[[], None] = lambda: None) -> httpx.Client:
    """A transport that writes down each answer's status, and does something `then`, after the first."""

    def note(response: httpx.Response) -> None:
        tries.append(response.status_code)
        if len(tries) == 1:
            then()

    return openai.DefaultHttpxClient(event_hooks={"response": [note]})
