"""What those who call the gateway meet besides the answer itself: its entrances, and what its heads say."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import openai
import orjson
import pytest
import zstandard

from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import APP_KEY, NARROW_KEY, Harness, Streamed, chat, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
CHANGES = {
    "features": {"careful": {"team": "product", "privacy": "confidential"}},
    "keys": {"careful": {"secret": "key-of-the-careful-0123456789", "feature": "careful"}},
}


@pytest.fixture(scope="module")
def harness(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder: Path = tmp_path_factory.mktemp("callers")
    context = running(folder, CHANGES)
    harness = runner.run(context.__aenter__())
    yield harness
    runner.run(context.__aexit__(None, None, None))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# --- tags ---


async def test_tags_in_any_language_reach_the_ledger_as_they_were_written(harness: Harness) -> None:
    headers = [(b"x-tollway-tags", "部署=研究開発,étape=brouillon".encode())]
    response = await harness.http.post("/v1/chat/completions", json=chat(), headers=headers)
    assert response.status_code == 200
    row = (await harness.rows())[-1]
    assert orjson.loads(row["tags"]) == {"部署": "研究開発", "étape": "brouillon"}
    report = await harness.admin("GET", "/admin/v1/usage?by=tag:部署")
    assert "研究開発" in [found["tag:部署"] for found in report.json()]


async def test_an_explanation_reads_them_as_the_request_would(harness: Harness) -> None:
    asked = {"request": chat(model="auto"), "key": "app", "headers": {"x-tollway-tags": "部署=研究"}}
    assert (await harness.admin("POST", "/admin/v1/policy/explain", asked)).json()["refused"] is None
    asked["headers"] = {"x-tollway-tags": "部署"}
    refused = (await harness.admin("POST", "/admin/v1/policy/explain", asked)).json()["refused"]
    assert (refused["status"], refused["code"]) == (400, "invalid_header")


# --- models ---


async def test_models_are_those_that_the_key_can_reach_with_what_they_can_do(harness: Harness) -> None:
    listed = (await harness.http.get("/v1/models")).json()["data"]
    assert [item["id"] for item in listed] == ["gpt-4o", "scout", "auto", "embed"]
    auto, embed = listed[2], listed[3]
    assert (auto["context_length"], auto["max_output_tokens"]) == (131_072, 16_384)
    assert auto["capabilities"] == ["functions", "json_schema", "logprobs", "tools"]
    assert auto["input_modalities"] == ["image", "text"]
    assert embed["endpoints"] == ["embeddings"]
    for item in listed:
        assert (await harness.http.get(f"/v1/models/{item['id']}")).json() == item


async def test_a_key_whose_data_must_stay_does_not_see_models_outside(harness: Harness) -> None:
    headers = bearer("key-of-the-careful-0123456789")
    listed = (await harness.http.get("/v1/models", headers=headers)).json()["data"]
    assert [item["id"] for item in listed] == ["scout", "auto"]
    outside = await harness.http.get("/v1/models/gpt-4o", headers=headers)
    assert (outside.status_code, outside.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_unknown_model_is_answered_with_the_nearest_names_that_the_key_may_use(
    harness: Harness,
) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Did you mean 'gpt-4o'\?") as caught:
        await harness.client().chat.completions.create(**chat(model="gpt-4o-2024-11-20"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    response = await harness.post(chat(model="scot"), **bearer(NARROW_KEY))
    assert response.status_code == 404
    assert "scout" not in response.text


# --- who refused ---


async def test_a_refusal_of_an_upstream_says_whose_it_is(harness: Harness) -> None:
    refused = await harness.post(chat(model="scout", temperature=-7))
    assert refused.status_code == 400
    assert (refused.headers["x-tollway-deployment"], refused.headers["x-tollway-zone"]) == ("scout", "local")
    own = await harness.post(chat(model="scout", messages=[]))
    assert own.status_code == 400
    assert "x-tollway-deployment" not in own.headers


async def test_a_failure_of_all_candidates_names_the_last(tmp_path: Path) -> None:
    broken = Knobs(error_rate=1, error_kind=ErrorKind.SERVER_ERROR)
    async with running(tmp_path, external=broken, replicas=(broken, broken)) as harness:
        failed = await harness.post(chat(model="auto"))
        assert failed.status_code == 502
        assert failed.headers["x-tollway-deployment"] == "gpt-4o"


# --- compressed bodies ---


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("zstd", zstandard.compress), ("br", brotli.compress)],
)
async def test_a_compressed_body_is_a_request_like_any_other(
    harness: Harness, coding: str, compress: Any
) -> None:
    body = chat(f"A text that is compressed by {coding}.")
    response = await harness.post(compress(orjson.dumps(body)), content_encoding=coding)
    assert response.status_code == 200
    [attempt] = harness.attempts(f"compressed by {coding}")
    assert "content-encoding" not in attempt.headers


async def test_an_unknown_coding_is_told_which_there_are(harness: Harness) -> None:
    response = await harness.post(b"{}", content_encoding="compress")
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate, zstd, br")
    assert response.json()["error"]["code"] == "unsupported_content_encoding"


async def test_a_card_in_a_compressed_body_stays_home(harness: Harness) -> None:
    body = gzip.compress(orjson.dumps(chat("My card is 4111 1111 1111 1111.", model="auto")))
    response = await harness.post(body, content_encoding="gzip")
    assert response.headers["x-tollway-zone"] == "local"


# --- traces ---


async def test_attempts_are_children_of_the_clients_span_and_its_state_stays_home(harness: Harness) -> None:
    headers = {"traceparent": PARENT, "tracestate": "own=1", "baggage": "user=ada"}
    for model in ("scout", "gpt-4o"):
        await harness.post(chat(f"Traced to {model}.", model=model), **headers)
        [attempt] = harness.attempts(f"Traced to {model}.")
        found = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01", attempt.headers["traceparent"])
        assert found
        assert (found[1] == TRACE) == (model == "scout"), "outside it is a digest"
        assert found[2] != "00f067aa0ba902b7"
        assert attempt.headers.get("tracestate") == ("own=1" if model == "scout" else None)
        assert "baggage" not in attempt.headers


async def test_a_zone_is_own_as_the_file_says(tmp_path: Path) -> None:
    zones = {"zones": {"local": {"own": False}, "external": {"own": True}}}
    async with running(tmp_path, zones) as harness:
        for model in ("scout", "gpt-4o"):
            await harness.post(chat(model=model), traceparent=PARENT, tracestate="own=1")
        scout, hosted = sorted(harness.attempts(), key=lambda attempt: str(attempt.model), reverse=True)
        assert (scout.headers.get("tracestate"), hosted.headers.get("tracestate")) == (None, "own=1")


# --- what a stream cost ---


async def test_a_stream_tells_what_it_cost_in_a_trailer(harness: Harness) -> None:
    async with await harness.raw() as client:
        await client.request(chat(stream=True))
        received = await client.read_while(
            lambda found: b"\r\n0\r\n" not in found or found[-4:] != b"\r\n\r\n"
        )
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\ntrailer: x-tollway-cost-usd" in head
    last = body.rpartition(b"\r\n0\r\n")[2]
    found = re.fullmatch(rb"x-tollway-cost-usd: 0\.(\d{9})\r\n\r\n", last)
    assert found
    row = (await harness.rows())[-1]
    assert int(found[1]) == row["cost_nano_usd"] > 0


async def test_a_stream_tells_what_it_cost_in_an_event_where_that_is_asked_for(harness: Harness) -> None:
    plain = Streamed((await harness.post(chat(stream=True))).content)
    asked = Streamed((await harness.post(chat(stream=True), x_tollway_cost_event="true")).content)
    assert asked.is_done
    assert len(asked.events) == len(plain.events) + 1
    cost = asked.chunks[-1]
    assert cost["choices"] == []
    row = (await harness.rows())[-1]
    assert cost["tollway"] == {"cost_usd": f"0.{row['cost_nano_usd']:09d}", "estimated": False}
    assert cost["id"] == row["request_id"]


async def test_a_stream_of_completions_has_an_event_of_its_own_kind(harness: Harness) -> None:
    body = {"model": "scout", "prompt": "Once upon a time", "stream": True}
    found = Streamed((await harness.post(body, "/v1/completions", x_tollway_cost_event="true")).content)
    assert found.is_done
    assert found.chunks[-1]["object"] == "text_completion"
    assert float(found.chunks[-1]["tollway"]["cost_usd"]) > 0


async def test_the_official_client_reads_the_event_as_a_chunk(harness: Harness) -> None:
    stream = await harness.client().chat.completions.create(
        **chat(stream=True, stream_options={"include_usage": True}),
        extra_headers={"x-tollway-cost-event": "true"},
    )
    chunks = [chunk async for chunk in stream]
    assert float(chunks[-1].model_dump()["tollway"]["cost_usd"]) > 0
    assert chunks[-2].usage


async def test_what_is_not_understood_of_it_is_refused_before_anything_is_sent(harness: Harness) -> None:
    count = len(harness.attempts())
    response = await harness.post(chat(stream=True), x_tollway_cost_event="please")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-tollway-cost-event")
    assert len(harness.attempts()) == count


async def test_a_stream_that_breaks_tells_what_it_cost_as_well(tmp_path: Path) -> None:
    external = Knobs(error_rate=1, error_kind=ErrorKind.RESET_MID, output_tokens=200)
    async with running(tmp_path, external=external) as harness, await harness.raw() as client:
        await client.request(chat(stream=True))
        received = await client.read_while(
            lambda found: b"\r\n0\r\n" not in found or found[-4:] != b"\r\n\r\n"
        )
        assert b'data: {"error"' in received
        assert re.search(rb"\r\n0\r\nx-tollway-cost-usd: 0\.\d{9}\r\n\r\n\Z", received)


# --- Azure's addresses ---


def azure(harness: Harness, **options: Any) -> openai.AsyncAzureOpenAI:
    return openai.AsyncAzureOpenAI(
        azure_endpoint=harness.gateway.data_url,
        api_key=APP_KEY,
        api_version="2024-10-21",
        max_retries=0,
        **options,
    )


async def test_the_azure_client_works_as_it_comes(harness: Harness) -> None:
    async with azure(harness) as client:
        answer = await client.chat.completions.create(**chat("By way of Azure."))
        assert answer.choices[0].message.content
        parts = [chunk async for chunk in await client.chat.completions.create(**chat(stream=True))]
        assert parts[-1].choices[0].finish_reason
        embedded = await client.embeddings.create(model="embed", input="ships")
        assert embedded.data[0].embedding
        assert "gpt-4o" in [model.id async for model in client.models.list()]


async def test_the_deployment_in_the_address_counts_before_the_model_in_the_body(harness: Harness) -> None:
    async with azure(harness, azure_deployment="scout") as client:
        raw = await client.chat.completions.with_raw_response.create(**chat(model="gpt-4o"))
        assert raw.headers["x-tollway-deployment"] == "scout"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/v1/chat/completions?api-version=preview", 200),
        ("/openai/v1/chat/completions/", 200),
        ("/openai/deployments/gpt%2D4o/chat/completions?api-version=1", 200),
        ("/openai/deployments/gpt-4o/chat/completions/", 200),
        ("/v1/deployments/gpt-4o/chat/completions", 200),
        ("/openai/deployments/nothing/chat/completions", 404),
        ("/openai/deployments/%ff/chat/completions", 404),
        ("/openai/deployments//chat/completions", 404),
        ("/openai/deployments/gpt-4o", 404),
        ("/openai/chat/completions", 404),
    ],
)
async def test_addresses_under_openai(harness: Harness, path: str, status: int) -> None:
    response = await harness.post(chat(), path)
    assert response.status_code == status, response.text


async def test_models_have_azures_addresses_too(harness: Harness) -> None:
    listed = (await harness.http.get("/v1/models")).json()
    for path in ("/openai/v1/models", "/openai/models?api-version=2024-10-21"):
        assert (await harness.http.get(path)).json() == listed
    assert (await harness.http.get("/openai/models/scout")).json()["id"] == "scout"


async def test_a_page_may_ask_what_it_may_send_to_azures_addresses(harness: Harness) -> None:
    path = "/openai/deployments/gpt-4o/chat/completions"
    headers = {"origin": "https://app.example", "access-control-request-headers": "api-key"}
    response = await harness.http.request("OPTIONS", path, headers=headers)
    assert (response.status_code, response.headers["access-control-allow-headers"]) == (204, "api-key")
