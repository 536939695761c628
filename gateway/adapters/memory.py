"""Admission for one process: the numbers of every scope in memory, changed without awaiting in between.

That makes each admit and settle atomic on the event loop. Counters start empty; `restore` sets what the
ledger says was already spent in the windows that are open.
"""

import math
from collections.abc import Iterable
from zoneinfo import ZoneInfo

from gateway.core.admission import (
    Ask,
    GcraLimit,
    Hold,
    RateView,
    Settlement,
    clamp_clock,
    fit_output,
    fit_rate,
    hold_nano,
    rate_units,
)
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.money import usd_text
from gateway.core.tenancy import Budget, Limits, Principal, Scope
from gateway.core.windows import Window, window_at
from gateway.ports import BudgetView, Clock


class _BudgetState:
    """One budget's open window. `left` is the limit less what is spent, held and unseen, kept up to date.

    A hold keeps the window that it was taken in, so a reset never takes a counter below zero.
    """

    __slots__ = ("budget", "held", "left", "scope", "spent", "unseen", "window", "zone")

    def __init__(self, scope: Scope, budget: Budget, zone: ZoneInfo, now: float) -> None:
        self.scope = scope
        self.budget = budget
        self.zone = zone
        self.window = window_at(budget.per, now, zone)
        self.spent = self.held = self.unseen = 0
        self.left = budget.nano_usd

    def set(self, budget: Budget, spent: int, unseen: int) -> None:
        """Take a changed limit, or what the ledger says was spent."""
        self.budget = budget
        self.spent = spent
        self.unseen = unseen
        self.left = budget.nano_usd - spent - self.held - unseen

    def roll(self, now: float) -> None:
        """Begin the window of `now`, if this one is over. Holds of the old window settle into nothing.

        A clock that is set back does not bring an old window back: what was spent must not be forgotten.
        """
        if now >= self.window.end:
            self.window = window_at(self.budget.per, now, self.zone)
            self.spent = self.held = self.unseen = 0
            self.left = self.budget.nano_usd

    def hold(self, nano: int) -> None:
        self.held += nano
        self.left -= nano

    def settle(self, held: int, settlement: Settlement) -> None:
        self.held -= held
        self.spent += settlement.spent_nano
        self.unseen += settlement.unseen_nano
        self.left += held - settlement.spent_nano - settlement.unseen_nano


class _ScopeState:
    """The rate limits of one scope. `*_at` is the moment at which all that was taken will have drained.

    Moments of rates are monotonic: setting the clock neither locks a scope out nor lets it through.
    """

    __slots__ = ("budgets", "in_flight", "label", "limits", "requests", "requests_at", "tokens", "tokens_at")

    def __init__(self, scope: Scope, zone: ZoneInfo, now: float) -> None:
        self.label = scope.label
        self.in_flight = 0
        self.requests_at = self.tokens_at = 0.0
        self.budgets: list[_BudgetState] = []
        self.adopt(scope, zone, now)

    def adopt(self, scope: Scope, zone: ZoneInfo, now: float) -> None:
        """Take over limits and budgets of a changed configuration and keep what was counted."""
        limits = scope.limits
        self.limits: Limits = limits
        self.requests = GcraLimit(limits.requests_per_minute) if limits.requests_per_minute else None
        self.tokens = GcraLimit(limits.tokens_per_minute) if limits.tokens_per_minute else None
        kept = {state.budget.per: state for state in self.budgets if state.zone == zone}
        self.budgets = []
        for budget in scope.budgets:
            state = kept.get(budget.per) or _BudgetState(scope, budget, zone, now)
            state.set(budget, state.spent, state.unseen)
            self.budgets.append(state)


class _Account:
    """All that one principal's requests count against, found by one look-up."""

    __slots__ = ("budgets", "limited", "scopes", "tokens_per_minute")

    def __init__(self, scopes: tuple[_ScopeState, ...]) -> None:
        self.scopes = scopes
        self.limited = tuple(scope for scope in scopes if scope.limits != Limits())
        self.tokens_per_minute = min(
            (scope.tokens.per_minute for scope in scopes if scope.tokens is not None), default=None
        )
        self.budgets = tuple(budget for scope in scopes for budget in scope.budgets)


