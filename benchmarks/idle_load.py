"""Opens streams, waits for the first chunk of each, and holds them until it is killed.

Prints one line of JSON when all are open: how many have a chunk, and what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio

import msgspec
import uvloop

from benchmarks.stream_load import Client, arguments, connect, request_of

AT_ONCE = 100
CHUNK_WITHIN_SECONDS = 60.0
CHUNKS = 4096  # more than ever come, and no more than any deployment allows


class Opened(msgspec.Struct, frozen=True):
    streams: int
    errors: list[str]


async def _first_chunk(client: Client, deadline: float) -> str | None:
    """None when it came, or what is wrong."""
    loop = asyncio.get_running_loop()
    while not client.times:
        if client.ending is not None and client.ending.done():
            return client.ending.result() or "ended before its first chunk"
        if loop.time() > deadline:
            return f"no chunk within {CHUNK_WITHIN_SECONDS:.0f} s"
        await asyncio.sleep(0.005)
    return None


async def hold(given: argparse.Namespace) -> None:
    request, loop = request_of(given, CHUNKS), asyncio.get_running_loop()
    clients: list[Client] = []
    errors: list[str] = []
    while len(clients) < given.streams and not errors:
        opened = await connect(given, min(AT_ONCE, given.streams - len(clients)))
        clients += opened
        for client in opened:
            client.start(request, CHUNKS)
        deadline = loop.time() + CHUNK_WITHIN_SECONDS
        found = [await _first_chunk(client, deadline) for client in opened]
        errors += [error for error in found if error is not None]
    errors += [
        client.ending.result() or "ended" for client in clients if client.ending and client.ending.done()
    ]
    print(msgspec.json.encode(Opened(len(clients), errors[:5])).decode(), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    uvloop.run(hold(arguments(__doc__).parse_args()))


if __name__ == "__main__":
    main()
