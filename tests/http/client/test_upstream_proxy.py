"""Forward proxies: every upstream is reached through a tunnel, by CONNECT, or not at all."""

import asyncio
import ipaddress
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.core.endpoint import Endpoint, Proxy, TlsFiles
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.tunnel import TUNNEL_HEAD_LIMIT_BYTES, tunnel_status
from tests.http.client.forward_proxy import ESTABLISHED, ForwardProxy
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers_always,
    chunked,
    chunks_of,
    timeouts,
    until_gone,
    with_length,
)

OK = with_length(b"ok")
SECRET = b"us er:p@ss:word"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return path


def context_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def forward_proxy(stage: Stage, *, port: int = 8000, credentials: bytes | None = None) -> ForwardProxy:
    return ForwardProxy({f"far.test:{port}": stage.server.port}, credentials)


def far(stage: Stage, proxy: Proxy, **changes: object) -> Endpoint:
    return stage.endpoint(**({"host": "far.test", "port": 8000, "proxy": proxy} | changes))


def scripted(stage: Stage, **changes: object) -> Endpoint:
    """An endpoint whose proxy is the stage's own server, which says what its script says."""
    return far(stage, Proxy(scheme="http", host="127.0.0.1", port=stage.server.port), **changes)


async def serve_tls(stage: Stage, context: ssl.SSLContext) -> None:
    await stage.server.stop()
    await stage.server.start(context)
    stage.server.plays(answers_always(OK))


# --- what goes through ---


