"""What one principal's requests count against in memory, what a hold took of it, and how it is taken.

Money in nano-USD, moments of rates in monotonic seconds. Nothing here awaits, so each step is atomic.
"""

import math
from collections.abc import Iterable

import msgspec

from gateway.core.admission import (
    SECONDS_PER_MINUTE,
    Ask,
    BudgetCounter,
    GcraLimit,
    Hold,
    RateView,
    Settlement,
    fit_output,
    fit_rate,
    hold_nano,
)
from gateway.core.refusals import over_budget
from gateway.core.windows import Window
from gateway.ports import BudgetView
from gateway.quota.scope_state import RateBucket, ScopeState

# Buckets with the limits that they had when an account was opened.
Rates = tuple[tuple[RateBucket, GcraLimit], ...]
# Counters with the windows that were open.
Windows = tuple[tuple[BudgetCounter, Window], ...]


class Grant(msgspec.Struct, frozen=True, eq=False):
    """What a hold took, and where: the store's side of a Hold. `scopes` are those in which it has a slot.

    `tokens` are the limits that it took tokens from, as they were then; `typical` those that took what is
    typical.
    """

    scopes: tuple[ScopeState, ...]
    tokens: Rates
    windows: Windows
    typical: Rates = ()


class Account:
    """All that one principal's requests count against, found by one look-up.

    Its tuples hold for one configuration, `due` and `grant` until a window ends. Scopes and budgets belong to
    other accounts too, so what was counted stays with them.
    """

    __slots__ = (
        "budgets",
        "due",
        "grant",
        "hard",
        "limited",
        "requests",
        "shadows",
        "slots",
        "tokens",
        "typical",
    )

    def __init__(self, scopes: tuple[ScopeState, ...], coming: tuple[BudgetCounter, ...]) -> None:
        limited = [scope for scope in scopes if scope.limits.any]
        self.limited = tuple(scope for scope in limited if not scope.limits.shadow)
        self.shadows = tuple(scope for scope in limited if scope.limits.shadow)
        slots = [(scope, scope.limits.concurrent) for scope in self.limited]
        self.slots = tuple((scope, most) for scope, most in slots if most is not None)
        self.requests = _rates(scope.requests for scope in self.limited)
        self.tokens, self.typical = _token_rates(self.limited)
        budgets = tuple(budget for scope in scopes for budget in scope.budgets)
        self.hard = tuple(budget for budget in budgets if not budget.budget.soft)
        self.budgets = budgets + coming
        self.note_windows()

    def roll(self, now: float) -> None:
        """Bring every budget to `now` (UTC seconds)."""
        for counter in self.budgets:
            counter.roll(now)
        self.note_windows()

    def note_windows(self) -> None:
        """Note which windows are open, and for how long."""
        # One moment for all budgets: before it no window ends and no limit changes, so none needs to roll.
        # It is never too late: a counter's own moment only moves forward, whichever account rolls it.
        self.due = min((counter.due for counter in self.budgets), default=math.inf)
        # All holds take from the same scopes, limits and windows until then, so they share one grant.
        windows = tuple((counter, counter.window) for counter in self.budgets)
        self.grant = Grant(self.limited, self.tokens, windows, self.typical)


def _rates(buckets: Iterable[RateBucket]) -> Rates:
    return tuple((bucket, bucket.limit) for bucket in buckets if bucket.limit is not None)


def _token_rates(scopes: Iterable[ScopeState]) -> tuple[Rates, Rates]:
    """The limits of tokens that hold an answer's cap, and those that hold a typical answer."""
    found: tuple[list[RateBucket], list[RateBucket]] = ([], [])
    for scope in scopes:
        found[scope.limits.typical].append(scope.tokens)
    return _rates(found[False]), _rates(found[True])


def has_room(account: Account, units: int, now: float) -> bool:
    """Whether a request of `units` tokens surely fits into every limit; if not, `ScopeState.refusal` decides.

    One walk over numbers, without the slack and the lower caps of the rules: True is never a refusal there.
    """
    for state, most in account.slots:
        if state.in_flight >= most:
            return False
    latest = now + SECONDS_PER_MINUTE
    for bucket, limit in account.requests:
        if bucket.drained_at + limit.seconds_per_unit > latest:
            return False
    if account.tokens:
        for bucket, limit in account.tokens:
            seconds = units * limit.seconds_per_unit
            if seconds > SECONDS_PER_MINUTE or bucket.drained_at + seconds > latest:
                return False
    return not account.typical


def fit_rates(account: Account, ask: Ask, now: float) -> int:
    """The output cap that fits into what is left of every limit of tokens that holds it."""
    rates = account.tokens
    if account.typical and ask.typical_output is None:
        rates += account.typical
    if ask.output_is_explicit or not rates:
        return ask.output_tokens
    # The more is free, the higher the cap: only the limit with the least free tokens counts.
    return fit_rate(ask, min([limit.remaining(bucket.drained_at, now) for bucket, limit in rates]))


def fit(account: Account, ask: Ask, output_tokens: int, now: float) -> int:
    """The output cap, at most `output_tokens`, that fits into the tightest budget. Raises BudgetExceeded."""
    if now >= account.due:
        account.roll(now)
    tightest = None
    for counter in account.hard:
        if tightest is None or counter.left < tightest.left:
            tightest = counter
    if tightest is None:
        return output_tokens
    affordable = fit_output(ask, tightest.left)
    if affordable is None:
        raise over_budget(
            ask,
            scope=tightest.scope.label,
            window=tightest.budget.window,
            limit_nano=tightest.limit,
            left_nano=tightest.left,
            held_nano=tightest.held,
            ends_at=tightest.resets_at(now),
        )
    return min(affordable, output_tokens)


