"""The admin port: open for health, closed for everything else, and silent about its insides."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog
import structlog.testing
from fastapi import APIRouter
from pydantic import BaseModel

from gateway.admin.server import MAX_BODY_BYTES, admin_app, admin_listening, public_reason
from gateway.admin.token_guard import LINES_OF_EACH
from gateway.core.errors import Unavailable
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.listening import listen
from gateway.http.server.port_state import PortState
from gateway.proxy.refusal_limits import RefusalAllowances, RefusalLimits
from tests.core.builders import ToldClock

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}"}
METRICS = b"# HELP tollway_x X.\n# TYPE tollway_x gauge\ntollway_x 1.0\n"
LEAKY = "no route to postgresql://tollway:hunter2@db/ledger"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class NewKey(BaseModel):
    name: str
    days: int


def rooms() -> APIRouter:
    """What other parts of the gateway will add: here, ways to go wrong."""
    router = APIRouter()

    @router.get("/admin/v1/defect")
    async def defect() -> None:
        raise RuntimeError(LEAKY)

    @router.get("/admin/v1/unavailable")
    async def unavailable() -> None:
        raise Unavailable("Not now.", retry_after_seconds=1.0)

    @router.post("/admin/v1/keys")
    async def keys(key: NewKey) -> NewKey:
        return key

    return router


def app(
    *,
    token: str | None = TOKEN,
    ready: Callable[[], Sequence[str]] = list,
    degraded: Callable[[], Sequence[str]] = list,
    metrics: bytes = METRICS,
    limits: RefusalLimits | None = None,
) -> Any:
    async def scrape() -> bytes:
        return metrics

    return admin_app(
        token=token,
        metrics=scrape,
        metrics_content_type=CONTENT_TYPE,
        ready=ready,
        degraded=degraded,
        version="9.8.7",
        limits=limits or RefusalLimits(RefusalAllowances(60, 60), ToldClock()),
        routers=[rooms()],
    )


def ask(subject: Any, method: str, path: str, **rest: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(subject)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin.test") as client:
            return await client.request(method, path, **rest)

    return asyncio.run(go())


def get(subject: Any, path: str, **headers: str) -> httpx.Response:
    return ask(subject, "GET", path, headers=headers)


def error(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, Any] = body["error"]
    return found


# --- wrong tokens ---


def test_wrong_tokens_beyond_the_allowance_wait_then_are_turned_away_and_the_right_one_never_is() -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    limits = RefusalLimits(RefusalAllowances(30, 30), ToldClock(), sleep)
    subject = app(limits=limits)
    statuses = [get(subject, "/metrics", authorization="Bearer wrong").status_code for _ in range(40)]
    assert statuses == [401] * 32 + [429] * 8  # 30 at once, two that wait for 2 and 4 seconds
    assert waited == [2.0, 4.0]
    refused = get(subject, "/metrics", authorization="Bearer wrong")
    assert error(refused)["code"] == "too_many_refusals"
    assert refused.headers["retry-after"] == "6"
    assert refused.headers["x-should-retry"] == "false"
    assert get(subject, "/metrics", authorization=f"Bearer {TOKEN}").status_code == 200
    assert get(subject, "/healthz").status_code == 200


def test_wrong_tokens_are_logged_with_the_peer_s_address_within_a_bound() -> None:
    clock = ToldClock()
    subject = app(limits=RefusalLimits(RefusalAllowances(1000, 1000), clock))
    with structlog.testing.capture_logs() as logs:
        for _ in range(LINES_OF_EACH + 5):
            get(subject, "/metrics", authorization="Bearer wrong")
        clock.forward(60.0)
        get(subject, "/metrics", authorization="Bearer wrong")
    told = [line for line in logs if line["event"] == "admin.refused"]
    assert len(told) == LINES_OF_EACH + 1
    assert told[-1]["left_out"] == 5
    assert {line["peer"] for line in told} == {"127.0.0.1:123"}
    assert {line["status"] for line in told} == {401}
    assert not any("wrong" in str(line) for line in told)


# --- health ---


def test_liveness_needs_no_token() -> None:
    for token in (TOKEN, None):
        response = get(app(token=token), "/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_ready_when_there_is_no_reason_against_it() -> None:
    response = get(app(), "/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_not_ready_gives_every_reason() -> None:
    response = get(app(ready=lambda: ["the ledger is behind", "no replica is up"]), "/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "reasons": ["the ledger is behind", "no replica is up"],
    }


def test_what_fails_and_keeps_no_traffic_away_is_told_beside_readiness() -> None:
    response = get(app(degraded=lambda: ["a loop fails: postgres://u:p@db"]), "/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "degraded": ["a loop fails: postgres://***@db"]}
    response = get(app(ready=lambda: ["starting"], degraded=lambda: ["a loop fails"]), "/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "reasons": ["starting"], "degraded": ["a loop fails"]}


def test_health_answers_a_head_request() -> None:
    assert ask(app(), "HEAD", "/healthz").status_code == 200
    assert ask(app(ready=lambda: ["x"]), "HEAD", "/readyz").status_code == 503


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            "cannot connect to postgresql://tollway:hunter2@db:5432/ledger",
            "cannot connect to postgresql://***@db:5432/ledger",
        ),
        ("redis://:p/w?@d@cache:6379/0 refused", "redis://***@cache:6379/0 refused"),
        ("connection failed: password=hunter2 host=db", "connection failed: password=*** host=db"),
        ('{"api_key": "hunter2 and more", "x": 1}', '{"api_key": ***, "x": 1}'),
        ("PGPASSWORD: hunter2", "PGPASSWORD: ***"),
        ("two\nlines\x00\x1b[31m", "two lines [31m"),
        ("password authentication failed for user x", "password authentication failed for user x"),
        ("the ledger https://docs.example/a is behind", "the ledger https://docs.example/a is behind"),
    ],
)
def test_reason_shows_no_secret_to_readers_without_a_token(reason: str, shown: str) -> None:
    assert public_reason(reason) == shown


def test_reason_is_short_and_redacted_in_time() -> None:
    assert len(public_reason("x" * 10**6)) == 300
    assert len(public_reason("password" * 10**5)) <= 300
    assert len(public_reason("a://" * 10**5)) <= 300


# --- the token ---


def test_metrics_want_the_token() -> None:
    response = get(app(), "/metrics", **BEARER)
    assert response.status_code == 200
    assert response.headers["content-type"] == CONTENT_TYPE
    assert response.content == METRICS


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \xff\xfe",
    ],
)
def test_wrong_token_is_refused(authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    response = ask(app(), "GET", "/metrics", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error(response)["code"] == "invalid_api_key"
    assert TOKEN not in response.text


def test_two_authorization_headers_are_refused() -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert ask(app(), "GET", "/metrics", headers=headers).status_code == 401


def test_scheme_is_read_in_any_case() -> None:
    assert get(app(), "/metrics", authorization=f"bearer {TOKEN}").status_code == 200


def test_token_may_hold_any_text() -> None:
    headers = {"authorization": "Bearer pâté-日本".encode()}
    assert ask(app(token="pâté-日本"), "GET", "/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/nowhere"])
def test_without_a_configured_token_everything_else_is_closed(token: str | None, path: str) -> None:
    for headers in ({}, BEARER, {"authorization": "Bearer "}, {"authorization": "Bearer None"}):
        response = get(app(token=token), path, **headers)
        assert response.status_code == 403
        assert "server.admin.token" in error(response)["message"]


# --- denied by default ---

UNKNOWN = [
    "/",
    "/docs",
    "/redoc",
    "/docs/oauth2-redirect",
    "/openapi.json",
    "/nowhere",
    "/admin/v1/keys",
    "/healthz/",
    "//healthz",
    "/HEALTHZ",
    "/healthz%20",
    "/%68ealthz",
    "/healthz/metrics",
    "/healthz/../metrics",
    "/healthz/%2e%2e/metrics",
    "/healthz%2f..%2fmetrics",
    "/metrics?/healthz",
    "/metrics%3f/healthz",
    "/metrics;/healthz",
    "/v1/models",
]


@pytest.mark.parametrize("path", UNKNOWN)
def test_every_other_path_wants_the_token_before_it_says_whether_it_exists(path: str) -> None:
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        response = ask(app(), method, path)
        assert response.status_code == 401
        assert error(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/nowhere", "/healthz/", "/metrics/"])
def test_unknown_path_with_the_token_is_not_found(path: str) -> None:
    response = get(app(), path, **BEARER)
    assert response.status_code == 404
    assert error(response)["code"] == "unknown_url"
    assert "location" not in response.headers


def test_host_header_opens_nothing() -> None:
    for host in ("healthz", "a/healthz?", "a#/healthz", "evil@127.0.0.1/healthz"):
        assert get(app(), "/metrics", host=host).status_code == 401


def test_wrong_method_is_told_with_the_right_ones() -> None:
    response = ask(app(), "POST", "/metrics", headers=BEARER)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert error(response)["code"] == "method_not_supported"


def test_websocket_is_refused() -> None:
    async def go() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/healthz", "raw_path": b"/healthz", "headers": []}
        await app()(scope, receive, send)
        return sent

    assert asyncio.run(go()) == [{"type": "websocket.close", "code": 1008}]


def test_schema_of_the_api_needs_no_foreign_server() -> None:
    response = get(app(), "/openapi.json", **BEARER)
    assert response.status_code == 200
    assert response.json()["info"] == {"title": "Tollway admin API", "version": "9.8.7"}
    assert {"/healthz", "/readyz", "/metrics"} <= set(response.json()["paths"])
    assert "://" not in response.text


# --- errors ---


def test_defect_shows_nothing_of_itself() -> None:
    with structlog.testing.capture_logs() as logged:
        response = get(app(), "/admin/v1/defect", **BEARER)
    assert response.status_code == 500
    assert error(response)["code"] == "internal_error"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text
    (event,) = logged
    assert event["event"] == "admin.defect"
    assert event["kind"] == "RuntimeError"
    assert "in defect" in event["frames"][-1]
    assert "hunter2" not in str(event)
    assert TOKEN not in str(event)


def test_failing_readiness_check_is_not_readiness() -> None:
    def broken() -> list[str]:
        raise RuntimeError(LEAKY)

    with structlog.testing.capture_logs():
        response = get(app(ready=broken), "/readyz")
    assert response.status_code == 500
    assert "hunter2" not in response.text


def test_gateway_error_keeps_its_meaning() -> None:
    response = get(app(), "/admin/v1/unavailable", **BEARER)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert error(response)["code"] == "service_unavailable"


def test_invalid_field_is_named_and_its_value_is_not_repeated() -> None:
    body = {"name": "x", "days": "hunter2"}
    response = ask(app(), "POST", "/admin/v1/keys", headers=BEARER, json=body)
    assert response.status_code == 400
    assert error(response)["param"] == "days"
    assert "hunter2" not in response.text


def test_broken_json_is_the_senders_mistake() -> None:
    headers = BEARER | {"content-type": "application/json"}
    response = ask(app(), "POST", "/admin/v1/keys", headers=headers, content=b'{"name": ')
    assert response.status_code == 400
    assert error(response)["code"] == "invalid_json"


def test_body_below_the_bound_is_read() -> None:
    body = {"name": "x" * (MAX_BODY_BYTES // 2), "days": 1}
    response = ask(app(), "POST", "/admin/v1/keys", headers=BEARER, json=body)
    assert (response.status_code, response.json()) == (200, body)


# --- on the wire ---


@asynccontextmanager
async def served(subject: Any) -> AsyncIterator[int]:
    """`subject` on a free port of the loopback, under the server that production uses."""
    state = PortState("admin", 100)
    listening = admin_listening(subject, listen("127.0.0.1", 0), state, WriteCoalescer())
    port = listening.port
    await listening.start()
    try:
        yield port
    finally:
        await listening.stop()


async def on_the_wire(port: int, request: bytes) -> bytes:
    """All that comes back, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def status_on_the_wire(port: int, request_line: str, *headers: str) -> int:
    """Status of a request whose target no client library has tidied."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [request_line, "Host: x", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


def test_raw_targets_on_the_wire() -> None:
    async def go() -> None:
        async with served(app()) as port:
            assert await status_on_the_wire(port, "GET /healthz HTTP/1.1") == 200
            assert await status_on_the_wire(port, "GET /healthz?probe=1 HTTP/1.1") == 200
            bearer = f"Authorization: Bearer {TOKEN}"
            assert await status_on_the_wire(port, "GET /metrics HTTP/1.1", bearer) == 200
            for target in [*UNKNOWN, "/metrics#/healthz", "http://healthz/metrics", "/healthz\\..\\metrics"]:
                assert await status_on_the_wire(port, f"GET {target} HTTP/1.1") in {400, 401}, target

    asyncio.run(go())


def test_body_has_a_bound_on_the_wire() -> None:
    body = json.dumps({"name": "x" * MAX_BODY_BYTES, "days": 1}).encode()
    start = (
        "POST /admin/v1/keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TOKEN}\r\n"
    ).encode()
    framings = [
        b"content-length: %d\r\n\r\n" % len(body) + body,
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed := gzip.compress(body)) + packed,
    ]

    async def go() -> None:
        async with served(app()) as port:
            for framing in framings:
                answer = await on_the_wire(port, start + framing)
                assert answer.startswith(b"HTTP/1.1 413 ")
                assert b"request_too_large" in answer

    asyncio.run(go())


# What the data port refuses, and how: the same connections read both ports.
MALFORMED = {
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "a host that is none": (b"GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "an expectation": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nexpect: more\r\n\r\n", 417),
    "a large head": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-a: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    "garbage": (b"garbage\r\n\r\n", 400),
    "two tokens": (
        b"GET /metrics HTTP/1.1\r\nhost: a\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        400,
    ),
    "an unknown coding": (
        b"POST /admin/v1/keys HTTP/1.1\r\nhost: a\r\ncontent-encoding: rot13\r\ncontent-length: 2\r\n"
        b"connection: close\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n{}",
        415,
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_as_on_the_data_port(name: str) -> None:
    request, status = MALFORMED[name]

    async def go() -> bytes:
        async with served(app()) as port:
            return await on_the_wire(port, request)

    answer = asyncio.run(go())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


def test_a_compressed_body_is_read() -> None:
    body = gzip.compress(b'{"name": "a", "days": 1}')
    request = (
        "POST /admin/v1/keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TOKEN}\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body

    async def go() -> bytes:
        async with served(app()) as port:
            return await on_the_wire(port, request)

    answer = asyncio.run(go())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"name":"a","days":1}')
