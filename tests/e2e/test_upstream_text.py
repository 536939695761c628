"""What comes from an upstream is bounded, typed by the gateway, and shows none of its credentials."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import chat, running

KEY = "sk-simulated-account-key"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives every request this answer, and its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{fields}\r\n".encode() + body


def whole(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps({"model": "m", "choices": [choice], "usage": USAGE}).encode()


def stream(*texts: str) -> bytes:
    deltas = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    last = [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    ]
    events = [f"data: {json.dumps(event)}\n\n" for event in (*deltas, *last)]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def towards(url: str) -> dict[str, object]:
    return {"deployments": {"gpt-4o": {"base_url": url}}}


async def test_an_answer_has_the_gateways_own_type_and_shows_no_credential(tmp_path: Path) -> None:
    sent = answer(whole(f"my key is {KEY}"), content_type="text/html", openai_processing_ms=f"{KEY}")
    async with answering(sent) as url, running(tmp_path, towards(url)) as harness:
        found = await harness.post(chat())
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "openai-processing-ms" not in found.headers
    assert KEY not in found.text
    assert found.json()["choices"][0]["message"]["content"] == "my key is [hidden]"


async def test_a_stream_shows_no_credential_that_stands_in_one_event(tmp_path: Path) -> None:
    texts = ["one", "two", f"it is {KEY}", "three", f"and {KEY}"]
    sent = answer(stream(*texts), content_type=f"text/event-stream; note={KEY}")
    async with answering(sent) as url, running(tmp_path, towards(url)) as harness:
        found = await harness.post(chat(stream=True))
    assert found.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert KEY not in found.text
    assert found.text.count("[hidden]") == 2
    assert "three" in found.text


@pytest.mark.parametrize(
    "echo", [KEY, base64.b64encode(f"Bearer {KEY}".encode()).decode()], ids=["raw", "64"]
)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_an_error_is_ours_in_type_and_shows_no_credential(
    tmp_path: Path, echo: str, status: int, is_stream: bool
) -> None:
    body = json.dumps({"error": {"message": f"<script>{echo}</script>" + "x" * 9000, "code": 400}}).encode()
    sent = answer(body, status, content_type="text/html", x_request_id=echo)
    async with answering(sent) as url, running(tmp_path, towards(url)) as harness:
        found = await harness.post(chat(stream=is_stream))
    assert found.status_code == 400
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert echo not in found.text
    assert echo[8:] not in found.text
    assert len(found.content) < 4096
    assert echo not in str(found.headers)


async def test_both_ports_say_that_nobody_may_guess_a_type(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        refused = await harness.post(b"{", authorization="Bearer wrong")
        ready = await harness.http.get(f"{harness.gateway.admin_url}/readyz")
        missing = await harness.http.get(f"{harness.gateway.admin_url}/nothing")
    for found in (refused, ready, missing):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "sent",
    [
        answer(whole("x"), **{f"x_{number}": "1" for number in range(300)}),
        answer(whole("x"), x_large="y" * 70_000),
        b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
        + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(30))
        + b"\r\n",
    ],
    ids=["fields", "bytes", "trailers"],
)
async def test_an_upstream_has_no_more_headers_than_any_answer_needs(tmp_path: Path, sent: bytes) -> None:
    async with answering(sent) as url, running(tmp_path, towards(url)) as harness:
        found = await harness.post(chat())
        (row,) = await harness.rows()
    assert found.status_code == 502
    assert row["outcome"] == "upstream_error"
