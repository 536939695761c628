"""What requests count against in memory: states of scopes, what a hold took of them, and how it is taken.

Money in nano-USD, moments of rates in monotonic seconds. Nothing here awaits, so each step is atomic.
"""

import operator
from collections.abc import Iterable
from zoneinfo import ZoneInfo

from gateway.core.admission import (
    Ask,
    BudgetCounter,
    GcraLimit,
    Hold,
    RateView,
    Settlement,
    clamp_clock,
    fit_output,
    fit_rate,
    hold_nano,
    least_output,
)
from gateway.core.errors import LimitExceeded
from gateway.core.refusals import over_budget, too_fast, too_many_at_once
from gateway.core.tenancy import Budget, Limits, Scope
from gateway.core.windows import Window
from gateway.ports import BudgetView


class ScopeState:
    """The rate limits of one scope. `*_at` is the moment at which all that was taken will have drained.

    Moments of rates are monotonic: setting the clock neither locks a scope out nor lets it through.
    """

    __slots__ = ("budgets", "in_flight", "label", "limits", "requests", "requests_at", "tokens", "tokens_at")

    def __init__(
        self, scope: Scope, zone: ZoneInfo, now: float, coming: Iterable[BudgetCounter] = ()
    ) -> None:
        self.label = scope.label
        self.in_flight = 0
        self.requests_at = self.tokens_at = 0.0
        self.budgets: list[BudgetCounter] = []
        self.adopt(scope, zone, now, coming)

    def adopt(self, scope: Scope, zone: ZoneInfo, now: float, coming: Iterable[BudgetCounter] = ()) -> None:
        """Take over limits and budgets of a changed configuration and keep what was counted."""
        limits = scope.limits
        self.limits: Limits = limits
        self.requests = GcraLimit(limits.requests_per_minute) if limits.requests_per_minute else None
        self.tokens = GcraLimit(limits.tokens_per_minute) if limits.tokens_per_minute else None
        kept = {item.counted_as: item for item in (*coming, *self.budgets)}
        self.budgets = []
        for budget in scope.budgets:
            state = kept.get(budget.counted_as(zone)) or BudgetCounter(scope, budget, zone, now)
            state.set(budget, state.spent, state.unseen, now)
            self.budgets.append(state)

    def lacks(self, budget: Budget, zone: ZoneInfo) -> bool:
        """Whether nothing has been counted for `budget` so far."""
        return all(item.counted_as != budget.counted_as(zone) for item in self.budgets)

    def refusal(self, ask: Ask, now: float) -> LimitExceeded | None:
        """Why one of the limits has no room for `ask`; None when all have."""
        limits = self.limits
        self.requests_at = clamp_clock(self.requests_at, now)
        if limits.concurrent is not None and self.in_flight >= limits.concurrent:
            return too_many_at_once(self.label, limits.concurrent)
        if self.requests is not None:
            wait = self.requests.wait_seconds(self.requests_at, 1, now)
            if wait > 0:
                return too_fast(self.label, "requests_per_minute", self.requests.per_minute, wait)
        if self.tokens is not None:
            least = ask.rate_tokens(least_output(ask, self.tokens.per_minute))
            wait = self.tokens.wait_seconds(self.tokens_at, least, now)
            if wait > 0:
                return too_fast(self.label, "tokens_per_minute", self.tokens.per_minute, wait)
        return None


class Account:
    """All that one principal's requests count against, found by one look-up."""

    __slots__ = ("budgets", "by_tokens", "hard", "limited", "scopes", "shadows")

    def __init__(self, scopes: tuple[ScopeState, ...], coming: tuple[BudgetCounter, ...]) -> None:
        self.scopes = scopes
        limited = [scope for scope in scopes if scope.limits.any]
        self.limited = tuple(scope for scope in limited if not scope.limits.shadow)
        self.shadows = tuple(scope for scope in limited if scope.limits.shadow)
        self.by_tokens = tuple((scope, scope.tokens) for scope in self.limited if scope.tokens is not None)
        budgets = tuple(budget for scope in scopes for budget in scope.budgets)
        self.hard = tuple(budget for budget in budgets if not budget.budget.soft)
        self.budgets = budgets + coming


