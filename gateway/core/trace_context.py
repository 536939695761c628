"""W3C trace context: an attempt is a child of the span that the client named.

Source: https://www.w3.org/TR/trace-context/. What is not well-formed is left out, as that text asks.
"""

import hashlib
import re
from collections.abc import Mapping

from gateway.core.heads import NO_LINES, HeaderLines

# Versions after 00 may have more behind a further hyphen; ff is none.
_PARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-[!-~]*)?"
)
_VERSION_00 = b"00-"
_PARENT_BYTES = 55
# What vendors must be able to pass on. A longer list may be dropped whole.
_STATE = re.compile(rb"[ -~]{1,512}")
# The flags that are known: sampled, and random trace id.
_FLAGS = 0x03


def child_lines(headers: Mapping[bytes, bytes], attempt_id: str, *, with_state: bool) -> HeaderLines:
    """`traceparent` of the attempt, under that of the client's `headers`; nothing where there is none.

    `with_state`: `tracestate` goes along. It is what the caller's own systems say to each other.
    """
    parent = headers[b"traceparent"].strip()
    found = _PARENT.fullmatch(parent)
    if found is None or (parent.startswith(_VERSION_00) and len(parent) != _PARENT_BYTES):
        return NO_LINES
    span = hashlib.blake2b(attempt_id.encode(), digest_size=8).hexdigest().encode()
    lines = b"traceparent: 00-%b-%b-%02x\r\n" % (found[1], span, int(found[2], 16) & _FLAGS)
    state = headers.get(b"tracestate", b"").strip()
    if with_state and _STATE.fullmatch(state):
        lines += b"tracestate: %b\r\n" % state
    return HeaderLines(lines)