async def test_a_plain_upstream_is_tunnelled(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    async with forward_proxy(stage).running() as proxy:
        for _ in range(3):
            response = await stage.send(far(stage, proxy.proxy()))
            assert response.peer == f"127.0.0.1:{proxy.port}"
            assert await response.read(10) == b"ok"
    assert proxy.heads == [b"CONNECT far.test:8000 HTTP/1.1\r\nhost: far.test:8000\r\n\r\n"]
    assert b"POST /v1/chat/completions HTTP/1.1\r\nhost: far.test:8000\r\n" in proxy.carried
    assert stage.lookups == 0  # the proxy is an address, and the upstream's name is the proxy's to resolve


async def test_a_tls_upstream_shows_the_proxy_nothing(
    stage: Stage, authority: trustme.CA, ca_file: str
) -> None:
    await serve_tls(stage, context_for(authority, "far.test"))
    async with forward_proxy(stage, port=443).running() as proxy:
        endpoint = far(stage, proxy.proxy(), scheme="https", port=443, tls=TlsFiles(ca_file=ca_file))
        for _ in range(3):
            assert await stage.ask(endpoint, body=b"x" * 200_000) == (200, b"ok")
    assert proxy.targets() == ["far.test:443"]
    assert b"xxxx" not in proxy.carried
    assert b"completions" not in proxy.carried


async def test_the_upstreams_certificate_is_checked_behind_a_proxy(
    stage: Stage, authority: trustme.CA, ca_file: str
) -> None:
    await serve_tls(stage, context_for(authority, "other.test"))
    async with forward_proxy(stage, port=443).running() as proxy:
        endpoint = far(stage, proxy.proxy(), scheme="https", port=443, tls=TlsFiles(ca_file=ca_file))
        failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    assert "certificate of far.test refused" in failure.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_behind_tls(
    stage: Stage, authority: trustme.CA, ca_file: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)  # stands for the system's authorities
    stage.names["proxy.test"] = ["127.0.0.1"]
    stage.server.plays(answers_always(OK))
    if scheme == "https":
        await serve_tls(stage, context_for(authority, "far.test"))
    async with forward_proxy(stage, credentials=SECRET).running(
        context_for(authority, "proxy.test")
    ) as proxy:
        through = proxy.proxy("https", host="proxy.test", credentials=SECRET)
        endpoint = far(stage, through, scheme=scheme, tls=TlsFiles(ca_file=ca_file))
        for _ in range(3):
            assert await stage.ask(endpoint, body=b"x" * 200_000) == (200, b"ok")
    assert proxy.targets() == ["far.test:8000"]
    assert (b"completions" in proxy.carried) == (scheme == "http")


async def test_a_proxys_certificate_is_checked(stage: Stage, authority: trustme.CA, ca_file: str) -> None:
    stage.names["proxy.test"] = ["127.0.0.1"]
    async with forward_proxy(stage).running(context_for(authority, "proxy.test")) as proxy:
        # The deployment's own authority is for its upstream and not for the proxy.
        endpoint = far(stage, proxy.proxy("https", host="proxy.test"), tls=TlsFiles(ca_file=ca_file))
        failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    assert "certificate of proxy.test refused" in failure.detail
    assert proxy.heads == []


async def test_an_ipv6_upstream_stands_in_brackets(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    async with ForwardProxy({"[fd00::1]:8000": stage.server.port}).running() as proxy:
        assert await stage.ask(far(stage, proxy.proxy(), host="fd00::1")) == (200, b"ok")


async def test_streams_arrive_as_they_are_written(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"data: 1\n\n", end=b""))
        await go_on.wait()
        await peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    stage.server.plays(script)
    async with forward_proxy(stage).running() as proxy:
        response = await stage.send(far(stage, proxy.proxy()))
        assert await response.next_chunk() == b"data: 1\n\n"
        go_on.set()
        assert await chunks_of(response) == [b"data: 2\n\n"]


async def test_interim_answers_are_passed_over(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.drip(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ESTABLISHED)
        await peer.request()
        await peer.send(OK)

    stage.server.plays(script)
    assert await stage.ask(scripted(stage)) == (200, b"ok")


# --- credentials ---


async def test_credentials_are_sent(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    async with forward_proxy(stage, credentials=SECRET).running() as proxy:
        assert await stage.ask(far(stage, proxy.proxy(credentials=SECRET))) == (200, b"ok")
    assert b"\r\nproxy-authorization: Basic dXMgZXI6cEBzczp3b3Jk\r\n" in proxy.heads[0]
    assert b"authorization" not in proxy.carried.lower()  # the upstream never sees them


@pytest.mark.parametrize(
    ("given", "said"), [(None, "it wants credentials"), (b"hunter2:hunter2", "it refuses our credentials")]
)
async def test_wrong_credentials(stage: Stage, given: bytes | None, said: str) -> None:
    async with forward_proxy(stage, credentials=SECRET).running() as proxy:
        failure = await stage.fails(
            FailureKind.CONNECT, stage.send(far(stage, proxy.proxy(credentials=given)))
        )
        assert failure.detail == f"through the proxy 127.0.0.1:{proxy.port}: the proxy answered 407: {said}"
    assert failure.never_sent
    assert stage.server.peers == []


def test_credentials_are_shown_nowhere() -> None:
    proxy = Proxy(scheme="http", host="p.test", port=3128, credentials=b"hunter2:hunter2")
    endpoint = Endpoint(scheme="http", host="far.test", port=1, proxy=proxy)
    assert "hunter2" not in f"{proxy} {proxy!r} {endpoint} {endpoint!r}"
    assert repr(proxy) == "Proxy(http://...@p.test:3128)"


# --- what fails ---


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
    async with forward_proxy(stage).running() as proxy:
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
    async with forward_proxy(stage).running() as proxy:
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
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.5):
        await stage.server.peers[0].gone.wait()
    assert stage.upstream.counts() == (0, 0, 0)


async def test_closing_the_client_ends_an_opening_tunnel(stage: Stage) -> None:
    stage.server.plays(until_gone)
    task = asyncio.ensure_future(stage.send(scripted(stage)))
    await asyncio.sleep(0.05)
    await stage.upstream.close()
    await stage.fails(FailureKind.CONNECT, task)


async def test_a_tunnel_that_broke_is_opened_again(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    async with forward_proxy(stage).running() as proxy:
        endpoint = far(stage, proxy.proxy())
        assert await stage.ask(endpoint) == (200, b"ok")
        stage.server.peers[0].reset()
        assert await stage.ask(endpoint) == (200, b"ok")
    assert proxy.targets() == ["far.test:8000"] * 2


# --- pools and zones ---


async def test_connections_are_not_shared_between_ways(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    stage.names["far.test"] = ["127.0.0.1"]
    port = stage.server.port
    async with (
        forward_proxy(stage, port=port).running() as first,
        forward_proxy(stage, port=port).running() as second,
    ):
        ways = [
            None,
            first.proxy(),
            second.proxy(),
            first.proxy(credentials=b"a:b"),
            first.proxy(credentials=b"a:c"),
        ]
        for _ in range(2):
            for way in ways:
                assert await stage.ask(stage.endpoint(host="far.test", proxy=way)) == (200, b"ok")
    assert len(stage.server.peers) == len(ways)
    assert (len(first.heads), len(second.heads)) == (3, 1)


@pytest.mark.parametrize("host", ["far.test", "127.0.0.1"])
async def test_a_zone_behind_a_proxy_cannot_be_checked(stage: Stage, host: str) -> None:
    stage.names["far.test"] = ["127.0.0.1"]
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    failure = await stage.fails(FailureKind.ZONE, stage.send(scripted(stage, host=host, networks=networks)))
    assert failure.never_sent
    assert stage.server.peers == []
    assert stage.lookups == 0


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
