"""What an ASGI application is told of a request, and how its answer reaches the client."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.core.envelope import envelope
from gateway.core.errors import GatewayError
from gateway.core.heads import header_lines
from gateway.http.server.asgi import AsgiHandler
from gateway.http.server.exchange import Exchange
from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import Client, Stage, chunked, get, post

JSON_LINES = header_lines([(b"content-type", b"application/json")])
START = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/plain")]}
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class AsgiStage(Stage):
    """A server in front of one application."""

    def __init__(self, app: Any, limit_bytes: int = 1000) -> None:
        super().__init__(ServerLimits(check_seconds=0.02))
        self.asgi = AsgiHandler(app, limit_bytes)
        self.raised: list[BaseException] = []

    async def handle(self, exchange: Exchange) -> None:
        try:
            await self.asgi.handle(exchange)
        except GatewayError as error:
            await exchange.answer(error.status, JSON_LINES, envelope(error))
        except Exception as error:
            self.raised.append(error.with_traceback(None))


@contextlib.asynccontextmanager
async def asked(app: App, limit_bytes: int = 1000) -> AsyncIterator[tuple[AsgiStage, Client]]:
    """A client of `app`."""
    stage = AsgiStage(app, limit_bytes)
    await stage.start()
    try:
        async with stage.client() as client:
            yield stage, client
    finally:
        await stage.stop()
    assert stage.complaints == []


def answering(*messages: dict[str, Any]) -> App:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def scope_seen(request: bytes) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(START, {"type": "http.response.body"})(scope, receive, send)

    async with asked(app) as (_, client):
        await client.send(request)
        await client.answer()
    return seen[0]


async def test_the_scope(runner: asyncio.Runner) -> None:
    scope = await scope_seen(get("/a%2Fb%20%C3%A4?x=1&y=%20", "X-Given: 1"))
    assert scope["type"] == "http"
    assert scope["method"] == "GET"
    assert scope["http_version"] == "1.1"
    assert scope["path"] == "/a/b ä"
    assert scope["raw_path"] == b"/a%2Fb%20%C3%A4"
    assert scope["query_string"] == b"x=1&y=%20"
    assert scope["client"][0] == "127.0.0.1"
    assert sorted(scope["headers"]) == [(b"host", b"test"), (b"x-given", b"1")]


async def test_a_path_that_is_no_utf_8(runner: asyncio.Runner) -> None:
    assert (await scope_seen(get("/%ff")))["path"] == "/\ufffd"


async def test_http_10_is_named(runner: asyncio.Runner) -> None:
    assert (await scope_seen(get("/", version="1.0")))["http_version"] == "1.0"


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    message = await receive()
    assert message["more_body"] is False
    await send(START)
    await send({"type": "http.response.body", "body": message["body"]})


@pytest.mark.parametrize(
    "request_",
    [
        post("/", b"abc"),
        chunked("/", b"a", b"bc"),
        post("/", gzip.compress(b"abc", mtime=0), "Content-Encoding: gzip"),
        post("/", b"abc", version="1.0"),
    ],
)
async def test_a_body(runner: asyncio.Runner, request_: bytes) -> None:
    async with asked(echo) as (_, client):
        await client.send(request_)
        answer = await client.answer()
    assert answer.body == b"abc"
    assert answer.field("content-type") == "text/plain"
    assert answer.field("content-length") == "3"


async def test_a_decompressed_body_has_no_headers_of_its_coding(runner: asyncio.Runner) -> None:
    scope = await scope_seen(post("/", gzip.compress(b"abc"), "Content-Encoding: gzip"))
    assert [name for name, _ in scope["headers"]] == [b"host"]


@pytest.mark.parametrize("request_", [post("/", b"x" * 1001), chunked("/", b"x" * 1001)])
async def test_a_body_over_the_bound_is_refused(runner: asyncio.Runner, request_: bytes) -> None:
    async with asked(echo) as (_, client):
        await client.send(request_)
        assert (await client.answer()).status == 413


async def test_an_answer_in_pieces(runner: asyncio.Runner) -> None:
    pieces = [
        {"type": "http.response.body", "body": piece, "more_body": piece != b"c"}
        for piece in (b"a", b"", b"bb", b"c")
    ]
    async with asked(answering(START, *pieces)) as (_, client):
        await client.send(get("/") * 2)
        for _ in range(2):
            answer = await client.answer()
            assert answer.body == b"abbc"
            assert answer.field("transfer-encoding") == "chunked"


async def test_framing_is_not_the_application_s(runner: asyncio.Runner) -> None:
    fields = [
        (b"content-length", b"7"),
        (b"transfer-encoding", b"gzip"),
        (b"connection", b"upgrade"),
        (b"x", b"1"),
    ]
    start = {"type": "http.response.start", "status": 201, "headers": fields}
    async with asked(answering(start, {"type": "http.response.body", "body": b"ab"})) as (_, client):
        await client.send(get("/"))
        answer = await client.answer()
    assert (answer.status, answer.body, answer.field("x"), answer.field("connection")) == (
        201,
        b"ab",
        "1",
        None,
    )


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body(runner: asyncio.Runner, status: int) -> None:
    start = {"type": "http.response.start", "status": status, "headers": []}
    async with asked(answering(start, {"type": "http.response.body", "body": b""})) as (_, client):
        await client.send(get("/") * 2)
        assert [(await client.answer()).status for _ in range(2)] == [status, status]


async def test_head_has_the_length_and_no_body(runner: asyncio.Runner) -> None:
    async with asked(answering(START, {"type": "http.response.body", "body": b"abc"})) as (_, client):
        await client.send(get("/", method="HEAD") * 2)
        for _ in range(2):
            assert (await client.answer("HEAD")).field("content-length") == "3"


@pytest.mark.parametrize(
    "messages",
    [
        [START, START],
        [{"type": "http.response.body", "body": b"a"}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]}],
        [START],
        [],
    ],
)
async def test_an_application_that_breaks_off_leaves_no_answer(
    runner: asyncio.Runner, messages: list[dict[str, Any]]
) -> None:
    async with asked(answering(*messages)) as (_, client):
        await client.send(get("/"))
        assert await client.is_closed()


async def test_who_leaves_is_told_of_and_nothing_is_cancelled(runner: asyncio.Runner) -> None:
    told: list[str] = []
    waiting, over = asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        told.append((await receive())["type"])
        waiting.set()
        told.append((await receive())["type"])
        try:
            await send(START)
        except OSError as error:
            told.append(type(error).__name__)
        over.set()

    async with asked(app) as (_, client):
        await client.send(get("/"))
        await waiting.wait()
        client.close()
        async with asyncio.timeout(30):
            await over.wait()
    assert told == ["http.request", "http.disconnect", "ConnectionResetError"]


async def test_who_leaves_within_its_body_is_told_of(runner: asyncio.Runner) -> None:
    told: list[str] = []
    over = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        told.append((await receive())["type"])
        over.set()

    async with asked(app) as (_, client):
        await client.send(post("/", b"abc")[:-1])
        await asyncio.sleep(0.01)
        client.close()
        async with asyncio.timeout(30):
            await over.wait()
    assert told == ["http.disconnect"]
