"""Every way a request can fail, as meaning rather than as status code.

GatewayError                 the client gets an error envelope (core/envelope.py maps it, once)
 ├─ InvalidRequest           400  malformed or unsupported input
 │   └─ UnsupportedModality  400  no deployment of the model reads this kind of content
 ├─ InvalidApiKey            401
 ├─ PermissionDenied         403  the key may not use this feature
 ├─ PrivacyViolation         403  the privacy class allows no deployment of the model
 ├─ RefusedByRule            403  a rule of the model refuses this request
 ├─ NotFound                 404  unknown route
 │   ├─ ModelNotFound        404  unknown model, or one the key may not use
 │   └─ RequestNotFound      404  the admin API knows nothing of a request of this id
 ├─ MethodNotAllowed         405
 ├─ PayloadTooLarge          413
 ├─ TooManyRefusals          429  too many requests of a key, or of an address without one, were refused
 ├─ LimitExceeded            429  a rate or concurrency limit; worth a retry later
 ├─ BudgetExceeded           429  a budget is used up; not worth a retry
 ├─ UpstreamRejected         4xx  the upstream refused this request; its own envelope is passed on
 ├─ UpstreamExhausted        502  every candidate failed before the first byte
 ├─ UpstreamAccountRejected  502  our account there is refused; operators have to act
 ├─ UpstreamBusy             503  every candidate that could answer has too much to do
 ├─ UpstreamTimeout          504  no answer in time, and it may be generated and billed all the same
 ├─ Overloaded               503  the gateway has more requests than it can answer in time
 └─ Unavailable              503  nothing healthy, shutting down, or the ledger cannot keep up

ClientDisconnected           nobody is left to answer
UpstreamFailure              one attempt broke; the pipeline decides what the client sees
 └─ AdditionRefused          the upstream refused what the gateway added; it is sent again without
"""

import enum
from collections.abc import Mapping
from typing import Any, Self

from gateway.core.upstream_error import UpstreamError
from gateway.dialects.refusals import Remedy


class RefusedBy(enum.StrEnum):
    """What of the gateway, or behind it, refused a request. For logs and records; clients read the code."""

    REQUEST = "request"  # it is malformed, too large, or asks for what there is not
    KEY = "key"  # unknown, expired, or not for this feature
    MODEL = "model"  # unknown, not for this key, or unable to read this content
    PRIVACY = "privacy"
    RULE = "rule"
    LIMIT = "limit"
    BUDGET = "budget"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"  # not ready, not able, or defective


class GatewayError(Exception):
    """Base of all errors that a client sees. `message` says what to do; it never holds prompt text.

    `should_retry`: the same request may succeed if it is sent again, and costs nothing twice. It may be sent
    after `retry_after_seconds` (None: at once). `delay_seconds`: so long its answer is held back.

    `headers` are fields of its answer, beside those that say when to retry. `attempts` were made before it,
    the last one at `deployment`.
    """

    headers: tuple[tuple[bytes, bytes], ...] = ()
    attempts = 0
    delay_seconds = 0.0
    deployment = ""
    refused_by = RefusedBy.GATEWAY
    status = 500
    type = "server_error"
    code = "internal_error"
    should_retry = False

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def __copy__(self) -> Self:
        """The same error without its traceback, whatever its class wants to be made of."""
        made = type(self).__new__(type(self), *self.args)  # which sets `args` too
        made.__dict__.update(self.__dict__)
        return made


class InvalidRequest(GatewayError):
    refused_by = RefusedBy.REQUEST
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        if code is not None:
            self.code = code


class UnsupportedModality(InvalidRequest):
    refused_by = RefusedBy.MODEL
    code = "unsupported_modality"


class InvalidApiKey(GatewayError):
    refused_by = RefusedBy.KEY
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    """`key` is the valid one that may not do this; empty where there is none."""

    refused_by = RefusedBy.KEY
    status = 403
    type = "permission_error"
    code = "permission_denied"

    def __init__(self, message: str, *, param: str | None = None, key: str = "") -> None:
        super().__init__(message, param=param)
        self.key = key


class PrivacyViolation(GatewayError):
    refused_by = RefusedBy.PRIVACY
    status = 403
    type = "permission_error"
    code = "privacy_policy_violation"


class RefusedByRule(GatewayError):
    refused_by = RefusedBy.RULE
    status = 403
    type = "permission_error"
    code = "refused_by_rule"


