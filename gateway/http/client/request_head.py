"""The request head as bytes, for one endpoint. Nothing that a caller passes can end a line or add one."""

import re

from gateway.core.endpoint import Endpoint
from gateway.ports import UpstreamRequest

_TARGET = re.compile(rb"/[!\"$-~]*").fullmatch
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
is_name = _TOKEN  # of a header, in lower case
_METHOD = re.compile(rb"[A-Z]{1,32}").fullmatch
_RESERVED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer"}
    | {b"upgrade", b"expect", b"proxy-connection"}
)
_USUALLY_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS"})
_CACHE_ENTRIES = 1024  # entries of each kind


class RequestHead:
    """Encodes heads for `endpoint`. Identity encoding is always asked for; callers cannot change that."""

    __slots__ = ("_fixed", "_prefixes", "_starts")

    def __init__(self, endpoint: Endpoint) -> None:
        authority = endpoint.authority.encode("ascii" if endpoint.authority.isascii() else "idna")
        if not re.fullmatch(rb"[!-~]+", authority):
            raise ValueError(f"not a host name: {endpoint.host!r}")
        self._fixed = b" HTTP/1.1\r\nhost: " + authority + b"\r\naccept-encoding: identity"
        # Pieces that have been checked before. A line is `\r\nname: ` and a value: its end is the next one's.
        self._starts: dict[bytes, bytes] = {}
        self._prefixes: dict[bytes, bytes] = {}

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head of `request`, with content-length. Raises ValueError for what could break framing."""
        start = request.method + b" " + request.target
        pieces = [self._starts.get(start) or self._admit_start(request)]
        prefixes = self._prefixes
        lines = 4  # start line, host, accept-encoding, the empty line
        for name, value in request.headers:
            prefix = prefixes.get(name)
            if prefix is None:
                prefix = self._admit(name)
            if prefix:
                pieces.append(prefix)
                pieces.append(value)
                lines += 1
        length = len(request.body)
        if length or request.method not in _USUALLY_WITHOUT_BODY:
            pieces.append(b"\r\ncontent-length: %d\r\n\r\n" % length)
            lines += 1
        else:
            pieces.append(b"\r\n\r\n")
        head = b"".join(pieces)
        # Counting beats a check per value: with as many CR and LF as lines, none came from outside.
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("CR, LF or NUL in a request header")
        return head

    def _admit_start(self, request: UpstreamRequest) -> bytes:
        """All up to the caller's own headers. Raises ValueError for a bad method or target."""
        if not _METHOD(request.method):
            raise ValueError(f"not a method: {request.method!r}")
        if not _TARGET(request.target):
            raise ValueError("the request target must be a path of visible ASCII without a fragment")
        prepared = request.method + b" " + request.target + self._fixed
        if len(self._starts) < _CACHE_ENTRIES:
            self._starts[request.method + request.target] = (
                prepared  # a target begins with /: no other reading
            )
        return prepared

    def _admit(self, name: bytes) -> bytes:
        """The prepared `name: `; empty for a name that is left out. Raises ValueError for a bad one."""
        if name == b"accept-encoding":
            return b""
        if name in _RESERVED:
            raise ValueError(f"the client sets {name.decode()} itself")
        if not _TOKEN(name):
            raise ValueError(f"not a lower-case header name: {name!r}")
        prefix = b"\r\n" + name + b": "
        if len(self._prefixes) < _CACHE_ENTRIES:
            self._prefixes[name] = prefix
        return prefix
