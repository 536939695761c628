"""W3C trace context: an attempt is a child of the span that the client named, or that the gateway has begun.

Source: https://www.w3.org/TR/trace-context/. What is not well-formed is left out, as that text asks.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping

import msgspec

from gateway.core.heads import NO_LINES, HeaderLines

# Versions after 00 may have more behind a further hyphen; ff is none.
_PARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
)
_VERSION_00 = b"00-"
_PARENT_BYTES = 55
# What vendors must be able to pass on. A longer list may be dropped whole.
_STATE = re.compile(rb"[ -~]{1,512}")
SAMPLED, RANDOM_TRACE_ID = 0x01, 0x02
_FLAGS = SAMPLED | RANDOM_TRACE_ID


class ParentSpan(msgspec.Struct, frozen=True):
    """A span as `traceparent` names it. Ids are lower hexadecimal digits; of `flags` those that are known."""

    trace_id: bytes
    span_id: bytes
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whether its children are to be recorded."""
        return bool(self.flags & SAMPLED)

    def header(self) -> bytes:
        """The value of `traceparent` that names it."""
        return b"00-%b-%b-%02x" % (self.trace_id, self.span_id, self.flags)


def parent_in(headers: Mapping[bytes, bytes]) -> ParentSpan | None:
    """The span that `traceparent` names; None where there is none, or what is there is none."""
    parent = headers.get(b"traceparent", b"").strip()
    found = _PARENT.fullmatch(parent)
    if found is None or (parent.startswith(_VERSION_00) and len(parent) != _PARENT_BYTES):
        return None
    return ParentSpan(found[1], found[2], int(found[3], 16) & _FLAGS)


def span_id_of(name: str) -> bytes:
    """The id of the span of a request or an attempt: the same wherever it is asked for.

    `name` is a request id or an attempt id. The result is 16 hexadecimal digits.
    """
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest().encode()


def trace_id_of(request_id: str) -> bytes:
    """The id of the trace that a request begins, as 32 hexadecimal digits."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest().encode()


def child_lines(
    headers: Mapping[bytes, bytes], request_id: str, attempt_id: str, digest_key: bytes | None
) -> HeaderLines:
    """`traceparent` of the attempt, under that of the request's `headers`; nothing where there is none.

    For a zone of our own, `digest_key` None, `tracestate` goes along: it is what the caller's own systems say
    to each other. For others the id of a trace that a client has begun is its digest under `digest_key`: one
    trace has one id there too, and nothing is said in it.
    """
    parent = parent_in(headers)
    if parent is None:
        return NO_LINES
    trace_id = parent.trace_id
    if digest_key is not None and trace_id != trace_id_of(request_id):
        trace_id = hmac.digest(digest_key, trace_id, "sha256")[:16].hex().encode()
    lines = b"traceparent: %b\r\n" % ParentSpan(trace_id, span_id_of(attempt_id), parent.flags).header()
    state = headers.get(b"tracestate", b"").strip()
    if digest_key is None and _STATE.fullmatch(state):
        lines += b"tracestate: %b\r\n" % state
    return HeaderLines(lines)
