"""Opens N streams at once and times every chunk: `python -m benchmarks.stream_load --port P --streams 100`.

All connections are open before a wave starts, then all its requests are sent in one go. Prints one line of
JSON: the waves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from functools import partial
from itertools import pairwise
from typing import cast

import httptools
import msgspec
import uvloop

from benchmarks import wire

EVENT = b"data: "
DONE = b"data: [DONE]"
WAVE_TIMEOUT_SECONDS = 90.0


class Wave(msgspec.Struct, frozen=True):
    """One wave of streams. `gap` is the time between two reads that brought a chunk of the same stream."""

    streams: int
    chunks: int
    errors: list[str]
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    gap_max_ms: float
    seconds: float


class Client(asyncio.Protocol):
    """One connection that runs one stream after another and notes when chunks came."""

    def __init__(self, extra_events: int = 0) -> None:
        self._extra_events = extra_events
        self._loop = asyncio.get_running_loop()
        self.ending: asyncio.Future[str | None] | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._finish(f"connection closed: {exc}" if exc else "connection closed")

    def start(self, request: bytes, chunks: int) -> asyncio.Future[str | None]:
        """Send the request. The future's result is None, or what went wrong."""
        self.events = 0
        self.times: list[float] = []
        self._expected_events = chunks + 1 + self._extra_events  # one for [DONE]
        self.chunks = chunks
        self._tail = b""
        self._parser = httptools.HttpResponseParser(self)
        self.ending = self._loop.create_future()
        if self._closed:
            self._finish("connection closed before the request")
        self.sent_at = time.perf_counter()
        self._transport.write(request)
        return self.ending

    def abort(self) -> None:
        self._finish("not finished in time")
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._finish(f"broken response: {exc}")

    def on_body(self, body: bytes) -> None:
        text = self._tail + body
        found = text.count(EVENT)
        if found:
            self.times.append(time.perf_counter())
            self.events += found
            # What is left after the last event mark cannot hold a whole one, so nothing is counted twice.
            text = text[text.rindex(EVENT) + 1 :]
        self._tail = text

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._finish(f"status {status}")
        elif not self._tail.endswith(DONE[1:] + b"\n\n"):
            self._finish("no [DONE] at the end")
        elif self.events != self._expected_events:
            self._finish(f"{self.events} events, expected {self._expected_events}")
        else:
            self._finish(None)

    def _finish(self, error: str | None) -> None:
        if self.ending is not None and not self.ending.done():
            self.ending.set_result(error)


def _percentile(ordered: list[float], share: float) -> float:
    """In milliseconds; 0 of nothing."""
    if not ordered:
        return 0.0
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def _gaps(clients: list[Client]) -> list[float]:
    return sorted(later - earlier for client in clients for earlier, later in pairwise(client.times))


async def connect(given: argparse.Namespace, count: int) -> list[Client]:
    loop = asyncio.get_running_loop()
    make = partial(Client, given.extra_events)
    return [(await loop.create_connection(make, "127.0.0.1", given.port))[1] for _ in range(count)]


def request_of(given: argparse.Namespace, chunks: int) -> bytes:
    """What one stream sends."""
    body = wire.chat_request(stream=True, max_tokens=chunks, model=given.model)
    return wire.http_post(given.port, body, path=given.path, headers=json.loads(given.headers))


async def run_wave(clients: list[Client], request: bytes, chunks: int) -> Wave:
    started = time.perf_counter()
    endings = [client.start(request, chunks) for client in clients]
    _, late = await asyncio.wait(endings, timeout=WAVE_TIMEOUT_SECONDS)
    for client, ending in zip(clients, endings, strict=True):
        if ending in late:
            client.abort()
    errors = [error for ending in endings if (error := ending.result()) is not None]
    firsts = sorted(client.times[0] - client.sent_at for client in clients if client.times)
    gaps = _gaps(clients)
    return Wave(
        streams=len(clients),
        chunks=sum(min(max(client.events - 1, 0), client.chunks) for client in clients),
        errors=errors,
        ttft_p50_ms=_percentile(firsts, 0.5),
        ttft_p99_ms=_percentile(firsts, 0.99),
        gap_p50_ms=_percentile(gaps, 0.5),
        gap_p99_ms=_percentile(gaps, 0.99),
        gap_max_ms=_percentile(gaps, 1.0),
        seconds=round(time.perf_counter() - started, 3),
    )


async def run(given: argparse.Namespace) -> list[Wave]:
    """The waves, on the same connections. A warm-up wave of two chunks is not among them."""
    clients = await connect(given, given.streams)
    if given.warm_up:
        await run_wave(clients, request_of(given, 2), 2)
    request = request_of(given, given.chunks)
    done = []
    for _ in range(given.waves):
        done.append(await run_wave(clients, request, given.chunks))
        if done[-1].errors:
            break
        await asyncio.sleep(0.05)
    return done


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Where the streams go and how they ask."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--path", default=wire.CHAT_PATH)
    parser.add_argument("--model", default=wire.MODEL)
    parser.add_argument("--headers", default="{}", help="as a JSON object")
    parser.add_argument("--extra-events", type=int, default=0, help="a stream has, beside chunks and [DONE]")
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--waves", type=int, default=1)
    parser.add_argument("--warm-up", action="store_true")
    waves = uvloop.run(run(parser.parse_args()))
    print(msgspec.json.encode(waves).decode())


if __name__ == "__main__":
    main()
