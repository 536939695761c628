"""A part of a principal's budgets and rates, held on the server, from which this worker admits by itself.

Money in nano-USD, times in monotonic seconds. Whatever a quota lease admits was reserved when it was taken,
so its worker needs to ask nobody.
"""

from gateway.core.admission import (
    DEFAULT_CAP_FLOOR_TOKENS,
    DEFAULT_CAP_SHARE,
    Ask,
    Hold,
    RateView,
    Settlement,
    hold_nano,
)
from gateway.quota.redis.holds import OpenHolds
from gateway.quota.redis.layout import HoldRow, LeaseRow, RateCorrection, RemainderRow, WindowRow
from gateway.quota.redis.refusals import rate_view
from gateway.quota.redis.replies import Leased
from gateway.quota.redis.server_clock import MICROSECONDS
from gateway.quota.redis.settling import NOT_KNOWN, PendingSettlement
from gateway.quota.redis.specs import QuotaSpec, windows_of

# Units of a rate were taken from the bucket in advance and drain there; unused they are worth nothing after
# the life that lease.lua keeps the bucket smaller for, less what a reply may have taken.
RATE_LIFE_SECONDS = 1.8
ENDED = -1
# A lease covers so many times what was admitted since the last one; at most ten seconds of it.
PERIODS_COVERED = 3


class LeaseDemand:
    """What one principal's requests took since leases were last taken."""

    __slots__ = ("nano", "requests", "tokens", "typical_tokens")

    def __init__(self) -> None:
        self.requests = self.nano = self.tokens = self.typical_tokens = 0

    def add(self, hold: Hold) -> None:
        self.requests += 1
        self.nano += hold.nano
        self.tokens += hold.rate_tokens
        self.typical_tokens += hold.typical_tokens

    def row(self, hold_id: str, slots: int, leases: int, holds: OpenHolds) -> LeaseRow:
        """What to ask the server for, as one of so many `leases` of this worker."""
        return LeaseRow(
            hold=hold_id,
            nano=self.nano * PERIODS_COVERED,
            requests=self.requests * PERIODS_COVERED,
            tokens=self.tokens * PERIODS_COVERED,
            typical_tokens=self.typical_tokens * PERIODS_COVERED,
            slots=slots,
            lease=holds.lease,
            worker=holds.worker,
            leases=leases,
        )


class TokenBalance:
    """What a lease has `left` of the tokens of limits that hold alike; the tightest lets `per_minute` pass.

    None: there is no such limit, and all that is asked fits. `debt` is what was used beyond what was held.
    Such that hold what is `typical` get back whatever was not used; below zero their debt is a credit.
    """

    __slots__ = ("debt", "is_typical", "left", "per_minute")

    def __init__(self, left: int, per_minute: int | None, *, is_typical: bool) -> None:
        self.left = float(left)
        self.per_minute = per_minute
        self.is_typical = is_typical
        self.debt = 0

    def fits(self, units: int) -> bool:
        return self.per_minute is None or units <= self.left

    def take(self, units: int) -> None:
        if self.per_minute is not None:
            self.left -= units

    def correct(self, more: int, held_seconds: float, *, is_open: bool, is_retired: bool) -> None:
        """So many `more` tokens were used than held, or fewer. `is_open`: the next request may use `left`."""
        if self.per_minute is None:
            return
        if more > 0:
            paid = min(more, int(self.left)) if is_open else 0
            self.left -= paid
            self.debt += more - paid
        elif self.is_typical:
            if is_open:
                self.left -= more
            else:
                self.debt += more
        elif not is_retired:
            self.left += max(-more - held_seconds * self.per_minute / 60, 0.0)


