"""Rules of admission as pure arithmetic. The stores (memory, Redis) keep the numbers and apply these rules.

Units: money in nano-USD, tokens in tokens, time in seconds.
Invariant of every budget window: spent + held + unseen >= true liability, and their sum never passes the
limit at admission; so spending never passes the limit as long as a hold bounds what its attempt can cost.
A hold keeps the window that it was taken in, so the end of a window never takes a counter below zero.
"""

import math
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.tenancy import Budget, Principal, Scope
from gateway.core.windows import ROLLING_PARTS, ROLLING_SECONDS, Window, part_seconds, window_at

SECONDS_PER_MINUTE = 60.0

# A request that used more tokens than it reserved leaves a debt; one of more than an hour is clock damage.
LONGEST_DEBT_SECONDS = 3600.0

# A default cap may be lowered to a share of what is left, so that one request without `max_tokens` does not
# hold the whole remainder of a budget while others wait. A cap that the client asked for is kept if it fits.
DEFAULT_CAP_SHARE = 4
DEFAULT_CAP_FLOOR_TOKENS = 1024
CAP_FLOOR_TOKENS = 16
# Of a limit of few tokens per minute a default cap may be lowered to this part before a request has to wait.
SMALL_LIMIT_SHARE = 8


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one request wants to reserve.

    `prompt_nano` is the most that its prompt can cost. `output_nano_per_million` is the dearest candidate's
    rate times `choices`. `output_tokens` is the cap wanted for each of the `choices`, explicit when the
    client named it. `prompt_tokens` are as likely, not as the most that they can be. `typical_output` is what
    limits with `estimate: typical` hold for each choice; None: not known, and they hold the cap.
    """

    principal: Principal
    prompt_nano: int
    output_nano_per_million: int
    output_tokens: int
    output_is_explicit: bool
    choices: int
    prompt_tokens: int
    typical_output: int | None = None

    def rate_tokens(self, output_tokens: int) -> int:
        """What counts against tokens per minute with this output cap: prompt and bound of the output."""
        return self.prompt_tokens + output_tokens * self.choices

    def typical_tokens(self, output_tokens: int) -> int:
        """The same against a limit that holds a typical answer. What is used beyond will be a debt."""
        typical = self.typical_output
        return self.rate_tokens(output_tokens if typical is None else min(output_tokens, typical))


class RateView(msgspec.Struct, frozen=True, gc=False):
    """State of the tightest limit of a kind, for the `x-ratelimit-*` headers."""

    limit: int
    remaining: int
    reset_seconds: float


class Hold(msgspec.Struct, eq=False):
    """A reservation that was granted. `output_tokens` is the cap that fits; `nano` is what is held.

    `rate_tokens` is what was taken of tokens per minute, whose caps every further attempt keeps;
    `typical_tokens` what was taken of limits that hold a typical answer, where there are any.
    `admitted_at` is by the store's clock of rates; `token` belongs to the store. `open` turns False when it
    is settled: settling twice does nothing.
    """

    ask: Ask
    output_tokens: int
    rate_tokens: int
    nano: int
    admitted_at: float
    requests: RateView | None
    tokens: RateView | None
    token: object
    open: bool = True
    typical_tokens: int = 0

    @property
    def is_capped(self) -> bool:
        """True when the cap was lowered to what the budgets have left."""
        return self.output_tokens < self.ask.output_tokens


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an attempt used. `unseen_nano` is what it may have cost beyond what was seen; it is never refunded
    within its window, but it is not spending either. `rate_tokens` None: not known, so nothing is credited,
    but at least `least_rate_tokens` were used.
    """

    spent_nano: int
    unseen_nano: int = 0
    rate_tokens: int | None = None
    least_rate_tokens: int = 0

    def used_of(self, reserved: int) -> int:
        """The tokens to settle where `reserved` were taken."""
        used = self.rate_tokens
        return max(reserved, self.least_rate_tokens) if used is None else used


class GcraLimit(msgspec.Struct, frozen=True, gc=False):
    """A limit of `per_minute` units that drain evenly, with a burst of the same number."""

    per_minute: int
    # Follows from `per_minute`. Stored, since every step of a rate needs it.
    seconds_per_unit: float = 0.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "seconds_per_unit", SECONDS_PER_MINUTE / self.per_minute)

    def wait_seconds(self, drained_at: float, units: int, now: float) -> float:
        """How long until `units` fit; 0 when they fit now, infinity when they never will."""
        if units > self.per_minute:
            return math.inf
        new = max(drained_at, now) + units * self.seconds_per_unit
        wait = new - now - SECONDS_PER_MINUTE
        # A thousandth of a unit of slack: sums of fractions are not exact, and the last one must fit.
        return wait if wait > self.seconds_per_unit / 1000 else 0.0

    def take(self, drained_at: float, units: int, now: float) -> float:
        """The new moment at which all taken units will have drained."""
        return max(drained_at, now) + units * self.seconds_per_unit

    def correct(self, drained_at: float, reserved: int, used: int, admitted_at: float, now: float) -> float:
        """Settle a reservation: more used is a debt; of less used only the undrained part is credited.

        A late refund of a long request would otherwise admit almost twice the limit at one instant. Limits
        that hold a typical answer bound no instant, so there it is refunded whole: `admitted_at` is now.
        """
        if used >= reserved:
            return max(drained_at, now) + (used - reserved) * self.seconds_per_unit
        credit = (reserved - used) * self.seconds_per_unit - (now - admitted_at)
        return drained_at - credit if credit > 0 else drained_at

    def remaining(self, drained_at: float, now: float) -> int:
        backlog = max(drained_at - now, 0.0) / self.seconds_per_unit
        return max(int(self.per_minute - backlog + 0.001), 0)