class NotFound(GatewayError):
    refused_by = RefusedBy.REQUEST
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class ModelNotFound(NotFound):
    refused_by = RefusedBy.MODEL
    code = "model_not_found"


class RequestNotFound(NotFound):
    code = "request_not_found"


class MethodNotAllowed(GatewayError):
    refused_by = RefusedBy.REQUEST
    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class PayloadTooLarge(GatewayError):
    refused_by = RefusedBy.REQUEST
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class TooManyRefusals(GatewayError):
    """In place of `cause`, the latest of too many refusals of `key`, or of an address without one."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_refusals"

    def __init__(self, cause: GatewayError, *, key: str, retry_after_seconds: float) -> None:
        whose = f"of the API key '{key}'" if key else "from this address, without a valid API key,"
        super().__init__(
            f"Too many requests {whose} were refused, the latest with {cause.status} {cause.code}. "
            "Correct them before you ask again.",
            param=cause.param,
            retry_after_seconds=retry_after_seconds,
        )
        self.cause = cause
        self.refused_by = cause.refused_by


class LimitExceeded(GatewayError):
    """A rate or concurrency limit of `scope` (`key:triage-app`) refused; `retry_after_seconds` frees room.

    Where that is infinite, the request will never fit.
    """

    refused_by = RefusedBy.LIMIT
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    should_retry = True

    def __init__(self, message: str, *, scope: str, limit: str, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.scope = scope
        self.limit = limit
        if scope == "upstream":  # no limit of ours
            self.refused_by = RefusedBy.UPSTREAM


class BudgetExceeded(GatewayError):
    """A budget of `scope` has no room for this request until `resets_at` (UTC seconds; None: never).

    `only_held`: the room is not spent, only held by requests in flight, so a retry soon can succeed.
    """

    refused_by = RefusedBy.BUDGET
    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(
        self, message: str, *, scope: str, window: str, resets_at: float | None, only_held: bool
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.window = window
        self.limit = f"budget_{window}"
        self.resets_at = resets_at
        self.only_held = only_held
        if only_held:
            self.should_retry, self.retry_after_seconds = True, 1.0


class UpstreamRejected(GatewayError):
    """The upstream refused the request, and so would, or did, every other one.

    Its message, type, param and code are kept, and what else its error had in `extras`.
    """

    refused_by = RefusedBy.UPSTREAM
    code = "upstream_rejected"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,
        param: str | None = None,
        code: str | None = None,
        extras: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.type = type
        self.code = code  # type: ignore[assignment]  # OpenAI's envelope allows null here
        self.extras = extras


class UpstreamExhausted(GatewayError):
    refused_by = RefusedBy.UPSTREAM
    status = 502
    type = "server_error"
    code = "upstream_error"
    should_retry = True


class UpstreamAccountRejected(GatewayError):
    """Key, money, permission or model name of our own account there: no matter of the client's."""

    refused_by = RefusedBy.UPSTREAM
    status = 502
    type = "server_error"
    code = "upstream_account_rejected"


class UpstreamBusy(GatewayError):
    """What could answer has too much to do, and told to come back after `retry_after_seconds`."""

    refused_by = RefusedBy.UPSTREAM
    status = 503
    type = "server_error"
    code = "upstream_busy"
    should_retry = True


class UpstreamTimeout(GatewayError):
    """No answer in time. Sent again, the same work could be done and paid for twice."""

    refused_by = RefusedBy.UPSTREAM
    status = 504
    type = "server_error"
    code = "upstream_timeout"


class Overloaded(GatewayError):
    """The request would have waited too long for its turn. Nothing was done for it."""

    status = 503
    type = "server_error"
    code = "overloaded"
    should_retry = True


class Unavailable(GatewayError):
    status = 503
    type = "server_error"
    code = "service_unavailable"
    should_retry = True


class ClientDisconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class FailureKind(enum.StrEnum):
    """What broke on the way to one upstream."""

    CONNECT = "connect"  # DNS, refused, unreachable, TLS
    ZONE = "zone"  # the address lies outside the deployment's zone; no byte was sent
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    BETWEEN_BYTES_TIMEOUT = "between_bytes_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    RESET = "reset"  # closed or reset after the request was sent, before the body was complete
    PROTOCOL = "protocol"  # not HTTP/1.1 as we understand it, or a header beyond the bound
    GATEWAY_TIMEOUT = "gateway_timeout"  # a proxy on the way to the upstream answered 504
    STATUS = "status"  # an answer that says that the upstream failed, such as 500
    REFUSED = "refused"  # a 4xx answer about what this candidate cannot do
    ACCOUNT = "account"  # an answer that refuses our account there: 401, 402, 403, or no money
    BUSY = "busy"  # an answer that says to come back: 429, 503 or 529
    BODY = "body"  # 200 with a body that cannot be an answer
    ABORTED = "aborted"  # the engine gave up: finish_reason abort, or an error event within the answer
    # Its server is gone or stuck, and says nothing any more on a connection that stays open.
    SILENT = "silent"


_TIMEOUTS = frozenset(
    {
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.BETWEEN_BYTES_TIMEOUT,
        FailureKind.TOTAL_TIMEOUT,
        FailureKind.GATEWAY_TIMEOUT,
    }
)
_REFUSALS = frozenset({FailureKind.STATUS, FailureKind.REFUSED, FailureKind.ACCOUNT, FailureKind.BUSY})
_ANSWERED = _REFUSALS | {FailureKind.GATEWAY_TIMEOUT, FailureKind.BODY, FailureKind.ABORTED}
_CAUSED_BY_REQUESTS = _ANSWERED | {FailureKind.RESET, FailureKind.PROTOCOL}
_NEVER_SENT = frozenset({FailureKind.CONNECT, FailureKind.ZONE, FailureKind.CONNECT_TIMEOUT})
_OF_SERVER = _NEVER_SENT | {FailureKind.SILENT}


class UpstreamFailure(Exception):
    """One attempt failed. `detail` is for logs and operators; it holds no prompt text and no credentials.

    `stale`: a reused connection died before any byte of a response. Most likely the upstream had closed it
    while it was idle, so the same request may be sent again on a fresh one. `status` is that of the answer,
    where that was an error, and `error` what it said. `retry_after_seconds` is what it told to wait.
    `refused`: nobody listens at any of its addresses.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        stale: bool = False,
        status: int | None = None,
        error: UpstreamError | None = None,
        retry_after_seconds: float | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.stale = stale
        self.status = status
        self.error = error
        self.retry_after_seconds = retry_after_seconds
        self.refused = refused

    @property
    def remedy(self) -> Remedy | None:
        """What the same request may be sent again with, to the same replica."""
        return None

    @property
    def is_timeout(self) -> bool:
        return self.kind in _TIMEOUTS

    @property
    def was_refused(self) -> bool:
        """True when an error came in place of an answer, so nothing was generated."""
        return self.kind in _REFUSALS

    @property
    def is_busy(self) -> bool:
        """True when the upstream is well, and has too much to do: ask another one, or come back."""
        return self.kind is FailureKind.BUSY

    @property
    def is_of_candidate(self) -> bool:
        """True when every replica of the candidate would say the same, and another candidate may not."""
        return self.kind is FailureKind.REFUSED or self.kind is FailureKind.ACCOUNT

    @property
    def was_given_up(self) -> bool:
        """True when it was given up for its time: the upstream may still be working on it."""
        return self.is_timeout and not self.never_sent

    @property
    def answered(self) -> bool:
        """True when the upstream is there and said something, only not what was asked for."""
        return self.kind in _ANSWERED

    def is_like(self, other: "UpstreamFailure") -> bool:
        """True when one request may well have caused both, on two servers."""
        if self.kind is not other.kind or self.kind not in _CAUSED_BY_REQUESTS:
            return False
        return self.status == other.status

    @property
    def is_of_server(self) -> bool:
        """True when no request can have caused it: nobody listens there, or no longer."""
        return self.kind in _OF_SERVER

    @property
    def never_sent(self) -> bool:
        """True when the upstream cannot have seen any byte of the request, so nothing can be billed."""
        return self.kind in _NEVER_SENT


class AdditionRefused(UpstreamFailure):
    """The upstream refused something that the gateway had added to the request: its `remedy` may help."""

    def __init__(self, status: int, remedy: Remedy) -> None:
        what = "the size of the output cap" if remedy.refused is None else remedy.refused
        super().__init__(FailureKind.STATUS, f"status {status}: it refuses {what}", status=status)
        self._remedy = remedy

    @property
    def remedy(self) -> Remedy | None:
        return self._remedy
