"""The one place where a failure becomes OpenAI's error envelope: four keys always, and retry headers."""

import math

import orjson

from gateway.core.errors import BudgetExceeded, GatewayError, LimitExceeded, Unavailable

Header = tuple[bytes, bytes]

# The Node SDK ignores a longer Retry-After and retries early, so such waits say not to retry at all.
LONGEST_RETRY_SECONDS = 60.0


def envelope(error: GatewayError) -> bytes:
    """`error` as JSON on one line."""
    return orjson.dumps(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def retry_headers(error: GatewayError) -> list[Header]:
    """What tells the official clients whether and when to try again."""
    if isinstance(error, BudgetExceeded):
        return _retry_after(1.0) if error.only_held else [(b"x-should-retry", b"false")]
    if isinstance(error, LimitExceeded | Unavailable):
        return _retry_after(error.retry_after_seconds)
    return []


def _retry_after(seconds: float) -> list[Header]:
    if math.isinf(seconds):
        return [(b"x-should-retry", b"false")]
    milliseconds = math.ceil(seconds * 1000)
    headers = [
        (b"retry-after", str(math.ceil(seconds)).encode()),
        (b"retry-after-ms", str(milliseconds).encode()),
    ]
    if seconds > LONGEST_RETRY_SECONDS:
        headers.append((b"x-should-retry", b"false"))
    return headers
