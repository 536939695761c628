"""What an upstream's error is about: each row of the table, and what the status alone says."""

import pytest

from gateway.core.upstream_error import UpstreamError, read_error
from gateway.core.verdicts import SIGNS, Sign, UpstreamVerdict, error_within, is_error, sign_of, verdict_of

# One for each row of SIGNS, in its order: status, code, message.
ROWS: list[tuple[int, str | None, str]] = [
    (429, "insufficient_quota", "no"),
    (403, "quota_exceeded", "no"),
    (400, "billing_hard_limit_reached", "no"),
    (429, "billing_not_active", "no"),
    (400, "billing_error", "no"),
    (403, "account_deactivated", "no"),
    (403, "access_terminated", "no"),
    (429, None, "You exceeded your current quota, please check your plan and billing details."),
    (400, None, "Your credit balance is too low to access the API."),
    (429, None, "Your organization's monthly spend limit has been reached."),
    (400, "invalid_api_key", "no"),
    (400, "authentication_error", "no"),
    (404, "model_not_found", "no"),
    (404, "DeploymentNotFound", "no"),
    (400, "model_decommissioned", "no"),
    (400, None, "API key not valid. Please pass a valid API key."),
    (404, None, "The model `meta-llama/Scout` does not exist."),
    (400, "content_filter", "no"),
    (400, "content_policy_violation", "no"),
    (400, "ResponsibleAIPolicyViolation", "no"),
    (400, "moderation_blocked", "no"),
    (400, "invalid_prompt", "no"),
    (400, None, "The response was filtered due to Azure OpenAI's content management policy."),
    (403, None, "Your chosen model requires moderation and your input was flagged for violating it."),
    (400, "context_length_exceeded", "no"),
    (400, "string_above_max_length", "no"),
    (400, "array_above_max_length", "no"),
    (413, "request_too_large", "no"),
    (
        429,
        "rate_limit_exceeded",
        "Request too large for gpt-4o on tokens per min: Limit 30000, Requested 40000.",
    ),
    (400, "400", "The decoder prompt (length 5951) is longer than the maximum model length of 4096."),
    (400, None, "This exceeds the context window of the model."),
    (400, None, "prompt is too long: 210000 tokens > 200000"),
    (400, "invalid_value", "max_tokens is too large: 20000. This model takes 16384 completion tokens."),
    (400, "400", "At most 5 image(s) may be provided in one prompt."),
    (400, None, "Too many images in the request."),
    (400, None, "The image exceeds the 5 MB maximum."),
    (400, "unsupported_parameter", "no"),
    (400, "unsupported_value", "no"),
    (400, "unknown_parameter", "no"),
    (404, "unknown_url", "no"),
    (400, "unsupported_model", "no"),
    (400, "model_not_supported", "no"),
    (400, "OperationNotSupported", "no"),
    (422, "extra_forbidden", "no"),
    (400, None, "This model does not support image input."),
    (400, None, "Tool use is not enabled here."),
    (400, None, "`logprobs` not supported with speculative decoding"),
    (400, None, "Unrecognized request argument supplied: top_k"),
    (400, None, "Extra inputs are not permitted"),
    (400, None, "Invalid value: 'video'. Supported values are: 'text' and 'image_url'."),
    (400, None, "meta-llama/Llama is not a multimodal model"),
    (400, None, '"auto" tool choice requires --enable-auto-tool-choice to be set'),
    (503, None, "no healthy upstream"),
    (
        503,
        None,
        "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
    ),
]


def error(status: int, code: str | None = None, message: str = "no", **more: str | None) -> UpstreamError:
    return UpstreamError(status=status, code=code, message=message, said=True, **more)


@pytest.mark.parametrize(("sign", "row"), list(zip(SIGNS, ROWS, strict=True)))
def test_each_row_decides_on_what_it_is_for(sign: Sign, row: tuple[int, str | None, str]) -> None:
    assert sign_of(error(*row)) is sign
    assert verdict_of(error(*row)) is sign.about


@pytest.mark.parametrize("row", [row for row in ROWS if row[1] not in {None, "400"} and row[2] == "no"])
def test_a_type_or_a_nested_code_says_as_much_as_a_code(row: tuple[int, str, str]) -> None:
    status, code, _ = row
    expected = verdict_of(error(status, code))
    assert verdict_of(error(status, type=code)) is expected
    assert verdict_of(error(status, "other", inner_code=code)) is expected
    assert verdict_of(error(status, code.upper().replace("_", "-"))) is expected


STATUSES = {
    400: UpstreamVerdict.REQUEST,
    401: UpstreamVerdict.ACCOUNT,
    402: UpstreamVerdict.ACCOUNT,
    403: UpstreamVerdict.ACCOUNT,
    404: UpstreamVerdict.ACCOUNT,
    405: UpstreamVerdict.ACCOUNT,
    406: UpstreamVerdict.REQUEST,
    407: UpstreamVerdict.ACCOUNT,
    408: UpstreamVerdict.BROKEN,
    409: UpstreamVerdict.BROKEN,
    410: UpstreamVerdict.ACCOUNT,
    413: UpstreamVerdict.CANDIDATE,
    415: UpstreamVerdict.CANDIDATE,
    422: UpstreamVerdict.REQUEST,
    425: UpstreamVerdict.BROKEN,
    429: UpstreamVerdict.RATE_LIMITED,
    431: UpstreamVerdict.CANDIDATE,
    451: UpstreamVerdict.REQUEST,
    498: UpstreamVerdict.BUSY,
    500: UpstreamVerdict.BROKEN,
    501: UpstreamVerdict.BROKEN,
    502: UpstreamVerdict.BROKEN,
    503: UpstreamVerdict.BUSY,
    504: UpstreamVerdict.TIMED_OUT,
    520: UpstreamVerdict.BROKEN,
    524: UpstreamVerdict.TIMED_OUT,
    529: UpstreamVerdict.BUSY,
    301: UpstreamVerdict.BROKEN,
}


