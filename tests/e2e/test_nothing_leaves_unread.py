"""What a client could slip past the classifier: headers, payloads that are none, scalars off the prompt."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.harness import APP_KEY, CARD, NARROW_KEY, PNG_URL, Harness, Json, chat, running

# What token ids count as may leave: then nothing else may pass for them.
CHANGES = {"privacy": {"media": {"image": "internal", "tokens": "internal"}}}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
DIGITS = CARD.replace(" ", "")
SECRET = f"My card is {CARD}."
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><text>{SECRET}</text></svg>'
OPENAI, AZURE = "/v1/chat/completions", "/openai/deployments/gpt-4o/chat/completions"


@pytest.fixture(scope="module")
def harness(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    context = running(tmp_path_factory.mktemp("unread"), CHANGES)
    harness = runner.run(context.__aenter__())
    yield harness
    runner.run(context.__aexit__(None, None, None))


def coded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def image(url: str, **beside: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url}, **beside}


def seeing(*parts: Json, **more: Any) -> Json:
    content = [{"type": "text", "text": "What is this?"}, *parts]
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


async def is_kept_home(harness: Harness, body: Json, path: str = OPENAI) -> bool:
    """Whether `body` was refused for its privacy class, and nothing of it was sent."""
    before = len(harness.attempts())
    answer = await harness.post(body, path)
    refused = answer.status_code == 403 and answer.json()["error"]["code"] == "privacy_policy_violation"
    return refused and len(harness.attempts()) == before


# --- headers that count, twice ---


async def told_twice(harness: Harness, path: str, lines: list[str]) -> tuple[int, str | None]:
    """Status and code of the answer to a request with these header lines."""
    body = orjson.dumps(chat())
    own = ["host: gateway", "connection: close", f"content-length: {len(body)}"]
    head = "\r\n".join([f"POST {path} HTTP/1.1", *own, *lines])
    async with await harness.raw() as client:
        await client.send(f"{head}\r\n\r\n".encode("latin-1") + body)
        received = await client.read_to_end()
    answer = orjson.loads(received.partition(b"\r\n\r\n")[2])
    return int(received.split()[1]), (answer.get("error") or {}).get("code")


KEY = f"authorization: Bearer {APP_KEY}"


@pytest.mark.parametrize("path", [OPENAI, AZURE])
@pytest.mark.parametrize(
    "lines",
    [
        [KEY, "x-tollway-privacy: public", "X-Tollway-Privacy: confidential"],
        [KEY, "x-tollway-feature: search", "x-tollway-feature: triage"],
        [KEY, "x-tollway-session: a", "x-tollway-session: b"],
        [KEY, "x-tollway-tags: a=b", "x-tollway-tags: c=d"],
        [KEY, f"Authorization: Bearer {NARROW_KEY}"],
        [KEY, KEY],
        [f"api-key: {APP_KEY}", f"Api-Key: {NARROW_KEY}"],
        [KEY, f"api-key: {NARROW_KEY}"],
        [KEY, "authorization: Basic YTpi"],
        [KEY, "idempotency-key: a", "idempotency-key: b"],
        [KEY, f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01", f"traceparent: 00-{TRACE}-00f067aa0ba902b8-01"],
        [KEY, "content-type: application/json", "content-type: text/plain"],
    ],
)
async def test_a_header_that_counts_is_there_once(harness: Harness, path: str, lines: list[str]) -> None:
    assert await told_twice(harness, path, lines) == (400, "invalid_header")


@pytest.mark.parametrize(
    "lines",
    [
        [KEY],
        [f"api-key: {APP_KEY}"],
        [KEY, f"api-key: {APP_KEY}"],
        [KEY, "accept: a/b", "accept: c/d", "x-forwarded-for: 10.0.0.1", "x-forwarded-for: 10.0.0.2"],
    ],
)
async def test_what_says_the_same_or_does_not_count_may_repeat(harness: Harness, lines: list[str]) -> None:
    assert await told_twice(harness, OPENAI, lines) == (200, None)


@pytest.mark.parametrize(
    ("name", "status"),
    [("x-tollway-privacy", 400), ("x-tollway-feature", 403), ("authorization", 401)],
)
async def test_two_values_in_one_header_are_never_the_first(harness: Harness, name: str, status: int) -> None:
    values = {
        "x-tollway-privacy": "public, confidential",
        "x-tollway-feature": "search, triage",
        "authorization": f"Bearer {APP_KEY}, Bearer {NARROW_KEY}",
    }
    answer = await harness.http.post(OPENAI, json=chat(), headers={name: values[name]})
    assert answer.status_code == status


# --- what a client says in its head ---


CANARY = "canary4111111111111111"
HEADERS = (
    *("idempotency-key", "user-agent", "openai-beta", "openai-organization", "openai-project", "cookie"),
    *("tracestate", "baggage", "x-request-id", "x-client-request-id", "x-stainless-lang", "referer"),
    *("origin", "via", "forwarded", "x-forwarded-for", "accept", "accept-language", "x-anything"),
    *("x-tollway-session", "x-tollway-attempt", "x-api-key", "helicone-auth", "x-title", "http-referer"),
)


@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
async def test_no_header_of_the_client_leaves_as_it_is(harness: Harness, model: str) -> None:
    headers = dict.fromkeys(HEADERS, CANARY) | {"x-tollway-tags": f"a={CANARY}"}
    answer = await harness.http.post(
        f"{OPENAI}?api-version={CANARY}", json=chat(model=model), headers=headers
    )
    assert answer.status_code == 200
    [seen] = [one for one in harness.attempts() if one.request_id == answer.headers["x-request-id"]]
    assert CANARY not in orjson.dumps(seen.headers).decode() + seen.path


async def test_a_trace_id_leaves_as_a_digest_that_is_the_same_for_the_trace(harness: Harness) -> None:
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    ids = {"gpt-4o": set(), "scout": set()}
    for model in ("gpt-4o", "gpt-4o", "scout"):
        answer = await harness.http.post(OPENAI, json=chat(model=model), headers=headers)
        [seen] = [one for one in harness.attempts() if one.request_id == answer.headers["x-request-id"]]
        ids[model].add(seen.headers["traceparent"].split("-")[1])
    assert ids["scout"] == {TRACE}  # a zone of our own
    assert len(ids["gpt-4o"]) == 1
    assert TRACE not in ids["gpt-4o"]


# --- payloads that are none ---


PNG = base64.b64decode(PNG_URL.partition(",")[2])
GIF = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,;"
JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x01\x00\x01\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xd9"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"
WAV = b"RIFF\x28\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00"
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"
TOOL = {"type": "function", "function": {"name": "f", "description": "d"}}
GENUINE = image(PNG_URL)

SMUGGLED: dict[str, Json] = {
    "a file beside the image": seeing(image(PNG_URL, file={"file_data": coded(PDF), "filename": "a.pdf"})),
    "audio beside the image": seeing(image(PNG_URL, input_audio={"data": coded(WAV), "format": "wav"})),
    "a file's data beside the image": seeing(image(PNG_URL, file_data=f"data:x/y;base64,{coded(PDF)}")),
    "a second address of data": seeing(image(PNG_URL, video_url={"url": PNG_URL})),
    "text after the comma": seeing(image(f"data:image/png;base64,{SECRET}")),
    "text after the padding": seeing(image(f"{PNG_URL}{SECRET}")),
    "text among the parameters": seeing(image(PNG_URL.replace(";base64", f";a={DIGITS};base64"))),
    "text as its type": seeing(image(PNG_URL.replace("image/png", f"image/{DIGITS}"))),
    "plain text, coded": seeing(image(f"data:text/plain;base64,{coded(SECRET)}")),
    "plain text that calls itself an image": seeing(image(f"data:image/png;base64,{coded(SECRET)}")),
    "plain text that begins like an image": seeing(
        image(f"data:image/gif;base64,{coded('GIF89a' + SECRET)}")
    ),
    "text in UTF-16": seeing(image(f"data:text/plain;base64,{coded(SECRET.encode('utf-16'))}")),
    "plain text, as it is": seeing(image(f"data:text/plain,{SECRET}")),
    "SVG, coded": seeing(image(f"data:image/svg+xml;base64,{coded(SVG)}")),
    "SVG, as it is": seeing(image(f"data:image/svg+xml;utf8,{SVG}")),
    "a PDF": seeing(image(f"data:image/png;base64,{coded(PDF)}")),
    "an unknown format": seeing(image(f"data:image/x-unknown;base64,{coded(bytes(range(128, 200)))}")),
    "audio": seeing(image(f"data:image/png;base64,{coded(WAV)}")),
    "an image that calls itself audio": seeing(image(PNG_URL.replace("image/png", "audio/wav"))),
    "base64 of another alphabet": seeing(image("data:image/png;base64," + coded(PNG).replace("+", "-"))),
    "base64 with line ends": seeing(
        image("data:image/png;base64," + coded(PNG)[:40] + "\n" + coded(PNG)[40:])
    ),
    "a blank before the scheme": seeing(image(f" data:image/png;base64,{coded(PDF)}")),
    "in metadata": seeing(GENUINE, metadata={"image_url": PNG_URL}),
    "in a tool": seeing(GENUINE, tools=[{**TOOL, "image_url": {"url": PNG_URL}}]),
    "in an unknown field": seeing(GENUINE, x=[{"type": "image_url", "image_url": {"url": PNG_URL}}]),
    "under another name": seeing(GENUINE, x={"y": PNG_URL}),
    "in a list of strings": seeing(GENUINE, x=[PNG_URL]),
    "in messages that are none": seeing(GENUINE, x={"messages": [{"role": "user", "content": [GENUINE]}]}),
    "in the message itself": {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": [GENUINE], "file": {"file_data": coded(PDF)}}],
    },
    "in a text part": seeing(GENUINE, {"type": "text", "text": "a", "image_url": {"url": PNG_URL}}),
    "in a predicted answer": seeing(GENUINE, prediction={"type": "content", "content": [GENUINE]}),
    "as an object where text stands": seeing(image(PNG_URL), {"type": "text", "text": {"url": PNG_URL}}),
}


@pytest.mark.parametrize("body", SMUGGLED.values(), ids=SMUGGLED)
async def test_nothing_leaves_as_an_image_but_an_image_in_its_part(harness: Harness, body: Json) -> None:
    assert await is_kept_home(harness, body)


@pytest.mark.parametrize(
    ("kind", "content"), [("png", PNG), ("gif", GIF), ("jpeg", JPEG), ("webp", WEBP), ("jpg", PNG)]
)
async def test_an_image_leaves_as_one(harness: Harness, kind: str, content: bytes) -> None:
    url = f"data:image/{kind};base64,{coded(content)}"
    for part in (image(url), {"type": "image_url", "image_url": {"url": url, "detail": "low"}}):
        assert (await harness.post(seeing(part))).status_code == 200


async def test_a_harmless_drawing_leaves_as_the_text_that_it_is(harness: Harness) -> None:
    drawing = coded("<svg xmlns='http://www.w3.org/2000/svg'><circle r='4'/></svg>")
    answer = await harness.post(seeing(image(f"data:image/svg+xml;base64,{drawing}")))
    assert answer.status_code != 403


@pytest.mark.parametrize(
    "prompt",
    [
        [9906.0, 1917.0],
        [[9906.0, 1917.0]],
        [9906, 1917.5],
        [{"text": "Hello"}],
        [[{"id": 9906}]],
        [["Hello"]],
        [[[9906]]],
        [None, "Hello"],
        [True, False],
        [9906, "Hello", 1.5],
    ],
)
async def test_what_stands_for_a_prompt_and_is_neither_text_nor_ids_is_unreadable(
    harness: Harness, prompt: object
) -> None:
    assert await is_kept_home(harness, {"model": "embed", "input": prompt}, "/v1/embeddings")


@pytest.mark.parametrize("prompt", ["Hello", ["Hello", "world"], [9906, 1917], [[9906], [1917]]])
async def test_text_and_ids_are_embedded(harness: Harness, prompt: object) -> None:
    answer = await harness.post({"model": "embed", "input": prompt}, "/v1/embeddings")
    assert answer.status_code == 200


async def test_messages_beside_an_input_carry_nothing_out(harness: Harness) -> None:
    beside = {"messages": [{"role": "user", "content": [GENUINE]}]}
    answer = await harness.post({"model": "embed", "input": "Hello", **beside}, "/v1/embeddings")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("name", ["prompt_embeds", "prompt_token_ids", "input_ids", "input_embeds"])
async def test_what_could_stand_in_for_the_prompt_is_unreadable(harness: Harness, name: str) -> None:
    assert await is_kept_home(harness, chat(**{name: [[9906, 1917]]}))


async def test_without_detectors_a_payload_still_has_to_be_what_it_says(tmp_path: Path) -> None:
    async with running(tmp_path, {"privacy": {"detect": []}}) as harness:
        assert (await harness.post(seeing(GENUINE))).status_code == 200
        for name in ("a PDF", "a file beside the image", "in metadata"):
            assert await is_kept_home(harness, SMUGGLED[name]), name


# --- scalars off the prompt ---


CARD_NUMBER = int(DIGITS)
SCALARS: dict[str, Json] = {
    "seed": {"seed": CARD_NUMBER},
    "a key of logit_bias": {"logit_bias": {DIGITS: 1}},
    "a value of logit_bias": {"logit_bias": {"1": CARD_NUMBER}},
    "stop_token_ids": {"stop_token_ids": [CARD_NUMBER]},
    "a float": {"temperature": float(CARD_NUMBER)},
    "a negative number": {"presence_penalty": -CARD_NUMBER},
    "a float in a list": {"x": [0.5, float(CARD_NUMBER)]},
    "user": {"user": DIGITS},
    "safety_identifier": {"safety_identifier": DIGITS},
    "prompt_cache_key": {"prompt_cache_key": DIGITS},
    "metadata": {"metadata": {"a": DIGITS}},
    "a key of metadata": {"metadata": {DIGITS: "a"}},
    "a number in the tools": {"tools": [{**TOOL, "x": {"default": float(CARD_NUMBER)}}]},
    "a key in the tools": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {DIGITS: 1}}}]
    },
    "a deep key": {"x": [{"y": [[{DIGITS: None}]]}]},
    "stream_options": {"stream": True, "stream_options": {"x": CARD_NUMBER}},
}


@pytest.mark.parametrize("more", SCALARS.values(), ids=SCALARS)
async def test_every_scalar_is_read(harness: Harness, more: Json) -> None:
    assert await is_kept_home(harness, chat(**more))


@pytest.mark.parametrize("written", [b"4.111111111111111e15", b"4111111111111111e0", b"4111111111111111.25"])
async def test_every_spelling_of_a_number_is_read(harness: Harness, written: bytes) -> None:
    body = orjson.dumps(chat(seed=0)).replace(b'"seed":0', b'"seed":' + written)
    before = len(harness.attempts())
    answer = await harness.post(body)
    assert (answer.status_code, len(harness.attempts())) == (403, before)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "embed", "input": "a", "dimensions": CARD_NUMBER}),
        ("/v1/embeddings", {"model": "embed", "input": "a", "max_tokens": float(CARD_NUMBER)}),
        ("/v1/embeddings", {"model": "embed", "input": "a", "user": DIGITS}),
        (AZURE, {"messages": [{"role": "user", "content": "a"}], "seed": CARD_NUMBER}),
    ],
)
async def test_every_scalar_is_read_at_every_entrance(harness: Harness, path: str, body: Json) -> None:
    assert await is_kept_home(harness, body, path)
