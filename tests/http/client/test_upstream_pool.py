"""Connections are kept, bounded, given up when stale, and never carry one answer into another request."""

import asyncio

import pytest

from gateway.core.errors import FailureKind
from tests.http.client.upstream_stage import (
    Peer,
    Stage,
    answers,
    answers_always,
    chunked,
    timeouts,
    until_gone,
    with_length,
)

OK = with_length(b"ok")


async def test_connection_is_reused(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    for _ in range(5):
        assert await stage.ask() == (200, b"ok")
    assert len(stage.server.peers) == 1
    assert stage.upstream.counts() == (0, 1, 0)


async def test_endpoints_do_not_share_connections(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    await stage.ask(stage.endpoint(idle_seconds=10))
    await stage.ask(stage.endpoint(idle_seconds=11))
    assert len(stage.server.peers) == 2


async def test_connection_close_is_heeded(stage: Stage) -> None:
    stage.server.plays(answers_always(with_length(b"ok", b"Connection: Keep-Alive, Close")))
    for _ in range(3):
        assert await stage.ask() == (200, b"ok")
    assert len(stage.server.peers) == 3
    assert stage.upstream.counts() == (0, 0, 0)


async def test_idle_connection_that_the_server_closes_is_forgotten(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.02)
        peer.close()

    stage.server.plays(script)
    for count in range(1, 4):
        assert await stage.ask() == (200, b"ok")
        await stage.until(lambda: stage.upstream.counts() == (0, 0, 0))
        assert len(stage.server.peers) == count


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_stale_connection_is_replaced_once(stage: Stage, how: str) -> None:
    async def stale(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()  # the next request finds the server gone
        getattr(peer, how)()

    stage.server.plays(stale, answers_always(OK))
    assert await stage.ask() == (200, b"ok")
    assert await stage.ask(body=b"x" * 1000) == (200, b"ok")
    assert len(stage.server.peers) == 2


async def test_retry_is_on_a_fresh_connection(stage: Stage) -> None:
    """Three stale connections in the pool: the retry must not try the second of them."""
    together = asyncio.Barrier(3)
    gone = asyncio.Event()

    async def stale(peer: Peer) -> None:
        await peer.request()
        await together.wait()
        await peer.send(OK)
        peer.writer.transport.pause_reading()
        await gone.wait()
        peer.reset()

    async def dies(peer: Peer) -> None:
        await stale(peer)

    stage.server.plays(dies, dies, dies, answers_always(with_length(b"fresh")))
    await asyncio.gather(*(stage.ask() for _ in range(3)))
    assert stage.upstream.counts() == (0, 3, 0)
    asyncio.get_running_loop().call_later(0.05, gone.set)
    assert await stage.ask() == (200, b"fresh")
    assert len(stage.server.peers) == 4


async def test_the_client_itself_sends_nothing_twice(stage: Stage) -> None:
    """Whoever keeps the books has to see every time that an upstream may have seen the request."""

    async def stale(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()
        peer.close()

    stage.server.plays(stale, answers_always(OK))
    await stage.ask()
    failure = await stage.fails(FailureKind.RESET, stage.upstream.send(stage.request()))
    assert failure.stale
    assert len(stage.server.peers) == 1


async def test_retry_only_once(stage: Stage) -> None:
    async def stale(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()
        peer.close()

    async def closes(peer: Peer) -> None:
        await peer.request()
        peer.close()

    stage.server.plays(stale, closes)
    await stage.ask()
    await stage.fails(FailureKind.RESET, stage.send())
    assert len(stage.server.peers) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_no_retry_once_a_byte_was_seen(stage: Stage, how: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"H")
        await asyncio.sleep(0.05)
        getattr(peer, how)()

    stage.server.plays(script)
    await stage.ask()
    await stage.fails(FailureKind.RESET, stage.send())
    assert len(stage.server.peers) == 1


async def test_no_retry_after_a_time_out(stage: Stage) -> None:
    stage.server.plays(answers(OK))
    endpoint = stage.endpoint(timeouts=timeouts(first_byte=0.2))
    await stage.ask(endpoint)
    await stage.fails(FailureKind.FIRST_BYTE_TIMEOUT, stage.send(endpoint, stream=True))
    assert len(stage.server.peers) == 1


async def test_get_is_not_retried_on_a_fresh_connection(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.close()

    stage.server.plays(script)
    await stage.fails(FailureKind.RESET, stage.send(method=b"GET", body=b""))
    assert len(stage.server.peers) == 1


async def test_two_answers_in_one_packet(stage: Stage) -> None:
    stage.server.plays(answers_always(with_length(b"first") + with_length(b"poison")))
    for _ in range(3):
        assert await stage.ask() == (200, b"first")


@pytest.mark.parametrize("extra", [b"H", b"HTTP/1.1 200 OK\r\n", b"\0\0\0", b"x" * 10_000])
async def test_bytes_behind_an_answer_cost_the_connection(stage: Stage, extra: bytes) -> None:
    stage.server.plays(answers_always(with_length(b"first") + extra))
    for count in range(1, 4):
        assert await stage.ask() == (200, b"first")
        assert len(stage.server.peers) == count


@pytest.mark.parametrize("extra", [b"H", with_length(b"poison"), b"\r\n", b"\0\0\0"])
async def test_bytes_on_an_idle_connection_close_it(stage: Stage, extra: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(with_length(b"first"))
        await asyncio.sleep(0.03)
        await peer.send(extra)

    stage.server.plays(script)
    for count in range(1, 4):
        assert await stage.ask() == (200, b"first")
        await stage.gone(-1)
        assert len(stage.server.peers) == count
        assert stage.upstream.counts() == (0, 0, 0)


async def test_idle_connections_are_closed_in_time(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    await stage.ask(stage.endpoint(idle_seconds=0.1))
    await stage.gone()
    assert stage.upstream.counts() == (0, 0, 0)


async def test_pool_is_bounded_and_waiters_are_served(stage: Stage) -> None:
    busy = most = 0

    async def script(peer: Peer) -> None:
        nonlocal busy, most
        while True:
            await peer.request()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.01)
            busy -= 1
            await peer.send(OK)

    stage.server.plays(script)
    endpoint = stage.endpoint(max_connections=3)
    assert await asyncio.gather(*(stage.ask(endpoint) for _ in range(20))) == [(200, b"ok")] * 20
    assert len(stage.server.peers) == 3
    assert most == 3


async def test_waiters_are_served_when_connections_end(stage: Stage) -> None:
    stage.server.plays(answers_always(with_length(b"ok", b"connection: close")))
    endpoint = stage.endpoint(max_connections=2)
    assert await asyncio.gather(*(stage.ask(endpoint) for _ in range(10))) == [(200, b"ok")] * 10
    assert len(stage.server.peers) == 10


async def test_waiting_for_a_connection_is_bounded(stage: Stage) -> None:
    stage.server.plays(until_gone)
    endpoint = stage.endpoint(max_connections=1, timeouts=timeouts(connect=0.5))
    holder = asyncio.ensure_future(stage.send(endpoint))
    await stage.connected()
    failure = await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))
    assert "1 connections" in failure.detail
    assert failure.never_sent
    holder.cancel()
    await asyncio.wait([holder])


async def test_cancelled_waiter_leaves_its_place(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await go_on.wait()
            await peer.send(OK)

    stage.server.plays(script)
    endpoint = stage.endpoint(max_connections=1)
    first = asyncio.ensure_future(stage.ask(endpoint))
    await stage.connected()
    second, third = (asyncio.ensure_future(stage.ask(endpoint)) for _ in range(2))
    await asyncio.sleep(0.05)
    second.cancel()
    go_on.set()
    assert await first == (200, b"ok")
    assert await third == (200, b"ok")
    assert second.cancelled()
    assert len(stage.server.peers) == 1


async def test_waiter_cancelled_in_the_moment_it_is_served(stage: Stage) -> None:
    """The connection goes to the waiter and the waiter goes away in the same turn of the loop."""
    stage.server.plays(answers_always(OK))
    endpoint = stage.endpoint(max_connections=1)
    for _ in range(20):
        response = await stage.send(endpoint)
        waiter = asyncio.ensure_future(stage.ask(endpoint))
        await asyncio.sleep(0.001)
        read = asyncio.ensure_future(response.read(100))
        for _ in range(2):
            await asyncio.sleep(0)
        waiter.cancel()
        await read
        await asyncio.wait([waiter])
    assert await stage.ask(endpoint) == (200, b"ok")


async def test_failed_dial_frees_its_place(stage: Stage) -> None:
    endpoint = stage.endpoint(host="nowhere.test", max_connections=1)
    for _ in range(3):
        await stage.fails(FailureKind.CONNECT, stage.send(endpoint))


async def test_a_thousand_streams_at_once(stage: Stage) -> None:
    streams = 1000
    arrived = 0
    all_there = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal arrived
        await peer.request()
        await peer.send(chunked(b"data: 1\n\n", end=b""))
        arrived += 1
        if arrived == streams:
            all_there.set()
        await all_there.wait()
        for _ in range(5):
            await peer.send(b"9\r\ndata: 2\n\n\r\n")
            await asyncio.sleep(0)
        await peer.send(b"0\r\n\r\n")

    stage.server.plays(script)
    answers = await asyncio.gather(*(stage.ask() for _ in range(streams)))
    assert set(answers) == {(200, b"data: 1\n\n" + b"data: 2\n\n" * 5)}
    assert len(stage.server.peers) == streams


async def test_response_that_is_complete_holds_no_connection(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    first = await stage.send()
    second = await stage.send()
    assert len(stage.server.peers) == 1
    assert (await first.read(10), await second.read(10)) == (b"ok", b"ok")


async def test_abort_after_the_end_spares_the_connection(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    first = await stage.send()
    await first.read(10)
    second = await stage.send()
    first.abort()
    first.abort()
    assert await second.read(10) == b"ok"
    assert len(stage.server.peers) == 1


async def test_abort_is_final(stage: Stage) -> None:
    stage.server.plays(answers(chunked(b"some", end=b"")))
    response = await stage.send()
    response.abort()
    response.abort()
    await stage.fails(FailureKind.RESET, response.next_chunk())
    await stage.gone()
    assert stage.upstream.counts() == (0, 0, 0)


async def test_abort_ends_a_read_in_another_task(stage: Stage) -> None:
    stage.server.plays(answers(chunked(b"some", end=b"")))
    response = await stage.send()
    reader = asyncio.ensure_future(response.read(100))
    await asyncio.sleep(0.05)
    response.abort()
    await stage.fails(FailureKind.RESET, reader)


async def test_two_readers_are_a_mistake(stage: Stage) -> None:
    stage.server.plays(answers(chunked(end=b"")))
    response = await stage.send()
    first = asyncio.ensure_future(response.next_chunk())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await response.next_chunk()
    response.abort()
    await stage.fails(FailureKind.RESET, first)


async def test_close_ends_everything(stage: Stage) -> None:
    async def lookup(host: str, port: int) -> list[object]:
        await asyncio.sleep(60)
        return []

    stage.server.plays(answers(chunked(b"x", end=b"")), until_gone, answers(OK))
    stage.upstream._resolver._lookup = lookup
    endpoint = stage.endpoint(max_connections=2)
    streaming = await stage.send(endpoint)
    unanswered = asyncio.ensure_future(stage.send(endpoint))
    await stage.connected(2)
    queueing = asyncio.ensure_future(stage.send(endpoint))
    resolving = asyncio.ensure_future(stage.send(stage.endpoint(host="slow.test")))
    await stage.ask(stage.endpoint(idle_seconds=5))
    await asyncio.sleep(0.05)
    await stage.upstream.close()
    assert await streaming.next_chunk() == b"x"
    await stage.fails(FailureKind.RESET, streaming.next_chunk())
    await stage.fails(FailureKind.RESET, unanswered)
    await stage.fails(FailureKind.CONNECT, queueing)
    await stage.fails(FailureKind.CONNECT, resolving)
    await stage.fails(FailureKind.CONNECT, stage.send())
    await stage.upstream.close()
