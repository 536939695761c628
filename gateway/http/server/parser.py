"""Requests out of bytes: no I/O and no clock.

Rules:
- What can be read in two ways is refused: the parser is strict, and only the coding `chunked` is known.
- Nothing of a request that is refused by its head ever reaches a handler.
- A head, and whatever stands between the pieces of a body, has a bound.
- An offer to upgrade the protocol is not taken up; its request is read as if there were none.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

import httptools

from gateway.http.client_address import FORWARDED_FOR
from gateway.http.server.exchange import Exchange
from gateway.http.server.limits import (
    ExpectationFailed,
    HeadTooLarge,
    MalformedRequest,
    RepeatedHeader,
    ServerLimits,
)

# Method, path, query, headers, is_http10, keep_alive: makes the exchange of a request whose head is complete.
ExchangeFactory: TypeAlias = Callable[[str, str, bytes, dict[bytes, bytes], bool, bool], Exchange]

# RFC 9112, section 3.2: what is no authority of RFC 3986 is refused. Empty is fine: there is none.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-fv:][0-9A-Za-z:.%_~!$&'()*+,;=-]*\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)"
    rb"(?::[0-9]*)?"
).fullmatch
# Beside those of the gateway itself: who asks, and what a body or a request is.
_ONCE = frozenset(
    {b"authorization", b"api-key", b"content-type", b"content-encoding", b"host", b"expect"}
    | {b"idempotency-key", b"traceparent"}
)


class RequestParser:
    """Reads one connection. `began_at` is set while a head, `arriving` while a body is incomplete.

    `new_exchange` is called for each request when its head is complete, `on_backlog` when more of a body
    waits than `limits.waiting_bytes`.

    Many attributes: the head that is being read, piece by piece, and a count for each bound on it.
    """

    __slots__ = (
        "_fed_bytes",
        "_fields",
        "_headers",
        "_host",
        "_limits",
        "_new_exchange",
        "_non_body_bytes",
        "_now",
        "_on_backlog",
        "_parser",
        "_segment_bytes",
        "_url",
        "arriving",
        "began_at",
        "last_began_at",
    )

    def __init__(
        self,
        limits: ServerLimits,
        new_exchange: ExchangeFactory,
        on_backlog: Callable[[], None],
        now: float,
    ) -> None:
        self._limits = limits
        self._new_exchange = new_exchange
        self._on_backlog = on_backlog
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._host: bytes | None = None  # the latest that was looked at, and is in order
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._non_body_bytes = 0
        self._segment_bytes = 0
        self._fed_bytes = 0  # since the segment in which the message began, that one included
        self._now = now
        self.arriving: Exchange | None = None
        self.began_at: float | None = None
        self.last_began_at = now

    def feed(self, data: bytes, now: float) -> None:
        """Read on. Raises InvalidRequest, after which this parser is of no more use."""
        self._now = now
        self._segment_bytes = size = len(data)
        self._fed_bytes += size
        offer_ends_at: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            offer_ends_at = exc.args[0]
        except httptools.HttpParserError as exc:
            raise _meaning(exc) from None
        if offer_ends_at is not None:
            # Not in the handler above: what is raised there loses its own context, which carries the meaning.
            self._feed_without_upgrade(data[offer_ends_at:])
        if self.began_at is not None or self.arriving is not None:
            self._count_non_body_bytes(size)

    def close(self) -> None:
        """The connection is gone. It, llhttp's and this hold each other: let go, or a collector must."""
        del self._parser, self._new_exchange, self._on_backlog
        self.arriving = None

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        self._fields = []
        self._url = b""
        self._non_body_bytes = -1
        self._fed_bytes = self._segment_bytes
        self.began_at = self.last_began_at = self._now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self.began_at = None
        self._non_body_bytes = -1
        fields, self._fields = self._fields, []  # what comes from now on are trailers, and no headers
        if self._fed_bytes > self._limits.head_bytes:
            self._check_size(fields)
        fields.reverse()  # of several with one name the first counts
        self._headers = headers = dict(fields)
        if len(headers) != len(fields):
            _check_repetitions(fields)
            _join_forwarded(headers, fields)
        version = parser.get_http_version()
        is_http10 = version == "1.0"
        if not is_http10 and version != "1.1":
            raise MalformedRequest("This port speaks HTTP/1.1.")
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].strip().lower() != b"chunked":
            raise MalformedRequest("The only transfer coding of a request can be chunked.")
        if headers.get(b"host") != self._host or self._host is None:
            self._check_host(headers.get(b"host"), is_http10)
        if b"expect" in headers and not is_http10:
            _check_expectation(headers[b"expect"])
        if parser.should_upgrade():
            return  # to the parser its message ends here: see _feed_without_upgrade
        path, query = self._url, b""
        if b"?" in path:
            path, _, query = path.partition(b"?")
        if not path.startswith(b"/"):
            path = _path_of(path)
        self.arriving = self._new_exchange(
            parser.get_method().decode("ascii"),
            path.decode("latin-1"),
            query,
            headers,
            is_http10,
            parser.should_keep_alive() and not is_http10,
        )

    def on_body(self, body: bytes) -> None:
        self._non_body_bytes = -1
        if self.arriving is not None and self.arriving.feed(body) > self._limits.waiting_bytes:
            self._on_backlog()

    def on_message_complete(self) -> None:
        if self.arriving is not None:
            self.arriving.finish()
            self.arriving = None

    # --- what the parser leaves open ---

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer, then `rest`.

        Java's HTTP client offers h2c with every request, also with those that have a body, and the parser
        takes such a body for the other protocol's bytes.
        """
        method, headers = self._parser.get_method(), self._headers
        if method == b"CONNECT" or b"transfer-encoding" in headers:
            raise MalformedRequest("This port does not connect elsewhere or upgrade.")
        lines = [b"%b %b HTTP/1.1\r\n" % (method, self._url)]
        lines += [b"%b: %b\r\n" % pair for pair in headers.items() if pair[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(b"".join((*lines, b"\r\n", rest)))
        except httptools.HttpParserUpgrade:
            raise MalformedRequest("A second upgrade was offered before the first was answered.") from None
        except httptools.HttpParserError as exc:
            raise _meaning(exc) from None

    def _check_host(self, host: bytes | None, is_http10: bool) -> None:
        if host is None:
            if not is_http10:
                raise MalformedRequest("A request of HTTP/1.1 has a Host header; this one has none.")
        elif _HOST(host.strip(b" \t")) is None:
            raise MalformedRequest("The Host header is no host name or address.")
        self._host = host

    def _check_size(self, fields: list[tuple[bytes, bytes]]) -> None:
        """So much has come that the head may be too large."""
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in fields)
        if size > self._limits.head_bytes:
            raise _too_large(self._limits)

    def _count_non_body_bytes(self, size: int) -> None:
        """The parser keeps an unfinished header, trailer or chunk extension without a bound of its own.

        Counted are whole segments without a byte of body, from the second of a head on.
        """
        if self._non_body_bytes < 0:
            self._non_body_bytes = 0
            return
        self._non_body_bytes += size
        if self._non_body_bytes > self._limits.head_bytes:
            raise _too_large(self._limits)


def _check_repetitions(fields: list[tuple[bytes, bytes]]) -> None:
    """Of a header that decides something and is there twice, each reader would take another one."""
    seen: set[bytes] = set()
    for name, _ in fields:
        if name in seen and (name in _ONCE or name.startswith(b"x-tollway-")):
            told = name.decode() if name in _ONCE else "x-tollway-..."
            raise RepeatedHeader(f"The header {told} is sent twice. Send each once, a list with commas.")
        seen.add(name)


def _check_expectation(value: bytes) -> None:
    if value.strip().lower() != b"100-continue":
        raise ExpectationFailed("The only expectation that can be met is 100-continue. Leave Expect out.")


def _join_forwarded(headers: dict[bytes, bytes], fields: list[tuple[bytes, bytes]]) -> None:
    """A proxy may add a line of its own behind the client's, and then the last one counts: keep them all.

    `fields` has the last one first.
    """
    if FORWARDED_FOR in headers:
        lines = [value for name, value in reversed(fields) if name == FORWARDED_FOR]
        headers[FORWARDED_FOR] = b",".join(lines)


def _too_large(limits: ServerLimits) -> HeadTooLarge:
    return HeadTooLarge(f"The request's headers are larger than {limits.head_bytes // 1024} KiB.")


def _meaning(error: httptools.HttpParserError) -> Exception:
    """What a parser's error says to the client; anything else that happened in a callback is our defect."""
    if isinstance(error, httptools.HttpParserCallbackError) and isinstance(error.__context__, Exception):
        return error.__context__
    return MalformedRequest("This is not a well-formed HTTP/1.1 request.")


def _path_of(target: bytes) -> bytes:
    """The path of an absolute-form target (`http://host/v1/models`). Any other target matches no route."""
    _, found, rest = target.partition(b"://")
    if not found:
        return target
    return b"/" + rest.partition(b"/")[2]