@pytest.mark.parametrize(("status", "verdict"), list(STATUSES.items()))
def test_without_a_sign_the_status_decides(status: int, verdict: UpstreamVerdict) -> None:
    assert sign_of(error(status)) is None
    assert verdict_of(error(status)) is verdict


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "400", "temperature must be in [0, 2], got 5.0."),
        (400, None, "'messages' must contain at least one message."),
        (
            400,
            "invalid_type",
            "Invalid type for 'messages[0].content': expected a string, but got an integer.",
        ),
        (400, None, "Missing required parameter: 'messages[0].role'."),
        (400, None, "We could not parse the JSON body of your request."),
        (400, "invalid_image_format", "You uploaded an unreadable image."),
        (422, None, "messages.0.role: Field required"),
    ],
)
def test_what_is_wrong_everywhere_ends_the_request(status: int, code: str | None, message: str) -> None:
    assert verdict_of(error(status, code, message)) is UpstreamVerdict.REQUEST


@pytest.mark.parametrize(
    ("status", "message", "verdict"),
    [
        (429, "Rate limit reached: your context window of 60 s is used up.", UpstreamVerdict.RATE_LIMITED),
        (500, "At most 5 image(s) may be provided in one prompt.", UpstreamVerdict.BROKEN),
        (401, "This key does not support this model.", UpstreamVerdict.ACCOUNT),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            UpstreamVerdict.BUSY,
        ),
        (503, "The server is overloaded: too many requests are queued.", UpstreamVerdict.BUSY),
    ],
)
def test_a_sign_counts_only_under_its_statuses(status: int, message: str, verdict: UpstreamVerdict) -> None:
    assert verdict_of(error(status, message=message)) is verdict


# --- under status 200 ---


@pytest.mark.parametrize(
    ("body", "status", "verdict"),
    [
        (b'{"error":{"message":"x","code":429}}', 429, UpstreamVerdict.RATE_LIMITED),
        (b'{"error":{"message":"x","code":"503"}}', 503, UpstreamVerdict.BUSY),
        (b'{"error":{"message":"x","code":502,"metadata":{}}}', 502, UpstreamVerdict.BROKEN),
        (b'{"error":{"message":"x","type":"invalid_request_error"}}', 400, UpstreamVerdict.REQUEST),
        (
            b'{"error":{"message":"At most 5 images","type":"BadRequestError","code":400}}',
            400,
            UpstreamVerdict.CANDIDATE,
        ),
        (b'{"error":{"message":"x","code":"context_length_exceeded"}}', 400, UpstreamVerdict.CANDIDATE),
        (b'{"error":{"message":"x","code":"insufficient_quota"}}', 429, UpstreamVerdict.ACCOUNT),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', 529, UpstreamVerdict.BUSY),
        (
            b'{"object":"error","message":"x","type":"BadRequestError","code":400}',
            400,
            UpstreamVerdict.REQUEST,
        ),
        (b'{"error":{"message":"x","status":"DEADLINE_EXCEEDED"}}', 504, UpstreamVerdict.TIMED_OUT),
        (b'{"error":{"message":"x","type":"server_error"}}', 500, UpstreamVerdict.BROKEN),
        (b'{"error":{"message":"x","code":7}}', 500, UpstreamVerdict.BROKEN),
        (b'{"error":"x"}', 500, UpstreamVerdict.BROKEN),
        (b'{"error":true}', 500, UpstreamVerdict.BROKEN),
    ],
)
def test_an_error_under_200_has_the_status_that_it_would_have_been(
    body: bytes, status: int, verdict: UpstreamVerdict
) -> None:
    found = error_within(body)
    assert (found.status, verdict_of(found)) == (status, verdict)
    assert found.message == ("x" if b'"x"' in body else found.message)
    assert "200" not in found.message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"object":"error","message":"x"}', True),
        (b'{"type":"error"}', True),
        (b'{"object":"list","data":[]}', False),
        (b'{"detail":"Not Found"}', True),
        (b'{"detail":[{"msg":"no"}]}', True),
        (b'{"message":"no"}', True),
        (b'{"message":"no","choices":[]}', False),
        (b'{"type":"message_start","message":{"content":[]}}', False),
        (b'{"object":["error"]}', False),
        (b'["error"]', False),
        (b"nothing", False),
    ],
)
def test_an_object_may_call_itself_an_error(body: bytes, expected: bool) -> None:
    assert is_error(body) is expected


def test_azure_s_filter_is_found_in_its_inner_error() -> None:
    body = b'{"error":{"message":"no","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}'
    assert verdict_of(read_error(400, body)) is UpstreamVerdict.REQUEST
