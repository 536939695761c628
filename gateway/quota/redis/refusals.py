"""What a reply of the Lua functions means to the client: limits by name, and the errors of core/errors.py."""

from collections.abc import Sequence

from gateway.core.admission import Ask, RateView
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.refusals import over_budget, too_fast, too_many_at_once
from gateway.quota.redis.replies import LimitKind, NoBudget, NoLimit, RateRow, ShadowedRow
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.specs import QuotaSpec

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
