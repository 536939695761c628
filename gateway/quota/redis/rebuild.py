"""After a restart, failover or flush of the server: spending is rebuilt before hard budgets open again.

Each worker registers its open holds anew and then stands still: what it booked so far is committed to the
ledger and counted by the server, and what it books from now on waits with both. Once all of them stand, one
asks the ledger what was spent and opens the budgets. So nothing is missing, and nothing is counted twice.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
import structlog

from gateway.quota.memory import SpentInWindows
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.link import Link
from gateway.quota.redis.replies import ADMITTED, CLOSED, FORGOTTEN, MICROSECONDS, STALE
from gateway.quota.redis.settling import Settler
from gateway.quota.redis.specs import counters_of

if TYPE_CHECKING:
    from gateway.quota.redis.admission import RedisAdmission

_log = structlog.get_logger("tollway.redis")

ADOPT_ITEMS = 200
RETRY_SECONDS = 0.2
POLL_SECONDS = 0.05
# How long others may take to stand still before it is looked for workers that have died meanwhile.
PATIENCE_SECONDS = 1.0
# In this time every worker that reaches the server has come back to it. A worker that has just started knows
# of no other, so a count of workers alone does not do.
QUARANTINE_SECONDS = 2.0
LEDGER_SECONDS = 30.0

_encode = msgspec.msgpack.Encoder().encode


class Books(Protocol):
    """The ledger, as far as a rebuild of the counters has to hold it."""

    async def replay_dead_workers(self) -> None:
        """Bring in what workers that died have left. Raises what the ledger raises."""
        ...

    def pause_commits(self) -> None:
        """Commit nothing that is appended from now on, until `resume_commits`."""
        ...

    async def flush(self) -> None:
        """Return once everything appended before the halt is committed."""
        ...

    def resume_commits(self) -> None: ...


class BarrierStatus(msgspec.Struct, frozen=True):
    """What the server says of the workers; times in microseconds of its clock."""

    now: int
    closed_since: int
    standing: int
    expected: int
    turn: int


class _Over(Exception):
    """The budgets are open, or another epoch has begun: this rebuild is of no more use."""


class CounterRebuild:
    """`on_connect` is called on every new connection; `run` rebuilds and is owned by the admission."""

    def __init__(
        self,
        link: Link,
        admission: "RedisAdmission",
        settler: Settler,
        lease: int,
        spent_in_windows: SpentInWindows | None,
        quarantine_seconds: float,
        books: Books | None,
    ) -> None:
        self._link = link
        self._admission = admission
        self._settler = settler
        self._lease = lease
        self._spent_in_windows = spent_in_windows
        self._quarantine = int(quarantine_seconds * MICROSECONDS)
        self._books = books
        self._closed = asyncio.Event()
        # Set while budgets are open.
        self.opened = asyncio.Event()
        self.epoch = b""
        # The epoch in which all open holds are registered.
        self._registered_in = b""
        self.problem: str | None = None
        # Called when what is leased ahead has to be given back.
        self.forgotten: Callable[[], object] | None = None

    async def on_connect(self) -> None:
        """Learn the epoch of the counters, or begin a new one. Raises StoreAway."""
        worker, fresh = self._admission.worker.encode(), secrets.token_hex(8).encode()
        reply = await self._link.call("hello", self._link.identity.encode(), fresh, worker)
        _, now, epoch, closed = cast("tuple[int, int, str, int]", tuple(reply))
        self.epoch = self._settler.epoch = epoch.encode()
        self._admission.known.learn_clock(int(now))
        if self._registered_in != self.epoch:
            # Nobody may take this worker as ready before its holds are registered.
            self._closed.clear()
            if self.forgotten is not None:
                self.forgotten()
            await self._adopt()
            self._registered_in = self.epoch
        if closed:
            self.problem = "state: spending is being rebuilt from the ledger"
            self.opened.clear()
            self._closed.set()
        else:
            self._open()

    async def run(self) -> None:
        """Rebuild whenever that is needed, until cancelled."""
        while True:
            await self._closed.wait()
            try:
                await self._rebuild(self.epoch)
            except _Over:
                await asyncio.sleep(POLL_SECONDS)  # the connection's owner may be about to greet
            except (StoreUnavailable, TimeoutError, OSError) as exc:
                _log.warning("redis.rebuild_waits", error=str(exc) or "no reply in time")
                await self._pause()
            except Exception as exc:  # the ledger's own errors: keep closed, and try again
                _log.exception("redis.rebuild_failed", error=str(exc))
                await self._pause()

    def release(self) -> None:
        """Stand still no longer."""
        if self._books is not None:
            self._books.resume_commits()

    async def _pause(self) -> None:
        if not self._link.is_up:
            # Who knows for how long: the queue must not fill meanwhile.
            self.release()
        await asyncio.sleep(RETRY_SECONDS)

    async def _rebuild(self, epoch: bytes) -> None:
        await self._stand(epoch, still=False)
        await self._quiesce()
        standing = await self._stand(epoch, still=True)
        for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
            if self._is_enough(standing) and await self._restore(epoch, standing.turn):
                return
            await asyncio.sleep(POLL_SECONDS)
            standing = await self._stand(epoch, still=True)
        # Somebody is missing: if it died, what it left has to be brought in first.

    async def _quiesce(self) -> None:
        """From one moment on, what is booked waits: before the ledger, and before the counters."""
        books, settler = self._books, self._settler
        settler.send_held_back()
        if books is not None:
            books.resume_commits()
            await books.replay_dead_workers()
            books.pause_commits()
        if self.forgotten is not None:
            self.forgotten()
        self._admission.report_slices()
        settler.hold_back()
        async with asyncio.timeout(LEDGER_SECONDS):
            if books is not None:
                await books.flush()
            await settler.drain()

    async def _stand(self, epoch: bytes, *, still: bool) -> BarrierStatus:
        """Tell the others, and hear of them. Raises _Over."""
        admission = self._admission
        worker, lease, known = (
            admission.worker.encode(),
            b"%d" % self._lease,
            b"%d" % admission.upkeep.workers,
        )
        reply = await self._link.call("stand", epoch, worker, lease, known, b"1" if still else b"0")
        if reply[0] == FORGOTTEN:
            raise _Over
        standing = BarrierStatus(*cast("list[int]", reply[1:]))
        if not standing.closed_since:
            self._open()
            raise _Over
        return standing

    def _is_enough(self, standing: BarrierStatus) -> bool:
        """Whether all have come who can, or a lease is over, and with it whatever the others held."""
        waited = standing.now - standing.closed_since
        if waited >= self._lease:
            return True
        return waited >= self._quarantine and standing.standing >= standing.expected

    def _open(self) -> None:
        self._closed.clear()
        self.opened.set()
        self.problem = None
        self.release()
        self._settler.send_held_back()

    async def _adopt(self) -> None:
        """Register our open holds with a server that may have lost them."""
        lease = b"%d" % self._lease
        waiting = [grant.id for grant in self._admission.open_grants()]
        for at in range(0, len(waiting), ADOPT_ITEMS):
            # What was settled while the server answered must not be registered any more.
            still_open = {grant.id: grant for grant in self._admission.open_grants()}
            some = [still_open[name] for name in waiting[at : at + ADOPT_ITEMS] if name in still_open]
            rows = [[grant.id, grant.record()] for grant in some]
            reply = await self._link.call(
                "adopt", self._admission.known.plan_of_all().packed, lease, _encode(rows)
            )
            if reply[0] == STALE:
                self._admission.known.learn_clock(cast("int", reply[1]))
                raise StoreUnavailable("the server's clock has moved")

    async def _restore(self, epoch: bytes, turn: int) -> bool:
        """False when a worker has moved meanwhile, so that the ledger must be read again."""
        plan = self._admission.known.plan_of_all()
        lease = b"%d" % self._lease
        reply = await self._link.call("look", plan.packed, self._admission.worker.encode(), lease)
        if reply[0] == STALE:
            self._admission.known.learn_clock(cast("int", reply[1]))
            raise StoreUnavailable("the server's clock has moved")
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
        reply = await self._link.call("restore", epoch, plan.packed, _encode(rows), b"%d" % turn)
        if reply[0] == CLOSED:
            return False
        if reply[0] == FORGOTTEN:
            raise _Over
        if reply[0] != ADMITTED:
            raise StoreUnavailable("the counters cannot be restored now")
        self._open()
        _log.info("redis.spending_rebuilt", budgets=len(rows))
        return True
