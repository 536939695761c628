"""After a restart, failover or flush of the server: spending is rebuilt before hard budgets open again.

Each worker registers its open holds anew and then pauses: what it booked so far is committed to the ledger
and counted by the server, and what it books from now on waits with both. Once all of them have paused, one
asks the ledger what was spent and opens the budgets. So nothing is missing, and nothing is counted twice.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Protocol, assert_never

import structlog

from gateway.ports import BudgetView
from gateway.quota.memory import SpentInWindows
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.counter_cache import CounterCache
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.layout import MissingRow, OpenHoldRow
from gateway.quota.redis.replies import Applied, BarrierStatus, Closed, Forgotten, RestoreReply, Stale
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.settling import Settler
from gateway.quota.redis.specs import QuotaSpec, views_of
from gateway.quota.redis.store import CounterStore

_log = structlog.get_logger("tollway.redis")

REGISTER_ITEMS = 200
RETRY_SECONDS = 0.2
POLL_SECONDS = 0.05
# How long others may take to pause before what dead workers left is brought in once more.
OTHERS_SECONDS = 1.0
# In this time every worker that reaches the server has come back to it. A worker that has just started knows
# of no other, so a count of workers alone does not do.
QUARANTINE_SECONDS = 2.0
LEDGER_SECONDS = 30.0


class Books(Protocol):
    """The ledger, as far as a rebuild of the counters has to hold it."""

    async def replay_dead_workers(self) -> None:
        """Bring in what workers that died have left. Raises what the ledger raises."""
        ...

    def pause_commits(self) -> None:
        """Commit nothing that is appended from now on, until `resume_commits`."""
        ...

    async def flush(self) -> None:
        """Return once everything appended before the pause is committed."""
        ...

    def resume_commits(self) -> None: ...


class LeaseOwner(Protocol):
    """Whoever admits from quota leases."""

    def return_leases(self) -> object:
        """Give back what was leased ahead."""
        ...

    def report_leases(self) -> None:
        """Settle what leases that were given back have spent since."""
        ...


class _Over(Exception):
    """The budgets are open, or another epoch has begun: this rebuild is of no more use."""


class CounterRebuild:
    """`on_connect` is called on every new connection; `run` rebuilds and is owned by the admission."""

    def __init__(
        self,
        store: CounterStore,
        holds: OpenHolds,
        cache: CounterCache,
        settler: Settler,
        *,
        spent_in_windows: SpentInWindows | None,
        quarantine_seconds: float,
        books: Books | None,
    ) -> None:
        self._store = store
        self._holds = holds
        self._cache = cache
        self._settler = settler
        self._spent_in_windows = spent_in_windows
        self._quarantine = int(quarantine_seconds * MICROSECONDS)
        self._books = books
        self._closed = asyncio.Event()
        # The epoch in which all open holds are registered.
        self._registered_in = b""
        self.problem: str | None = None
        # Who has to give back what is leased ahead, if anybody leases.
        self.leases: LeaseOwner | None = None

    async def on_connect(self) -> None:
        """Learn the epoch of the counters, or begin a new one. Raises StoreUnavailable."""
        holds = self._holds
        entered = await self._store.enter_epoch(self._store.identity, secrets.token_hex(8), holds.worker_id)
        holds.epoch = entered.epoch.encode()
        self._store.clock.learn(entered.now)
        if self._registered_in != holds.epoch:
            # Nobody may take this worker as ready before its holds are registered.
            self._closed.clear()
            if self.leases is not None:
                self.leases.return_leases()
            await self._register()
            self._registered_in = holds.epoch
        if entered.closed:
            self.problem = "state: spending is being rebuilt from the ledger"
            holds.opened.clear()
            self._closed.set()
        else:
            self._open()

    async def run(self) -> None:
        """Rebuild whenever that is needed, until cancelled."""
        while True:
            await self._closed.wait()
            try:
                await self._rebuild(self._holds.epoch)
            except _Over:
                await asyncio.sleep(POLL_SECONDS)  # on_connect may be about to run
            except (StoreUnavailable, TimeoutError, OSError) as exc:
                _log.warning("redis.rebuild_waits", error=str(exc) or "no reply in time")
                await self._pause()
            except Exception as exc:  # the ledger's own errors: keep closed, and try again
                _log.exception("redis.rebuild_failed", error=str(exc))
                await self._pause()

    def _resume(self) -> None:
        if self._books is not None:
            self._books.resume_commits()

    async def _pause(self) -> None:
        if not self._store.is_connected:
            # Who knows for how long: the queue must not fill meanwhile.
            self._resume()
        await asyncio.sleep(RETRY_SECONDS)

    async def _rebuild(self, epoch: bytes) -> None:
        await self._barrier(epoch, ready=False)
        await self._quiesce()
        status = await self._barrier(epoch, ready=True)
        for _ in range(int(OTHERS_SECONDS / POLL_SECONDS)):
            if self._is_enough(status) and await self._restore(epoch, status.generation):
                return
            await asyncio.sleep(POLL_SECONDS)
            status = await self._barrier(epoch, ready=True)
        # Somebody is missing: if it died, what it left has to be brought in first.

    async def _quiesce(self) -> None:
        """From one moment on, what is booked waits: before the ledger, and before the counters."""
        books, settler = self._books, self._settler
        settler.send_held_back()
        if books is not None:
            books.resume_commits()
            await books.replay_dead_workers()
            books.pause_commits()
        if self.leases is not None:
            self.leases.return_leases()
            self.leases.report_leases()
        settler.hold_back()
        async with asyncio.timeout(LEDGER_SECONDS):
            if books is not None:
                await books.flush()
            await settler.drain()

    async def _barrier(self, epoch: bytes, *, ready: bool) -> BarrierStatus:
        """Report whether this worker has paused, and learn of the others. Raises _Over."""
        holds = self._holds
        status = await self._store.barrier(epoch, holds.worker_id, holds.lease, self._cache.workers, ready)
        if isinstance(status, Forgotten):
            raise _Over
        if not status.closed_since:
            self._open()
            raise _Over
        return status

    def _is_enough(self, status: BarrierStatus) -> bool:
        """Whether all have come who can, or a lease is over, and with it whatever the others held."""
        waited = status.now - status.closed_since
        if waited >= self._holds.lease:
            return True
        return waited >= self._quarantine and status.ready >= status.expected

    def _open(self) -> None:
        self._closed.clear()
        self._holds.opened.set()
        self.problem = None
        self._resume()
        self._settler.send_held_back()

    async def _register(self) -> None:
        """Register our open holds with a server that may have lost them."""
        waiting = [hold.id for hold in self._holds]
        for at in range(0, len(waiting), REGISTER_ITEMS):
            await self._register_some(waiting[at : at + REGISTER_ITEMS])

    async def _register_some(self, ids: Sequence[str]) -> None:
        store, lease = self._store, self._holds.lease
        await store.for_spec(
            self._cache.spec_of_all, lambda spec: store.register_holds(spec, lease, self._rows(ids))
        )

    def _rows(self, ids: Sequence[str]) -> list[OpenHoldRow]:
        # What was settled while the server answered must not be registered any more.
        still_open = {hold.id: hold for hold in self._holds}
        return [OpenHoldRow(name, still_open[name].record()) for name in ids if name in still_open]

    async def _restore(self, epoch: bytes, generation: int) -> bool:
        """False when a worker has moved meanwhile, so that the ledger must be read again. Raises _Over."""
        restored: tuple[QuotaSpec, RestoreReply] = await self._store.for_spec(
            self._cache.spec_of_all, lambda spec: self._restore_spec(epoch, spec, generation)
        )
        spec, reply = restored
        match reply:
            case Applied():
                self._open()
                _log.info("redis.spending_rebuilt", budgets=len(spec.budgets))
                return True
            case Closed():
                return False
            case Forgotten():
                raise _Over
            case _:
                assert_never(reply)

    async def _restore_spec(self, epoch: bytes, spec: QuotaSpec, generation: int) -> RestoreReply | Stale:
        counted = await self._store.snapshot(spec, self._holds.worker_id, self._holds.lease)
        if isinstance(counted, Stale):
            return counted
        views = views_of(spec, counted.counters, self._store.clock.now())
        rows = [
            MissingRow(row.start, spent - row.spent, unseen - row.unseen)
            for row, (spent, unseen) in zip(counted.counters, await self._spent(views), strict=True)
        ]
        return await self._store.restore(epoch, spec, rows, generation)

    async def _spent(self, views: Sequence[BudgetView]) -> Sequence[tuple[int, int]]:
        if self._spent_in_windows is None or not views:
            return [(0, 0)] * len(views)
        async with asyncio.timeout(LEDGER_SECONDS):
            return await self._spent_in_windows(views)
