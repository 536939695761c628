"""What this worker holds on the server: enough to settle it, keep its lease alive, register it again."""

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from typing import Protocol

import msgspec

from gateway.quota.redis.layout import HoldRow, TakenRow, WindowRow
from gateway.quota.redis.refusals import shadowed_limits
from gateway.quota.redis.replies import Admitted
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.specs import QuotaSpec, windows_of


class OpenHold(Protocol):
    """Something that this worker holds on the server. `since` is monotonic seconds."""

    @property
    def id(self) -> str: ...

    @property
    def epoch(self) -> bytes: ...

    @property
    def since(self) -> float: ...

    @property
    def spec(self) -> QuotaSpec: ...

    def record(self) -> HoldRow:
        """As the server stores it."""
        ...

    def windows(self) -> list[WindowRow]:
        """Those of the budgets that it is counted in."""
        ...


class RemoteGrant(msgspec.Struct, frozen=True, eq=False):
    """A hold on the server's side: its name there, and all that is needed to register it again."""

    id: str
    epoch: bytes
    spec: QuotaSpec
    reply: Admitted
    since: float  # monotonic seconds
    rate_tokens: int
    typical_tokens: int

    def record(self) -> HoldRow:
        """As the server stores it."""
        shadowed = set(shadowed_limits(self.spec, self.reply.shadowed))
        slot_scopes, taken = [], []
        for label, limits in self.spec.limits:
            if limits.concurrent and (label, "concurrent") not in shadowed:
                slot_scopes.append(label)
            if limits.tokens_per_minute and (label, "tokens_per_minute") not in shadowed:
                units = self.typical_tokens if limits.typical else self.rate_tokens
                taken.append(TakenRow(label, limits.tokens_per_minute, units, int(limits.typical)))
        return HoldRow(self.reply.nano, self.reply.now, self.windows(), slot_scopes, taken)

    def windows(self) -> list[WindowRow]:
        return windows_of(self.spec, self.reply.counters)


class OpenHolds:
    """The registry of this worker's open holds, and the epoch of the counters that they are held in."""

    def __init__(self, lease_seconds: float) -> None:
        self.worker = secrets.token_hex(6)
        self.worker_id = self.worker.encode()
        self.lease_seconds = lease_seconds
        # How long the server keeps a hold without a heartbeat, in microseconds.
        self.lease = int(lease_seconds * MICROSECONDS)
        # The counters that the server has now; a hold of another epoch was lost with that epoch's.
        self.epoch = b""
        # Set while hard budgets are open in this epoch.
        self.opened = asyncio.Event()
        self._open: dict[str, OpenHold] = {}
        self._count = itertools.count(1)

    def __iter__(self) -> Iterator[OpenHold]:
        """Over a copy: holds come and go while a caller waits."""
        return iter(list(self._open.values()))

    def ids(self) -> frozenset[str]:
        return frozenset(self._open)

    def next_id(self) -> str:
        """A name that no hold of any worker has had."""
        return f"{self.worker}{next(self._count):x}"

    def add(self, hold: OpenHold) -> None:
        self._open[hold.id] = hold

    def remove(self, hold_id: str) -> None:
        self._open.pop(hold_id, None)
