"""Both ports under clients that take connections and give nothing, and under clients that half-close."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, Harness, Json, RawClient, chat, running

FEW = {"server": {"max_connections": 8, "admin": {"max_connections": 4}}}
NEVER_MS = 600_000
HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: "


async def pile_up(stack: AsyncExitStack, url: str, count: int, start: bytes) -> None:
    """Clients that send `start` and nothing more."""
    for _ in range(count):
        client = await stack.enter_async_context(await RawClient.connect(url))
        await client.send(start)


async def assert_both_ports_answer(harness: Harness) -> None:
    assert (await harness.post(chat())).status_code == 200
    assert (await harness.admin("GET", "/healthz")).status_code == 200


@pytest.mark.parametrize("start", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
@pytest.mark.parametrize("port", ["data", "admin"])
async def test_clients_that_ask_nothing_silence_neither_port(tmp_path: Path, port: str, start: bytes) -> None:
    async with running(tmp_path, FEW) as harness, AsyncExitStack() as stack:
        url = harness.gateway.data_url if port == "data" else harness.gateway.admin_url
        await pile_up(stack, url, 40, start)
        await assert_both_ports_answer(harness)
        metrics = await harness.metrics()
        assert metrics.sum("connections_evicted_total", port=port) >= 30
        assert metrics.sum("connections", port=port) <= metrics.sum("connections_max", port=port)


async def test_a_full_data_port_does_not_silence_the_admin_port(tmp_path: Path) -> None:
    async with running(tmp_path, FEW, external=Knobs(ttft_ms=NEVER_MS)) as harness, AsyncExitStack() as stack:
        for _ in range(8):
            client = await stack.enter_async_context(await harness.raw())
            await client.request(chat())
        await harness.arrived(8)
        late = await stack.enter_async_context(await harness.raw())
        await late.request(chat(model="scout"))
        while not (await harness.metrics()).sum("accepting_paused_total", port="data", reason="full"):
            await asyncio.sleep(0.01)
        assert (await harness.admin("GET", "/healthz")).status_code == 200
        client.hang_up()
        await late.read_until(b'"usage"')  # the one that waited is answered


async def test_a_large_head_on_the_admin_port_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        async with await RawClient.connect(harness.gateway.admin_url) as client:
            await client.send(HALF_A_HEAD + b"a" * 2_000_000)
            assert (await client.read_to_end()).startswith(b"HTTP/1.1 431 ")
        await assert_both_ports_answer(harness)


REFUSED = {
    "no host": (b"POST /v1/chat/completions HTTP/1.1\r\n", 400),
    "two hosts": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: a\r\n", 400),
    "a host with a space": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a b\r\n", 400),
    "a host with a path": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a/b\r\n", 400),
    "another expectation": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\n", 417),
    "another coding": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-encoding: rot13\r\n", 415),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("port", ["data", "admin"])
async def test_what_http_forbids_is_refused_on_both_ports(tmp_path: Path, name: str, port: str) -> None:
    start, status = REFUSED[name]
    path, key = (
        (b"/v1/chat/completions", APP_KEY) if port == "data" else (b"/admin/v1/policy/explain", ADMIN_TOKEN)
    )
    body = orjson.dumps(chat())
    rest = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    async with running(tmp_path) as harness:
        url = harness.gateway.data_url if port == "data" else harness.gateway.admin_url
        async with await RawClient.connect(url) as client:
            request = start.replace(b"/v1/chat/completions", path) + b"authorization: Bearer " + key.encode()
            await client.send(request + b"\r\n" + rest + body)
            answer = await client.read_to_end()
        assert harness.attempts() == []
    head, _, said = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert set(orjson.loads(said)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "host", [b"gateway", b"gateway:8080", b"[::1]:8080", b"127.0.0.1", b"a_b.c", b"", b"a%20b"]
)
async def test_hosts_that_are_in_order(tmp_path: Path, host: bytes) -> None:
    async with running(tmp_path) as harness, await harness.raw() as client:
        await client.send(b"GET /v1/models HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer " % host)
        await client.send(APP_KEY.encode() + b"\r\nconnection: close\r\n\r\n")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("body", [chat(), chat(stream=True)], ids=["whole", "stream"])
async def test_a_client_that_half_closes_gets_its_answer(tmp_path: Path, body: Json) -> None:
    knobs = Knobs(ttft_ms=200, tokens_per_second=200, output_tokens=20)
    async with running(tmp_path, external=knobs) as harness, await harness.raw() as client:
        await client.request(body)
        await harness.arrived()
        client.half_close()
        received = await client.read_to_end()
        [row] = await harness.rows()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"[DONE]" in received) == body.get("stream", False)
    assert row["outcome"] == "success"


@pytest.mark.parametrize("body", [chat(), chat(stream=True)], ids=["whole", "stream"])
async def test_a_client_that_half_closes_and_leaves_stops_the_work(tmp_path: Path, body: Json) -> None:
    async with running(tmp_path, external=Knobs(ttft_ms=NEVER_MS)) as harness:
        async with await harness.raw() as client:
            await client.request(body)
            await harness.arrived()
        await harness.settled()
        [row] = await harness.rows()
    assert row["outcome"] == "client_disconnect"
