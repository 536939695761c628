"""Forward proxies: every upstream is reached through a tunnel, by CONNECT, or not at all."""

import asyncio
import ipaddress
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.core.endpoint import Endpoint, Proxy, TlsFiles
from gateway.core.errors import FailureKind
from tests.http.client.forward_proxy import ESTABLISHED, ForwardProxy, far, scripted
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers_always,
    chunked,
    chunks_of,
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