def clamp_clock(drained_at: float, now: float, most_seconds: float = SECONDS_PER_MINUTE) -> float:
    """A stored moment further ahead than `most_seconds` is clock damage; treat it as that far ahead."""
    return min(drained_at, now + most_seconds)


def least_output(ask: Ask, per_minute: int, *, typical: bool = False) -> int:
    """The least output with which `ask` is let through a limit of tokens per minute rather than wait.

    The part that nobody asked for, the default output cap, must not refuse a first request of a small limit
    by itself. The prompt may, and so may the least output that is of use. A `typical` limit wants room for a
    typical answer, and leaves the cap as it is.
    """
    if typical and ask.typical_output is not None:
        return ask.typical_output
    if ask.output_is_explicit:
        return ask.output_tokens
    useful = min(DEFAULT_CAP_FLOOR_TOKENS, per_minute // (SMALL_LIMIT_SHARE * ask.choices))
    fitting = (per_minute - ask.prompt_tokens) // ask.choices
    return min(ask.output_tokens, max(CAP_FLOOR_TOKENS, min(useful, fitting)))


def fit_rate(ask: Ask, free_tokens: int) -> int:
    """The output cap with which `ask`, which has its least, takes no more than `free_tokens`.

    An explicit cap is kept; a default cap takes at most a share, so that others need not wait for it.
    """
    if ask.output_is_explicit:
        return ask.output_tokens
    return max(min(ask.output_tokens, _share((free_tokens - ask.prompt_tokens) // ask.choices)), 0)


def _share(room_tokens: int) -> int:
    return min(max(room_tokens // DEFAULT_CAP_SHARE, DEFAULT_CAP_FLOOR_TOKENS), room_tokens)


def fit_output(ask: Ask, room_nano: int) -> int | None:
    """The output cap, in tokens, that fits into `room_nano`; None when not even the least useful one does.

    An explicit cap is lowered only when it does not fit. A default cap takes at most a share of the room.
    """
    if ask.output_nano_per_million == 0 or ask.output_tokens == 0:
        return ask.output_tokens if ask.prompt_nano <= room_nano else None
    affordable = (room_nano - ask.prompt_nano) * 1_000_000 // ask.output_nano_per_million
    room_tokens = affordable if ask.output_is_explicit else _share(affordable)
    if ask.output_tokens <= room_tokens:
        return ask.output_tokens
    return room_tokens if room_tokens >= min(ask.output_tokens, CAP_FLOOR_TOKENS) else None


def hold_nano(ask: Ask, output_tokens: int) -> int:
    """Nano-USD to hold for `ask` with this output cap, rounded up."""
    return ask.prompt_nano - (-output_tokens * ask.output_nano_per_million // 1_000_000)


class BudgetCounter:
    """One budget's open window. `left` is the limit less what is spent, held and unseen.

    Holds and settlements change these numbers from outside, in one walk over all budgets of a request: a
    hold takes from `left`, a settlement gives it back and counts what was spent. What is missing is held.
    """

    __slots__ = (
        "_limit_until",
        "_parts",
        "budget",
        "left",
        "limit",
        "rolling",
        "scope",
        "spent",
        "unseen",
        "window",
        "zone",
    )

    def __init__(self, scope: Scope, budget: Budget, zone: ZoneInfo, now: float) -> None:
        self.scope = scope
        self.zone = zone
        self.spent = self.unseen = 0
        self.limit = self.left = budget.limit_at(now)
        self._parts: dict[int, list[int]] = {}
        self.budget = budget
        self.rolling = budget.rolling
        self.window = self._window(now)
        self.set(budget, 0, 0, now)

    @property
    def counted_as(self) -> str:
        return self.budget.counted_as(self.zone)

    @property
    def held(self) -> int:
        """What open holds have taken."""
        return self.limit - self.spent - self.unseen - self.left

    def set(self, budget: Budget, spent: int, unseen: int, now: float) -> None:
        """Take a changed limit, or what the ledger says was spent."""
        held = self.held
        self.budget = budget
        self.limit = budget.limit_at(now)
        self._limit_until = budget.limit_until(now)
        if budget.rolling and (spent, unseen) != (self.spent, self.unseen):
            # The ledger gives one sum; counting it as spent just now keeps it long enough.
            self._parts = {self._part(now): [spent, unseen]}
        self.spent = spent
        self.unseen = unseen
        self.left = self.limit - spent - held - unseen

    def add(self, spent: int, unseen: int, now: float) -> None:
        """Count what was spent before this counter began."""
        self.set(self.budget, self.spent + spent, self.unseen + unseen, now)

    @property
    def due(self) -> float:
        """Before this moment (UTC seconds) `roll` has nothing to do."""
        return min(self.window.end, self._limit_until)

    def roll(self, now: float) -> None:
        """Bring the window to `now`. Holds of a window that has ended settle into nothing.

        A clock that is set back does not bring an old window back: what was spent must not be forgotten.
        """
        if now >= self.window.end:
            self._next(now)
        if now >= self._limit_until:
            self.set(self.budget, self.spent, self.unseen, now)

    def keep_part(self, spent: int, unseen: int, now: float) -> None:
        """Remember when a rolling window was charged, since that leaves it again."""
        part = self._parts.setdefault(self._part(now), [0, 0])
        part[0] += spent
        part[1] += unseen

    def _next(self, now: float) -> None:
        self.window = self._window(now)
        if self.budget.rolling:
            self._drop(now)
            return
        self.spent = self.unseen = 0
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