class _Grant:
    """What a hold took, and where: the store's side of a Hold."""

    __slots__ = ("account", "windows")

    def __init__(self, account: _Account, windows: tuple[tuple[_BudgetState, Window], ...]) -> None:
        self.account = account
        self.windows = windows


class MemoryAdmission:
    """Implements the Admission port for one process."""

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self._clock = clock
        self._zone = zone
        self._scopes: dict[str, _ScopeState] = {}
        self._accounts: dict[Principal, _Account] = {}

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo) -> None:
        """Adopt the scopes of a new configuration; scopes that went away are forgotten."""
        now = self._clock.now()
        self._zone = zone
        self._accounts.clear()
        kept: dict[str, _ScopeState] = {}
        for scope in scopes:
            state = self._scopes.get(scope.label)
            if state is None:
                state = _ScopeState(scope, zone, now)
            else:
                state.adopt(scope, zone, now)
            kept[scope.label] = state
        self._scopes = kept

    async def admit(self, ask: Ask) -> Hold:
        """Check every limit and budget, then take from all of them; a refusal takes nothing."""
        now = self._clock.monotonic()
        account = self._accounts.get(ask.principal) or self._open_account(ask.principal)
        for state in account.limited:
            self._check_limits(state, ask, now)
        return self._take(account, ask, self._fit(account, ask), now)

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back.
        """
        grant = _grant(hold)
        _settle_money(grant, hold.nano, settlement)
        hold.nano = 0
        try:
            hold.output_tokens = self._fit(grant.account, hold.ask)
        except BudgetExceeded:
            hold.token = _Grant(grant.account, ())
            self.settle(hold, Settlement(spent_nano=0, rate_tokens=settlement.rate_tokens))
            raise
        hold.nano = hold_nano(hold.ask, hold.output_tokens)
        hold.token = _Grant(grant.account, _hold_money(grant.account, hold.nano))
        return hold

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        now = self._clock.monotonic()
        grant = _grant(hold)
        _settle_money(grant, hold.nano, settlement)
        used = settlement.rate_tokens
        for state in grant.account.scopes:
            state.in_flight -= 1
            if state.tokens is not None and used is not None:
                state.tokens_at = state.tokens.correct(
                    state.tokens_at, rate_units(state.tokens, hold.ask), used, hold.admitted_at, now
                )

    def restore(self, view: BudgetView, spent_nano: int, unseen_nano: int) -> None:
        """Set what the ledger says of the window of `view`, if that is still open."""
        for budget in self._scopes[f"{view.kind}:{view.name}"].budgets:
            if budget.budget.per is view.per and budget.window == view.window:
                budget.set(budget.budget, spent_nano, unseen_nano)

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, for metrics and reports."""
        now = self._clock.now()
        views = []
        for state in self._scopes.values():
            for budget in state.budgets:
                budget.roll(now)
                views.append(
                    BudgetView(
                        kind=budget.scope.kind,
                        name=budget.scope.name,
                        per=budget.budget.per,
                        window=budget.window,
                        limit_nano=budget.budget.nano_usd,
                        spent_nano=budget.spent,
                        held_nano=budget.held,
                        unseen_nano=budget.unseen,
                    )
                )
        return views

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal`, as a share of its limit (0 without budgets), holds included."""
        now = self._clock.now()
        share = 0.0
        account = self._accounts.get(principal) or self._open_account(principal)
        for state in account.budgets:
            state.roll(now)
            share = max(share, 1 - state.left / state.budget.nano_usd)
        return share

    def _open_account(self, principal: Principal) -> _Account:
        now = self._clock.now()
        for scope in principal.scopes:
            if scope.label not in self._scopes:
                self._scopes[scope.label] = _ScopeState(scope, self._zone, now)
        account = _Account(tuple(self._scopes[scope.label] for scope in principal.scopes))
        self._accounts[principal] = account
        return account

    def _check_limits(self, state: _ScopeState, ask: Ask, now: float) -> None:
        limits = state.limits
        if limits.concurrent is not None and state.in_flight >= limits.concurrent:
            raise LimitExceeded(
                f"{state.label} already has {limits.concurrent} requests in flight. Retry when one ends.",
                scope=state.label,
                limit="concurrent",
                retry_after_seconds=1.0,
            )
        if state.requests is not None:
            state.requests_at = clamp_clock(state.requests_at, now)
            wait = state.requests.wait_seconds(state.requests_at, 1, now)
            if wait > 0:
                raise _too_fast(state.label, "requests_per_minute", state.requests.per_minute, wait)
        if state.tokens is not None:
            wait = state.tokens.wait_seconds(state.tokens_at, rate_units(state.tokens, ask), now)
            if wait > 0:
                raise _too_fast(state.label, "tokens_per_minute", state.tokens.per_minute, wait)

    def _fit(self, account: _Account, ask: Ask) -> int:
        """The output cap that fits into the tightest budget and a minute's tokens. Raises BudgetExceeded."""
        output_tokens = ask.output_tokens
        if account.tokens_per_minute is not None:
            output_tokens = fit_rate(ask, account.tokens_per_minute)
        if not account.budgets:
            return output_tokens
        now = self._clock.now()
        tightest = account.budgets[0]
        for state in account.budgets:
            state.roll(now)
            if state.left < tightest.left:
                tightest = state
        affordable = fit_output(ask, tightest.left)
        if affordable is None:
            raise _over_budget(tightest, ask)
        return min(output_tokens, affordable)

    def _take(self, account: _Account, ask: Ask, output_tokens: int, now: float) -> Hold:
        nano = hold_nano(ask, output_tokens)
        requests = tokens = None
        for state in account.scopes:
            state.in_flight += 1
        for state in account.limited:
            if state.requests is not None:
                state.requests_at = state.requests.take(state.requests_at, 1, now)
                requests = _tighter(requests, state.requests, state.requests_at, now)
            if state.tokens is not None:
                units = rate_units(state.tokens, ask)
                state.tokens_at = state.tokens.take(state.tokens_at, units, now)
                tokens = _tighter(tokens, state.tokens, state.tokens_at, now)
        return Hold(
            ask=ask,
            output_tokens=output_tokens,
            nano=nano,
            admitted_at=now,
            requests=requests,
            tokens=tokens,
            token=_Grant(account, _hold_money(account, nano)),
        )


def _settle_money(grant: _Grant, held: int, settlement: Settlement) -> None:
    for budget, window in grant.windows:
        # A window that has ended took its counters with it; the spending belonged to that window.
        if budget.window is window:
            budget.settle(held, settlement)


def _hold_money(account: _Account, nano: int) -> tuple[tuple[_BudgetState, Window], ...]:
    windows = []
    for budget in account.budgets:
        budget.hold(nano)
        windows.append((budget, budget.window))
    return tuple(windows)


def _grant(hold: Hold) -> _Grant:
    if not isinstance(hold.token, _Grant):
        raise TypeError("this hold was taken in another store")
    return hold.token


def _tighter(view: RateView | None, limit: GcraLimit, drained_at: float, now: float) -> RateView:
    remaining = limit.remaining(drained_at, now)
    if view is not None and view.remaining <= remaining:
        return view
    return RateView(limit.per_minute, remaining, max(drained_at - now, 0.0))


def _too_fast(label: str, limit: str, per_minute: int, wait: float) -> LimitExceeded:
    unit = limit.replace("_", " ")
    if math.isinf(wait):
        message = (
            f"This request alone is larger than {label}'s limit of {per_minute} {unit}. Make it smaller."
        )
        return LimitExceeded(message, scope=label, limit=limit, retry_after_seconds=math.inf)
    message = f"{label} has reached its limit of {per_minute} {unit}. Retry in {wait:.1f} s."
    return LimitExceeded(message, scope=label, limit=limit, retry_after_seconds=wait)


def _over_budget(state: _BudgetState, ask: Ask) -> BudgetExceeded:
    label, per = state.scope.label, state.budget.per
    left = usd_text(max(state.left, 0))
    resets_at = None if math.isinf(state.window.end) else state.window.end
    # What is only held comes back when other requests end, so a retry soon can succeed.
    only_held = fit_output(ask, state.left + state.held) is not None
    message = (
        f"The {per} budget of {label} ({usd_text(state.budget.nano_usd)} USD) has {left} USD left, "
        "too little for this request."
    )
    return BudgetExceeded(message, scope=label, window=per, resets_at=resets_at, only_held=only_held)
