"""Admission for one process: the numbers of every scope in memory, changed without awaiting in between.

That makes each admit and settle atomic on the event loop. Counters start empty; `restore` sets what the
ledger says was already spent in the windows that are open.
"""

import operator
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
    least_output,
)
from gateway.core.counters import BudgetCounter
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.refusals import over_budget, too_fast, too_many_at_once
from gateway.core.tenancy import Limits, Principal, Scope
from gateway.core.windows import Window
from gateway.ports import BudgetView, Clock

# Told what a limit in shadow mode would have refused: the scope's label and the limit's name.
Shadowed = Callable[[str, str], None]
# (spent, unseen) nano-USD in each view's window, in order, as the ledger has them.
SpentInWindows = Callable[[Sequence[BudgetView]], Awaitable[Sequence[tuple[int, int]]]]


class _ScopeState:
    """The rate limits of one scope. `*_at` is the moment at which all that was taken will have drained.

    Moments of rates are monotonic: setting the clock neither locks a scope out nor lets it through.
    """

    __slots__ = ("budgets", "in_flight", "label", "limits", "requests", "requests_at", "tokens", "tokens_at")

    def __init__(self, scope: Scope, zone: ZoneInfo, now: float) -> None:
        self.label = scope.label
        self.in_flight = 0
        self.requests_at = self.tokens_at = 0.0
        self.budgets: list[BudgetCounter] = []
        self.adopt(scope, zone, now)

    def adopt(self, scope: Scope, zone: ZoneInfo, now: float) -> None:
        """Take over limits and budgets of a changed configuration and keep what was counted."""
        limits = scope.limits
        self.limits: Limits = limits
        self.requests = GcraLimit(limits.requests_per_minute) if limits.requests_per_minute else None
        self.tokens = GcraLimit(limits.tokens_per_minute) if limits.tokens_per_minute else None
        kept = {state.budget.window: state for state in self.budgets if state.zone == zone}
        self.budgets = []
        for budget in scope.budgets:
            state = kept.get(budget.window) or BudgetCounter(scope, budget, zone, now)
            state.set(budget, state.spent, state.unseen, now)
            self.budgets.append(state)

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


class _Account:
    """All that one principal's requests count against, found by one look-up."""

    __slots__ = ("budgets", "by_tokens", "hard", "limited", "open", "scopes", "shadows")

    def __init__(self, scopes: tuple[_ScopeState, ...]) -> None:
        self.scopes = scopes
        limited = [scope for scope in scopes if scope.limits.any]
        self.limited = tuple(scope for scope in limited if not scope.limits.shadow)
        self.shadows = tuple(scope for scope in limited if scope.limits.shadow)
        # Requests in flight are counted where no limit asks for it too: one may come with the next reload.
        self.open = tuple(scope for scope in scopes if not scope.limits.shadow)
        self.by_tokens = tuple((scope, scope.tokens) for scope in self.limited if scope.tokens is not None)
        self.budgets = tuple(budget for scope in scopes for budget in scope.budgets)
        self.hard = tuple(budget for budget in self.budgets if not budget.budget.soft)


class _Grant:
    """What a hold took, and where: the store's side of a Hold. `scopes` are those in which it has a place.

    `tokens` are the limits that it took tokens from, as they were then.
    """

    __slots__ = ("account", "scopes", "tokens", "windows")

    def __init__(
        self,
        account: _Account,
        scopes: tuple[_ScopeState, ...],
        tokens: tuple[tuple[_ScopeState, GcraLimit], ...],
        windows: tuple[tuple[BudgetCounter, Window], ...],
    ) -> None:
        self.account = account
        self.scopes = scopes
        self.tokens = tokens
        self.windows = windows


