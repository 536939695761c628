"""Opens slow connections and holds them until it is killed: `python -m benchmarks.slow_load --port P`.

Of three connections one lies idle after an answer, one drips the head of a request, one its body: a byte each
`PAUSE_SECONDS`. What the server closes is opened again. Prints one line when all are open.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

from benchmarks import wire

PAUSE_SECONDS = 5.0
AT_ONCE = 50
KINDS = 3
IDLE = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"  # answered, and the connection stays


class Slow(asyncio.Protocol):
    """One connection; `kind` 0 lies idle, 1 drips a head, 2 a body."""

    def __init__(self, kind: int, port: int, lost: asyncio.Queue[int]) -> None:
        self._kind = kind
        self._lost = lost
        request = wire.http_post(port, wire.chat_request())
        body_at = request.index(b"\r\n\r\n") + 4
        self._rest = [IDLE, request[:body_at], request[body_at:]][kind]
        self._begin = [self._rest, self._rest[:20], request[:body_at]][kind]
        self._sent = len(self._begin) if kind != 2 else 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._begin)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.put_nowait(self._kind)

    def drip(self) -> None:
        if self._kind and self._sent < len(self._rest) - 1 and not self._transport.is_closing():
            self._transport.write(self._rest[self._sent : self._sent + 1])
            self._sent += 1


async def _open(port: int, kind: int, lost: asyncio.Queue[int]) -> Slow:
    loop = asyncio.get_running_loop()
    _, slow = await loop.create_connection(lambda: Slow(kind, port, lost), "127.0.0.1", port)
    return slow


async def hold(port: int, connections: int) -> None:
    lost: asyncio.Queue[int] = asyncio.Queue()
    slow: list[Slow] = []
    for begin in range(0, connections, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, connections))
        slow += await asyncio.gather(*(_open(port, number % KINDS, lost) for number in numbers))
    print(f"open {len(slow)}", flush=True)
    while True:
        pause = PAUSE_SECONDS / len(slow) * AT_ONCE  # evenly over the time: no burst of our own making
        for begin in range(0, len(slow), AT_ONCE):
            for one in slow[begin : begin + AT_ONCE]:
                one.drip()
            while not lost.empty():
                slow.append(await _open(port, lost.get_nowait(), lost))
            await asyncio.sleep(pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=10_000)
    given = parser.parse_args()
    uvloop.run(hold(given.port, given.connections))


if __name__ == "__main__":
    main()
