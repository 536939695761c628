"""What one worker does by itself while the shared counters are unreachable.

Rates and slots: its part of each limit, by the number of workers that were last alive. Hard budgets: what
is leased (leased.py), and beyond that 503, never a guess. Soft budgets: open; what is spent is settled when
the counters are back. No debt is kept here, so each answer takes its whole cap, whatever a limit holds else.
"""

import msgspec

from gateway.core.admission import (
    Ask,
    GcraLimit,
    Hold,
    RateView,
    Settlement,
    fit_rate,
    hold_nano,
    least_output,
)
from gateway.core.errors import Unavailable
from gateway.core.refusals import too_fast, too_many_at_once
from gateway.core.tenancy import Limits
from gateway.quota.redis.layout import WindowRow
from gateway.quota.redis.specs import QuotaSpec

RETRY_AFTER_SECONDS = 1.0


class FallbackGrant(msgspec.Struct, frozen=True, eq=False):
    """A hold that no server knows: the scopes whose slots it has here, and the spec of its time."""

    spec: QuotaSpec
    slot_scopes: tuple[str, ...]


class _Bucket(msgspec.Struct):
    """This worker's part of one scope's limits; moments in monotonic seconds."""

    requests_at: float = 0.0
    tokens_at: float = 0.0
    in_flight: int = 0


def unavailable() -> Unavailable:
    return Unavailable(
        "The shared state of limits and budgets is not reachable. Retry shortly.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


class LocalFallback:
    """Times are monotonic seconds, given with each call."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, ask: Ask, spec: QuotaSpec, workers: int, now: float) -> Hold:
        """Raises Unavailable when there is a hard budget, or LimitExceeded."""
        if any(not budget.budget.soft for budget in spec.budgets):
            raise unavailable()
        limited = [(label, item) for label, item in spec.limits if not item.shadow]
        slot_scopes = tuple(label for label, item in limited if item.concurrent)
        for label, item in limited:
            most = _part(item.concurrent, workers)
            if most is not None and self._bucket(label).in_flight >= most:
                raise too_many_at_once(label, most)
        view, cap = self.take_rates(ask, spec, workers, now)
        for label in slot_scopes:
            self._bucket(label).in_flight += 1
        return Hold(
            ask=ask,
            output_tokens=cap,
            rate_tokens=ask.rate_tokens(cap),
            nano=hold_nano(ask, cap),
            admitted_at=now,
            requests=view,
            tokens=None,
            token=FallbackGrant(spec, slot_scopes),
        )

    def take_rates(self, ask: Ask, spec: QuotaSpec, workers: int, now: float) -> tuple[RateView | None, int]:
        """Take from this worker's part of each rate, or from none; with the output cap that fits.

        Raises LimitExceeded.
        """
        cap = ask.output_tokens
        limited = [(label, _shared(item, workers)) for label, item in spec.limits if not item.shadow]
        for label, (requests, tokens) in limited:
            bucket = self._bucket(label)
            if requests and (wait := requests.wait_seconds(bucket.requests_at, 1, now)):
                raise too_fast(label, "requests_per_minute", requests.per_minute, wait)
            if tokens:
                least = least_output(ask, tokens.per_minute)
                wait = tokens.wait_seconds(bucket.tokens_at, _units(tokens, ask, least), now)
                if wait:
                    raise too_fast(label, "tokens_per_minute", tokens.per_minute, wait)
                cap = min(cap, max(fit_rate(ask, tokens.remaining(bucket.tokens_at, now)), least))
        view = None
        for label, (requests, tokens) in limited:
            bucket = self._bucket(label)
            if requests:
                bucket.requests_at = requests.take(bucket.requests_at, 1, now)
                left = requests.remaining(bucket.requests_at, now)
                if view is None or left < view.remaining:
                    view = RateView(requests.per_minute, left, bucket.requests_at - now)
            if tokens:
                bucket.tokens_at = tokens.take(bucket.tokens_at, _units(tokens, ask, cap), now)
        return view, cap

    def settle(self, grant: FallbackGrant) -> None:
        for label in grant.slot_scopes:
            self._bucket(label).in_flight -= 1

    def _bucket(self, label: str) -> _Bucket:
        return self._buckets.setdefault(label, _Bucket())


def windows_to_settle(grant: FallbackGrant, settlement: Settlement) -> list[WindowRow] | None:
    """The windows that the spending of a fallback hold belongs to; None when there is nothing to add."""
    if not settlement.spent_nano and not settlement.unseen_nano:
        return None
    return [budget.window_row(int(budget.window.start)) for budget in grant.spec.budgets]


def _part(limit: int | None, workers: int) -> int | None:
    return None if limit is None else max(limit // workers, 1)


def _shared(limits: Limits, workers: int) -> tuple[GcraLimit | None, GcraLimit | None]:
    requests = _part(limits.requests_per_minute, workers)
    tokens = _part(limits.tokens_per_minute, workers)
    return GcraLimit(requests) if requests else None, GcraLimit(tokens) if tokens else None


def _units(limit: GcraLimit, ask: Ask, output_tokens: int) -> int:
    # A request that fits into the whole limit must not be refused for ever by a part of it.
    return min(ask.rate_tokens(output_tokens), limit.per_minute)
