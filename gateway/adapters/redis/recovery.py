"""After a restart, failover or flush of the server: spending is rebuilt before hard budgets open again.

Each worker registers its open holds anew; after a quarantine, in which all workers have noticed, one of them
asks the ledger what was spent and opens the budgets.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from gateway.adapters.memory import SpentInWindows
from gateway.adapters.redis.connection import StoreAway
from gateway.adapters.redis.link import Link
from gateway.adapters.redis.plans import counters_of
from gateway.adapters.redis.replies import ADMITTED, FORGOTTEN, STALE

if TYPE_CHECKING:
    from gateway.adapters.redis.admission import RedisAdmission

_log = structlog.get_logger("tollway.redis")

ADOPT_ITEMS = 200
RETRY_SECONDS = 0.5
LEDGER_SECONDS = 30.0

_encode = msgspec.msgpack.Encoder().encode


class Recovery:
    """`greet` is called on every new connection; `run` rebuilds and is owned by the admission."""

    def __init__(
        self,
        link: Link,
        admission: "RedisAdmission",
        lease: int,
        spent_in_windows: SpentInWindows | None,
        quarantine_seconds: float,
    ) -> None:
        self._link = link
        self._admission = admission
        self._lease = b"%d" % lease
        self._spent_in_windows = spent_in_windows
        self._quarantine_seconds = quarantine_seconds
        self._closed = asyncio.Event()
        # Set while budgets are open.
        self.opened = asyncio.Event()
        self.epoch = b""
        self.problem: str | None = None
        # Called when a new epoch has begun, before open holds are registered again.
        self.forgotten: Callable[[], None] | None = None

    async def greet(self) -> None:
        """Learn the epoch of the counters, or begin a new one. Raises StoreAway."""
        reply = await self._link.call("hello", self._link.identity.encode(), secrets.token_hex(8).encode())
        _, now, epoch, closed = cast("tuple[int, int, str, int]", tuple(reply))
        known, self.epoch = self.epoch, epoch.encode()
        self._admission.known.learn_clock(int(now))
        if known not in {b"", self.epoch}:
            if self.forgotten is not None:
                self.forgotten()
            await self._adopt()
        if closed:
            self.problem = "state: spending is being rebuilt from the ledger"
            self._closed.set()
            self.opened.clear()
        else:
            self._open()

    async def run(self) -> None:
        """Rebuild whenever that is needed, until cancelled."""
        while True:
            await self._closed.wait()
            await asyncio.sleep(self._quarantine_seconds)
            try:
                await self._rebuild()
            except (StoreAway, TimeoutError, OSError) as exc:
                _log.warning("redis.rebuild_failed", error=str(exc))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as exc:  # the ledger's own errors: keep closed, and try again
                _log.exception("redis.rebuild_failed", error=str(exc))
                await asyncio.sleep(RETRY_SECONDS)

    def _open(self) -> None:
        self._closed.clear()
        self.opened.set()
        self.problem = None

    async def _adopt(self) -> None:
        """Register our open holds with a server that may have lost them."""
        grants = self._admission.open_grants()
        for at in range(0, len(grants), ADOPT_ITEMS):
            rows = [[grant.id, grant.record()] for grant in grants[at : at + ADOPT_ITEMS]]
            reply = await self._link.call(
                "adopt", self._admission.known.plan_of_all().packed, self._lease, _encode(rows)
            )
            if reply[0] == STALE:
                self._admission.known.learn_clock(cast("int", reply[1]))
                raise StoreAway("the server's clock has moved")

    async def _rebuild(self) -> None:
        plan = self._admission.known.plan_of_all()
        reply = await self._link.call("look", plan.packed, self._admission.worker.encode(), self._lease)
        if reply[0] == STALE:
            self._admission.known.learn_clock(cast("int", reply[1]))
            raise StoreAway("the server's clock has moved")
        counted = cast("list[int]", reply[3])
        now = self._admission.known.now()
        views = [budget.view(counters_of(counted, index), now) for index, budget in enumerate(plan.budgets)]
        spent: Sequence[tuple[int, int]] = [(0, 0)] * len(views)
        if self._spent_in_windows is not None and views:
            async with asyncio.timeout(LEDGER_SECONDS):
                spent = await self._spent_in_windows(views)
        rows = []
        for index, (budget, known) in enumerate(zip(plan.budgets, spent, strict=True)):
            w, before, _, unseen = counters_of(counted, index)
            rows.append([budget.name, w, known[0] - before, known[1] - unseen])
        reply = await self._link.call("restore", self.epoch, plan.packed, _encode(rows))
        if reply[0] not in {ADMITTED, FORGOTTEN}:
            raise StoreAway("the counters cannot be restored now")
        self._open()
        _log.info("redis.spending_rebuilt", budgets=len(rows))
