"""The Lua functions as typed calls. layout.py and replies.py declare what they take and what they answer.

Every call raises StoreUnavailable when the server gives no answer that can be read.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from gateway.quota.redis.client import RedisClient
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.layout import MissingRow, NewSlotsRow, OpenHoldRow, PackedRow, SettlementRow
from gateway.quota.redis.replies import (
    AdmitReply,
    Applied,
    BarrierStatus,
    BudgetsRead,
    Claimed,
    EpochEntered,
    Forgotten,
    LeaseReply,
    RenewReply,
    ReplyDecoder,
    RestoreReply,
    SettleReply,
    SnapshotTaken,
    Stale,
    Swept,
)
from gateway.quota.redis.resp import Reply, ServerError
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.specs import QuotaSpec

T = TypeVar("T")

# The server's clock and ours can disagree about which window is open; a second spec settles it.
TRIES = 3

_ADMIT: ReplyDecoder[AdmitReply | Stale] = ReplyDecoder("admit", AdmitReply | Stale)
_RENEW: ReplyDecoder[RenewReply | Stale] = ReplyDecoder("renew", RenewReply | Stale)
_LEASE: ReplyDecoder[LeaseReply | Stale] = ReplyDecoder("lease", LeaseReply | Stale)
_SETTLE: ReplyDecoder[SettleReply] = ReplyDecoder("settle", SettleReply)
_HEARTBEAT: ReplyDecoder[Applied] = ReplyDecoder("heartbeat", Applied)
_SWEEP: ReplyDecoder[Swept] = ReplyDecoder("sweep", Swept)
_SNAPSHOT: ReplyDecoder[SnapshotTaken | Stale] = ReplyDecoder("snapshot", SnapshotTaken | Stale)
_READ_BUDGETS: ReplyDecoder[BudgetsRead | Stale] = ReplyDecoder("read_budgets", BudgetsRead | Stale)
_CLAIM: ReplyDecoder[Claimed] = ReplyDecoder("claim", Claimed)
_RELEASE_CLAIM: ReplyDecoder[Applied] = ReplyDecoder("release_claim", Applied)
_ADD_SLOTS: ReplyDecoder[Applied] = ReplyDecoder("add_slots", Applied)
_ENTER_EPOCH: ReplyDecoder[EpochEntered] = ReplyDecoder("enter_epoch", EpochEntered)
_REGISTER_HOLDS: ReplyDecoder[Applied | Stale] = ReplyDecoder("register_holds", Applied | Stale)
_BARRIER: ReplyDecoder[BarrierStatus | Forgotten] = ReplyDecoder("barrier", BarrierStatus | Forgotten)
_RESTORE: ReplyDecoder[RestoreReply | Stale] = ReplyDecoder("restore", RestoreReply | Stale)
_ADD_MISSING: ReplyDecoder[Applied | Stale | Forgotten] = ReplyDecoder(
    "add_missing", Applied | Stale | Forgotten
)
_DEREGISTER: ReplyDecoder[Applied] = ReplyDecoder("deregister", Applied)

_encode = msgspec.msgpack.Encoder().encode


class CounterStore:
    """The counters of one org. Durations (`lease`) are microseconds."""

    def __init__(self, client: RedisClient, clock: ServerClock) -> None:
        self._client = client
        self.clock = clock

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    @property
    def identity(self) -> str:
        """Another one after every restart and every failover of the server."""
        return self._client.identity

    def drop(self, reason: str) -> None:
        """Give the connection up, and with the next one learn again which counters these are."""
        self._client.drop(reason)

    async def for_spec(
        self, spec_of: Callable[[], QuotaSpec], call: Callable[[QuotaSpec], Awaitable[T | Stale]]
    ) -> tuple[QuotaSpec, T]:
        """`call` with the spec of now, and with another one when the server says that it is stale.

        Returns the spec with its reply. Raises StoreUnavailable when the clocks do not come to agree.
        """
        for _ in range(TRIES):
            spec = spec_of()
            reply = await call(spec)
            if not isinstance(reply, Stale):
                return spec, reply
            self.clock.learn(reply.now)
        raise StoreUnavailable("the clocks do not agree", never_sent=True)

    # --- holds ---

    def admit(self, epoch: bytes, spec: QuotaSpec, ask: bytes) -> Awaitable[AdmitReply | Stale]:
        return self._call(_ADMIT, epoch, spec.packed, ask)

    def renew(
        self,
        epoch: bytes,
        spec: QuotaSpec,
        ask: bytes,
        hold: str,
        spent: int,
        unseen: int,
        used: int,
        least: int,
    ) -> Awaitable[RenewReply | Stale]:
        """An empty `hold` settles nothing."""
        numbers = (b"%d" % spent, b"%d" % unseen, b"%d" % used, b"%d" % least)
        return self._call(_RENEW, epoch, spec.packed, ask, hold.encode(), *numbers)

    def lease(self, epoch: bytes, spec: QuotaSpec, wanted: PackedRow) -> Awaitable[LeaseReply | Stale]:
        return self._call(_LEASE, epoch, spec.packed, _encode(wanted))

    def send_settle(
        self, worker: bytes, batch: int, settlements: Sequence[SettlementRow]
    ) -> "asyncio.Future[Reply]":
        """The reply is for `settled`."""
        return self._client.send("settle", worker, b"%d" % batch, _encode(settlements))

    def settled(self, replied: "asyncio.Future[Reply]") -> SettleReply:
        """Raises StoreUnavailable."""
        try:
            return _SETTLE(replied.result())
        except (StoreUnavailable, ServerError) as exc:
            raise self._client.failed(exc) from exc

    def settle(
        self, worker: bytes, batch: int, settlements: Sequence[SettlementRow]
    ) -> Awaitable[SettleReply]:
        return self._call(_SETTLE, worker, b"%d" % batch, _encode(settlements))

    # --- upkeep ---

    def heartbeat(self, lease: int, holds: Sequence[str]) -> Awaitable[Applied]:
        return self._call(_HEARTBEAT, b"%d" % lease, _encode(holds))

    def sweep(self, most: int) -> Awaitable[Swept]:
        return self._call(_SWEEP, b"%d" % most)

    def snapshot(self, spec: QuotaSpec, worker: bytes, lease: int) -> Awaitable[SnapshotTaken | Stale]:
        return self._call(_SNAPSHOT, spec.packed, worker, b"%d" % lease)

    def read_budgets(self, spec: QuotaSpec) -> Awaitable[BudgetsRead | Stale]:
        return self._call(_READ_BUDGETS, spec.packed)

    async def claim(self, name: str, seconds: float) -> bool:
        """True for the first worker that asks within `seconds`."""
        whole = b"%d" % max(math.ceil(seconds), 1)
        return bool((await self._call(_CLAIM, name.encode(), whole)).first)

    def release_claim(self, name: str) -> Awaitable[Applied]:
        return self._call(_RELEASE_CLAIM, name.encode())

    def add_slots(self, lease: int, rows: Sequence[NewSlotsRow]) -> Awaitable[Applied]:
        return self._call(_ADD_SLOTS, b"%d" % lease, _encode(rows))

    # --- rebuild ---

    def enter_epoch(self, identity: str, fresh: str, worker: bytes) -> Awaitable[EpochEntered]:
        return self._call(_ENTER_EPOCH, identity.encode(), fresh.encode(), worker)

    def register_holds(
        self, spec: QuotaSpec, lease: int, holds: Sequence[OpenHoldRow]
    ) -> Awaitable[Applied | Stale]:
        return self._call(_REGISTER_HOLDS, spec.packed, b"%d" % lease, _encode(holds))

    def barrier(
        self, epoch: bytes, worker: bytes, lease: int, known_workers: int, ready: bool
    ) -> Awaitable[BarrierStatus | Forgotten]:
        numbers = (b"%d" % lease, b"%d" % known_workers, b"%d" % ready)
        return self._call(_BARRIER, epoch, worker, *numbers)

    def restore(
        self, epoch: bytes, spec: QuotaSpec, rows: Sequence[MissingRow], generation: int
    ) -> Awaitable[RestoreReply | Stale]:
        return self._call(_RESTORE, epoch, spec.packed, _encode(rows), b"%d" % generation)

    def add_missing(
        self, epoch: bytes, spec: QuotaSpec, rows: Sequence[MissingRow]
    ) -> Awaitable[Applied | Stale | Forgotten]:
        return self._call(_ADD_MISSING, epoch, spec.packed, _encode(rows))

    def deregister(self, worker: bytes) -> Awaitable[Applied]:
        return self._call(_DEREGISTER, worker)

    async def _call(self, decoder: ReplyDecoder[T], *arguments: bytes) -> T:
        try:
            reply = await self._client.send(decoder.function, *arguments)
        except (StoreUnavailable, ServerError) as exc:
            raise self._client.failed(exc) from exc
        self._client.succeeded()
        return decoder(reply)
