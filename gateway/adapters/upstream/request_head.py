"""The request head as bytes, for one endpoint. Nothing that a caller passes can end a line or add one."""

import re

from gateway.core.endpoint import Endpoint
from gateway.ports import UpstreamRequest

_TARGET = re.compile(rb"/[!\"$-~]*").fullmatch
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
is_name = _TOKEN  # of a header, in lower case
_METHOD = re.compile(rb"[A-Z]{1,32}").fullmatch
_OURS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"trailer"}
    | {b"upgrade", b"expect", b"proxy-connection"}
)
_REMEMBERED_NAMES = 1024


class RequestHead:
    """Encodes heads for `endpoint`. Identity encoding is always asked for; callers cannot change that."""

    __slots__ = ("_lines", "_prefixes")

    def __init__(self, endpoint: Endpoint) -> None:
        authority = endpoint.authority.encode("idna" if not endpoint.authority.isascii() else "ascii")
        if not re.fullmatch(rb"[!-~]+", authority):
            raise ValueError(f"not a host name: {endpoint.host!r}")
        self._lines = b" HTTP/1.1\r\nhost: " + authority + b"\r\naccept-encoding: identity\r\n"
        self._prefixes: dict[bytes, bytes] = {}

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head of `request`, with content-length. Raises ValueError for what could break framing."""
        prefixes = self._prefixes
        pieces = [self._start_line(request)]
        lines = 4  # start line, host, accept-encoding, the empty line
        for name, value in request.headers:
            prefix = prefixes.get(name)
            if prefix is None:
                prefix = self._admit(name)
            if prefix:
                pieces += (prefix, value, b"\r\n")
                lines += 1
        length = len(request.body)
        if length or request.method not in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            pieces.append(b"content-length: %d\r\n\r\n" % length)
            lines += 1
        else:
            pieces.append(b"\r\n")
        head = b"".join(pieces)
        # Counting beats a check per value: with as many CR and LF as lines, none came from outside.
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("CR, LF or NUL in a request header")
        return head

    def _start_line(self, request: UpstreamRequest) -> bytes:
        if not _METHOD(request.method):
            raise ValueError(f"not a method: {request.method!r}")
        if not _TARGET(request.target):
            raise ValueError("the request target must be a path of visible ASCII without a fragment")
        return request.method + b" " + request.target + self._lines

    def _admit(self, name: bytes) -> bytes:
        """The prepared `name: `; empty for a name that is left out. Raises ValueError for a bad one."""
        if name == b"accept-encoding":
            return b""
        if name in _OURS:
            raise ValueError(f"the client sets {name.decode()} itself")
        if not _TOKEN(name):
            raise ValueError(f"not a lower-case header name: {name!r}")
        prefix = name + b": "
        if len(self._prefixes) < _REMEMBERED_NAMES:
            self._prefixes[name] = prefix
        return prefix
