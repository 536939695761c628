"""Settlements on their way to the server: each applied exactly once, in order, whatever breaks in between.

Batches are numbered; the server remembers the last number of each worker and ignores repetitions. So a batch
whose reply was lost is simply sent again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import structlog

from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.grants import Registered
from gateway.quota.redis.link import Link, unpack
from gateway.quota.redis.resp import Reply, ServerError

_log = structlog.get_logger("tollway.redis")

BATCH_ITEMS = 256
# While the server is away settlements wait here. Beyond the bound the oldest are given up: their holds then
# expire as presumed at their full size, which is too much and never too little.
MAX_WAITING_ITEMS = 200_000
RETRY_SECONDS = 0.1

_APPLIED = 1

# What stays of a slice: nano-USD (-1: nothing, it ends), places, corrections of rates.
Left = tuple[int, int, list[tuple[str, float]]]
Windows = list[list[object]]
# What a hold was counted in, should the server have lost it: by the hold, or told at once.
Origin: TypeAlias = "Registered | Windows | None"
# hold, spent nano-USD, unseen nano-USD, tokens used (-1: not known), origin, left
Item: TypeAlias = "tuple[str, int, int, int, Origin, Left | None]"
_encode = msgspec.msgpack.Encoder().encode


class Settler:
    """`add` never waits; `run` resends after failures and is owned by whoever made the settler."""

    def __init__(self, link: Link, worker: str) -> None:
        self._link = link
        self._worker = worker.encode()
        self._number = 0
        self._unsent: deque[Item] = deque()
        self._unacknowledged: deque[tuple[int, list[Item]]] = deque()
        self._waiting_items = 0
        self._scheduled = False
        self._broken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # While spending is rebuilt from the ledger: settlements of rows that the ledger does not have yet.
        self._held_back: deque[Item] | None = None
        # The counters that the server has now; a hold of others was lost with them.
        self.epoch = b""

    @property
    def waiting(self) -> int:
        """Settlements that the server has not confirmed."""
        return self._waiting_items

    def add(self, item: Item) -> None:
        """Settle, with this tick's others."""
        if self._held_back is not None:
            self._held_back.append(item)
            return
        self._unsent.append(item)
        self._waiting_items += 1
        self._idle.clear()
        if self._waiting_items > MAX_WAITING_ITEMS:
            self._give_up_oldest()
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send_tick)

    def hold_back(self) -> None:
        """Send nothing that is added from now on, until `send_held_back`."""
        if self._held_back is None:
            self._held_back = deque(maxlen=MAX_WAITING_ITEMS)

    def send_held_back(self) -> None:
        """Send what was held back, and all that comes."""
        items, self._held_back = self._held_back, None
        for item in items or ():
            self.add(item)

    def send_now(self) -> None:
        """Send what this tick has added, so that a command that follows finds it settled."""
        if self._unsent:
            self._send_all()

    async def drain(self) -> None:
        """Return once everything added so far is confirmed, but for what is held back."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send again what was not confirmed, until cancelled."""
        while True:
            await self._broken.wait()
            try:
                await self._resend()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    def _send_tick(self) -> None:
        self._scheduled = False
        self._send_all()

    def _send_all(self) -> None:
        while self._unsent and not self._broken.is_set():
            number, items = self._next_batch()
            try:
                future = self._link.send("settle", *self._packed(number, items))
            except StoreUnavailable:
                self._broken.set()
                return
            future.add_done_callback(lambda done, number=number: self._replied(number, done))  # type: ignore[misc]

    def _next_batch(self) -> tuple[int, list[Item]]:
        self._number += 1
        count = min(len(self._unsent), BATCH_ITEMS)
        batch = (self._number, [self._unsent.popleft() for _ in range(count)])
        self._unacknowledged.append(batch)
        return batch

    def _packed(self, number: int, items: list[Item]) -> tuple[bytes, bytes, bytes]:
        return self._worker, b"%d" % number, _encode([self._row(item) for item in items])

    def _row(self, item: Item) -> Sequence[object]:
        hold, spent, unseen, used, origin, left = item
        if origin is None or isinstance(origin, list):
            return item
        kept = origin.windows() if origin.epoch != self.epoch else None
        return hold, spent, unseen, used, kept, left

    def _replied(self, number: int, future: "asyncio.Future[Reply]") -> None:
        if future.cancelled():
            self._broken.set()
            return
        error = future.exception()
        if isinstance(error, StoreUnavailable | ServerError):
            self._link.failed(error)
        elif error is None and unpack(future.result())[0] == _APPLIED:
            self._confirmed(number)
            return
        self._broken.set()

    def _confirmed(self, number: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            self._waiting_items -= len(self._unacknowledged.popleft()[1])
        if not self._waiting_items:
            self._idle.set()

    async def _resend(self) -> None:
        while self._unacknowledged:
            number, items = self._unacknowledged[0]
            reply = await self._link.call("settle", *self._packed(number, items))
            if reply[0] != _APPLIED:
                raise StoreUnavailable("settlements out of order")
            self._confirmed(number)
        self._broken.clear()
        self._send_all()

    def _give_up_oldest(self) -> None:
        # A batch keeps its number, so that the next one is not taken for one that overtook it.
        items = next((items for _, items in self._unacknowledged if items), None)
        count = 1
        if items is None:
            self._unsent.popleft()
        else:
            count = len(items)
            items.clear()
        self._waiting_items -= count
        _log.error("redis.settlements_given_up", count=count)
