"""Cancelling in any window closes the connection at once: a gone client must not keep a GPU busy."""

import asyncio
import contextlib
import socket
import ssl

import pytest
import trustme

from gateway.core.endpoint import TlsFiles
from gateway.core.errors import FailureKind
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers_always,
    chunked,
    timeouts,
    until_gone,
    with_length,
)


async def _cancel(task: "asyncio.Future[object]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_while_waiting_for_the_head(stage: Stage) -> None:
    task = asyncio.ensure_future(stage.send())
    await stage.connected()
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()


async def test_in_the_head(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        await until_gone(peer)

    stage.server.plays(script)
    task = asyncio.ensure_future(stage.send())
    await stage.connected()
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()


@pytest.mark.parametrize("call", ["read", "next_chunk"])
async def test_in_the_body(stage: Stage, call: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"x", end=b""))
        await until_gone(peer)

    stage.server.plays(script)
    response = await stage.send()
    assert await response.next_chunk() == b"x"
    task = asyncio.ensure_future(response.read(100) if call == "read" else response.next_chunk())
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()
    assert stage.upstream.counts() == (0, 0, 0)


async def test_while_a_large_request_is_being_written(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.sleep(0.3)
        peer.writer.transport.resume_reading()
        await until_gone(peer)

    stage.server.plays(script)
    task = asyncio.ensure_future(stage.send(body=bytes(30_000_000)))
    await stage.connected()
    await asyncio.sleep(0.1)
    await _cancel(task)
    await stage.gone()


async def test_on_a_reused_connection(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(with_length(b"ok"))
        await peer.request()
        await until_gone(peer)

    stage.server.plays(script)
    await stage.ask()
    task = asyncio.ensure_future(stage.send())
    await stage.connected()
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()


async def test_while_queueing_for_a_connection(stage: Stage) -> None:
    endpoint = stage.endpoint(max_connections=1)
    holder = asyncio.ensure_future(stage.send(endpoint))
    await stage.connected()
    task = asyncio.ensure_future(stage.send(endpoint))
    await asyncio.sleep(0.05)
    await _cancel(task)
    assert not holder.done()
    await _cancel(holder)
    await stage.gone()


async def test_while_resolving(stage: Stage) -> None:
    async def never(host: str, port: int) -> list[object]:
        await asyncio.sleep(60)
        return []

    stage.upstream._resolver._lookup = never
    task = asyncio.ensure_future(stage.send(stage.endpoint(host="slow.test")))
    other = asyncio.ensure_future(stage.send(stage.endpoint(host="slow.test")))
    await asyncio.sleep(0.05)
    await _cancel(task)
    assert not other.done()
    await _cancel(other)


async def test_while_connecting(stage: Stage) -> None:
    """A listener that never accepts, its queue full: the SYN gets no answer."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        endpoint = stage.endpoint(port=listener.getsockname()[1])
        task = asyncio.ensure_future(stage.send(endpoint))
        await asyncio.sleep(0.05)
        assert not task.done()
        await _cancel(task)
        late = stage.endpoint(port=endpoint.port, timeouts=timeouts(connect=0.15))
        failure = await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(late))
        assert failure.never_sent


async def test_in_the_tls_handshake(stage: Stage) -> None:
    """The server accepts and never says hello."""
    task = asyncio.ensure_future(stage.send(stage.endpoint(scheme="https")))
    await stage.connected()
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()


async def test_with_tls_in_the_body(stage: Stage, tmp_path: object) -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("upstream.test").configure_cert(context)
    ca_file = f"{tmp_path}/ca.pem"
    ca.cert_pem.write_to_path(ca_file)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"x", end=b""))
        await until_gone(peer)

    await stage.server.stop()
    await stage.server.start(context)
    stage.server.plays(script)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=ca_file))
    response = await stage.send(endpoint)
    assert await response.next_chunk() == b"x"
    task = asyncio.ensure_future(response.next_chunk())
    await asyncio.sleep(0.05)
    await _cancel(task)
    await stage.gone()


async def test_at_every_moment_of_an_exchange(stage: Stage) -> None:
    """Cancelled after 0, 1, 2, ... turns of the loop: never a leak, and the next request works."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(chunked(b"hello", end=b""))
            await asyncio.sleep(0)
            await peer.send(b"0\r\n\r\n")

    stage.server.plays(script)
    endpoint = stage.endpoint(max_connections=2)
    for turns in range(40):
        task = asyncio.ensure_future(stage.ask(endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == (200, b"hello")
    assert await asyncio.gather(*(stage.ask(endpoint) for _ in range(4))) == [(200, b"hello")] * 4


async def test_many_at_random_moments(stage: Stage) -> None:
    stage.server.plays(answers_always(chunked(b"a", b"b", b"c")))
    endpoint = stage.endpoint(max_connections=5)
    tasks = [asyncio.ensure_future(stage.ask(endpoint)) for _ in range(60)]
    for index, task in enumerate(tasks):
        if index % 2:
            await asyncio.sleep(0.0005 * (index % 7))
            task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() or task.result() == (200, b"abc") for task in tasks)
