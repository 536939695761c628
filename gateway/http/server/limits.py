"""What one client connection may take, and the errors for what it may not."""

import msgspec

from gateway.core.errors import InvalidRequest


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one connection."""

    head_bytes: int = 64 * 1024
    head_seconds: float = 30.0
    """From the first byte of a head to its end: dripping does not extend it."""
    body_seconds: float = 30.0
    """Without a byte of a body that is due; dripping extends it as `body_bytes_per_second` says."""
    body_bytes_per_second: int = 256
    """Of a body, over `body_seconds` and its own time: who sends less has no use but to keep a connection."""
    unread_seconds: float = 60.0
    """Without a byte taken by a client that we write to."""
    idle_seconds: float = 620.0
    """Longer than load balancers keep theirs: they would else use one that was just closed."""
    waiting_bytes: int = 64 * 1024
    """Of a body that nobody has asked for yet; then reading pauses."""
    waiting_requests: int = 16
    """Pipelined behind the one under way; then reading pauses."""
    linger_bytes: int = 256 * 1024 * 1024
    linger_seconds: float = 60.0
    """A client that still sends is read from for so long, or it would lose our last answer to a reset."""
    check_seconds: float = 5.0
    """How often the times above are looked at at most, so each may last this much longer."""

    def body_within(self, size: int) -> float:
        """Seconds that a body may take of which `size` bytes have come."""
        return self.body_seconds + size / self.body_bytes_per_second


class MalformedRequest(InvalidRequest):
    """Not a request as we understand HTTP/1.1."""

    code = "invalid_http"


class RepeatedHeader(InvalidRequest):
    """A header that can only be there once."""

    code = "invalid_header"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "request_head_too_large"


class RequestTimeout(InvalidRequest):
    """The client did not send what it had begun."""

    status = 408
    code = "request_timeout"
    should_retry = True


class ConnectionNeeded(RequestTimeout):
    """The port is full, and this client was the one that had sent nothing for the longest time."""


class ExpectationFailed(InvalidRequest):
    """The client expects what this server does not know."""

    status = 417
    code = "expectation_failed"


# What a request's body may be coded as.
CODINGS = "gzip, deflate, zstd, br"


class UnknownCoding(InvalidRequest):
    """The body is compressed in a way that this server does not know."""

    status = 415
    code = "unsupported_content_encoding"
    headers = ((b"accept-encoding", CODINGS.encode()),)
