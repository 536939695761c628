"""Settlements on their way to the server: each applied exactly once, in order, whatever breaks in between.

Batches are numbered; the server remembers the last number of each worker and ignores repetitions. So a batch
whose reply was lost is simply sent again.
"""

import asyncio
import functools
from collections import deque
from typing import assert_never

import msgspec
import structlog

from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.holds import OpenHold, OpenHolds
from gateway.quota.redis.layout import RemainderRow, SettlementRow, WindowRow
from gateway.quota.redis.replies import Applied, Gap
from gateway.quota.redis.resp import Reply
from gateway.quota.redis.store import CounterStore

_log = structlog.get_logger("tollway.redis")

BATCH_ITEMS = 256
# While the server is unreachable, settlements wait here. Beyond the bound the oldest are given up: their
# holds then expire as presumed at their full size, which is too much and never too little.
MAX_WAITING_ITEMS = 200_000
RETRY_SECONDS = 0.1

NOT_KNOWN = -1


class PendingSettlement(msgspec.Struct, frozen=True, eq=False):
    """What a hold used: nano-USD, and tokens or NOT_KNOWN, but then at least `least`.

    `origin` has the windows that the hold was counted in, should the server have lost it. `remainder` is
    what stays of a quota lease.
    """

    hold: str
    spent: int
    unseen: int
    used: int
    origin: OpenHold | list[WindowRow] | None = None
    remainder: RemainderRow | None = None
    least: int = 0

    def row(self, epoch: bytes) -> SettlementRow:
        """As the server reads it, when its counters are those of `epoch`."""
        windows = self.origin
        if windows is not None and not isinstance(windows, list):
            windows = windows.windows() if windows.epoch != epoch else None
        return SettlementRow(
            self.hold, self.spent, self.unseen, self.used, windows, self.remainder, self.least
        )


class Settler:
    """`add` never waits; `run` resends after failures and is owned by whoever made the settler."""

    def __init__(self, store: CounterStore, holds: OpenHolds) -> None:
        self._store = store
        self._holds = holds
        self._number = 0
        self._unsent: deque[PendingSettlement] = deque()
        self._unacknowledged: deque[tuple[int, list[PendingSettlement]]] = deque()
        self._waiting_items = 0
        self._scheduled = False
        self._broken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # While spending is rebuilt from the ledger: settlements of rows that the ledger does not have yet.
        self._held_back: deque[PendingSettlement] | None = None

    @property
    def waiting(self) -> int:
        """Settlements that the server has not confirmed."""
        return self._waiting_items

    def add(self, item: PendingSettlement) -> None:
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
            future = self._store.send_settle(self._holds.worker_id, number, self._rows(items))
            future.add_done_callback(functools.partial(self._replied, number))

    def _next_batch(self) -> tuple[int, list[PendingSettlement]]:
        self._number += 1
        count = min(len(self._unsent), BATCH_ITEMS)
        batch = (self._number, [self._unsent.popleft() for _ in range(count)])
        self._unacknowledged.append(batch)
        return batch

    def _rows(self, items: list[PendingSettlement]) -> list[SettlementRow]:
        epoch = self._holds.epoch
        return [item.row(epoch) for item in items]

    def _replied(self, number: int, future: "asyncio.Future[Reply]") -> None:
        try:
            reply = self._store.settled(future)
        except (StoreUnavailable, asyncio.CancelledError):
            self._broken.set()
            return
        match reply:
            case Applied():
                self._confirmed(number)
            case Gap():
                self._broken.set()
            case _:
                assert_never(reply)

    def _confirmed(self, number: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= number:
            self._waiting_items -= len(self._unacknowledged.popleft()[1])
        if not self._waiting_items:
            self._idle.set()

    async def _resend(self) -> None:
        while self._unacknowledged:
            number, items = self._unacknowledged[0]
            reply = await self._store.settle(self._holds.worker_id, number, self._rows(items))
            if isinstance(reply, Gap):
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
