"""Refusals in words, the same whatever store refused. Money in nano-USD, times in seconds."""

import math

from gateway.core.admission import Ask, fit_output
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.pricing import usd_text
from gateway.core.sent import Sent

# A slot is free when a request ends, which nobody can foresee.
SLOT_WAIT_SECONDS = 1.0


def too_many_at_once(scope: str, concurrent: int) -> LimitExceeded:
    """`scope` (`key:triage-app`) has no free slot."""
    return LimitExceeded(
        f"{scope} already has {concurrent} requests in flight. Retry when one ends.",
        scope=scope,
        limit="concurrent",
        retry_after_seconds=SLOT_WAIT_SECONDS,
    )


def too_fast(scope: str, limit: str, per_minute: int, wait_seconds: float) -> LimitExceeded:
    """`limit` is requests_per_minute or tokens_per_minute; a wait of infinity: never."""
    unit = limit.replace("_", " ")
    if math.isinf(wait_seconds):
        message = (
            f"This request alone is larger than {scope}'s limit of {per_minute} {unit}. Make it smaller."
        )
    else:
        message = f"{scope} has reached its limit of {per_minute} {unit}. Retry in {wait_seconds:.1f} s."
    return LimitExceeded(message, scope=scope, limit=limit, retry_after_seconds=wait_seconds)


def over_budget(
    ask: Ask, *, scope: str, window: str, limit_nano: int, left_nano: int, held_nano: int, ends_at: float
) -> BudgetExceeded:
    """The budget of `scope` for its `window` that ends at `ends_at` (UTC seconds; infinity: never)."""
    message = (
        f"The {window.replace('_', ' ')} budget of {scope} ({usd_text(limit_nano)} USD) has "
        f"{usd_text(max(left_nano, 0))} USD left, too little for this request."
    )
    return BudgetExceeded(
        message,
        scope=scope,
        window=window,
        resets_at=None if math.isinf(ends_at) else ends_at,
        # What is only held comes back when other requests end, so a retry soon can succeed.
        only_held=fit_output(ask, left_nano + held_nano) is not None,
    )


def uncapped_too_large(sent: Sent) -> BudgetExceeded:
    """The server of `sent` honours no output cap, and its longest answer fits no budget and limit."""
    name, tokens = sent.candidate.name, sent.estimate.output * sent.call.choices
    return BudgetExceeded(
        f"The server of '{name}' honours no output cap, so its longest answer ({tokens} tokens) must fit "
        f"into every budget and limit of key '{sent.principal.key}', and it does not. Use another model, or "
        "ask for a larger budget.",
        scope=f"key:{sent.principal.key}",
        window="uncapped",
        resets_at=None,
        only_held=False,
    )
