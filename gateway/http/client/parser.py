"""Response side of HTTP/1.1 without I/O: bytes in, head and body parts out.

llhttp (through httptools) is strict about most of the grammar. Added here, because it accepts them:
anything but HTTP/1.0 and HTTP/1.1 (it reads RTSP, ICE and HTTP/2.0 too), a transfer coding other than one
plain `chunked`, a transfer coding on HTTP/1.0, a status outside 200..599 as the final one, 101, a head or
trailer section beyond its bound, more fields than any answer needs, and a second message behind the first.
"""

from typing import NoReturn

import httptools

from gateway.core.errors import FailureKind, UpstreamFailure

HEAD_LIMIT_BYTES = 64 * 1024
MOST_FIELDS = 256
TRAILER_LIMIT_BYTES = 16 * 1024
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"content-encoding"})
_CODINGS = {b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}
_VERSION_BYTES = 8  # len("HTTP/1.1")


class _ResponseRefused(Exception):
    """Raised inside a callback to stop the parser; the reason is in `ResponseParser._problem`."""


class ResponseParser:
    """Parses the responses of one connection, one after the other; call `begin` before each.

    `parts` collects body bytes until the caller takes them. `coding` is `gzip` or `deflate` when the body is
    compressed, and then `headers` name neither the coding nor the length.

    Many attributes: they are the state of one message between two calls of httptools, which calls back into
    this object alone.
    """

    __slots__ = (
        "_chunked",
        "_close_delimited",
        "_connection_tokens",
        "_content_encoding",
        "_fields",
        "_has_length",
        "_head_only",
        "_interim",
        "_overhead_bytes",
        "_parser",
        "_problem",
        "_start",
        "_trailer_bytes",
        "coding",
        "complete",
        "head_complete",
        "headers",
        "on_body",
        "parts",
        "reusable",
        "seen",
        "status",
    )

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.on_body = self.parts.append  # looked up by httptools: a builtin costs no Python frame per part
        self.begin(head_only=False)
        self._parser = httptools.HttpResponseParser(self)

    def begin(self, *, head_only: bool) -> None:
        """Expect a new response; `head_only` for the answer to HEAD."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.coding: str | None = None
        self.seen = False
        self.head_complete = False
        self.complete = False
        self.reusable = True
        self._head_only = head_only
        self._fields: list[tuple[bytes, bytes]] = []
        self._start = b""
        self._has_length = False
        self._chunked = False
        self._close_delimited = False
        self._interim = False
        self._connection_tokens = b""
        self._content_encoding = b""
        self._overhead_bytes = self._trailer_bytes = 0
        self._problem = ""

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire. Raises UpstreamFailure(PROTOCOL); parts parsed before it stay valid."""
        self.seen = True
        self._overhead_bytes += len(data)
        if len(self._start) < _VERSION_BYTES:
            if data.startswith(b"HTTP/1.1") and not self._start:
                self._start = b"HTTP/1.1"
            else:
                self._check_version(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            if self.complete:
                return  # what follows a complete response costs the connection, not the response
            raise UpstreamFailure(
                FailureKind.PROTOCOL, self._problem or f"malformed response: {error}"
            ) from error
        if self.parts:
            self._overhead_bytes = 0
        elif self._overhead_bytes > HEAD_LIMIT_BYTES and not self.complete:
            raise UpstreamFailure(FailureKind.PROTOCOL, f"more than {HEAD_LIMIT_BYTES} bytes without body")

    def end(self) -> bool:
        """The peer closed its side. True when that completes the response."""
        self.reusable = False
        if self._close_delimited:
            self.complete = True
        return self.complete

    def _check_version(self, data: bytes) -> None:
        # The parser does not say which protocol it read, so the first bytes are compared here.
        self._start = start = (self._start + data[:_VERSION_BYTES])[:_VERSION_BYTES]
        if start == b"HTTP/1.1":
            return
        if start == b"HTTP/1.0":
            self.reusable = False
        elif not b"HTTP/1.1".startswith(start) and not b"HTTP/1.0".startswith(start):
            raise UpstreamFailure(FailureKind.PROTOCOL, "the answer does not begin with HTTP/1.1 or HTTP/1.0")

    # Callbacks, named by httptools.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False
            raise _ResponseRefused

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self.head_complete:
            # A trailer: dropped. llhttp heeds `connection` even here, so such a connection is not used again.
            self.reusable = self.reusable and name not in _FRAMING
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > TRAILER_LIMIT_BYTES:
                self._refuse(f"trailers larger than {TRAILER_LIMIT_BYTES} bytes")
            return
        value = value.strip()
        if name == b"content-length":
            self._has_length = True  # llhttp refuses duplicates, signs, overflow, and its mix with chunked
        elif name in _FRAMING:
            self._note_framing(name, value)
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        if not 200 <= status < 600:
            self._refuse(f"status {status:03d} cannot answer this request")
        if self._interim and self._parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse("the answer is not HTTP/1.1")
        if self._overhead_bytes > HEAD_LIMIT_BYTES:
            self._check_size()
        if len(self._fields) > MOST_FIELDS:
            self._refuse(f"more than {MOST_FIELDS} response headers")
        self.status = status
        self.headers = self._fields
        bodyless = self._head_only or status in (204, 304)
        if not self._has_length and not self._chunked and not bodyless:
            self._close_delimited = True
            self.reusable = False
        if self._connection_tokens:
            self._read_connection_tokens()
        if self._content_encoding and not bodyless:
            self._read_content_encoding()
        self.head_complete = True
        if self._head_only:
            # llhttp cannot be told here that no body follows, so this connection ends with the head.
            self.complete = True
            self.reusable = False
            raise _ResponseRefused

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            return
        # An interim answer (100, 102, 103, ...): forget its fields and read on.
        self._interim = True
        self._fields = []
        self._has_length = self._chunked = False
        self._connection_tokens = self._content_encoding = b""

    def _note_framing(self, name: bytes, value: bytes) -> None:
        if name == b"transfer-encoding":
            if self._chunked or value.lower() != b"chunked" or self._start == b"HTTP/1.0":
                self._refuse("transfer-encoding other than one plain `chunked`")
            self._chunked = True
        elif name == b"connection":
            self._connection_tokens += b"," + value
        else:
            self._content_encoding += b"," + value

    def _check_size(self) -> None:
        if sum(len(name) + len(value) + 4 for name, value in self._fields) > HEAD_LIMIT_BYTES:
            self._refuse(f"response header larger than {HEAD_LIMIT_BYTES} bytes")

    def _read_connection_tokens(self) -> None:
        if b"close" in tokens(self._connection_tokens):
            self.reusable = False

    def _read_content_encoding(self) -> None:
        try:
            self.coding = coding_of(self._content_encoding)
        except UpstreamFailure as failure:
            self._refuse(failure.detail)
        if self.coding is not None:
            self.headers = without_coding(self.headers)

    def _refuse(self, problem: str) -> NoReturn:
        self._problem = problem
        raise _ResponseRefused(problem)


def coding_of(content_encoding: bytes) -> str | None:
    """`gzip`, `deflate`, or None for an identity body. Raises UpstreamFailure(PROTOCOL) for anything else."""
    codings = [coding for coding in tokens(content_encoding) if coding != b"identity"]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _CODINGS:
        detail = "content-encoding that was not asked for and is not gzip or deflate"
        raise UpstreamFailure(FailureKind.PROTOCOL, detail)
    return _CODINGS[codings[0]]


def without_coding(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`headers` as they are for the decoded body."""
    return [field for field in headers if field[0] not in (b"content-encoding", b"content-length")]


def tokens(field: bytes) -> list[bytes]:
    """Members of a comma-separated field value, lower case."""
    return [token for part in field.lower().split(b",") if (token := part.strip())]