class Grant:
    """What a hold took, and where: the store's side of a Hold. `scopes` are those in which it has a slot.

    `tokens` are the limits that it took tokens from, as they were then.
    """

    __slots__ = ("scopes", "tokens", "windows")

    def __init__(
        self,
        scopes: tuple[ScopeState, ...],
        tokens: tuple[tuple[ScopeState, GcraLimit], ...],
        windows: tuple[tuple[BudgetCounter, Window], ...],
    ) -> None:
        self.scopes = scopes
        self.tokens = tokens
        self.windows = windows


def fit_rates(account: Account, ask: Ask, now: float) -> int:
    """The output cap that fits into what is left of every limit of tokens."""
    output_tokens = ask.output_tokens
    for state, limit in account.by_tokens:
        output_tokens = min(output_tokens, fit_rate(ask, limit.remaining(state.tokens_at, now)))
    return output_tokens


def fit(account: Account, ask: Ask, output_tokens: int, now: float) -> int:
    """The output cap, at most `output_tokens`, that fits into the tightest budget. Raises BudgetExceeded."""
    for counter in account.budgets:
        counter.roll(now)
    if not account.hard:
        return output_tokens
    tightest = min(account.hard, key=_left)
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
    return min(output_tokens, affordable)


_left = operator.attrgetter("left")


def take(account: Account, taken: tuple[ScopeState, ...], ask: Ask, output_tokens: int, now: float) -> Hold:
    nano = hold_nano(ask, output_tokens)
    units = ask.rate_tokens(output_tokens)
    requests = tokens = None
    by_tokens = account.by_tokens
    for state in taken:
        state.in_flight += 1
        shown = not state.limits.shadow
        if state.requests is not None:
            state.requests_at = state.requests.take(state.requests_at, 1, now)
            if shown:
                requests = _tighter(requests, state.requests, state.requests_at, now)
        if state.tokens is not None:
            state.tokens_at = state.tokens.take(state.tokens_at, units, now)
            if shown:
                tokens = _tighter(tokens, state.tokens, state.tokens_at, now)
            else:
                by_tokens += ((state, state.tokens),)
    return Hold(
        ask=ask,
        output_tokens=output_tokens,
        rate_tokens=units,
        nano=nano,
        admitted_at=now,
        requests=requests,
        tokens=tokens,
        token=Grant(taken, by_tokens, hold_money(account, nano)),
    )


def settle_money(grant: Grant, held: int, settlement: Settlement, now: float) -> None:
    for counter, window in grant.windows:
        # A window that has ended took its counters with it; the spending belonged to that window.
        if counter.takes(window):
            counter.settle(held, settlement, now)


def hold_money(account: Account, nano: int) -> tuple[tuple[BudgetCounter, Window], ...]:
    windows = []
    for counter in account.budgets:
        counter.hold(nano)
        windows.append((counter, counter.window))
    return tuple(windows)


def join(hold: Hold, states: Iterable[ScopeState], counters: Iterable[BudgetCounter]) -> None:
    """Count an open hold in slots and budgets that did not count it when it was taken."""
    grant = grant_of(hold)
    for state in states:
        if state.limits.concurrent is not None and state not in grant.scopes:
            state.in_flight += 1
            grant.scopes += (state,)
    counted = {id(counter) for counter, _ in grant.windows}
    for counter in counters:
        if id(counter) not in counted:
            counter.hold(hold.nano)
            grant.windows += ((counter, counter.window),)


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


def _tighter(view: RateView | None, limit: GcraLimit, drained_at: float, now: float) -> RateView:
    remaining = limit.remaining(drained_at, now)
    if view is not None and view.remaining <= remaining:
        return view
    return RateView(limit.per_minute, remaining, max(drained_at - now, 0.0))
