"""A span of time as what must be read for it: whole days and quarters from rollups, the ends from rows."""

from collections.abc import Iterator
from typing import Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    FromClause,
    Table,
    Text,
    case,
    cast,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSON

from gateway.adapters.ledger.reading import Query, Reading
from gateway.adapters.ledger.tables import (
    DAY,
    MONEY,
    QUARTER,
    SUMS,
    TOKENS,
    counterfactual_day,
    counterfactual_quarter,
    usage_day,
    usage_group,
    usage_quarter,
    usage_record,
)

Source = Literal["rows", "quarter", "day"]

_ROLLUPS = {"quarter": (usage_quarter, counterfactual_quarter), "day": (usage_day, counterfactual_day)}
START = "start"  # as a label: the quarter of an hour, in UTC microseconds, instead of a dimension


class Span(msgspec.Struct, frozen=True):
    """From `since` (inclusive) to `until` (exclusive), in UTC microseconds; None is open."""

    since: int | None
    until: int | None


class Part(msgspec.Struct, frozen=True):
    """A piece of a span, and where to read it. A part from rows never crosses a quarter of an hour."""

    source: Source
    span: Span


def parts(span: Span, *, days: bool = True) -> Iterator[Part]:
    """The pieces of `span`, in order of time; without `days`, quarters stand for whole days too."""
    since, until = span.since, span.until
    first = None if since is None else _up(since, QUARTER)
    last = None if until is None else until - until % QUARTER
    if since is not None and first is not None:
        yield from _nonempty("rows", Span(since, first if until is None else min(first, until)))
    if not _is_empty(inner := Span(first, last)):
        yield from _whole(inner, days=days)
    if until is not None and last is not None and (since is None or last >= since):
        yield from _nonempty("rows", Span(last, until))


def _whole(span: Span, *, days: bool) -> Iterator[Part]:
    since, until = span.since, span.until
    middle = Span(None if since is None else _up(since, DAY), None if until is None else until - until % DAY)
    if not days or _is_empty(middle):
        yield from _nonempty("quarter", span)
        return
    yield from _nonempty("quarter", Span(since, middle.since)) if since is not None else ()
    yield Part("day", middle)
    yield from _nonempty("quarter", Span(middle.until, until)) if until is not None else ()


def _nonempty(source: Source, span: Span) -> Iterator[Part]:
    if not _is_empty(span):
        yield Part(source, span)


def _is_empty(span: Span) -> bool:
    return span.since is not None and span.until is not None and span.since >= span.until


def _up(at: int, length: int) -> int:
    return -(-at // length) * length


def totals(part: Part, label: str, **only: str) -> Query:
    """`label` (a dimension, or START) and the sums of tables.SUMS, grouped by it, of the groups `only`."""
    if part.source == "rows":
        row = usage_record.c
        is_attempt = row.corrects.is_(None)
        counted = {
            "attempts": is_attempt,
            "requests": is_attempt & row.attempt_id.endswith(":1"),
            "estimated_attempts": is_attempt & row.estimated,
        }
        sums = [func.sum(case((condition, 1), else_=0)) for condition in counted.values()]
        sums += [func.sum(row[name]) for name in (*TOKENS, *MONEY)]
        return _grouped(part, select(_label(part, label), *sums), row.at, label, only)
    rollup = _ROLLUPS[part.source][0]
    query = select(_label(part, label, rollup), *(func.sum(rollup.c[name]) for name in SUMS)).select_from(
        _named(rollup, needed=label != START or bool(only))
    )
    return _grouped(part, query, rollup.c.starts, label, only)


def counterfactuals(reading: Reading, part: Part, label: str) -> Query:
    """`label`, the other deployment, and what the usage would have cost there, in nano-USD."""
    if part.source == "rows":
        column = usage_record.c.counterfactual_nano_usd
        sqlite = reading.dialect == "sqlite"
        entries = func.json_each(column) if sqlite else func.json_each_text(cast(column, JSON))
        other = entries.table_valued(Column("key", Text), Column("value", BigInteger if sqlite else Text))
        query = (
            select(_label(part, label), other.c.key, func.sum(cast(other.c.value, BigInteger)))
            .select_from(usage_record)
            .join(other, onclause=true())
        )
        return _grouped(part, query, usage_record.c.at, label, {}).group_by(other.c.key)
    rollup = _ROLLUPS[part.source][1]
    query = select(_label(part, label, rollup), rollup.c.elsewhere, func.sum(rollup.c.nano_usd)).select_from(
        _named(rollup, needed=label != START)
    )
    return _grouped(part, query, rollup.c.starts, label, {}).group_by(rollup.c.elsewhere)


def _named(rollup: Table, *, needed: bool) -> FromClause:
    """`rollup` with the names of its groups where they are needed: a third of the time of a report by day."""
    return rollup if not needed else rollup.join(usage_group, usage_group.c.id == rollup.c.group_id)


def _label(part: Part, label: str, rollup: Table = usage_record) -> ColumnElement[object]:
    if label != START:
        return (usage_record if part.source == "rows" else usage_group).c[label]
    if part.source == "rows":
        # The end of a span lies within one quarter, so its first moment names the same day.
        return literal(part.span.since, BigInteger)
    return rollup.c.starts


def _grouped(part: Part, query: Query, at: ColumnElement[int], label: str, only: dict[str, str]) -> Query:
    names = (usage_record if part.source == "rows" else usage_group).c
    for dimension, name in only.items():
        query = query.where(names[dimension] == name)
    if part.span.since is not None:
        query = query.where(at >= part.span.since)
    if part.span.until is not None:
        query = query.where(at < part.span.until)
    if label != START:
        return query.group_by(names[label])
    return query if part.source == "rows" else query.group_by(at)