class MemoryAdmission:
    """Implements the Admission port for one process."""

    def __init__(
        self,
        clock: Clock,
        zone: ZoneInfo,
        *,
        spent_in_windows: SpentInWindows | None = None,
        shadowed: Shadowed | None = None,
    ) -> None:
        self._clock = clock
        self._zone = zone
        self._spent_in_windows = spent_in_windows
        self._shadowed = shadowed
        self._scopes: dict[str, _ScopeState] = {}
        self._accounts: dict[Principal, _Account] = {}

    async def start(self) -> None:
        """Take up what was spent in the open windows. Raises what reading the ledger raises."""
        if self._spent_in_windows is not None:
            views = self.budgets()
            for view, (spent, unseen) in zip(views, await self._spent_in_windows(views), strict=True):
                self.restore(view, spent, unseen)

    async def close(self) -> None:
        """Nothing is kept."""

    async def claim(self, _name: str, _seconds: float) -> bool:
        """There is one worker only."""
        return True

    def problem(self) -> str | None:
        """Memory is always there."""
        return None

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
            if (refusal := state.refusal(ask, now)) is not None:
                raise refusal
        output_tokens = _fit(account, ask, _fit_rates(account, ask, now), self._clock.now())
        taken = account.open
        if account.shadows:
            taken += self._in_shadow(account, ask, now)
        return _take(account, taken, ask, output_tokens, now)

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back.
        """
        now = self._clock.now()
        grant = _grant(hold)
        _settle_money(grant, hold.nano, settlement, now)
        hold.nano = 0
        # Tokens were taken for the first attempt's cap; without such a limit the cap may grow again.
        most = hold.output_tokens if grant.tokens else hold.ask.output_tokens
        try:
            hold.output_tokens = _fit(grant.account, hold.ask, most, now)
        except BudgetExceeded:
            hold.token = _Grant(grant.account, grant.scopes, grant.tokens, ())
            self.settle(hold, Settlement(spent_nano=0, rate_tokens=settlement.rate_tokens))
            raise
        hold.nano = hold_nano(hold.ask, hold.output_tokens)
        windows = _hold_money(grant.account, hold.nano)
        hold.token = _Grant(grant.account, grant.scopes, grant.tokens, windows)
        return hold

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        now = self._clock.monotonic()
        grant = _grant(hold)
        _settle_money(grant, hold.nano, settlement, self._clock.now())
        for state in grant.scopes:
            state.in_flight -= 1
        used = settlement.rate_tokens
        if used is not None:
            for state, limit in grant.tokens:
                state.tokens_at = limit.correct(
                    state.tokens_at, hold.rate_tokens, used, hold.admitted_at, now
                )

    def restore(self, view: BudgetView, spent_nano: int, unseen_nano: int = 0) -> None:
        """Set what the ledger says of the window of `view`, if that is still open."""
        now = self._clock.now()
        for budget in self._scopes[f"{view.kind}:{view.name}"].budgets:
            same = budget.budget.per is view.per and budget.budget.rolling is view.rolling
            if same and (view.rolling or budget.window == view.window):
                budget.set(budget.budget, spent_nano, unseen_nano, now)

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, for metrics and reports."""
        now = self._clock.now()
        views = []
        for state in self._scopes.values():
            for counter in state.budgets:
                counter.roll(now)
                views.append(
                    BudgetView(
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
                )
        return views

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal`, as a share of its limit (0 without budgets), holds included."""
        now = self._clock.now()
        share = 0.0
        account = self._accounts.get(principal) or self._open_account(principal)
        for counter in account.budgets:
            counter.roll(now)
            share = max(share, 1 - counter.left / counter.limit)
        return share

    def _open_account(self, principal: Principal) -> _Account:
        now = self._clock.now()
        for scope in principal.scopes:
            if scope.label not in self._scopes:
                self._scopes[scope.label] = _ScopeState(scope, self._zone, now)
        account = _Account(tuple(self._scopes[scope.label] for scope in principal.scopes))
        self._accounts[principal] = account
        return account

    def _in_shadow(self, account: _Account, ask: Ask, now: float) -> tuple[_ScopeState, ...]:
        """The scopes in shadow mode that have room. One that has none would have taken nothing."""
        taken = []
        for state in account.shadows:
            refusal = state.refusal(ask, now)
            if refusal is None:
                taken.append(state)
            elif self._shadowed is not None:
                self._shadowed(refusal.scope, refusal.limit)
        return tuple(taken)


def _fit_rates(account: _Account, ask: Ask, now: float) -> int:
    """The output cap that fits into what is left of every limit of tokens."""
    output_tokens = ask.output_tokens
    for state, limit in account.by_tokens:
        output_tokens = min(output_tokens, fit_rate(ask, limit.remaining(state.tokens_at, now)))
    return output_tokens


def _fit(account: _Account, ask: Ask, output_tokens: int, now: float) -> int:
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


def _take(
    account: _Account, taken: tuple[_ScopeState, ...], ask: Ask, output_tokens: int, now: float
) -> Hold:
    nano = hold_nano(ask, output_tokens)
    units = ask.rate_tokens(output_tokens)
    requests = tokens = None
    by_tokens = account.by_tokens
    for state in taken:
        state.in_flight += 1
        told = not state.limits.shadow
        if state.requests is not None:
            state.requests_at = state.requests.take(state.requests_at, 1, now)
            if told:
                requests = _tighter(requests, state.requests, state.requests_at, now)
        if state.tokens is not None:
            state.tokens_at = state.tokens.take(state.tokens_at, units, now)
            if told:
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
        token=_Grant(account, taken, by_tokens, _hold_money(account, nano)),
    )


def _settle_money(grant: _Grant, held: int, settlement: Settlement, now: float) -> None:
    for counter, window in grant.windows:
        # A window that has ended took its counters with it; the spending belonged to that window.
        if counter.takes(window):
            counter.settle(held, settlement, now)


def _hold_money(account: _Account, nano: int) -> tuple[tuple[BudgetCounter, Window], ...]:
    windows = []
    for counter in account.budgets:
        counter.hold(nano)
        windows.append((counter, counter.window))
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
