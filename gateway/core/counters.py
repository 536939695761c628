"""What one budget has used, in the window that is open: plain numbers and the rules by which they change.

Money in nano-USD, time in UTC seconds. A hold keeps the window that it was taken in, so the end of a window
never takes a counter below zero.
"""

from zoneinfo import ZoneInfo

from gateway.core.admission import Settlement
from gateway.core.tenancy import Budget, Scope
from gateway.core.windows import ROLLING_PARTS, ROLLING_SECONDS, Window, part_seconds, window_at


class BudgetCounter:
    """One budget's open window. `left` is the limit less what is spent, held and unseen, kept up to date."""

    __slots__ = (
        "_limit_until",
        "_parts",
        "budget",
        "held",
        "left",
        "limit",
        "scope",
        "spent",
        "unseen",
        "window",
        "zone",
    )

    def __init__(self, scope: Scope, budget: Budget, zone: ZoneInfo, now: float) -> None:
        self.scope = scope
        self.zone = zone
        self.spent = self.held = self.unseen = 0
        self._parts: dict[int, list[int]] = {}
        self.budget = budget
        self.window = self._window(now)
        self.set(budget, 0, 0, now)

    @property
    def counted_as(self) -> str:
        return self.budget.counted_as(self.zone)

    def set(self, budget: Budget, spent: int, unseen: int, now: float) -> None:
        """Take a changed limit, or what the ledger says was spent."""
        self.budget = budget
        self.limit = budget.limit_at(now)
        self._limit_until = budget.limit_until(now)
        if budget.rolling and (spent, unseen) != (self.spent, self.unseen):
            # The ledger gives one sum; counting it as spent just now keeps it long enough.
            self._parts = {self._part(now): [spent, unseen]}
        self.spent = spent
        self.unseen = unseen
        self.left = self.limit - spent - self.held - unseen

    def add(self, spent: int, unseen: int, now: float) -> None:
        """Count what was spent before this counter began."""
        self.set(self.budget, self.spent + spent, self.unseen + unseen, now)

    def roll(self, now: float) -> None:
        """Bring the window to `now`. Holds of a window that has ended settle into nothing.

        A clock that is set back does not bring an old window back: what was spent must not be forgotten.
        """
        if now >= self.window.end:
            self._next(now)
        if now >= self._limit_until:
            self.set(self.budget, self.spent, self.unseen, now)

    def hold(self, nano: int) -> None:
        self.held += nano
        self.left -= nano

    def settle(self, held: int, settlement: Settlement, now: float) -> None:
        spent, unseen = settlement.spent_nano, settlement.unseen_nano
        self.held -= held
        self.spent += spent
        self.unseen += unseen
        self.left += held - spent - unseen
        if self.budget.rolling and (spent or unseen):
            part = self._parts.setdefault(self._part(now), [0, 0])
            part[0] += spent
            part[1] += unseen

    def takes(self, window: Window) -> bool:
        """Whether what was held in `window` still belongs to the open one. A rolling window never closes."""
        return self.budget.rolling or self.window is window

    def _next(self, now: float) -> None:
        self.window = self._window(now)
        if self.budget.rolling:
            self._drop(now)
            return
        self.spent = self.held = self.unseen = 0
        self.left = self.limit

    def _window(self, now: float) -> Window:
        if not self.budget.rolling:
            return window_at(self.budget.per, now, self.zone)
        length = part_seconds(self.budget.per)
        end = (now // length + 1) * length
        return Window(end - length, end)

    def _part(self, now: float) -> int:
        return int(now // part_seconds(self.budget.per))

    def _drop(self, now: float) -> None:
        first = self._part(now) - ROLLING_PARTS
        for part in [part for part in self._parts if part < first]:
            spent, unseen = self._parts.pop(part)
            self.spent -= spent
            self.unseen -= unseen
            self.left += spent + unseen

    def shown_window(self, now: float) -> Window:
        """The window for people and for the ledger: a rolling one reaches back from `now`."""
        if not self.budget.rolling:
            return self.window
        return Window(now - ROLLING_SECONDS[self.budget.per], now)

    def resets_at(self, now: float) -> float:
        """When there may be room again: the window's end, or when the oldest part of a rolling one leaves."""
        if not self.budget.rolling:
            return self.window.end
        oldest = min(self._parts, default=self._part(now))
        return float((oldest + ROLLING_PARTS + 1) * part_seconds(self.budget.per))
