"""Forward proxies: aiohttp speaks through them, the lean client says that it does not."""

import asyncio
import ipaddress
import ssl

import pytest
import trustme

from gateway.core.endpoint import TlsFiles
from gateway.core.errors import FailureKind
from tests.http.client.upstream_stage import Peer, Stage, answers_always, timeouts, with_length

OK = with_length(b"ok")


@pytest.mark.only("lean")
async def test_lean_refuses_a_proxy(stage: Stage) -> None:
    failure = await stage.fails(FailureKind.CONNECT, stage.send(stage.endpoint(proxy="http://127.0.0.1:1")))
    assert "proxy" in failure.detail


@pytest.mark.only("aiohttp")
async def test_plain_request_through_a_proxy(stage: Stage) -> None:
    heads = []

    async def proxy(peer: Peer) -> None:
        heads.append((await peer.request())[0])
        await peer.send(OK)

    stage.server.plays(proxy)
    endpoint = stage.endpoint(host="far.test", port=8000, proxy=f"http://127.0.0.1:{stage.server.port}")
    response = await stage.send(endpoint)
    assert response.peer == f"127.0.0.1:{stage.server.port}"
    assert await response.read(10) == b"ok"
    assert heads[0].startswith(b"POST http://far.test:8000/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.only("aiohttp")
async def test_tunnel_for_https(stage: Stage, tmp_path: object) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(f"{tmp_path}/ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("far.test").configure_cert(context)

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers_always(OK)(Peer(reader, writer))

    tasks = []
    server = await asyncio.start_server(
        lambda reader, writer: tasks.append(asyncio.ensure_future(far(reader, writer))),
        "127.0.0.1",
        0,
        ssl=context,
    )
    heads = []

    async def proxy(peer: Peer) -> None:
        heads.append(await peer.head())
        far_reader, far_writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.ensure_future(_pump(far_reader, peer.writer))
        await _pump(peer.reader, far_writer)
        far_writer.transport.abort()
        await back

    stage.server.plays(proxy)
    endpoint = stage.endpoint(
        scheme="https",
        host="far.test",
        port=443,
        tls=TlsFiles(ca_file=f"{tmp_path}/ca.pem"),
        proxy=f"http://127.0.0.1:{stage.server.port}",
    )
    for _ in range(2):
        assert await stage.ask(endpoint) == (200, b"ok")
    assert len(heads) == 1
    assert heads[0].startswith(b"CONNECT far.test:443 HTTP/1.1\r\n")
    await stage.upstream.close()
    server.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.05)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass


@pytest.mark.only("aiohttp")
async def test_proxy_that_refuses(stage: Stage) -> None:
    async def proxy(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    stage.server.plays(proxy)
    endpoint = stage.endpoint(
        scheme="https", host="far.test", port=443, proxy=f"http://127.0.0.1:{stage.server.port}"
    )
    failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    assert "403" in failure.detail


@pytest.mark.only("aiohttp")
async def test_proxy_that_is_not_there(stage: Stage) -> None:
    await stage.fails(
        FailureKind.CONNECT, stage.send(stage.endpoint(host="far.test", proxy="http://127.0.0.1:1"))
    )


@pytest.mark.only("aiohttp")
async def test_proxy_that_says_nothing(stage: Stage) -> None:
    endpoint = stage.endpoint(
        scheme="https",
        host="far.test",
        port=443,
        proxy=f"http://127.0.0.1:{stage.server.port}",
        timeouts=timeouts(connect=0.2),
    )
    await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))


@pytest.mark.only("aiohttp")
async def test_zone_behind_a_proxy_cannot_be_checked(stage: Stage) -> None:
    endpoint = stage.endpoint(
        host="far.test",
        networks=(ipaddress.ip_network("127.0.0.0/8"),),
        proxy=f"http://127.0.0.1:{stage.server.port}",
    )
    await stage.fails(FailureKind.ZONE, stage.send(endpoint))
    assert stage.server.peers == []
