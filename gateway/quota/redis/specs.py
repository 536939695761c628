"""What a principal's requests count against, as the Lua functions read it, for as long as it stays the same.

Calendar windows are computed here, because the server knows no time zones; the server checks with its own
clock that a plan is for this moment, and refuses it otherwise.
"""

import math
from collections.abc import Iterable
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.admission import Ask
from gateway.core.tenancy import Budget, Limits, Scope
from gateway.core.windows import ROLLING_SECONDS, Per, Window, part_seconds, window_at
from gateway.ports import BudgetView

FIELDS_PER_BUDGET = 4

_encode = msgspec.msgpack.Encoder().encode


class PlannedBudget(msgspec.Struct, frozen=True, gc=False):
    """One budget of a plan: the limit in force and its window in UTC seconds."""

    scope: Scope
    budget: Budget
    limit: int
    window: Window
    zone: ZoneInfo

    @property
    def name(self) -> str:
        return f"{self.scope.label}|{self.budget.counted_as(self.zone)}"

    def row(self) -> list[object]:
        rolls, lasting = self.budget.rolling, math.isinf(self.window.end)
        return [
            self.name,
            0 if rolls else int(self.window.start),
            self.limit,
            int(self.budget.soft),
            part_seconds(self.budget.per) if rolls else 0,
            0 if lasting else int(self.window.end - self.window.start),
        ]

    def ends_at(self, w: int) -> float:
        """When there may be room again, given the stored start `w`."""
        if not self.budget.rolling:
            return self.window.end
        # `w` is the oldest part that still counts.
        return float((w + 1) * part_seconds(self.budget.per) + ROLLING_SECONDS[self.budget.per])

    def view(self, counters: tuple[int, int, int, int], now: float) -> BudgetView:
        window = self.window
        if self.budget.rolling:
            window = Window(now - ROLLING_SECONDS[self.budget.per], now)
        return BudgetView(
            kind=self.scope.kind,
            name=self.scope.name,
            per=self.budget.per,
            rolling=self.budget.rolling,
            window=window,
            limit_nano=self.limit,
            spent_nano=counters[1],
            held_nano=counters[2],
            unseen_nano=counters[3],
        )


class QuotaSpec(msgspec.Struct, frozen=True, gc=False):
    """`packed` holds from `start` until before `end`, UTC seconds of the server's clock.

    `tokens_per_minute` is the tightest such limit. `labels` are those of the principal, if it is for one.
    """

    packed: bytes
    tokens_per_minute: int | None
    limits: tuple[tuple[str, Limits], ...]
    budgets: tuple[PlannedBudget, ...]
    start: float
    end: float
    labels: tuple[str, ...] = ()


def make_plan(scopes: Iterable[Scope], zone: ZoneInfo, now: float, labels: tuple[str, ...] = ()) -> QuotaSpec:
    """The plan for `now` (UTC seconds)."""
    limits, budgets = [], []
    start, end = 0.0, math.inf
    for scope in scopes:
        if scope.limits.any:
            limits.append((scope.label, scope.limits))
        for budget in scope.budgets:
            window = window_at(Per.LIFETIME if budget.rolling else budget.per, now, zone)
            start, end = max(start, window.start), min(end, window.end, budget.limit_until(now))
            budgets.append(PlannedBudget(scope, budget, budget.limit_at(now), window, zone))
    rows = [_limit_row(label, item) for label, item in limits]
    until = 0 if math.isinf(end) else math.ceil(end)
    packed = _encode([int(start), until, rows, [budget.row() for budget in budgets]])
    tokens = [item.tokens_per_minute for _, item in limits if item.tokens_per_minute and not item.shadow]
    return QuotaSpec(packed, min(tokens, default=None), tuple(limits), tuple(budgets), start, end, labels)


def _limit_row(label: str, limits: Limits) -> list[object]:
    return [
        label,
        limits.requests_per_minute or 0,
        limits.tokens_per_minute or 0,
        limits.concurrent or 0,
        int(limits.shadow),
    ]


def packed_ask(ask: Ask, name: str, lease: int, most_output: int) -> bytes:
    """`ask` as the Lua functions read it, to be held as `name` for `lease` microseconds.

    `most_output` is a cap on its output cap.
    """
    return _encode(
        (
            name,
            ask.prompt_nano,
            ask.output_nano_per_million,
            ask.output_tokens,
            int(ask.output_is_explicit),
            ask.prompt_tokens,
            lease,
            ask.choices,
            most_output,
        )
    )


def counters_of(numbers: list[int], index: int) -> tuple[int, int, int, int]:
    """Start, spent, held and unseen of the budget at `index` of a plan, from a reply's flat list."""
    w, s, h, u = numbers[index * FIELDS_PER_BUDGET : (index + 1) * FIELDS_PER_BUDGET]
    return w, s, h, u


def windows_of(plan: QuotaSpec, counters: list[int]) -> list[list[object]]:
    """Name, start (-1: rolls) and seconds of a part of each budget that a hold was taken in."""
    rows: list[list[object]] = []
    for index, budget in enumerate(plan.budgets):
        name, _, _, _, part, _ = budget.row()
        rows.append([name, -1 if part else counters_of(counters, index)[0], part])
    return rows
