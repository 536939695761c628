"""What the client is told when nobody answered: of all that went wrong, what helps it most.

Rules:
- What time mends comes first, with the shortest wait that was told; then what a repetition may mend.
- A refusal by one candidate says nothing while another could have answered and did not.
- What is ours, the account at an upstream, is told to operators, and to the client as no matter of its own.
"""

from collections.abc import Sequence

from gateway.core.errors import (
    FailureKind,
    GatewayError,
    LimitExceeded,
    Unavailable,
    UpstreamAccountRejected,
    UpstreamBusy,
    UpstreamExhausted,
    UpstreamFailure,
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.core.upstream_error import UpstreamError

DEFAULT_RETRY_SECONDS = 1.0
_NO_REPLICA = "No replica can take this request now. Retry shortly."


def rejected(error: UpstreamError) -> UpstreamRejected:
    """The upstream's own refusal, passed on."""
    return UpstreamRejected(
        error.message,
        status=error.status,
        type=error.type or "invalid_request_error",
        param=error.param,
        code=error.code,
        extras=error.extras,
    )


def stopping() -> Unavailable:
    """The gateway ends before the answer did: another one, or this one in a moment, can give it."""
    return Unavailable(
        "The gateway stops. Send the request again.", retry_after_seconds=DEFAULT_RETRY_SECONDS
    )


def verdict_on(failures: Sequence[UpstreamFailure], *, is_plan_tried: bool) -> GatewayError:
    """The error for a request whose attempts, in their order, all failed before a byte reached the client.

    `is_plan_tried`: every candidate had its turn.
    """
    if failures and failures[-1].was_given_up:
        return _timed_out(failures[-1])
    if busy := [failure for failure in failures if failure.is_busy]:
        return _busy(busy)
    if broken := [failure for failure in failures if not failure.is_of_candidate]:
        return _broken(broken[-1], _shortest_wait(broken))
    return _refused(failures) if is_plan_tried else Unavailable(_NO_REPLICA, retry_after_seconds=1.0)


def _refused(failures: Sequence[UpstreamFailure]) -> GatewayError:
    refused = [failure.error for failure in failures if failure.kind is FailureKind.REFUSED]
    if refused and refused[-1] is not None:
        return rejected(refused[-1])
    return UpstreamAccountRejected(
        "The model's provider refuses the gateway's own account. A retry will not help: tell the gateway's "
        "operators."
    )


def verdict_on_stream(failure: UpstreamFailure) -> GatewayError:
    """The error for a stream that has begun and broke."""
    return _timed_out(failure) if failure.was_given_up else _broken(failure, None)


def _busy(failures: Sequence[UpstreamFailure]) -> GatewayError:
    wait = _shortest_wait(failures)
    wait = DEFAULT_RETRY_SECONDS if wait is None else wait
    said = _said(failures[-1])
    if all(failure.status == 429 for failure in failures):
        message = f"The upstream is at its rate limit{said} Retry in {wait:.3g} s."
        return LimitExceeded(message, scope="upstream", limit="upstream", retry_after_seconds=wait)
    return UpstreamBusy(
        f"The model's servers are busy{said} Retry in {wait:.3g} s.", retry_after_seconds=wait
    )


def _broken(failure: UpstreamFailure, wait: float | None) -> UpstreamExhausted:
    if failure.never_sent:
        message = (
            f"The model's server could not be reached ({failure.kind}). Nothing is wrong with the request."
        )
    else:
        how = failure.kind if failure.status is None else f"status {failure.status}"
        message = f"The model's server failed ({how}){_said(failure)}"
    return UpstreamExhausted(message, retry_after_seconds=wait)


def _timed_out(failure: UpstreamFailure) -> UpstreamTimeout:
    return UpstreamTimeout(
        f"The model's server did not answer in time ({failure.kind}). It may still be at work on it: sent "
        "again, the request could be paid for twice."
    )


def _shortest_wait(failures: Sequence[UpstreamFailure]) -> float | None:
    told = (failure.retry_after_seconds for failure in failures)
    return min((seconds for seconds in told if seconds is not None), default=None)


def _said(failure: UpstreamFailure) -> str:
    """What the upstream itself said, as the end of a sentence."""
    error = failure.error
    return "." if error is None or not error.said else f": {error.message}"
