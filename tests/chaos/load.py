"""The clients: connections that ask, read or leave, and go elsewhere when their gateway dies."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence

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


class Load:
    """So many requests over so many connections. `run` returns when all were sent and answered or dropped."""

    def __init__(self, addresses: Sequence[Address], requests: int, connections: int, seed: int) -> None:
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
        self._writer.write(_request(chance))
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
            body = await self._reader.readuntil(b"\r\n0\r\n\r\n")
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


def _request(chance: random.Random) -> bytes:
    key = chance.choices(KEYS, [key.weight for key in KEYS])[0]
    body = orjson.dumps(_body(chance))
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: tollway\r\n"
        f"authorization: Bearer {_secret(key)}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _secret(key: Key) -> str:
    return key.secret


def _body(chance: random.Random) -> Json:
    body: Json = {
        "model": chance.choices(("gpt-4o", "scout", "auto"), (40, 30, 30))[0],
        "messages": [{"role": "user", "content": f"Tell me about {chance.choice(_TOPICS)}."}],
        "stream": chance.random() < 0.4,
    }
    if chance.random() < 0.7:
        body["max_tokens"] = chance.randrange(4, 40)
    return body
