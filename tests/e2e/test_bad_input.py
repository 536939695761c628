"""Whatever arrives: an error as OpenAI shapes it, never a 500, never a dead worker, nothing lost."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.harness import (
    ADMIN_TOKEN,
    APP_KEY,
    CARD,
    NARROW_KEY,
    Harness,
    Json,
    chat,
    image_parts,
    running,
)

MIB = 1024 * 1024
CHAT = "/v1/chat/completions"
BEARER = f"authorization: Bearer {APP_KEY}\r\n".encode()


@pytest.fixture(scope="module")
def harness(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """One gateway for the whole module: it must survive all of it. Nothing that was sent may be lost."""
    context = running(tmp_path_factory.mktemp("gateway"))
    harness = runner.run(context.__aenter__())
    yield harness
    runner.run(_everything_is_booked(harness))
    runner.run(context.__aexit__(None, None, None))


async def _everything_is_booked(harness: Harness) -> None:
    await harness.settled()
    booked = [row["attempt_id"] for row in await harness.rows()]
    assert sorted(booked) == sorted(str(attempt.attempt_id) for attempt in harness.attempts())


@pytest.fixture(autouse=True)
def still_answers(runner: asyncio.Runner, harness: Harness) -> Iterator[None]:
    yield
    assert runner.run(harness.post(chat())).status_code == 200


def assert_refused(response: httpx.Response, status: int | None = None, code: str | None = None) -> Json:
    """A 4xx answer in OpenAI's envelope, with this status and code where they are given."""
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error: Json = assert_envelope(response.content)
    assert status in {None, response.status_code}
    assert code in {None, error["code"]}
    return error


def assert_envelope(body: bytes) -> Json:
    document = orjson.loads(body)
    assert set(document) == {"error"}
    error: Json = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def nested(depth: int) -> bytes:
    return b'{"model":"gpt-4o","messages":' + b"[" * depth + b"]" * depth + b"}"


def with_content(literal: bytes) -> bytes:
    """A request whose prompt is this piece of JSON."""
    return b'{"model":"gpt-4o","messages":[{"role":"user","content":' + literal + b"}]}"


# Bodies that are no JSON object

NOT_JSON = {
    "nothing": b"",
    "words": b"hello",
    "an open object": b'{"model":"gpt-4o","messages":[',
    "two objects": b'{"model":"gpt-4o"}{"model":"gpt-4o"}',
    "an array": b"[]",
    "a string": b'"gpt-4o"',
    "a number": b"42",
    "null": b"null",
    "single quotes": b"{'model':'gpt-4o'}",
    "a comment": b'{"model":"gpt-4o"} // and so on',
    "a form": b"model=gpt-4o&stream=true",
    "invalid UTF-8": with_content(b'"\xff\xfe"'),
    "overlong UTF-8": with_content(b'"\xc0\xaf"'),
    "an encoded surrogate": with_content(b'"\xed\xa0\x80"'),
    "UTF-16": orjson.dumps(chat()).decode().encode("utf-16"),
    "a NUL in a string": with_content(b'"a\x00b"'),
    "a NUL after the end": orjson.dumps(chat()) + b"\x00",
    "a line feed in a string": with_content(b'"a\nb"'),
    "a lone high surrogate": with_content(rb'"\ud83d"'),
    "a lone low surrogate": with_content(rb'"\ude00"'),
    "NaN": orjson.dumps(chat())[:-1] + b',"temperature":NaN}',
    "Infinity": orjson.dumps(chat())[:-1] + b',"temperature":Infinity}',
    "-Infinity": orjson.dumps(chat())[:-1] + b',"temperature":-Infinity}',
    "a leading zero": orjson.dumps(chat())[:-1] + b',"n":01}',
    "10,000 levels": nested(10_000),
    "10,000 levels that never close": b"[" * 10_000,
    "10,000 objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_no_json_object_is_refused(harness: Harness, body: bytes) -> None:
    assert_refused(await harness.post(body), 400, "invalid_json")


@pytest.mark.parametrize("depth", [200, 254, 255, 256, 1000, 1023, 1024, 1025])
async def test_deep_nesting_is_answered_one_way_or_the_other(harness: Harness, depth: int) -> None:
    body = orjson.dumps(chat())[:-1] + b',"metadata":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    await assert_answered_or_refused(harness, body)


# Fields of the wrong type or size

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    7,
    -1,
    1.5,
    "",
    "x",
    [],
    [None],
    [[]],
    [{}],
    {},
    {"x": 1},
    10**19,
    1e300,
]
FIELDS = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "logprobs",
    "top_logprobs",
    "temperature",
    "stop",
    "metadata",
    "modalities",
    "service_tier",
    "user",
    "seed",
    "prediction",
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
async def test_no_value_of_a_field_breaks_anything(harness: Harness, model: str, field: str) -> None:
    for value in ODD:
        await assert_answered_or_refused(harness, chat(model=model) | {field: value})


