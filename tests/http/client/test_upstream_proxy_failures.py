"""Forward proxies that do not open the tunnel: each failure is named, in time, and shows no credentials."""

import asyncio

import pytest

from gateway.core.endpoint import Proxy
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.tunnel import TUNNEL_HEAD_LIMIT_BYTES, tunnel_status
from tests.http.client.forward_proxy import ESTABLISHED, ForwardProxy, far, scripted
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers_always,
    timeouts,
    until_gone,
    with_length,
)

OK = with_length(b"ok")


@pytest.mark.parametrize("status", [301, 403, 404, 502, 503, 504, 101])
async def test_a_refusal_is_named(stage: Stage, status: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 %d hunter2\r\ncontent-length: 7\r\n\r\nhunter2" % status)

    stage.server.plays(script)
    endpoint = scripted(stage)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    through = f"through the proxy 127.0.0.1:{stage.server.port}"
    assert failure.detail == f"{through}: the proxy answered {status} to CONNECT"
    assert failure.never_sent
    await stage.server.peers[0].gone.wait()


async def test_an_upstream_that_the_proxy_does_not_know(stage: Stage) -> None:
    async with ForwardProxy({"far.test:8000": stage.server.port}).running() as proxy:
        failure = await stage.fails(
            FailureKind.CONNECT, stage.send(far(stage, proxy.proxy(), host="elsewhere.test"))
        )
    assert "answered 403" in failure.detail


async def test_a_proxy_that_is_not_there(stage: Stage) -> None:
    proxy = Proxy(scheme="http", host="127.0.0.1", port=1)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(far(stage, proxy)))
    assert "through the proxy 127.0.0.1:1" in failure.detail


async def test_a_proxys_name_that_does_not_resolve(stage: Stage) -> None:
    proxy = Proxy(scheme="http", host="nowhere.test", port=3128)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(far(stage, proxy)))
    assert "nowhere.test" in failure.detail


async def test_the_proxys_next_address_is_tried(stage: Stage) -> None:
    stage.names["proxy.test"] = ["127.0.0.99", "127.0.0.1"]
    stage.server.plays(answers_always(OK))
    async with ForwardProxy({"far.test:8000": stage.server.port}).running() as proxy:
        assert await stage.ask(far(stage, proxy.proxy(host="proxy.test"))) == (200, b"ok")


GARBAGE = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a prefix": b"HTTX",
    "http/2": b"HTTP/2 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "short status": b"HTTP/1.1 20\r\n\r\n",
    "status beyond": b"HTTP/1.1 999 OK\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\n\n",
    "nul": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "tls record": b"\x15\x03\x01\x00\x02\x02\x28",
    "empty line first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("wire", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_for_a_head(stage: Stage, wire: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(wire)

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(scripted(stage)))
    assert "did not answer CONNECT in HTTP/1.1" in failure.detail
    await stage.server.peers[0].gone.wait()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 997 + b"\r\n"),
        (b"HTTP/1.1 200 ", b"y" * 1000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
    ],
    ids=["headers", "one line", "interim answers"],
)
async def test_a_head_without_end(stage: Stage, start: bytes, more: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(start)
        while True:
            await peer.send(more)

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(scripted(stage)))
    assert f"larger than {TUNNEL_HEAD_LIMIT_BYTES} bytes" in failure.detail


async def test_a_stall_ends_with_the_time_to_connect(stage: Stage) -> None:
    endpoint = scripted(stage, timeouts=timeouts(connect=0.2))
    failure = await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))
    assert f"through the proxy 127.0.0.1:{stage.server.port}" in failure.detail
    await stage.server.peers[0].gone.wait()


async def test_a_stall_within_the_head(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: y\r\n")

    stage.server.plays(script)
    endpoint = scripted(stage, timeouts=timeouts(connect=0.2))
    await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))


async def test_a_stall_in_tls_behind_the_tunnel(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(ESTABLISHED)

    stage.server.plays(script)
    endpoint = scripted(stage, scheme="https", timeouts=timeouts(connect=0.2))
    await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))
    await stage.server.peers[0].gone.wait()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_proxy_that_hangs_up(stage: Stage, sent: bytes, end: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if sent:
            await peer.send(sent)
            await asyncio.sleep(0.02)
        getattr(peer, end)()

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(scripted(stage)))
    assert "the connection" in failure.detail
    assert failure.never_sent


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("sent", [b"x", OK, b"\x16\x03\x03\x00\x05hello"])
async def test_bytes_behind_the_head_are_not_taken_for_an_answer(
    stage: Stage, scheme: str, sent: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(ESTABLISHED + sent)

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(scripted(stage, scheme=scheme)))
    assert "bytes behind the head" in failure.detail
    assert failure.never_sent


async def test_answers_ahead_of_the_question_do_not_get_into_tls(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(ESTABLISHED)
        await peer.head()
        await peer.send(ESTABLISHED)

    stage.server.plays(script)
    failure = await stage.fails(FailureKind.CONNECT, stage.send(scripted(stage, scheme="https")))
    assert failure.never_sent


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", ESTABLISHED])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cancelling_closes_at_once(stage: Stage, answer: bytes, scheme: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        if answer:
            await peer.send(answer)

    stage.server.plays(script)
    task = asyncio.ensure_future(stage.send(scripted(stage, scheme=scheme)))
    await stage.connected()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stage.gone()
    assert stage.upstream.counts() == (0, 0, 0)


async def test_closing_the_client_ends_an_opening_tunnel(stage: Stage) -> None:
    stage.server.plays(until_gone)
    task = asyncio.ensure_future(stage.send(scripted(stage)))
    await stage.connected()
    await stage.upstream.close()
    await stage.fails(FailureKind.CONNECT, task)


# --- the head alone, however it is cut ---


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (ESTABLISHED, 200),
        (b"HTTP/1.0 200\r\nvia: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 200),
        (b"HTTP/1.1 299 \r\n\r\n", 299),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\n" + ESTABLISHED, 200),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n", 407),
    ],
)
def test_every_cut_reads_the_same(wire: bytes, status: int) -> None:
    assert [tunnel_status(wire[:size]) for size in range(len(wire))] == [None] * len(wire)
    assert tunnel_status(wire) == status


@pytest.mark.parametrize("wire", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused_at_its_first_line(wire: bytes) -> None:
    with pytest.raises(UpstreamFailure):
        tunnel_status(wire)


def test_a_head_of_just_so_many_bytes() -> None:
    start = b"HTTP/1.1 200 OK\r\nx: "
    fitting = start + b"y" * (TUNNEL_HEAD_LIMIT_BYTES - len(start)) + b"\r\n\r\n"
    assert tunnel_status(fitting) == 200
    with pytest.raises(UpstreamFailure):
        tunnel_status(fitting.replace(b"yy", b"yyy", 1))
