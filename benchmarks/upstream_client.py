"""CPU time of the upstream client against a static server on loopback, the server in a process of its own.

    python benchmarks/upstream_client.py [--seconds 3] [--connections 32]

Prints requests a second and CPU microseconds a request (POST of 700 bytes, answer of 600,
both on kept connections), then CPU microseconds a chunk (streams of 200-byte chunks, one in each segment).
CPU time is the client process's, user and system; wall-clock figures depend on the other core as well.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import cast

import uvloop

from gateway.core.endpoint import Endpoint
from gateway.core.heads import request_head
from gateway.http.client.pool import HttpUpstream
from gateway.ports import Upstream, UpstreamRequest

_ANSWER_BODY = b"x" * 600
_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 01 Nov 2026 00:00:00 GMT\r\nserver: static\r\n"
    b"content-type: application/json\r\nx-request-id: 0123456789abcdef\r\n"
)
_ANSWER = _HEAD + b"content-length: %d\r\n\r\n" % len(_ANSWER_BODY) + _ANSWER_BODY
_STREAM_HEAD = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_CHUNK = b"c8\r\n" + b"data: " + b"y" * 192 + b"\n\n" + b"\r\n"
_CHUNKS_PER_STREAM = 200
_REQUEST_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "z" * 640}]}).encode()
_REQUEST_HEADERS = (
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
    (b"user-agent", b"tollway"),
    (b"x-request-id", b"0123456789abcdef"),
)


class _Server(asyncio.Protocol):
    """Answers every request with the same bytes; a stream sends one chunk each millisecond."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no instances of asyncio.Transport
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = b""
        self.left = 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self.buffer) < head_end + 4 + length:
            return
        self.buffer = b""
        if head.startswith(b"post /stream"):
            self.left = _CHUNKS_PER_STREAM
            self.transport.write(_STREAM_HEAD)
            self.next()
        else:
            self.transport.write(_ANSWER)

    def next(self) -> None:
        if self.left:
            self.left -= 1
            self.transport.write(_CHUNK)
            asyncio.get_running_loop().call_later(0.002, self.next)
        else:
            self.transport.write(b"0\r\n\r\n")


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())


async def _ask(upstream: Upstream, request: UpstreamRequest) -> int:
    response = await upstream.send(request)
    await response.read(1_000_000)
    return 1


async def _stream(upstream: Upstream, request: UpstreamRequest) -> int:
    response = await upstream.send(request)
    chunks = 0
    while await response.next_chunk():
        chunks += 1
    return chunks


async def _measure(
    once: Callable[[], Awaitable[int]], seconds: float, concurrency: int
) -> tuple[float, float]:
    """Units a second and CPU microseconds a unit, after a warm-up."""
    done = 0

    async def worker(until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            units = await once()  # not `done += await`: that reads `done` before it waits
            done += units

    async def run(duration: float) -> None:
        until = time.monotonic() + duration
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker(until))

    await run(0.5)
    done = 0
    cpu, wall = time.process_time(), time.monotonic()
    await run(seconds)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return done / wall, cpu / done * 1e6


async def _bench(port: int, seconds: float, connections: int) -> None:
    upstream = HttpUpstream()
    endpoint = Endpoint(scheme="http", host="127.0.0.1", port=port)

    def request(target: bytes) -> UpstreamRequest:
        head = request_head(endpoint, b"POST", target, _REQUEST_HEADERS)
        return UpstreamRequest(head=head, body=_REQUEST_BODY)

    ask, stream = request(b"/v1/chat/completions"), request(b"/stream")
    rate, cost = await _measure(lambda: _ask(upstream, ask), seconds, connections)
    print(f"{rate:9.0f} requests/s {cost:7.1f} us CPU/request", flush=True)
    rate, cost = await _measure(lambda: _stream(upstream, stream), seconds, connections)
    print(f"{rate:9.0f} chunks/s   {cost:7.1f} us CPU/chunk", flush=True)
    await upstream.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    try:
        uvloop.run(_bench(port, options.seconds, options.connections))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