@pytest.mark.parametrize("field", ["role", "content", "name", "tool_calls", "tool_call_id", "refusal"])
async def test_no_value_in_a_message_breaks_anything(harness: Harness, field: str) -> None:
    for value in ODD:
        message = {"role": "user", "content": "Hello."} | {field: value}
        await assert_answered_or_refused(harness, {"model": "gpt-4o", "messages": [message]})


@pytest.mark.parametrize("field", ["type", "text", "image_url", "input_audio", "file"])
async def test_no_value_in_a_content_part_breaks_anything(harness: Harness, field: str) -> None:
    for value in ODD:
        for part in image_parts("What is this?"):
            content = [part | {field: value}]
            await assert_answered_or_refused(
                harness, {"model": "gpt-4o", "messages": [{"role": "user", "content": content}]}
            )


@pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "input"), ("/v1/completions", "prompt")])
async def test_no_value_of_an_input_breaks_anything(harness: Harness, path: str, field: str) -> None:
    model = {"input": "embed", "prompt": "scout"}[field]
    for value in [*ODD, ["a"], [1, 2], [[1], [2]], ["a", 1], [1, "a"], [10**30], [-1]]:
        await assert_answered_or_refused(harness, {"model": model, field: value}, path)


async def assert_answered_or_refused(harness: Harness, body: Json | bytes, path: str = CHAT) -> None:
    response = await harness.post(body, path)
    if response.status_code != 200:
        assert_refused(response)


