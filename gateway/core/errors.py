"""Every way a request can fail, as meaning rather than as status code.

GatewayError                 the client gets an error envelope (core/envelope.py maps it, once)
 ├─ InvalidRequest           400  malformed or unsupported input
 │   └─ UnsupportedModality  400  no deployment of the model reads this kind of content
 ├─ InvalidApiKey            401
 ├─ PermissionDenied         403  the key may not use this feature
 ├─ PrivacyViolation         403  the privacy class allows no deployment of the model
 ├─ RefusedByRule            403  a rule of the model refuses this request
 ├─ NotFound                 404  unknown route
 │   └─ ModelNotFound        404  unknown model, or one the key may not use
 ├─ MethodNotAllowed         405
 ├─ PayloadTooLarge          413
 ├─ LimitExceeded            429  a rate or concurrency limit; worth a retry later
 ├─ BudgetExceeded           429  a budget is used up; not worth a retry
 ├─ UpstreamRejected         4xx  the upstream refused this request; its own envelope is passed on
 ├─ UpstreamExhausted        502  every candidate failed before the first byte
 └─ Unavailable              503  nothing healthy, shutting down, or the ledger cannot keep up

ClientDisconnected           nobody is left to answer
UpstreamFailure              one attempt broke; the pipeline decides what the client sees
"""

import enum


class GatewayError(Exception):
    """Base of all errors that a client sees. `message` says what to do; it never holds prompt text.

    `headers` are fields of its answer, beside those that say when to retry.
    """

    headers: tuple[tuple[bytes, bytes], ...] = ()
    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        if code is not None:
            self.code = code


class UnsupportedModality(InvalidRequest):
    code = "unsupported_modality"


class InvalidApiKey(GatewayError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    status = 403
    type = "permission_error"
    code = "permission_denied"


class PrivacyViolation(GatewayError):
    status = 403
    type = "permission_error"
    code = "privacy_policy_violation"


class RefusedByRule(GatewayError):
    status = 403
    type = "permission_error"
    code = "refused_by_rule"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class PayloadTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class LimitExceeded(GatewayError):
    """A rate or concurrency limit of `scope` (`key:triage-app`) refused; `retry_after_seconds` frees room."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, scope: str, limit: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.scope = scope
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds


class BudgetExceeded(GatewayError):
    """A budget of `scope` has no room for this request until `resets_at` (UTC seconds; None: never).

    `only_held`: the room is not spent, only held by requests in flight, so a retry soon can succeed.
    """

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(
        self, message: str, *, scope: str, window: str, resets_at: float | None, only_held: bool
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.limit = f"budget_{window}"
        self.resets_at = resets_at
        self.only_held = only_held


class UpstreamRejected(GatewayError):
    """The upstream answered 4xx: not worth another candidate. Its message, type, param and code are kept."""

    code = "upstream_rejected"

    def __init__(
        self, message: str, *, status: int, type: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.type = type
        self.code = code  # type: ignore[assignment]  # OpenAI's envelope allows null here


class UpstreamExhausted(GatewayError):
    status = 502
    type = "server_error"
    code = "upstream_error"


class Unavailable(GatewayError):
    status = 503
    type = "server_error"
    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


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
    STATUS = "status"  # a 5xx or 429 answer
    BODY = "body"  # 200 with a body that cannot be an answer
    ABORTED = "aborted"  # the engine gave up: finish_reason abort, or an in-band error event
    SILENT = (
        "silent"  # its server is gone or stuck, and says nothing any more on a connection that stays open
    )


_TIMEOUTS = frozenset(
    {
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.BETWEEN_BYTES_TIMEOUT,
        FailureKind.TOTAL_TIMEOUT,
    }
)
_ANSWERED = frozenset({FailureKind.STATUS, FailureKind.BODY, FailureKind.ABORTED})
_CAUSED_BY_REQUESTS = _ANSWERED | {FailureKind.RESET, FailureKind.PROTOCOL}
# Too many requests, or a full queue: the server is well, and has taken nothing of this one.
_BUSY = frozenset({429, 503})
_NEVER_SENT = frozenset({FailureKind.CONNECT, FailureKind.ZONE, FailureKind.CONNECT_TIMEOUT})


class UpstreamFailure(Exception):
    """One attempt failed. `detail` is for logs and operators; it holds no prompt text and no credentials.

    `stale`: a reused connection died before any byte of a response. Most likely the upstream had closed it
    while it was idle, so the same request may be sent again on a fresh one. `status` is that of the answer,
    in a failure of kind STATUS only, and `retry_after_seconds` what it asked to wait. `refused`: nobody
    listens at any of its addresses.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        stale: bool = False,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.stale = stale
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.refused = refused

    @property
    def is_timeout(self) -> bool:
        return self.kind in _TIMEOUTS

    @property
    def is_busy(self) -> bool:
        """True when the upstream is well and full: it costs nothing to ask another one."""
        return self.status in _BUSY

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
    def never_sent(self) -> bool:
        """True when the upstream cannot have seen any byte of the request, so nothing can be billed."""
        return self.kind in _NEVER_SENT
