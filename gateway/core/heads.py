"""Heads of requests and answers as ready bytes, checked once and then only joined.

Rules:
- A header line is `name: value` with its CR LF. A block is any number of whole lines.
- The HTTP client and server take `HeaderLines` and `RequestHead` and write them as they are.
- Whoever calls `HeaderLines(...)` answers for it: the text is a constant of the code, each value in it has
  passed `one_line`, or is a number, an id or a name that the gateway itself has made or checked.
- Framing belongs to the HTTP client and server: they add content-length, transfer-encoding and connection.
"""

import re
from collections.abc import Iterable
from typing import NewType

import msgspec

from gateway.core.endpoint import Endpoint

HeaderLines = NewType("HeaderLines", bytes)
NO_LINES = HeaderLines(b"")

_LF, _CR, _NUL = b"\n\r\0"  # as numbers: to look for one in bytes takes a fifth of the time
_HOST = re.compile(rb"[!-~]+").fullmatch
_METHOD = re.compile(rb"[A-Z]{1,32}").fullmatch
_TARGET = re.compile(rb"/[!\"$-~]*").fullmatch
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_RESERVED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer"}
    | {b"upgrade", b"expect", b"proxy-connection"}
)


class BodyInParts:
    """A large body as its beginning and the rest, which is a view of other bytes."""

    __slots__ = ("begin", "rest")

    def __init__(self, begin: bytes, rest: memoryview) -> None:
        self.begin = begin
        self.rest = rest

    def __len__(self) -> int:
        return len(self.begin) + len(self.rest)


class RequestHead(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What all requests of one kind to `endpoint` begin with: start line, host and header lines.

    Made by `request_head`. `block` lacks the lines of the single request and the empty line at the end.
    """

    endpoint: Endpoint
    method: bytes
    block: bytes

    def __repr__(self) -> str:
        """Without the header lines, which hold credentials."""
        return f"RequestHead({self.block.partition(b' HTTP/1.1')[0].decode('ascii')})"


def request_head(
    endpoint: Endpoint, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> RequestHead:
    """The head of requests to `target`, path and query as sent on the wire; names are in lower case.

    Identity encoding is always asked for; `headers` cannot change that. Raises ValueError for what could
    break the framing.
    """
    authority = endpoint.authority.encode("ascii" if endpoint.authority.isascii() else "idna")
    if not _HOST(authority):
        raise ValueError(f"not a host name: {endpoint.host!r}")
    if not _METHOD(method):
        raise ValueError(f"not a method: {method!r}")
    if not _TARGET(target):
        raise ValueError("the request target must be a path of visible ASCII without a fragment")
    lines = header_lines([pair for pair in headers if _is_sent(pair[0])])
    start = b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n" % (method, target, authority)
    return RequestHead(endpoint, method, start + lines)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> HeaderLines:
    """A block of pairs. Raises ValueError where one of them is not exactly one line."""
    return HeaderLines(
        b"".join([b"%b: %b\r\n" % (one_line(name), one_line(value)) for name, value in headers])
    )


def one_line(value: bytes) -> bytes:
    """`value`, which may stand in a header line. Raises ValueError when it would end it."""
    if _LF in value or _CR in value or _NUL in value:
        raise ValueError("CR, LF or NUL in a header")
    return value


def _is_sent(name: bytes) -> bool:
    """Whether a request may have this header; False leaves it out. Raises ValueError for a bad name."""
    if name in _RESERVED:
        raise ValueError(f"the client sets {name.decode()} itself")
    if not _NAME(name):
        raise ValueError(f"not a lower-case header name: {name!r}")
    return name != b"accept-encoding"
