"""What a principal's requests count against, as the Lua functions read it, for as long as it stays the same.

Calendar windows are computed here, because the server knows no time zones; the server checks with its own
clock that a spec is for this moment, and refuses it otherwise.
"""

import math
from collections.abc import Iterable, Sequence
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.admission import Ask
from gateway.core.tenancy import Budget, Limits, Scope
from gateway.core.windows import ROLLING_SECONDS, Per, Window, part_seconds, window_at
from gateway.ports import BudgetView
from gateway.quota.redis.layout import AskRow, BudgetRow, LimitRow, SpecRow, WindowRow
from gateway.quota.redis.replies import CountersRow

_encode = msgspec.msgpack.Encoder().encode


class BudgetSpec(msgspec.Struct, frozen=True, gc=False):
    """One budget of a spec: the limit in force and its window in UTC seconds."""

    scope: Scope
    budget: Budget
    limit: int
    window: Window
    zone: ZoneInfo

    @property
    def name(self) -> str:
        return f"{self.scope.label}|{self.budget.counted_as(self.zone)}"

    @property
    def part(self) -> int:
        """The length of one part when it rolls, else 0."""
        return part_seconds(self.budget.per) if self.budget.rolling else 0

    def row(self) -> BudgetRow:
        rolls, lasting = self.budget.rolling, math.isinf(self.window.end)
        return BudgetRow(
            name=self.name,
            start=0 if rolls else int(self.window.start),
            limit=self.limit,
            soft=int(self.budget.soft),
            part=self.part,
            duration=0 if lasting else int(self.window.end - self.window.start),
        )

    def window_row(self, start: int) -> WindowRow:
        """Its window that begins at `start`, as a hold counts in it."""
        part = self.part
        return WindowRow(self.name, -1 if part else start, part)

    def ends_at(self, start: int) -> float:
        """When there may be room again, given the stored start."""
        if not self.budget.rolling:
            return self.window.end
        # It is the oldest part that still counts.
        return float((start + 1) * part_seconds(self.budget.per) + ROLLING_SECONDS[self.budget.per])

    def view(self, counters: CountersRow, now: float) -> BudgetView:
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
            spent_nano=counters.spent,
            held_nano=counters.held,
            unseen_nano=counters.unseen,
        )


class QuotaSpec(msgspec.Struct, frozen=True, gc=False):
    """`packed` holds from `start` until before `end`, UTC seconds of the server's clock.

    `tokens_per_minute` is the tightest such limit that holds an answer's cap, `typical_per_minute` the
    tightest that holds a typical answer. `labels` are those of the principal, if it is for one.
    """

    packed: bytes
    tokens_per_minute: int | None
    limits: tuple[tuple[str, Limits], ...]
    budgets: tuple[BudgetSpec, ...]
    start: float
    end: float
    labels: tuple[str, ...] = ()
    typical_per_minute: int | None = None

    @property
    def limits_tokens(self) -> bool:
        return not (self.tokens_per_minute is self.typical_per_minute is None)


def make_spec(scopes: Iterable[Scope], zone: ZoneInfo, now: float, labels: tuple[str, ...] = ()) -> QuotaSpec:
    """The spec for `now` (UTC seconds)."""
    limits, budgets = [], []
    start, end = 0.0, math.inf
    for scope in scopes:
        if scope.limits.any:
            limits.append((scope.label, scope.limits))
        for budget in scope.budgets:
            window = window_at(Per.LIFETIME if budget.rolling else budget.per, now, zone)
            start, end = max(start, window.start), min(end, window.end, budget.limit_until(now))
            budgets.append(BudgetSpec(scope, budget, budget.limit_at(now), window, zone))
    packed = _encode(
        SpecRow(
            start=int(start),
            ends=0 if math.isinf(end) else math.ceil(end),
            limits=[_limit_row(label, item) for label, item in limits],
            budgets=[budget.row() for budget in budgets],
        )
    )
    return QuotaSpec(
        packed,
        _tightest(limits, typical=False),
        tuple(limits),
        tuple(budgets),
        start,
        end,
        labels,
        _tightest(limits, typical=True),
    )


def _tightest(limits: Iterable[tuple[str, Limits]], *, typical: bool) -> int | None:
    """The least of those limits of tokens that hold `typical` answers, or caps; None: there are none."""
    found = [item for _, item in limits if item.typical is typical and not item.shadow]
    return min((item.tokens_per_minute for item in found if item.tokens_per_minute), default=None)


def _limit_row(label: str, limits: Limits) -> LimitRow:
    return LimitRow(
        scope=label,
        requests=limits.requests_per_minute or 0,
        tokens=limits.tokens_per_minute or 0,
        concurrent=limits.concurrent or 0,
        shadow=int(limits.shadow),
        typical=int(limits.typical),
    )


def packed_ask(ask: Ask, hold_id: str, lease: int, output_cap: int) -> bytes:
    """`ask` as the Lua functions read it, to be held as `hold_id` for `lease` microseconds.

    `output_cap` bounds its output cap.
    """
    return _encode(
        AskRow(
            hold_id,
            ask.prompt_nano,
            ask.output_nano_per_million,
            ask.output_tokens,
            int(ask.output_is_explicit),
            ask.prompt_tokens,
            lease,
            ask.choices,
            output_cap,
            ask.typical_output or 0,
        )
    )


def windows_of(spec: QuotaSpec, counters: Sequence[CountersRow]) -> list[WindowRow]:
    """The windows that a hold was taken in, by the counters of the reply that granted it."""
    return [budget.window_row(row.start) for budget, row in zip(spec.budgets, counters, strict=True)]


def views_of(spec: QuotaSpec, counters: Sequence[CountersRow], now: float) -> list[BudgetView]:
    """Every budget of `spec` with its counters."""
    return [budget.view(row, now) for budget, row in zip(spec.budgets, counters, strict=True)]