class QuotaLease:
    """One lease. `id` is the hold's name on the server. Retired it admits nothing; its holds live on.

    Many attributes: its counters lie flat in one object, since `take` reads most of them once a request.
    """

    __slots__ = (
        "_has_rates",
        "_limited",
        "_rates_until",
        "_reported",
        "_requests",
        "_requests_view",
        "_slots",
        "_tokens",
        "_tokens_view",
        "_typical",
        "epoch",
        "free",
        "held",
        "id",
        "in_flight",
        "is_retired",
        "leased",
        "since",
        "spec",
        "spent",
        "unseen",
        "until",
    )

    def __init__(
        self, hold_id: str, epoch: bytes, spec: QuotaSpec, leased: Leased, now: float, until: float
    ) -> None:
        self.id = hold_id
        self.epoch = epoch
        self.spec = spec
        self.leased = leased
        self.since = now
        limits = [item for _, item in spec.limits]
        self._has_rates = (
            any(item.requests_per_minute for item in limits),
            any(item.tokens_per_minute for item in limits),
        )
        self._limited = any(item.concurrent for item in limits)
        self.until = until
        self._rates_until = now + RATE_LIFE_SECONDS if any(self._has_rates) else until
        self.free = leased.nano
        self.held = self.spent = self.unseen = self.in_flight = 0
        self._reported = (0, 0)
        self._requests = leased.requests
        self._tokens = TokenBalance(leased.tokens, spec.tokens_per_minute, is_typical=False)
        self._typical = TokenBalance(leased.typical_tokens, spec.typical_per_minute, is_typical=True)
        self._slots = leased.slots
        self._requests_view = rate_view(leased.requests_view)
        self._tokens_view = rate_view(leased.tokens_view)
        self.is_retired = False

    def take(self, ask: Ask, now: float, *, with_rates: bool = True) -> Hold | None:
        """A hold out of this lease; None when it cannot decide or has not enough: then the server decides.

        Without rates only money and slots are taken; the caller sees to the rates.
        """
        nano = hold_nano(ask, ask.output_tokens)
        if now >= self.until or (self.spec.budgets and not self._affords(ask, nano)):
            return None
        if self._limited and self.in_flight >= self._slots:
            return None
        units, typical_units = ask.rate_tokens(ask.output_tokens), ask.typical_tokens(ask.output_tokens)
        if with_rates:
            if now >= self._rates_until or (self._has_rates[0] and self._requests < 1):
                return None
            # A lease has a tenth of what was free, so a default cap takes no more than its share.
            if not (self._tokens.fits(units) and self._typical.fits(typical_units)):
                return None
            self._tokens.take(units)
            self._typical.take(typical_units)
            self._requests -= 1
        self.free -= nano
        self.held += nano
        self.in_flight += 1
        return Hold(
            ask=ask,
            output_tokens=ask.output_tokens,
            rate_tokens=units,
            nano=nano,
            admitted_at=now,
            requests=_shown(self._requests_view, self._requests),
            tokens=_shown(self._tokens_view, self._tokens_left()),
            token=self,
            typical_tokens=typical_units,
        )

    def bridges(self, now: float) -> bool:
        """Whether it has money of a hard budget left, at `now` (monotonic seconds)."""
        is_hard = any(not budget.budget.soft for budget in self.spec.budgets)
        return is_hard and self.free > 0 and now < self.until

    def _tokens_left(self) -> int:
        """Of whichever limits have less."""
        balances = (self._tokens, self._typical)
        return int(min((one.left for one in balances if one.per_minute is not None), default=0))

    def _affords(self, ask: Ask, nano: int) -> bool:
        if nano > self.free:
            return False
        if ask.output_is_explicit or self.leased.room < 0 or ask.output_tokens <= DEFAULT_CAP_FLOOR_TOKENS:
            return True
        # A default cap is lowered when it is more than a share of what is left; the server knows how much.
        left = self.leased.room - (self.leased.nano - self.free)
        return (nano - ask.prompt_nano) * DEFAULT_CAP_SHARE + ask.prompt_nano + DEFAULT_CAP_SHARE <= left

    def counts_against(self, scope: str) -> bool:
        """Whether it holds anything of `scope` (`team:research`)."""
        return any(budget.scope.label == scope for budget in self.spec.budgets) or any(
            label == scope for label, _ in self.spec.limits
        )

    def book(self, nano: int, settlement: Settlement) -> None:
        """Replace `nano` of what is held by what was used; the difference can be held again."""
        spent, unseen = settlement.spent_nano, settlement.unseen_nano
        self.held -= nano
        self.spent += spent
        self.unseen += unseen
        self.free += nano - spent - unseen

    def hold_again(self, ask: Ask, output_tokens: int) -> int | None:
        """Nano-USD held for a further attempt of an admitted request; None when there is not enough."""
        nano = hold_nano(ask, output_tokens)
        if self.is_retired or not self._affords(ask, nano):
            return None
        self.free -= nano
        self.held += nano
        return nano

    def leave(self, hold: Hold, settlement: Settlement, now: float) -> None:
        """A request has ended: its slot is free, and its tokens are corrected."""
        self.in_flight -= 1
        is_open, held_seconds = not self.is_retired and now < self._rates_until, now - hold.admitted_at
        for balance, reserved in ((self._tokens, hold.rate_tokens), (self._typical, hold.typical_tokens)):
            more = settlement.used_of(reserved) - reserved
            balance.correct(more, held_seconds, is_open=is_open, is_retired=self.is_retired)

    @property
    def is_owing(self) -> bool:
        """Whether more was used than held, and the server does not know of it."""
        return self._tokens.debt > 0 or self._typical.debt > 0

    @property
    def is_owed(self) -> bool:
        """Whether fewer were used than the server counts, and it does not know of it."""
        return self._typical.debt < 0

    @property
    def is_done(self) -> bool:
        return self.is_retired and self.in_flight == 0

    def report(self, now: float) -> PendingSettlement:
        """What to settle: once retired all but what requests in flight hold, at the end the rest."""
        spent, unseen = self.spent - self._reported[0], self.unseen - self._reported[1]
        self._reported = (self.spent, self.unseen)
        stays = ENDED if self.in_flight == 0 else self.held
        remainder = RemainderRow(stays, self.in_flight, self._corrections(now))
        return PendingSettlement(self.id, spent, unseen, NOT_KNOWN, self, remainder)

    def record(self) -> HoldRow:
        """As the server stores it, to register it again."""
        slot_scopes = [label for label, item in self.spec.limits if item.concurrent]
        return HoldRow(self.held, self.leased.now, self.windows(), slot_scopes, [], self.in_flight)

    def windows(self) -> list[WindowRow]:
        return windows_of(self.spec, self.leased.counters)

    def _corrections(self, now: float) -> list[RateCorrection]:
        """Debts of tokens, and credit for what is left of rates and has not drained, in microseconds."""
        rows: list[RateCorrection] = []
        age = (now - self.since) * MICROSECONDS
        for label, limits in self.spec.limits:
            if limits.requests_per_minute and self._requests > 0:
                credit = self._requests * 60 * MICROSECONDS / limits.requests_per_minute - age
                rows.append(RateCorrection(f"q|{label}", -max(credit, 0.0)))
            if limits.tokens_per_minute:
                balance = self._typical if limits.typical else self._tokens
                unit = 60 * MICROSECONDS / limits.tokens_per_minute
                rows.append(RateCorrection(f"t|{label}", balance.debt * unit))
                rows.append(RateCorrection(f"t|{label}", -max(balance.left * unit - age, 0.0)))
        self._requests = 0
        for balance in (self._tokens, self._typical):
            balance.left, balance.debt = 0.0, 0
        return [row for row in rows if row.microseconds]


def _shown(view: RateView | None, left: int) -> RateView | None:
    """What a client may still use: what the server had left, and what this worker has of it."""
    if view is None:
        return None
    return RateView(view.limit, view.remaining + left, view.reset_seconds)
