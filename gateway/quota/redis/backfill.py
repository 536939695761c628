"""Lifts counters to what the ledger knows where the server may not have counted all along.

So it is with budgets that were not configured for a while, or in another time zone: at the start of a worker,
when a reload brings them, and once more when what was in flight at the reload has ended.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.tenancy import Scope
from gateway.quota.memory import SpentInWindows
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.link import Link
from gateway.quota.redis.replies import ADMITTED, STALE
from gateway.quota.redis.specs import QuotaSpec, counters_of, make_plan

if TYPE_CHECKING:
    from gateway.quota.redis.admission import RedisAdmission

_log = structlog.get_logger("tollway.redis")

CHECK_SECONDS = 0.5
LEDGER_SECONDS = 30.0
# Longer than the ledger may take, so that two workers never add the same difference.
CLAIM_SECONDS = LEDGER_SECONDS + 10
CLAIM = b"cover"

_encode = msgspec.msgpack.Encoder().encode


class _Due(msgspec.Struct, frozen=True):
    """Budgets of these scopes are due once none of the holds `after` is open any more."""

    scopes: tuple[Scope, ...]
    zone: ZoneInfo
    after: frozenset[str]


class BudgetBackfill:
    """`run` is owned by the admission."""

    def __init__(
        self, link: Link, admission: "RedisAdmission", spent_in_windows: SpentInWindows | None
    ) -> None:
        self._link = link
        self._admission = admission
        self._spent_in_windows = spent_in_windows
        self._due: list[_Due] = []
        self._wanted = asyncio.Event()
        # Set while nothing is due.
        self.done = asyncio.Event()
        self.done.set()

    def want(self, scopes: Iterable[Scope], zone: ZoneInfo, after: frozenset[str] = frozenset()) -> None:
        """Cover the budgets of `scopes`, tried again until it succeeds."""
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
                if await self._cover(due):
                    self._due.remove(due)
            if self._due:
                await asyncio.sleep(CHECK_SECONDS)
            else:
                self._wanted.clear()
                self.done.set()

    async def _cover(self, due: _Due) -> bool:
        if due.after & {grant.id for grant in self._admission.open_grants()}:
            return False
        try:
            return await self.cover(due.scopes, due.zone)
        except (StoreUnavailable, TimeoutError, OSError) as exc:
            _log.warning("redis.cover_failed", error=str(exc))
        except Exception as exc:  # the ledger's own errors: try again
            _log.exception("redis.cover_failed", error=str(exc))
        return False

    async def cover(self, scopes: Sequence[Scope], zone: ZoneInfo) -> bool:
        """False when another worker is at it or the server is not ready. Raises as server and ledger do."""
        if not self._admission.recovery.opened.is_set():
            return False
        if not await self._admission.claim(CLAIM.decode(), CLAIM_SECONDS):
            return False
        try:
            await self._lift(make_plan(scopes, zone, self._admission.known.now()))
        finally:
            await self._link.call("unclaim", CLAIM)
        return True

    async def _lift(self, plan: QuotaSpec) -> None:
        if self._spent_in_windows is None:
            return
        admission = self._admission
        lease = b"%d" % admission.lease
        counted = cast(
            "list[int]",
            self._known(await self._link.call("look", plan.packed, admission.worker.encode(), lease)),
        )
        now = admission.known.now()
        views = [budget.view(counters_of(counted, index), now) for index, budget in enumerate(plan.budgets)]
        async with asyncio.timeout(LEDGER_SECONDS):
            spent = await self._spent_in_windows(views)
        rows = []
        for index, (budget, known) in enumerate(zip(plan.budgets, spent, strict=True)):
            w, before, _, unseen = counters_of(counted, index)
            rows.append([budget.name, w, *_missing(known, (before, unseen))])
        if any(row[2] or row[3] for row in rows):
            epoch = admission.recovery.epoch
            self._known(await self._link.call("cover", epoch, plan.packed, _encode(rows)))
            _log.info("redis.spending_covered", budgets=len(rows))

    def _known(self, reply: list[object]) -> object:
        if reply[0] == STALE:
            self._admission.known.learn_clock(cast("int", reply[1]))
        if reply[0] != ADMITTED:
            raise StoreUnavailable("the counters cannot be covered now")
        return reply[3] if len(reply) > 3 else None


def _missing(known: tuple[int, int], counted: tuple[int, int]) -> tuple[int, int]:
    """What to add to (spent, unseen) as `counted`, so that together they are no less than what is `known`.

    The parts may differ: what a worker left behind counts as unseen here and may be spent in the ledger.
    """
    missing = max(sum(known) - sum(counted), 0)
    spent = min(max(known[0] - counted[0], 0), missing)
    return spent, missing - spent
