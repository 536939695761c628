"""The parser alone: how the bytes are cut never matters, and no bytes can do more than be refused."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.exchange import Exchange
from gateway.http.server.limits import HeadTooLarge, ServerLimits
from gateway.http.server.parser import RequestParser

LIMITS = ServerLimits(head_bytes=600)


class Reading:
    """Everything that a parser says about some bytes."""

    def __init__(self, segments: Sequence[bytes], limits: ServerLimits = LIMITS) -> None:
        self.taken: list[Exchange] = []
        self.backlogs = 0
        self.error: InvalidRequest | None = None
        parser = RequestParser(limits, self.new_exchange, self.on_backlog, 0.0)
        for segment in segments:
            try:
                parser.feed(segment, 0.0)
            except InvalidRequest as error:
                self.error = error
                break
        self.in_head = parser.began_at is not None
        self.in_body = parser.arriving is not None
        parser.close()

    def new_exchange(self, *request: Any) -> Exchange:
        exchange = Exchange(cast("Any", None), cast("Any", None), *request, BodyBytes(1 << 30, 1 << 30))
        self.taken.append(exchange)
        return exchange

    def on_backlog(self) -> None:
        self.backlogs += 1

    def outcome(self) -> list[Any]:
        requests = [
            (each.method, each.path, each.headers, bytes(each._body), each.complete, each.keep_alive)
            for each in self.taken
        ]
        return [requests, type(self.error), self.in_head if self.error is None else None, self.in_body]


tokens = st.text("abcXYZ-_0", min_size=1, max_size=12)
values = st.text('abc 09;="\t,ü', max_size=30).map(str.strip)
bodies = st.binary(max_size=60)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]))
    lines = [f"{method} /{draw(tokens)}?{draw(tokens)} HTTP/{draw(st.sampled_from(['1.1'] * 9 + ['1.0']))}"]
    lines += [draw(st.sampled_from(["Host: h"] * 9 + ["Host: [::1]:80", "Host: a b", "x: y"]))]
    lines += [f"x-{name}: {value}" for name, value in draw(st.lists(st.tuples(tokens, values), max_size=4))]
    if draw(st.integers(0, 9)) == 0:
        lines += ["Connection: upgrade", "Upgrade: h2c"]
    framing = draw(st.sampled_from(["none", "length", "chunks"]))
    body = b""
    if framing == "length":
        body = draw(bodies)
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunks":
        lines.append("Transfer-Encoding: chunked")
        for chunk in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)):
            body += b"%x%b\r\n%b\r\n" % (len(chunk), draw(st.sampled_from([b"", b";a=b"])), chunk)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"x-sum: 1\r\n"])) + b"\r\n"
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def spoil(data: bytes, position: int, junk: bytes) -> bytes:
    position %= len(data) + 1
    return data[:position] + junk + data[position + len(junk) :]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


streams = st.lists(requests(), min_size=1, max_size=4).map(b"".join)
spoilt = st.builds(spoil, streams, st.integers(0, 10_000), st.binary(max_size=4))
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@settings(max_examples=300, deadline=None)
@given(streams | spoilt, CUTS)
@example(b"GET / HTTP/1.1\r\nHost: h\r\nx-a:\r\nx-b: c\r\n\r\n", [19, 20])
@example(
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: hunked\r\n\r\n0\r\n\r\n",
    [],
)
def test_any_cut_reads_the_same(data: bytes, places: list[int]) -> None:
    offers = data.lower().count(b"upgrade: h2c")
    if offers > 1:
        return  # how many may come at once is the one thing that the cut decides
    assert Reading(cut(data, places)).outcome() == Reading([data]).outcome()


@settings(max_examples=100, deadline=None)
@given(streams | spoilt)
def test_byte_by_byte_reads_the_same(data: bytes) -> None:
    if data.lower().count(b"upgrade: h2c") > 1:
        return
    assert Reading([data[at : at + 1] for at in range(len(data))]).outcome() == Reading([data]).outcome()


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300) | spoilt)
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    Reading([data])


def test_lines_of_x_forwarded_for_are_read_as_one_since_a_proxy_adds_its_own_behind_the_client_s() -> None:
    lines = b"X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8, 9.9.9.9\r\n"
    [exchange] = Reading([b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n"]).taken
    assert exchange.headers[b"x-forwarded-for"] == b"1.2.3.4,5.6.7.8, 9.9.9.9"


def head(size: int) -> bytes:
    """A request whose target and headers, counted as the limit counts them, have `size` bytes."""
    line = b"GET / HTTP/1.1\r\nHost: h\r\n"
    return line + b"x: " + b"y" * (size - len(b"/Host: h\r\nx: \r\n")) + b"\r\n\r\n"


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_a_head_may_have_just_so_many_bytes() -> None:
    assert Reading([head(600)]).error is None
    assert isinstance(Reading([head(601)]).error, HeadTooLarge)
    assert isinstance(Reading(in_pieces(head(700), 7)).error, HeadTooLarge)
    assert Reading([head(601)]).taken == []


def test_a_target_counts() -> None:
    assert isinstance(Reading([b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: h\r\n\r\n"]).error, HeadTooLarge)


def test_a_value_without_an_end_is_not_kept() -> None:
    endless = [b"GET / HTTP/1.1\r\nHost: h\r\nx: y", *[b"y" * 100] * 7]
    assert isinstance(Reading(endless).error, HeadTooLarge)


def test_a_trailer_without_an_end_is_not_kept() -> None:
    start = b"POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: "
    assert isinstance(Reading([start, *[b"y" * 100] * 7]).error, HeadTooLarge)


def test_a_chunk_extension_without_an_end_is_given_up() -> None:
    start = b"POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n1;"
    assert isinstance(Reading([start, *[b"y" * 100] * 7]).error, HeadTooLarge)


def test_a_long_body_is_not_taken_for_a_head() -> None:
    request = b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 5000\r\n\r\n" + b"a" * 5000
    assert Reading(in_pieces(request * 3, 777)).error is None


def test_a_head_behind_a_long_body_has_its_own_count() -> None:
    request = b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 5000\r\n\r\n" + b"a" * 5000 + head(590)
    for size in (590, 5050, 5100, 5600):
        reading = Reading(in_pieces(request, size))
        assert reading.error is None
        assert len(reading.taken) == 2


def test_tiny_chunks_take_no_more_memory_than_their_bytes() -> None:
    start = b"POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    reading = Reading([start + b"2\r\nab\r\n" * 10_000])
    [exchange] = reading.taken
    assert isinstance(exchange._body, bytearray)
    assert len(exchange._body) == 20_000
    assert exchange._body.__sizeof__() < 40_000


def test_a_body_that_nobody_asks_for_is_reported() -> None:
    limits = ServerLimits(waiting_bytes=100)
    start = b"POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 1000\r\n\r\n"
    assert Reading([start + b"a" * 100], limits).backlogs == 0
    assert Reading([start + b"a" * 101], limits).backlogs == 1
