"""The clients: connections that ask, read or leave, and go elsewhere when their gateway dies."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import orjson

from tests.chaos.scenario import KEYS, Address, Json, Key

PATIENCE_SECONDS = 30.0
REFUSED_PAUSE_SECONDS = 0.05
UNAVAILABLE_PAUSE_SECONDS = 0.3
# The share of clients that do not wait for the end of their answer.
LEAVING = 0.06
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"x-request-id: (\S+)", re.IGNORECASE)
_TOPICS = ("ships", "tides and moons", "a market hall in winter", "the history of paper, briefly")


RequestMaker: TypeAlias = Callable[[random.Random], bytes]


class Load:
    """So many requests over so many connections. `run` returns when all were sent and answered or dropped.

    `rate` bounds the requests a second, all connections together; left out: as many as are answered.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        requests: int,
        connections: int,
        seed: int,
        *,
        rate: float | None = None,
        make_request: RequestMaker | None = None,
    ) -> None:
        self.make_request = make_request or request_of
        self._interval_seconds = 0.0 if rate is None else 1 / rate
        self._next_at = 0.0
        self._addresses = list(addresses)
        self._requests = requests
        self._connections = connections
        self._seed = seed
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.disconnects = 0  # clients that left
        self.broken = 0  # connections lost under a client that waited
        self.answered: list[str] = []  # ids of requests whose whole answer has arrived
        self.enough = False

    @property
    def share(self) -> float:
        return self.sent / self._requests

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                client = _Client(self, random.Random(self._seed * 1000 + number))
                group.create_task(client.run())

    def next_address(self, chance: random.Random) -> Address:
        return chance.choice(self._addresses)

    async def pace(self) -> None:
        """Wait for the turn of one more request. After a pause nothing is made up for."""
        now = time.monotonic()
        self._next_at = max(self._next_at + self._interval_seconds, now)
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)

    def take(self) -> bool:
        """Whether one more is to be sent."""
        if self.sent >= self._requests or self.enough:
            return False
        self.sent += 1
        return True

    def give_back(self) -> None:
        """Taken, and not sent after all."""
        self.sent -= 1


class _Client:
    def __init__(self, load: Load, chance: random.Random) -> None:
        self._load = load
        self._chance = chance
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        load = self._load
        while load.take():
            await load.pace()
            if not await self._connected():
                load.give_back()
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)
                continue
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._exchange()
            except (OSError, asyncio.IncompleteReadError):
                load.broken += 1
                self._hang_up()
        self._hang_up()

    async def _connected(self) -> bool:
        if self._writer is not None:
            return True
        address = self._load.next_address(self._chance)
        try:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", address.data_port)
        except OSError:
            return False
        return True

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _exchange(self) -> None:
        assert self._reader is not None and self._writer is not None
        chance = self._chance
        self._writer.write(self._load.make_request(chance))
        if chance.random() < LEAVING:
            await self._leave()
            return
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        self._load.statuses[status] += 1
        if (length := _LENGTH.search(head)) is not None:
            await self._reader.readexactly(int(length[1]))
            is_whole = True
        else:
            # No event holds a CR; behind the last chunk comes a trailer with the cost.
            body = await self._reader.readuntil(b"\r\n0\r\n")
            while await self._reader.readuntil(b"\r\n") != b"\r\n":
                pass
            is_whole = b"[DONE]" in body
        if status == 200 and is_whole and (found := _REQUEST_ID.search(head)) is not None:
            self._load.answered.append(found[1].decode())
        elif status == 503:
            # Not served now, so it asks again.
            self._load.give_back()
            await asyncio.sleep(UNAVAILABLE_PAUSE_SECONDS)

    async def _leave(self) -> None:
        """Go at a random moment: at once, in the middle of a stream, or just before its end."""
        assert self._reader is not None and self._writer is not None
        self._load.disconnects += 1
        moment = self._chance.random()
        if moment < 0.2:
            await self._writer.drain()
        elif moment < 0.6:
            await asyncio.sleep(self._chance.uniform(0, 0.04))
        else:
            await self._reader.read(self._chance.randrange(200, 4000))
        self._hang_up()


def request_of(chance: random.Random, body: Json | None = None) -> bytes:
    """One chat request of some key; `body` in place of a usual one."""
    key = chance.choices(KEYS, [key.weight for key in KEYS])[0]
    content = orjson.dumps(body or usual_body(chance))
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: tollway\r\n"
        f"authorization: Bearer {_secret(key)}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _secret(key: Key) -> str:
    return key.secret


def usual_body(chance: random.Random) -> Json:
    """Text in one piece or streamed, with a cap or without."""
    body: Json = {
        "model": chance.choices(("gpt-4o", "scout", "auto"), (40, 30, 30))[0],
        "messages": [{"role": "user", "content": f"Tell me about {chance.choice(_TOPICS)}."}],
        "stream": chance.random() < 0.4,
    }
    if chance.random() < 0.7:
        body["max_tokens"] = chance.randrange(4, 40)
    return body