WRONG = {
    "no model": ({"messages": []}, "model"),
    "an empty model": (chat(model=""), "model"),
    "a number for a model": (chat(model=4), "model"),
    "no messages": ({"model": "gpt-4o"}, "messages"),
    "empty messages": ({"model": "gpt-4o", "messages": []}, "messages"),
    "a string for messages": ({"model": "gpt-4o", "messages": "hello"}, "messages"),
    "a string for a message": ({"model": "gpt-4o", "messages": ["hello"]}, "messages[0]"),
    "a message without a role": ({"model": "gpt-4o", "messages": [{"content": "x"}]}, "messages[0].role"),
    "a number for content": (
        {"model": "gpt-4o", "messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
    ),
    "an unknown kind of part": (
        {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
        "messages[0].content[0].type",
    ),
    "n of 0": (chat(n=0), "n"),
    "n below 0": (chat(n=-1), "n"),
    "n of a thousand million": (chat(n=10**9), "n"),
    "n beyond 64 bits": (chat(n=10**30), "n"),
    "max_tokens of 0": (chat(max_tokens=0), "max_tokens"),
    "max_tokens below 0": (chat(max_tokens=-1), "max_tokens"),
    "max_tokens in words": (chat(max_tokens="x"), "max_tokens"),
    "max_tokens with a fraction": (chat(max_tokens=1.5), "max_tokens"),
    "max_tokens of a billion": (chat(max_tokens=10**12), "max_completion_tokens"),
    "stream in words": (chat(stream="yes"), "stream"),
    "stream options without a stream": (chat(stream_options={"include_usage": True}), "stream_options"),
    "tools that are no list": (chat(tools={"a": 1}), "tools"),
    "metadata that is no object": (chat(metadata=[1]), "metadata"),
}


@pytest.mark.parametrize(("body", "param"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_named(harness: Harness, body: Json, param: str) -> None:
    seen = len(harness.attempts())
    error = assert_refused(await harness.post(body), 400)
    assert error["param"] == param
    assert len(harness.attempts()) == seen


async def test_an_unknown_model_is_not_found(harness: Harness) -> None:
    error = assert_refused(await harness.post(chat(model="gpt-9")), 404, "model_not_found")
    assert error["param"] == "model"


async def test_a_model_name_of_a_megabyte_is_not_repeated(harness: Harness) -> None:
    error = assert_refused(await harness.post(chat(model="x" * MIB)), 404)
    assert len(error["message"]) < 1000


async def test_ten_thousand_messages_are_too_many(harness: Harness) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}] * 10_000}
    assert_refused(await harness.post(body), 400, "array_above_max_length")


async def test_escaped_nul_passes_and_leaves_no_nul_in_the_ledger(harness: Harness) -> None:
    body = chat("before\0after", metadata={"na\0me": "val\0ue"})
    response = await harness.post(body)
    assert response.status_code == 200
    [row] = await rows_of(harness, response)
    assert orjson.loads(row["tags"]) == {"name": "value"}


@pytest.mark.parametrize("tags", [b"a=\xff\xfe", b"a=1,b", b"=c", b"x" * 5000 + b"=y", b"a=1,a=2"])
async def test_tags_that_cannot_be_read_are_refused(harness: Harness, tags: bytes) -> None:
    response = await harness.http.post(CHAT, json=chat(), headers=[(b"x-tollway-tags", tags)])
    assert_refused(response, 400, "invalid_header")
    assert await rows_of(harness, response) == []


async def rows_of(harness: Harness, response: httpx.Response) -> list[Json]:
    request_id = response.headers["x-request-id"]
    return [row for row in await harness.rows() if row["request_id"] == request_id]


# Duplicate keys: the last value counts, for the gateway as for the upstream


async def test_the_last_model_is_the_one_that_is_authorised(harness: Harness) -> None:
    narrow = {"authorization": f"Bearer {NARROW_KEY}"}
    for first, last, status in (("scout", "gpt-4o", 200), ("gpt-4o", "scout", 404)):
        body = b'{"model":"%b","messages":[{"role":"user","content":"x"}],"model":"%b"}'
        content = body % (first.encode(), last.encode())
        response = await harness.http.post(CHAT, content=content, headers=narrow)
        assert response.status_code == status
    assert harness.external.attempts()[-1].model == "gpt-4o-2024-11-20"


async def test_the_last_prompt_is_the_one_that_is_read(harness: Harness) -> None:
    card, harmless = orjson.dumps(CARD), b'"harmless"'
    hidden = b'%b,"content":%b'
    refused = await harness.post(with_content(hidden % (harmless, card)))
    passed = await harness.post(with_content(hidden % (card, harmless)))
    assert_refused(refused, 403, "privacy_policy_violation")
    assert passed.status_code == 200
    assert harness.external.attempts(contains=CARD) == []


async def test_the_last_of_two_lists_of_messages_is_the_one_that_is_read(harness: Harness) -> None:
    first, last = ([{"role": "user", "content": text}] for text in (CARD, "harmless"))
    body = b'{"model":"gpt-4o","messages":%b,"messages":%b}' % (orjson.dumps(first), orjson.dumps(last))
    assert (await harness.post(body)).status_code == 200
    assert harness.external.attempts(contains=CARD) == []


async def test_the_last_output_cap_counts(harness: Harness) -> None:
    body = orjson.dumps(chat())[:-1] + b',"max_tokens":50,"max_tokens":3}'
    response = await harness.post(body)
    assert response.json()["usage"]["completion_tokens"] == 3


async def test_of_two_names_for_the_output_cap_the_lower_counts(harness: Harness) -> None:
    response = await harness.post(chat(max_tokens=50, max_completion_tokens=4))
    assert response.json()["usage"]["completion_tokens"] == 4


# Size


async def chunks(total_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(total_bytes // MIB):
        yield b" " * MIB


async def test_65_mb_are_too_large(harness: Harness) -> None:
    assert_refused(await harness.post(b" " * (65 * MIB)), 413, "request_too_large")


async def test_65_mb_in_chunks_are_too_large(harness: Harness) -> None:
    assert_refused(await harness.http.post(CHAT, content=chunks(65 * MIB)), 413, "request_too_large")


async def test_50_mb_are_not_too_large(harness: Harness) -> None:
    body = orjson.dumps(chat())[:-1] + b" " * (50 * MIB) + b"}"
    assert (await harness.post(body)).status_code == 200


async def test_65_mb_are_refused_before_they_are_sent_by_a_client_that_asks(harness: Harness) -> None:
    async with await harness.raw() as client:
        await client.send(head(b"expect: 100-continue\r\ncontent-length: %d\r\n" % (65 * MIB)))
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert_envelope(answer.partition(b"\r\n\r\n")[2])


async def test_a_client_that_asks_is_told_to_go_on(harness: Harness) -> None:
    body = orjson.dumps(chat())
    async with await harness.raw() as client:
        await client.send(
            head(b"expect: 100-continue\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body))
        )
        await client.read_until(b"100 Continue\r\n\r\n")
        await client.send(body)
        assert b"HTTP/1.1 200 OK" in await client.read_to_end()


async def test_a_length_beyond_all_bounds_is_too_large(harness: Harness) -> None:
    async with await harness.raw() as client:
        await client.send(head(b"expect: 100-continue\r\ncontent-length: 9223372036854775807\r\n"))
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 413 ")


def head(*lines: bytes, request_line: bytes = b"POST /v1/chat/completions HTTP/1.1\r\n") -> bytes:
    return request_line + b"host: gateway\r\n" + BEARER + b"".join(lines) + b"\r\n"


# Heads


async def test_a_header_of_100_kb_is_refused(harness: Harness) -> None:
    response = await harness.post(chat(), x_long="x" * 100_000)
    assert 400 <= response.status_code < 500
    assert_envelope(response.content)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_a_wrong_method_is_refused(harness: Harness, method: str) -> None:
    response = await harness.http.request(method, CHAT)
    assert_refused(response, 405, "method_not_supported")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/unknown", "/v2/chat/completions", "/V1/CHAT/COMPLETIONS"]
)
async def test_an_unknown_path_is_not_found(harness: Harness, path: str) -> None:
    assert_refused(await harness.post(chat(), path), 404, "unknown_url")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/gpt-4o"])
async def test_a_trailing_slash_is_accepted_without_a_redirect(harness: Harness, path: str) -> None:
    method = "POST" if path == CHAT else "GET"
    response = await harness.http.request(method, path + "/", json=chat() if path == CHAT else None)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/admin/v1/keys",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "//metrics",
        "/v1/models/../../metrics",
        "/v1/chat/completions/../../../metrics",
    ],
)
async def test_nothing_of_the_admin_port_is_reachable_here(harness: Harness, path: str) -> None:
    async with await harness.raw() as client:
        host = harness.gateway.admin_url.removeprefix("http://")
        request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n"
        await client.send(request.encode() + b"connection: close\r\n\r\n")
        answer = await client.read_to_end()
        assert answer.split()[1] in {b"401", b"404", b"405"}
        assert b"tollway_" not in answer


AUTHORIZATIONS = {
    "empty": b"",
    "a scheme alone": b"Bearer",
    "another scheme": b"Basic " + APP_KEY.encode(),
    "no scheme": APP_KEY.encode(),
    "a wrong key": b"Bearer wrong",
    "a part of the key": b"Bearer " + APP_KEY.encode()[:-1],
    "more than the key": b"Bearer " + APP_KEY.encode() + b"x",
    "10,000 characters": b"Bearer " + b"x" * 10_000,
    "the key and much more": b"Bearer " + APP_KEY.encode() + b" " * 600 + b"x",
    "any bytes": b"Bearer \xff\xfe\x80",
    "SQL": b"Bearer ' OR 1=1; --",
    "the admin token": b"Bearer " + ADMIN_TOKEN.encode(),
    "two keys": b"Bearer " + APP_KEY.encode() + b", Bearer " + APP_KEY.encode(),
}


@pytest.mark.parametrize("value", AUTHORIZATIONS.values(), ids=AUTHORIZATIONS.keys())
async def test_a_wrong_authorization_is_refused(harness: Harness, value: bytes) -> None:
    response = await harness.http.post(CHAT, json=chat(), headers=[(b"authorization", value)])
    error = assert_refused(response, 401, "invalid_api_key")
    assert APP_KEY not in error["message"]


async def test_a_missing_authorization_is_refused(harness: Harness) -> None:
    async with httpx.AsyncClient(base_url=harness.gateway.data_url) as client:
        assert_refused(await client.post(CHAT, json=chat()), 401, "invalid_api_key")
        assert_refused(await client.get("/v1/models"), 401, "invalid_api_key")


@pytest.mark.parametrize("feature", ["unknown", "", "Search", "search,triage", "\u00e9"])
async def test_a_feature_that_the_key_may_not_name_is_refused(harness: Harness, feature: str) -> None:
    headers = [(b"x-tollway-feature", feature.encode())]
    response = await harness.http.post(CHAT, json=chat(), headers=headers)
    assert_refused(response, 403, "permission_denied")


@pytest.mark.parametrize("privacy", ["secret", "", "Confidential", "public,restricted"])
async def test_an_unknown_privacy_class_is_refused(harness: Harness, privacy: str) -> None:
    error = assert_refused(await harness.post(chat(), x_tollway_privacy=privacy), 400)
    assert error["param"] == "x-tollway-privacy"


# Bytes that are no HTTP, or try to be two requests at once

SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: gateway\r\n\r\n"
GARBAGE = {
    "random bytes": bytes(range(256)) * 8,
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "an unknown method": b"FROB /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    "a NUL in a header": head(b"x-a: b\x00c\r\ncontent-length: 0\r\n"),
    "a space before the colon": head(b"content-length : 5\r\n") + b"hello",
    "a length that is no number": head(b"content-length: five\r\n") + b"hello",
    "a negative length": head(b"content-length: -5\r\n") + b"hello",
    "two lengths": head(b"content-length: 5\r\ncontent-length: 50\r\n") + b"hello" + SMUGGLED,
    "length and chunks": head(b"content-length: 4\r\ntransfer-encoding: chunked\r\n")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "chunks twice": head(b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "disguised chunks": head(b"transfer-encoding: xchunked\r\n") + b"0\r\n\r\n" + SMUGGLED,
    "a chunk size that is no number": head(b"transfer-encoding: chunked\r\n") + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than its size": head(b"transfer-encoding: chunked\r\n") + b"2\r\nhello\r\n0\r\n\r\n",
    "a folded header": head(b"x-a: b\r\n  folded: c\r\ncontent-length: x\r\n"),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_gets_one_error_at_most_and_goes_nowhere(harness: Harness, data: bytes) -> None:
    seen = len(harness.attempts())
    async with await harness.raw() as client:
        await client.send(data)
        answer = await client.read_to_end()
    assert len(re.findall(rb"HTTP/1.1 \d", answer)) <= 1
    assert b" 200 " not in answer
    assert b" 500 " not in answer
    if answer:
        assert_envelope(answer.partition(b"\r\n\r\n")[2])
    assert len(harness.attempts()) == seen


async def test_no_connection_is_upgraded(harness: Harness) -> None:
    async with await harness.raw() as client:
        lines = (
            b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        await client.send(head(lines, b"sec-websocket-version: 13\r\n"))
        answer = await client.read_until(b"}}")
    assert answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("cut", [1, 20, 60, 120, 200])
async def test_a_request_that_ends_early_leaves_nothing_behind(harness: Harness, cut: int) -> None:
    body = orjson.dumps(chat())
    whole = head(b"content-length: %d\r\n" % len(body)) + body
    seen = len(harness.attempts())
    async with await harness.raw() as client:
        await client.send(whole[:cut])
    await harness.settled()
    assert len(harness.attempts()) == seen


async def test_a_request_byte_by_byte_is_understood(harness: Harness) -> None:
    body = orjson.dumps(chat())
    async with await harness.raw() as client:
        for byte in head(b"connection: close\r\ncontent-length: %d\r\n" % len(body)) + body:
            await client.send(bytes([byte]))
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200 ")


# Anything at all

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
places = st.lists(
    st.sampled_from([*FIELDS, "role", "content", "type", "text", "image_url", "url"]), max_size=4
)


def replaced(document: Any, path: list[str], value: Any) -> Any:
    """`document` with `value` somewhere along `path`, as far as the path can be followed."""
    if not path or not isinstance(document, dict):
        return value
    name, *rest = path
    inner = document.get(name)
    if isinstance(inner, list) and inner:
        return {**document, name: [replaced(inner[0], rest, value), *inner[1:]]}
    return {**document, name: replaced(inner, rest, value)}


@settings(max_examples=150, deadline=None)
@given(value=json_values, path=places, api=st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings"]))
def test_no_json_value_gives_a_server_error(
    runner: asyncio.Runner, harness: Harness, value: Any, path: list[str], api: str
) -> None:
    template = {
        "model": "auto",
        "messages": [{"role": "user", "content": image_parts("What?")}],
        "prompt": "a",
    }
    body = replaced(template, path, value)
    response = runner.run(harness.post(json.dumps(body).encode(), api))
    assert response.status_code < 500, body
    if response.status_code >= 400:
        assert_envelope(response.content)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), has_head=st.booleans())
def test_no_bytes_give_a_server_error(
    runner: asyncio.Runner, harness: Harness, data: bytes, has_head: bool
) -> None:
    async def scenario() -> bytes:
        async with await harness.raw() as client:
            await client.send((head()[:-2] if has_head else b"") + data + b"\r\n\r\n")
            client.half_close()
            return await client.read_to_end()

    assert b"HTTP/1.1 5" not in runner.run(scenario())


async def test_an_image_that_nothing_reads_is_refused_with_what_to_set(
    tmp_path: Path, harness: Harness
) -> None:
    look = {"model": "gpt-4o", "messages": [{"role": "user", "content": image_parts("What is this?")}]}
    unread = {"privacy": {"media": None}}
    async with running(tmp_path, unread) as strict:
        refused = await strict.post(look)
        assert_refused(refused, 403, "privacy_policy_violation")
        assert "features.search.media.image or privacy.media.image" in refused.json()["error"]["message"]
        assert (await strict.post(look | {"model": "scout"})).status_code == 200
        assert strict.external.attempts() == []
    assert (await harness.post(look)).status_code == 200
