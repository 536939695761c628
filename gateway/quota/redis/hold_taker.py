"""Calls that take a hold under a new name, whatever becomes of the reply."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.core.tenancy import Principal
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.counter_cache import CounterCache
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.replies import Forgotten, Stale
from gateway.quota.redis.settling import PendingSettlement, Settler
from gateway.quota.redis.specs import QuotaSpec
from gateway.quota.redis.store import CounterStore

T = TypeVar("T")


class HoldTaker:
    """`take` calls a function that holds something, for what a principal counts against now."""

    def __init__(self, store: CounterStore, holds: OpenHolds, cache: CounterCache, settler: Settler) -> None:
        self._store = store
        self._holds = holds
        self._cache = cache
        self._settler = settler

    def take(
        self, principal: Principal, call: Callable[[bytes, QuotaSpec, str], Awaitable[T | Stale]]
    ) -> Awaitable[tuple[QuotaSpec, tuple[str, T]]]:
        """`call` with the epoch, the spec and the new hold's name.

        Returns the spec, and the name with the reply, which is never Stale. Raises StoreUnavailable.
        """
        return self._store.for_spec(lambda: self._cache.spec(principal), lambda spec: self._once(spec, call))

    async def _once(
        self, spec: QuotaSpec, call: Callable[[bytes, QuotaSpec, str], Awaitable[T | Stale]]
    ) -> tuple[str, T] | Stale:
        epoch, hold_id = self._holds.epoch, self._holds.next_id()
        self._settler.send_now()
        try:
            reply = await call(epoch, spec, hold_id)
        except StoreUnavailable as exc:
            if not exc.never_sent:
                self._abandon(hold_id)
            raise
        except asyncio.CancelledError:
            self._abandon(hold_id)
            raise
        if isinstance(reply, Stale):
            return reply
        if isinstance(reply, Forgotten) and epoch == self._holds.epoch:
            self._store.drop("the counters are not the ones that were known")
        return hold_id, reply

    def _abandon(self, hold_id: str) -> None:
        """A hold that may have been taken and that nobody will use."""
        self._settler.add(PendingSettlement(hold_id, 0, 0, 0))
