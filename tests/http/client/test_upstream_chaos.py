"""Everything at once, from a seed: no slot of the pool is lost and no answer goes to another request.

How many are answered depends on how fast the machine is, since some wait longer than they may.
"""

import asyncio
import random

import pytest

from gateway.core.errors import UpstreamFailure
from tests.http.client.upstream_stage import Peer, Stage, answers_always, chunked, timeouts, with_length

SLOTS = 6


def _number(head: bytes) -> bytes:
    return head.split(b" ", 2)[1].rpartition(b"/")[2]


def _unruly(dice: random.Random) -> object:
    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            number = _number(head)
            match dice.randrange(14):
                case 0:
                    peer.reset()
                    return
                case 1:
                    await peer.send(with_length(number)[: dice.randrange(1, 30)])
                    peer.close()
                    return
                case 2:
                    await peer.send(b"nonsense\r\n\r\n")
                case 3:
                    await asyncio.sleep(0.3)  # longer than the client waits
                case 4:
                    await peer.send(with_length(number, b"connection: close"))
                case 5:
                    await peer.send(with_length(number) + with_length(b"poison"))
                case 6:
                    await peer.send(with_length(number))
                    await asyncio.sleep(0.001 * dice.randrange(5))
                    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
                    peer.close()
                    return
                case 7:
                    await peer.send(with_length(number))
                    peer.close()
                    return
                case 8:
                    await peer.send(chunked(number, end=b""))
                    await asyncio.sleep(0.3)
                case 9:
                    await peer.drip(chunked(number))
                case _:
                    await asyncio.sleep(0.001 * dice.randrange(3))
                    await peer.send(with_length(number))

    return script


@pytest.mark.parametrize("seed", range(4))
async def test_chaos(stage: Stage, seed: int) -> None:
    dice = random.Random(seed)
    stage.server.plays(_unruly(random.Random(seed + 100)))  # type: ignore[arg-type]
    endpoint = stage.endpoint(
        max_connections=SLOTS,
        idle_seconds=0.05,
        timeouts=timeouts(first_byte=0.1, between_bytes=0.1, total=0.5, connect=2),
    )

    async def one(number: int) -> str:
        try:
            response = await stage.send(endpoint, target=b"/v1/%d" % number, stream=number % 2 == 0)
            if dice.random() < 0.1:
                response.abort()
                return "aborted"
            body = await response.read(1000)
        except UpstreamFailure as failure:
            return failure.kind
        # An answer that a server sends before it was asked may arrive after the next request was sent; nobody
        # can tell then. Any other answer must be the one to this request.
        assert body in (b"%d" % number, b"poison")
        return "answered" if body != b"poison" else "poisoned by the server"

    tasks = []
    for number in range(250):
        tasks.append(asyncio.ensure_future(one(number)))
        if dice.random() < 0.1:
            dice.choice(tasks).cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0.002 * dice.random())
    await asyncio.wait(tasks)
    assert not [task for task in tasks if not task.cancelled() and task.exception()]
    await stage.until(lambda: stage.upstream.counts() == (0, 0, 0))  # the idle ones too, which are unruly
    stage.server.plays(answers_always(with_length(b"1000")))
    while [await answer for answer in [asyncio.ensure_future(one(1000)) for _ in range(SLOTS)]] != (
        ["answered"] * SLOTS
    ):
        pass  # too late, or aborted: again, until the whole pool serves
