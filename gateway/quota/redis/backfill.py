"""Adds to counters what the ledger knows more, where the server may not have counted all along.

So it is with budgets that were not configured for a while, or in another time zone: at the start of a worker,
when a reload brings them, and once more when what was in flight at the reload has ended.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import assert_never
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.tenancy import Scope
from gateway.quota.memory import SpentInWindows
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.layout import MissingRow
from gateway.quota.redis.replies import Applied, Forgotten, Stale
from gateway.quota.redis.specs import QuotaSpec, make_spec, views_of
from gateway.quota.redis.store import CounterStore

_log = structlog.get_logger("tollway.redis")

CHECK_SECONDS = 0.5
LEDGER_SECONDS = 30.0
# Longer than the ledger may take, so that two workers never add the same difference.
CLAIM_SECONDS = LEDGER_SECONDS + 10
# Part of a Redis key that gateways of other versions use too.
CLAIM = "cover"


class _Due(msgspec.Struct, frozen=True):
    """Budgets of these scopes are due once none of the holds `after` is open any more."""

    scopes: tuple[Scope, ...]
    zone: ZoneInfo
    after: frozenset[str]


class BudgetBackfill:
    """`run` is owned by the admission."""

    def __init__(
        self, store: CounterStore, holds: OpenHolds, spent_in_windows: SpentInWindows | None
    ) -> None:
        self._store = store
        self._holds = holds
        self._spent_in_windows = spent_in_windows
        self._due: list[_Due] = []
        self._wanted = asyncio.Event()
        # Set while nothing is due.
        self.done = asyncio.Event()
        self.done.set()

    def want(self, scopes: Iterable[Scope], zone: ZoneInfo, after: frozenset[str] = frozenset()) -> None:
        """Complete the budgets of `scopes`; tried again until it succeeds."""
        found = tuple(scope for scope in scopes if scope.budgets)
        if found and self._spent_in_windows is not None:
            self._due.append(_Due(found, zone, after))
            self.done.clear()
            self._wanted.set()

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        while True:
            await self._wanted.wait()
            for due in list(self._due):
                if await self._try(due):
                    self._due.remove(due)
            if self._due:
                await asyncio.sleep(CHECK_SECONDS)
            else:
                self._wanted.clear()
                self.done.set()

    async def _try(self, due: _Due) -> bool:
        if due.after & self._holds.ids():
            return False
        try:
            return await self.fill(due.scopes, due.zone)
        except (StoreUnavailable, TimeoutError, OSError) as exc:
            _log.warning("redis.backfill_failed", error=str(exc))
        except Exception as exc:  # the ledger's own errors: try again
            _log.exception("redis.backfill_failed", error=str(exc))
        return False

    async def fill(self, scopes: Sequence[Scope], zone: ZoneInfo) -> bool:
        """False when another worker is at it or the server is not ready. Raises as server and ledger do."""
        spent_in_windows, store = self._spent_in_windows, self._store
        if spent_in_windows is None:
            return True
        if not self._holds.opened.is_set() or not await store.claim(CLAIM, CLAIM_SECONDS):
            return False
        try:
            await store.for_spec(
                lambda: make_spec(scopes, zone, store.clock.now()),
                lambda spec: self._add_missing(spec, spent_in_windows),
            )
        finally:
            await store.release_claim(CLAIM)
        return True

    async def _add_missing(self, spec: QuotaSpec, spent_in_windows: SpentInWindows) -> Applied | Stale | None:
        """None when nothing is missing. Raises as server and ledger do."""
        holds = self._holds
        counted = await self._store.snapshot(spec, holds.worker_id, holds.lease)
        if isinstance(counted, Stale):
            return counted
        views = views_of(spec, counted.counters, self._store.clock.now())
        async with asyncio.timeout(LEDGER_SECONDS):
            spent = await spent_in_windows(views)
        rows = [
            MissingRow(row.start, *_missing(known, (row.spent, row.unseen)))
            for row, known in zip(counted.counters, spent, strict=True)
        ]
        if not any(row.spent or row.unseen for row in rows):
            return None
        reply = await self._store.add_missing(holds.epoch, spec, rows)
        match reply:
            case Applied():
                _log.info("redis.missing_spending_added", budgets=len(rows))
                return reply
            case Stale():
                return reply
            case Forgotten():
                raise StoreUnavailable("the counters are being rebuilt")
            case _:
                assert_never(reply)


def _missing(known: tuple[int, int], counted: tuple[int, int]) -> tuple[int, int]:
    """What to add to (spent, unseen) as `counted`, so that together they are no less than what is `known`.

    The parts may differ: what a worker left behind counts as unseen here and may be spent in the ledger.
    """
    missing = max(sum(known) - sum(counted), 0)
    spent = min(max(known[0] - counted[0], 0), missing)
    return spent, missing - spent
