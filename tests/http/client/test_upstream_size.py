"""Sixty megabytes each way, with the memory of a few hundred kilobytes: who is slow slows the other down."""

import asyncio

from tests.http.client.upstream_stage import Peer, Stage, chunked, with_length

LARGE = 60_000_000
# What kernels buffer on loopback is theirs; ours is bounded on top of it.
KERNEL_BYTES = 16_000_000


async def test_large_request(stage: Stage) -> None:
    received = 0

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.head()
        while received < LARGE:
            received += len(await peer.reader.read(2**20))
        await peer.send(with_length(b"thanks"))

    stage.server.plays(script)
    assert await stage.ask(body=bytes(LARGE)) == (200, b"thanks")
    assert received == LARGE
    assert stage.upstream.counts() == (0, 1, 0)


async def test_large_request_waits_for_a_slow_server(stage: Stage) -> None:
    go_on = asyncio.Event()
    received = 0

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.head()
        peer.writer.transport.pause_reading()
        await go_on.wait()
        peer.writer.transport.resume_reading()
        while received < LARGE:
            received += len(await peer.reader.read(2**20))
        await peer.send(with_length(b"thanks"))

    stage.server.plays(script)
    task = asyncio.ensure_future(stage.ask(body=bytes(LARGE)))
    await stage.connected()
    await asyncio.sleep(0.3)
    buffered = _write_buffer_bytes(stage)
    assert buffered < 1_000_000
    go_on.set()
    assert await task == (200, b"thanks")


def _write_buffer_bytes(stage: Stage) -> int:
    (pool,) = stage.upstream._pools.values()
    (connection,) = pool.connections
    return connection.transport.get_write_buffer_size()


async def test_large_response_waits_for_a_slow_reader(stage: Stage) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(chunked(end=b""))
        for _ in range(LARGE // 100_000):
            await peer.send(b"%x\r\n%s\r\n" % (100_000, bytes(100_000)))
            sent += 100_000
        await peer.send(b"0\r\n\r\n")

    stage.server.plays(script)
    response = await stage.send()
    received = len(await response.next_chunk())
    stuck_at = -1
    while stuck_at != sent:
        stuck_at = sent
        await asyncio.sleep(0.2)
    assert stuck_at < KERNEL_BYTES
    largest = 0
    while chunk := await response.next_chunk():
        received += len(chunk)
        largest = max(largest, len(chunk))
    assert received == LARGE
    assert largest < 2_000_000


async def test_large_response_is_read_whole(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE)
        for _ in range(60):
            await peer.send(bytes(LARGE // 60))

    stage.server.plays(script)
    response = await stage.send()
    assert len(await response.read(LARGE)) == LARGE
    assert stage.upstream.counts() == (0, 1, 0)
