"""Errors as clients see them: OpenAI's four keys always, and headers that say whether to try again."""

import json
import math

import pytest

from gateway.core import errors
from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import (
    BudgetExceeded,
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    LimitExceeded,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    PrivacyViolation,
    RefusedByRule,
    RequestNotFound,
    TooManyRefusals,
    Unavailable,
    UnsupportedModality,
    UpstreamAccountRejected,
    UpstreamBusy,
    UpstreamExhausted,
    UpstreamRejected,
    UpstreamTimeout,
)


def limited(seconds: float) -> LimitExceeded:
    return LimitExceeded("slow down", scope="key:a", limit="requests_per_minute", retry_after_seconds=seconds)


def spent(*, only_held: bool) -> BudgetExceeded:
    return BudgetExceeded("no money", scope="key:a", window="day", resets_at=1.0, only_held=only_held)


EVERY = {
    GatewayError: (GatewayError("m"), 500, "server_error", "internal_error"),
    InvalidRequest: (InvalidRequest("m", param="n"), 400, "invalid_request_error", "invalid_request"),
    UnsupportedModality: (UnsupportedModality("m"), 400, "invalid_request_error", "unsupported_modality"),
    InvalidApiKey: (InvalidApiKey("m"), 401, "invalid_request_error", "invalid_api_key"),
    PermissionDenied: (PermissionDenied("m"), 403, "permission_error", "permission_denied"),
    PrivacyViolation: (PrivacyViolation("m"), 403, "permission_error", "privacy_policy_violation"),
    RefusedByRule: (RefusedByRule("m"), 403, "permission_error", "refused_by_rule"),
    NotFound: (NotFound("m"), 404, "invalid_request_error", "unknown_url"),
    ModelNotFound: (ModelNotFound("m"), 404, "invalid_request_error", "model_not_found"),
    RequestNotFound: (RequestNotFound("m"), 404, "invalid_request_error", "request_not_found"),
    MethodNotAllowed: (MethodNotAllowed("m"), 405, "invalid_request_error", "method_not_supported"),
    PayloadTooLarge: (PayloadTooLarge("m"), 413, "invalid_request_error", "request_too_large"),
    LimitExceeded: (limited(2.0), 429, "rate_limit_error", "rate_limit_exceeded"),
    BudgetExceeded: (spent(only_held=False), 429, "insufficient_quota", "insufficient_quota"),
    UpstreamRejected: (
        UpstreamRejected("m", status=422, type="odd_error", code=None),
        422,
        "odd_error",
        None,
    ),
    UpstreamExhausted: (UpstreamExhausted("m"), 502, "server_error", "upstream_error"),
    UpstreamAccountRejected: (
        UpstreamAccountRejected("m"),
        502,
        "server_error",
        "upstream_account_rejected",
    ),
    TooManyRefusals: (
        TooManyRefusals(InvalidApiKey("m"), key="", retry_after_seconds=3),
        429,
        "rate_limit_error",
        "too_many_refusals",
    ),
    UpstreamBusy: (UpstreamBusy("m", retry_after_seconds=3), 503, "server_error", "upstream_busy"),
    UpstreamTimeout: (UpstreamTimeout("m"), 504, "server_error", "upstream_timeout"),
    Overloaded: (Overloaded("m", retry_after_seconds=3), 503, "server_error", "overloaded"),
    Unavailable: (Unavailable("m", retry_after_seconds=3), 503, "server_error", "service_unavailable"),
}


def test_every_error_class_is_specified_here():
    known = {
        item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, GatewayError)
    }
    assert known == set(EVERY)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_each_error_has_the_four_keys_its_status_type_and_code(kind: type[GatewayError]):
    error, status, type_, code = EVERY[kind]
    written = envelope(error)
    assert b"\n" not in written
    body = json.loads(written)
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert error.status == status
    assert body["error"] == {"message": error.message, "type": type_, "param": error.param, "code": code}


def test_a_message_with_line_ends_and_quotes_stays_on_one_line():
    assert b"\n" not in envelope(InvalidRequest('a\nb\r\n"c"\u2028'))


def test_what_else_an_upstream_s_error_had_stands_behind_the_four_keys():
    extras = {"innererror": {"code": "ResponsibleAIPolicyViolation"}, "details": [1]}
    error = UpstreamRejected("m", status=400, type="t", code="content_filter", extras=extras)
    told = json.loads(envelope(error))["error"]
    assert list(told) == ["message", "type", "param", "code", "innererror", "details"]
    assert told["innererror"] == {"code": "ResponsibleAIPolicyViolation"}


RETRIED = {LimitExceeded, UpstreamExhausted, UpstreamBusy, Unavailable, Overloaded}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_each_error_says_whether_to_retry(kind: type[GatewayError]):
    told = dict(retry_headers(EVERY[kind][0]))
    assert told[b"x-should-retry"] == (b"true" if kind in RETRIED else b"false")


@pytest.mark.parametrize(
    "kind",
    [kind for kind in EVERY if kind not in RETRIED | {TooManyRefusals}],
    ids=lambda kind: kind.__name__,
)
def test_errors_that_time_does_not_mend_name_no_time(kind: type[GatewayError]):
    assert retry_headers(EVERY[kind][0]) == [(b"x-should-retry", b"false")]


def test_too_many_refusals_name_a_time_for_who_has_corrected_the_request():
    told = dict(retry_headers(EVERY[TooManyRefusals][0]))
    assert (told[b"retry-after"], told[b"x-should-retry"]) == (b"3", b"false")


def test_an_upstream_s_own_wait_is_passed_on_with_its_failure():
    assert dict(retry_headers(UpstreamExhausted("m", retry_after_seconds=37))) == {
        b"retry-after": b"37",
        b"retry-after-ms": b"37000",
        b"x-should-retry": b"true",
    }


@pytest.mark.parametrize(
    ("seconds", "after", "milliseconds"),
    [
        (0.001, b"1", b"1"),
        (0.2, b"1", b"200"),
        (1, b"1", b"1000"),
        (59.5, b"60", b"59500"),
        (60, b"60", b"60000"),
    ],
)
def test_a_short_wait_is_named_in_seconds_and_in_milliseconds_both_rounded_up(
    seconds: float, after: bytes, milliseconds: bytes
):
    for error in (limited(seconds), Unavailable("m", retry_after_seconds=seconds)):
        assert retry_headers(error) == [
            (b"retry-after", after),
            (b"retry-after-ms", milliseconds),
            (b"x-should-retry", b"true"),
        ]


@pytest.mark.parametrize("seconds", [60.001, 61, 120, 3600])
def test_a_wait_over_sixty_seconds_also_says_not_to_retry(seconds: float):
    headers = dict(retry_headers(limited(seconds)))
    assert headers[b"x-should-retry"] == b"false"
    assert int(headers[b"retry-after"]) >= seconds


def test_a_request_that_will_never_fit_says_not_to_retry_and_names_no_time():
    assert retry_headers(limited(math.inf)) == [(b"x-should-retry", b"false")]


def test_a_spent_budget_is_not_worth_a_retry():
    assert retry_headers(spent(only_held=False)) == [(b"x-should-retry", b"false")]


def test_a_budget_that_is_only_held_by_requests_in_flight_is_worth_one_soon():
    assert dict(retry_headers(spent(only_held=True))) == {
        b"retry-after": b"1",
        b"retry-after-ms": b"1000",
        b"x-should-retry": b"true",
    }


def test_a_budget_names_its_window_as_the_limit_for_metrics():
    assert spent(only_held=False).limit == "budget_day"
