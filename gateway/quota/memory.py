"""Admission for one process: the numbers of every scope in memory, changed without awaiting in between.

That makes each admit and settle atomic on the event loop. Counters start empty; `restore` sets what the
ledger says was already spent in the windows that are open.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.admission import Ask, BudgetCounter, Hold, Settlement, hold_nano
from gateway.core.errors import BudgetExceeded
from gateway.core.tenancy import Principal, Scope, changed_labels
from gateway.ports import BudgetView, Clock
from gateway.quota.accounts import (
    Account,
    Grant,
    fit,
    fit_rates,
    grant_of,
    has_room,
    hold_money,
    join,
    settle_money,
    settle_tokens,
    take,
    view_of,
)
from gateway.quota.scope_state import ScopeState

# Called with what a limit in shadow mode would have refused: the scope's label and the limit's name.
Shadowed = Callable[[str, str], None]
# (spent, unseen) nano-USD in each view's window, in order, as the ledger has them.
SpentInWindows = Callable[[Sequence[BudgetView]], Awaitable[Sequence[tuple[int, int]]]]


class MemoryAdmission:
    """Implements the Admission port for one process."""

    def __init__(
        self,
        clock: Clock,
        *,
        spent_in_windows: SpentInWindows | None = None,
        shadowed: Shadowed | None = None,
    ) -> None:
        self._clock = clock
        self._spent_in_windows = spent_in_windows
        self._shadowed = shadowed
        self._scopes: dict[str, ScopeState] = {}
        self._open: set[Hold] = set()
        # By label, while a new configuration is being prepared: counted already, refusing nothing yet.
        self._coming: dict[str, list[BudgetCounter]] = {}
        self._accounts: dict[Principal, Account] = {}
        self._configured: tuple[Scope, ...] = ()
        self._zone: ZoneInfo | None = None

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

    def configure(self, scopes: Iterable[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()) -> None:
        """Adopt the scopes of a configuration; scopes that it lacks are forgotten.

        What is in flight counts in what is new of limits and budgets. What was spent before does not:
        see `reconfigure`. Accounts of the principals `wanted` stay where nothing about them changes.
        """
        now, scopes = self._clock.now(), tuple(scopes)
        changed = changed_labels(self._configured, scopes)
        everybody = set() if zone != self._zone else set(wanted)
        for principal in list(self._accounts):
            if principal not in everybody or not changed.isdisjoint(principal.labels):
                del self._accounts[principal]
        self._configured, self._zone = scopes, zone
        kept: dict[str, ScopeState] = {}
        for scope in scopes:
            state = self._scopes.get(scope.label)
            coming = self._coming.get(scope.label, ())
            if state is None:
                state = ScopeState(scope, zone, now, coming)
            else:
                state.adopt(scope, zone, now, coming)
            kept[scope.label] = state
        self._scopes = kept
        for hold in self._open:
            states = [kept[label] for label in hold.ask.principal.labels if label in kept]
            join(hold, states, [counter for state in states for counter in state.budgets])

    async def reconfigure(
        self, scopes: Sequence[Scope], zone: ZoneInfo, wanted: Collection[Principal] = ()
    ) -> None:
        """Adopt a new configuration while serving: budgets that it brings begin with what the ledger says.

        `wanted` is as in `configure`. Raises what reading the ledger raises; then the old configuration
        stays.
        """
        self._prepare(scopes, zone)
        counters = [counter for found in self._coming.values() for counter in found]
        try:
            if counters and self._spent_in_windows is not None:
                now = self._clock.now()
                spent = await self._spent_in_windows([view_of(counter, now) for counter in counters])
                for counter, sums in zip(counters, spent, strict=True):
                    counter.add(*sums, now)
            self.configure(scopes, zone, wanted)
        finally:
            self._drop_accounts_with_coming()
            self._coming = {}

    def _prepare(self, scopes: Sequence[Scope], zone: ZoneInfo) -> None:
        """Count for the budgets that come from now on, so that nothing is missed while the ledger is read."""
        now = self._clock.now()
        self._coming = {}
        for scope in scopes:
            state = self._scopes.get(scope.label)
            new = [item for item in scope.budgets if state is None or state.lacks(item, zone)]
            self._coming[scope.label] = [BudgetCounter(scope, item, zone, now) for item in new]
        self._drop_accounts_with_coming()
        for hold in self._open:
            join(hold, [], self._coming_for(hold.ask.principal))

    def _drop_accounts_with_coming(self) -> None:
        """Those that count for what comes are made for that alone."""
        for principal in [one for one in self._accounts if self._coming_for(one)]:
            del self._accounts[principal]

    def _coming_for(self, principal: Principal) -> list[BudgetCounter]:
        return [counter for label in principal.labels for counter in self._coming.get(label, ())]

    def peek(self, principal: Principal) -> None:
        """Raise LimitExceeded where `admit` would refuse whatever `principal` asks now; take nothing."""
        account = self._accounts.get(principal) or self._open_account(principal)
        if account.limited:
            now = self._clock.monotonic()
            if not has_room(account, 1, now):
                _refuse(account, None, now)

    def unready(self) -> str | None:
        """As `RedisAdmission.unready`: memory is always there."""
        return None

    def degraded(self) -> list[str]:
        return []

    async def admit(self, ask: Ask) -> Hold:
        """Check every limit and budget, then take from all of them; a refusal takes nothing."""
        now = self._clock.monotonic()
        account = self._accounts.get(ask.principal) or self._open_account(ask.principal)
        units = ask.prompt_tokens + ask.output_tokens * ask.choices  # as `rate_tokens`
        if not has_room(account, units, now):
            _refuse(account, ask, now)
        output_tokens = ask.output_tokens if ask.output_is_explicit else fit_rates(account, ask, now)
        output_tokens = fit(account, ask, output_tokens, self._clock.now())
        shadows = self._in_shadow(account, ask, now) if account.shadows else ()
        hold = take(account, shadows, ask, output_tokens, now)
        self._open.add(hold)
        return hold

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle an attempt's money and hold again for the next one; request limits stay taken.

        Raises BudgetExceeded, with the old hold's limits given back.
        """
        now = self._clock.now()
        principal = hold.ask.principal
        account = self._accounts.get(principal) or self._open_account(principal)
        grant = grant_of(hold)
        settle_money(grant, hold.nano, settlement, now)
        hold.nano = 0
        # Tokens were taken for the first attempt's cap; without such a limit the cap may grow again.
        most = hold.output_tokens if grant.tokens or grant.typical else hold.ask.output_tokens
        try:
            hold.output_tokens = fit(account, hold.ask, most, now)
        except BudgetExceeded:
            hold.token = Grant(grant.scopes, grant.tokens, (), grant.typical)
            self.settle(hold, msgspec.structs.replace(settlement, spent_nano=0, unseen_nano=0))
            raise
        hold.nano = hold_nano(hold.ask, hold.output_tokens)
        windows = hold_money(account, hold.nano).windows
        hold.token = Grant(grant.scopes, grant.tokens, windows, grant.typical)
        return hold

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """Replace the hold by what was used. Only the first call of a hold does anything."""
        if not hold.open:
            return
        hold.open = False
        self._open.discard(hold)
        clock = self._clock
        now, grant = clock.monotonic(), grant_of(hold)
        settle_money(grant, hold.nano, settlement, clock.now())
        for state in grant.scopes:
            state.in_flight -= 1
        # `settle_tokens` written out: it runs for every request.
        used, reserved, admitted_at = settlement.rate_tokens, hold.rate_tokens, hold.admitted_at
        if used is None:
            used = settlement.used_of(reserved)
        for bucket, limit in grant.tokens:
            bucket.drained_at = limit.correct(bucket.drained_at, reserved, used, admitted_at, now)
        if grant.typical:
            settle_tokens(grant.typical, hold.typical_tokens, settlement, now, now)

    def restore(self, view: BudgetView, spent_nano: int, unseen_nano: int = 0) -> None:
        """Set what the ledger says of the window of `view`, if that is still open."""
        now = self._clock.now()
        for budget in self._scopes[f"{view.kind}:{view.name}"].budgets:
            same = budget.budget.per is view.per and budget.budget.rolling is view.rolling
            if same and (view.rolling or budget.window == view.window):
                budget.set(budget.budget, spent_nano, unseen_nano, now)
        # A limit may be due earlier than accounts have noted, if the clock was set back.
        self._accounts.clear()

    def budgets(self) -> list[BudgetView]:
        """Every budget with its open window and counters, for metrics and reports."""
        now = self._clock.now()
        views = []
        for state in self._scopes.values():
            for counter in state.budgets:
                counter.roll(now)
                views.append(view_of(counter, now))
        return views

    def drop(self, principal: Principal) -> None:
        """Forget what is kept for requests of `principal`; those in flight settle as ever."""
        self._accounts.pop(principal, None)

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal`, as a share of its limit (0 without budgets), holds included."""
        now = self._clock.now()
        account = self._accounts.get(principal) or self._open_account(principal)
        if now >= account.due:
            account.roll(now)
        free = 1.0
        for counter in account.budgets:
            share = counter.left / counter.limit
            if share < free:
                free = share
        return 1 - free

    def _open_account(self, principal: Principal) -> Account:
        states = tuple(self._scopes[label] for label in principal.labels if label in self._scopes)
        account = Account(states, tuple(self._coming_for(principal)))
        self._accounts[principal] = account
        return account

    def _in_shadow(self, account: Account, ask: Ask, now: float) -> tuple[ScopeState, ...]:
        """The scopes in shadow mode that have room. One that has none would have taken nothing."""
        taken = []
        for state in account.shadows:
            refusal = state.refusal(ask, now)
            if refusal is None:
                taken.append(state)
            elif self._shadowed is not None:
                self._shadowed(refusal.scope, refusal.limit)
        return tuple(taken)


def _refuse(account: Account, ask: Ask | None, now: float) -> None:
    """Raise why a limit has no room for `ask`, if one has none."""
    for state in account.limited:
        if (refusal := state.refusal(ask, now)) is not None:
            raise refusal
