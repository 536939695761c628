"""A span of time as what must be read for it: whole days and quarters from rollups, the ends from rows."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from gateway.ledger.tables import DAY, QUARTER

Source = Literal["rows", "quarter", "day"]


class Span(msgspec.Struct, frozen=True):
    """From `since` (inclusive) to `until` (exclusive), in UTC microseconds; None is open."""

    since: int | None
    until: int | None


class SpanPart(msgspec.Struct, frozen=True):
    """A piece of a span, and where to read it."""

    source: Source
    span: Span


def parts(span: Span) -> Iterator[SpanPart]:
    """The pieces of `span`, in order of time. A part from rows never crosses a quarter of an hour."""
    since, until = span.since, span.until
    first = None if since is None else _up(since, QUARTER)
    last = None if until is None else until - until % QUARTER
    if since is not None and first is not None:
        yield from _nonempty("rows", Span(since, first if until is None else min(first, until)))
    if not _is_empty(inner := Span(first, last)):
        yield from _whole(inner)
    if until is not None and last is not None and (since is None or last >= since):
        yield from _nonempty("rows", Span(last, until))


def _whole(span: Span) -> Iterator[SpanPart]:
    since, until = span.since, span.until
    middle = Span(None if since is None else _up(since, DAY), None if until is None else until - until % DAY)
    if _is_empty(middle):
        yield from _nonempty("quarter", span)
        return
    yield from _nonempty("quarter", Span(since, middle.since)) if since is not None else ()
    yield SpanPart("day", middle)
    yield from _nonempty("quarter", Span(middle.until, until)) if until is not None else ()


def cheapest(part: SpanPart) -> Iterator[tuple[int, SpanPart]]:
    """What `part` is the sum of, each with 1 or -1, so that few quarters are read for most of a day."""
    since, until = part.span.since, part.span.until
    if part.source != "quarter" or since is None or until is None:
        yield 1, part
        return
    while since < until:
        midnight = since - since % DAY + DAY
        end = min(until, midnight)
        yield from _of_one_day(Span(since, end), Span(midnight - DAY, midnight))
        since = end


def _of_one_day(span: Span, day: Span) -> Iterator[tuple[int, SpanPart]]:
    rests = [SpanPart("quarter", one) for one in (Span(day.since, span.since), Span(span.until, day.until))]
    if _length(span) <= sum(_length(rest.span) for rest in rests):
        yield 1, SpanPart("quarter", span)
        return
    yield 1, SpanPart("day", day)
    yield from ((-1, rest) for rest in rests if not _is_empty(rest.span))


def _length(span: Span) -> int:
    return 0 if span.since is None or span.until is None else span.until - span.since


def _nonempty(source: Source, span: Span) -> Iterator[SpanPart]:
    if not _is_empty(span):
        yield SpanPart(source, span)


def _is_empty(span: Span) -> bool:
    return span.since is not None and span.until is not None and span.since >= span.until


def _up(at: int, length: int) -> int:
    return -(-at // length) * length
