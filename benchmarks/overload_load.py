"""Requests at a rate, whatever becomes of those before: `python -m benchmarks.overload_load --port P`.

Arrivals are evenly spaced and do not wait for answers. Each takes a connection that is free, or waits here
for one. An answer counts as good when it is a 200 within `DEADLINE_SECONDS` of the arrival. Without `--rate`
each connection sends again when it has its answer. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque
from typing import cast

import msgspec
import uvloop

from benchmarks import wire

DEADLINE_SECONDS = 2.0
TICK_SECONDS = 0.001
CONNECT_AT_ONCE = 50
GOOD, REFUSED = b"200", b"503"
LAST_CHUNK = b"0\r\n\r\n"


class Found(msgspec.Struct, frozen=True):
    """What became of the arrivals of `seconds`; times in milliseconds.

    `refused` are answers 503, their times counted from when the request was written; `failed` are other
    answers and broken connections. `late` were answered after the deadline, or not before the end.
    `behind_ms` is the worst delay of this program against its own schedule.
    """

    seconds: float
    arrived: int
    good: int
    refused: int
    late: int
    failed: int
    good_p50_ms: float
    good_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    refused_max_ms: float
    behind_ms: float


class Tally:
    """Counts and times of one run."""

    def __init__(self) -> None:
        self.arrived = self.late = self.failed = 0
        self.good_seconds: list[float] = []
        self.refused_seconds: list[float] = []
        self.behind_seconds = 0.0

    def answered(self, status: bytes, arrived_at: float, sent_at: float) -> None:
        now = time.perf_counter()
        if status == REFUSED:
            self.refused_seconds.append(now - sent_at)
        elif status != GOOD:
            self.failed += 1
        elif now - arrived_at > DEADLINE_SECONDS:
            self.late += 1
        else:
            self.good_seconds.append(now - arrived_at)

    def found(self, seconds: float) -> Found:
        good, refused = sorted(self.good_seconds), sorted(self.refused_seconds)
        told = len(good) + len(refused) + self.failed
        return Found(
            seconds=round(seconds, 3),
            arrived=self.arrived,
            good=len(good),
            refused=len(refused),
            late=self.arrived - told,
            failed=self.failed,
            good_p50_ms=_percentile(good, 0.5),
            good_p99_ms=_percentile(good, 0.99),
            refused_p50_ms=_percentile(refused, 0.5),
            refused_p99_ms=_percentile(refused, 0.99),
            refused_max_ms=_percentile(refused, 1.0),
            behind_ms=round(self.behind_seconds * 1000, 1),
        )


def _percentile(ordered: list[float], share: float) -> float:
    """In milliseconds; 0 of nothing."""
    if not ordered:
        return 0.0
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


class Line(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._missing = 0  # bytes of the answer under way
        self._is_chunked = False
        self._status = b""
        self._arrived_at = self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def send(self, arrived_at: float) -> None:
        assert self._transport is not None
        self._arrived_at, self._sent_at = arrived_at, time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._status = data[9:12]
            head = data[: data.index(b"\r\n\r\n") + 4]
            self._is_chunked = b"chunked" in head
            length = 1 if self._is_chunked else int(head.partition(b"ength: ")[2].partition(b"\r")[0])
            self._missing = len(head) + length
        self._missing -= len(data)
        if data.endswith(LAST_CHUNK) if self._is_chunked else not self._missing:
            self._missing = 0
            self._load.tally.answered(self._status, self._arrived_at, self._sent_at)
            self._sent_at = 0.0
            self._load.free(self)
        elif self._is_chunked:
            self._missing = 1  # how much is known at the end only

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent_at:
            self._load.tally.failed += 1
        self._transport = None
        self._load.lost(self)


class Load:
    """The connections, those of them that are free, and the arrivals that wait for one."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self.request = request
        self.tally = Tally()
        self._free: deque[Line] = deque()
        self._waiting: deque[float] = deque()
        self._is_closed_loop = False
        self._is_over = False
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, connections: int) -> None:
        for begin in range(0, connections, CONNECT_AT_ONCE):
            count = min(CONNECT_AT_ONCE, connections - begin)
            await asyncio.gather(*(self._connect() for _ in range(count)))

    async def _connect(self) -> None:
        _, line = await asyncio.get_running_loop().create_connection(
            lambda: Line(self), "127.0.0.1", self._port
        )
        self.free(line)

    def lost(self, line: Line) -> None:
        """Another takes its place."""
        if line in self._free:
            self._free.remove(line)
        if not self._is_over:
            task = asyncio.ensure_future(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def free(self, line: Line) -> None:
        """`line` has its answer: send what waits, oldest first, and not what nobody waits for any more."""
        now = time.perf_counter()
        if self._is_over:
            return
        if self._is_closed_loop:
            self.tally.arrived += 1
            line.send(now)
            return
        while self._waiting:
            arrived_at = self._waiting.popleft()
            if now - arrived_at < DEADLINE_SECONDS:
                line.send(arrived_at)
                return
        self._free.append(line)

    async def run_closed(self, seconds: float) -> Found:
        self._is_closed_loop = True
        lines, self._free = list(self._free), deque()
        started = time.perf_counter()
        for line in lines:
            self.free(line)
        await asyncio.sleep(seconds)
        self._is_over = True
        return self.tally.found(time.perf_counter() - started)

    async def run_open(self, seconds: float, rate: float) -> Found:
        tally, started = self.tally, time.perf_counter()
        while (now := time.perf_counter()) - started < seconds:
            due = int((now - started) * rate)
            if due > tally.arrived:
                self._arrive(started + tally.arrived / rate, due - tally.arrived, 1 / rate, now)
            await asyncio.sleep(TICK_SECONDS)
        lasted = time.perf_counter() - started
        await asyncio.sleep(DEADLINE_SECONDS)  # for what is under way
        self._is_over = True
        return tally.found(lasted)

    def _arrive(self, first_at: float, count: int, apart: float, now: float) -> None:
        self.tally.arrived += count
        self.tally.behind_seconds = max(self.tally.behind_seconds, now - first_at)
        for number in range(count):
            if self._free:
                self._free.popleft().send(first_at + number * apart)
            else:
                self._waiting.append(first_at + number * apart)


async def run(given: argparse.Namespace) -> Found:
    size = {"stream": True, "max_tokens": given.chunks} if given.chunks else {}
    body = wire.chat_request(model=given.model, **size)
    load = Load(
        given.port, wire.http_post(given.port, body, path=given.path, headers=json.loads(given.headers))
    )
    await load.open(given.connections)
    if given.rate is None:
        return await load.run_closed(given.seconds)
    return await load.run_open(given.seconds, given.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default=wire.CHAT_PATH)
    parser.add_argument("--model", default=wire.MODEL)
    parser.add_argument("--headers", default="{}", help="as a JSON object")
    parser.add_argument("--chunks", type=int, help="of a stream; left out: answers in one piece")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, help="arrivals a second; left out: as many as are answered")
    found = uvloop.run(run(parser.parse_args()))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