def take(account: Account, shadows: tuple[ScopeState, ...], ask: Ask, output_tokens: int, now: float) -> Hold:
    """Take from all of `account`, and from the limits of `shadows`, which no view shows."""
    nano = hold_nano(ask, output_tokens)
    units = ask.prompt_tokens + output_tokens * ask.choices  # as `rate_tokens`
    for state in account.limited:
        state.in_flight += 1
    grant = hold_money(account, nano)
    hold = Hold(
        # By position: by name it costs four times as much, and this is made for every request.
        ask,
        output_tokens,
        units,
        nano,
        now,
        take_units(account.requests, 1, now) if account.requests else None,
        take_units(account.tokens, units, now) if account.tokens else None,
        grant,
    )
    if account.typical or shadows:
        _take_more(hold, account.typical, shadows, now)
    return hold


def _take_more(hold: Hold, typical: Rates, shadows: tuple[ScopeState, ...], now: float) -> None:
    """Take what is typical from the limits that hold it, and from those of `shadows`, which no view shows."""
    hold.typical_tokens = units = hold.ask.typical_tokens(hold.output_tokens)
    view = take_units(typical, units, now)
    if hold.tokens is None or (view is not None and view.remaining < hold.tokens.remaining):
        hold.tokens = view
    if not shadows:
        return
    for state in shadows:
        state.in_flight += 1
    take_units(_rates(state.requests for state in shadows), 1, now)
    tokens, shadows_typical = _token_rates(shadows)
    take_units(tokens, hold.rate_tokens, now)
    take_units(shadows_typical, units, now)
    grant = grant_of(hold)
    hold.token = Grant(
        grant.scopes + shadows, grant.tokens + tokens, grant.windows, grant.typical + shadows_typical
    )


def take_units(rates: Rates, units: int, now: float) -> RateView | None:
    """Take `units` from each limit. Returns the state of the tightest, the first of equals."""
    tightest, least, drained_at = None, 0.0, now
    for bucket, limit in rates:
        # `GcraLimit.take` and `remaining` written out: a call for each costs more than the sums.
        each, at = limit.seconds_per_unit, bucket.drained_at
        if at < now:
            at = now
        bucket.drained_at = at = at + units * each
        left = limit.per_minute - (at - now) / each + 0.001
        if tightest is None or (left < least and int(left) < int(least)):
            tightest, least, drained_at = limit, left, at
    if tightest is None:
        return None
    return RateView(tightest.per_minute, int(least) if least > 0 else 0, drained_at - now)


def hold_money(account: Account, nano: int) -> Grant:
    """Hold `nano` in every budget. Returns the account's grant, with the windows that are open."""
    are_open = True
    for counter, window in account.grant.windows:
        counter.left -= nano
        if counter.window is not window:
            are_open = False
    if not are_open:
        # Rolled by another account, and then the clock was set back to before this one was due.
        account.note_windows()
    return account.grant


def settle_money(grant: Grant, held: int, settlement: Settlement, now: float) -> None:
    """Replace `held` by what was used, in every window of `grant` that is still open."""
    spent, unseen = settlement.spent_nano, settlement.unseen_nano
    freed = held - spent - unseen
    for counter, window in grant.windows:
        # A window that has ended took its counters with it; the spending belonged to that window.
        if counter.window is window:
            counter.spent += spent
            counter.left += freed
            if not unseen and not counter.rolling:
                continue
        elif counter.rolling:  # one that never ends
            counter.spent += spent
            counter.left += freed
        else:
            continue
        counter.unseen += unseen
        if counter.rolling and (spent or unseen):
            counter.keep_part(spent, unseen, now)


def settle_tokens(
    rates: Rates, reserved: int, settlement: Settlement, admitted_at: float, now: float
) -> None:
    """Replace the `reserved` tokens by what was used, in each limit of `rates`."""
    used = settlement.used_of(reserved)
    for bucket, limit in rates:
        bucket.drained_at = limit.correct(bucket.drained_at, reserved, used, admitted_at, now)


def join(hold: Hold, states: Iterable[ScopeState], counters: Iterable[BudgetCounter]) -> None:
    """Count an open hold in slots and budgets that did not count it when it was taken."""
    grant = grant_of(hold)
    slots = [state for state in states if state.limits.concurrent is not None and state not in grant.scopes]
    for state in slots:
        state.in_flight += 1
    counted = {id(counter) for counter, _ in grant.windows}
    new = [counter for counter in counters if id(counter) not in counted]
    for counter in new:
        counter.left -= hold.nano
    windows = tuple((counter, counter.window) for counter in new)
    hold.token = Grant(grant.scopes + tuple(slots), grant.tokens, grant.windows + windows, grant.typical)


def view_of(counter: BudgetCounter, now: float) -> BudgetView:
    return BudgetView(
        kind=counter.scope.kind,
        name=counter.scope.name,
        per=counter.budget.per,
        rolling=counter.budget.rolling,
        window=counter.shown_window(now),
        limit_nano=counter.limit,
        spent_nano=counter.spent,
        held_nano=counter.held,
        unseen_nano=counter.unseen,
    )


def grant_of(hold: Hold) -> Grant:
    if not isinstance(hold.token, Grant):
        raise TypeError("this hold was taken in another store")
    return hold.token
