"""What a reply of the Lua functions means to the client: limits by name, and the errors of core/errors.py."""

from collections.abc import Sequence

from gateway.core.admission import Ask, RateView
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.refusals import over_budget, too_fast, too_many_at_once
from gateway.core.tenancy import Principal
from gateway.quota.redis.replies import LimitKind, NoBudget, NoLimit, RateRow, ShadowedRow
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.specs import QuotaSpec

# What a server said is believed for so long at most: another worker may give back what it had leased.
KNOWN_SECONDS = 1.0

_LIMIT_NAMES = {
    LimitKind.CONCURRENT: "concurrent",
    LimitKind.REQUESTS: "requests_per_minute",
    LimitKind.TOKENS: "tokens_per_minute",
}


def rate_view(row: RateRow | bool) -> RateView | None:
    """None when no limit of the kind is there to be shown."""
    if isinstance(row, bool):
        return None
    return RateView(row.limit, row.remaining, row.reset / MICROSECONDS)


def shadowed_limits(spec: QuotaSpec, rows: Sequence[ShadowedRow]) -> list[tuple[str, str]]:
    """Scope and limit of each row."""
    return [(spec.limits[row.limit][0], _LIMIT_NAMES[row.kind]) for row in rows]


def no_limit(spec: QuotaSpec, reply: NoLimit) -> LimitExceeded:
    label, limits = spec.limits[reply.limit]
    if reply.kind is LimitKind.CONCURRENT:
        return too_many_at_once(label, limits.concurrent or 0)
    by_requests = reply.kind is LimitKind.REQUESTS
    per_minute = limits.requests_per_minute if by_requests else limits.tokens_per_minute
    seconds = float("inf") if reply.wait < 0 else reply.wait / MICROSECONDS
    return too_fast(label, _LIMIT_NAMES[reply.kind], per_minute or 0, seconds)


def no_budget(spec: QuotaSpec, ask: Ask, reply: NoBudget) -> BudgetExceeded:
    budget = spec.budgets[reply.budget]
    return over_budget(
        ask,
        scope=budget.scope.label,
        window=budget.budget.window,
        limit_nano=budget.limit,
        left_nano=budget.limit - reply.spent - reply.held - reply.unseen,
        held_nano=reply.held,
        ends_at=budget.ends_at(reply.start),
    )


class KnownRefusals:
    """Whose limit of requests was found to be used up, and until when: nobody need ask the server again.

    Only that limit: a slot may be free at any moment. Moments are monotonic seconds.
    """

    def __init__(self) -> None:
        self._until: dict[Principal, tuple[float, QuotaSpec, NoLimit]] = {}

    def learn(self, principal: Principal, spec: QuotaSpec, reply: NoLimit, now: float) -> None:
        """`reply` refused a request of `principal` at `now`."""
        if reply.kind is LimitKind.REQUESTS:
            wait = KNOWN_SECONDS if reply.wait < 0 else min(reply.wait / MICROSECONDS, KNOWN_SECONDS)
            self._until[principal] = (now + wait, spec, reply)

    def peek(self, principal: Principal, now: float) -> None:
        """Raise LimitExceeded while what was learned of `principal` holds."""
        known = self._until.get(principal)
        if known is None:
            return
        until, spec, reply = known
        if now < until:
            raise no_limit(spec, reply)
        del self._until[principal]

    def drop(self, principal: Principal) -> None:
        """Forget what was learned of `principal`."""
        self._until.pop(principal, None)

    def clear(self) -> None:
        """Forget all: limits may have changed."""
        self._until.clear()
