"""The one place where a failure becomes OpenAI's error envelope: four keys always, and retry headers."""

import math

import orjson

from gateway.core.errors import GatewayError, UpstreamRejected

Header = tuple[bytes, bytes]

# The Node SDK ignores a longer Retry-After and retries early, so such waits say not to retry at all.
LONGEST_RETRY_SECONDS = 60.0


def envelope(error: GatewayError) -> bytes:
    """`error` as JSON on one line. What else an upstream's error had stands behind the four keys."""
    body = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, UpstreamRejected):
        body |= error.extras
    return orjson.dumps({"error": body})


def retry_headers(error: GatewayError) -> list[Header]:
    """Whether and when to try again. Official clients do as `x-should-retry` says, whatever the status."""
    seconds = error.retry_after_seconds
    headers = []
    if seconds is not None and math.isfinite(seconds):
        headers = [
            (b"retry-after", b"%d" % math.ceil(seconds)),
            (b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),
        ]
    is_near = seconds is None or seconds <= LONGEST_RETRY_SECONDS
    return [*headers, (b"x-should-retry", b"true" if error.should_retry and is_near else b"false")]
