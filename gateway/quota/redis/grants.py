"""What this worker holds on the server: enough to settle it, keep its lease alive, register it again."""

from typing import Protocol

import msgspec

from gateway.quota.redis.replies import Admitted, shadowed_limits
from gateway.quota.redis.specs import QuotaSpec, windows_of


class Registered(Protocol):
    """Something that this worker holds on the server. `since` is monotonic seconds."""

    @property
    def id(self) -> str: ...

    @property
    def epoch(self) -> bytes: ...

    @property
    def since(self) -> float: ...

    @property
    def plan(self) -> QuotaSpec: ...

    def record(self) -> list[object]:
        """The packed hold of the Lua functions."""
        ...

    def windows(self) -> list[list[object]]:
        """Name, start and part of each budget that it is counted in."""
        ...


class RemoteGrant(msgspec.Struct, frozen=True, eq=False):
    """A hold on the server's side: its name there, and all that is needed to register it again."""

    id: str
    epoch: bytes
    plan: QuotaSpec
    reply: Admitted
    since: float  # monotonic seconds
    rate_tokens: int

    def record(self) -> list[object]:
        """The packed hold of the Lua functions: nano, admitted, budgets, slots, tokens."""
        taken = set(shadowed_limits(self.plan, self.reply.shadowed))
        slots, tokens = [], []
        for label, limits in self.plan.limits:
            if limits.concurrent and (label, "concurrent") not in taken:
                slots.append(label)
            if limits.tokens_per_minute and (label, "tokens_per_minute") not in taken:
                tokens.append([label, limits.tokens_per_minute, self.rate_tokens])
        return [self.reply.nano, self.reply.now, self.windows(), slots, tokens]

    def windows(self) -> list[list[object]]:
        return windows_of(self.plan, self.reply.counters)
