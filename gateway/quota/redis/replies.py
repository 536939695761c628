"""What the Lua functions answer, as typed values and as the errors that clients see."""

from typing import cast

import msgspec

from gateway.core.admission import Ask, RateView
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.refusals import over_budget, too_fast, too_many_at_once
from gateway.quota.redis.specs import QuotaSpec

ADMITTED, NO_BUDGET, NO_LIMIT, STALE, FORGOTTEN, GAP, CLOSED = range(1, 8)

MICROSECONDS = 1_000_000

_LIMIT_NAMES = {"c": "concurrent", "q": "requests_per_minute", "t": "tokens_per_minute"}


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A granted hold. `counters` are start, spent, held, unseen of each budget of the plan in turn."""

    output_tokens: int
    nano: int
    now: int
    requests: RateView | None
    tokens: RateView | None
    shadowed: list[list[object]]
    counters: list[int]


def admitted(reply: list[object]) -> Admitted:
    """From `{1, cap, nano, now, requests, tokens, shadowed, counters}`."""
    _, cap, nano, now, requests, tokens, shadowed, counters = cast(
        "tuple[int, int, int, int, list[int] | bool, list[int] | bool, list[list[object]], list[int]]", reply
    )
    return Admitted(int(cap), int(nano), int(now), _rate(requests), _rate(tokens), shadowed, counters)


class Leased(msgspec.Struct, frozen=True, gc=False):
    """What a worker got of what it wanted; `nano` -1: nothing. `room` -1: no hard budget."""

    now: int
    nano: int
    requests: int
    tokens: int
    places: int
    room: int
    counters: list[int]
    requests_view: RateView | None
    tokens_view: RateView | None


def leased(reply: list[object]) -> Leased:
    """From `{1, now, nano, requests, tokens, places, room, counters, requests view, tokens view}`."""
    _, now, nano, requests, tokens, places, room, counters, by_requests, by_tokens = cast(
        "tuple[int, int, int, int, int, int, int, list[int], list[int] | bool, list[int] | bool]", reply
    )
    return Leased(now, nano, requests, tokens, places, room, counters, _rate(by_requests), _rate(by_tokens))


def _rate(row: list[int] | bool) -> RateView | None:
    if isinstance(row, bool):
        return None
    return RateView(row[0], row[1], row[2] / MICROSECONDS)


def shadowed_limits(plan: QuotaSpec, rows: list[list[object]]) -> list[tuple[str, str]]:
    """Scope and limit of each row `{limit, kind}`."""
    return [(plan.limits[cast("int", index)][0], _LIMIT_NAMES[cast("str", kind)]) for index, kind in rows]


def no_limit(plan: QuotaSpec, reply: list[object]) -> LimitExceeded:
    """From `{3, limit, kind, wait, now}`."""
    _, index, kind, wait, _ = cast("tuple[int, int, str, int, int]", reply)
    label, limits = plan.limits[index]
    if kind == "c":
        return too_many_at_once(label, limits.concurrent or 0)
    per_minute = limits.requests_per_minute if kind == "q" else limits.tokens_per_minute
    seconds = float("inf") if wait < 0 else wait / MICROSECONDS
    return too_fast(label, _LIMIT_NAMES[kind], per_minute or 0, seconds)


def no_budget(plan: QuotaSpec, ask: Ask, reply: list[object]) -> BudgetExceeded:
    """From `{2, budget, w, s, h, u, now}`."""
    _, index, w, spent, held, unseen, _ = cast("tuple[int, int, int, int, int, int, int]", reply)
    budget = plan.budgets[index]
    return over_budget(
        ask,
        scope=budget.scope.label,
        window=budget.budget.window,
        limit_nano=budget.limit,
        left_nano=budget.limit - spent - held - unseen,
        held_nano=held,
        ends_at=budget.ends_at(w),
    )
