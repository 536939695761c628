"""A span of time as what must be read for it: whole days and quarters from rollups, the ends from rows."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Table,
    Text,
    case,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSON

from gateway.ledger.dimensions import TAG, Dimension
from gateway.ledger.reading import Query, Reading
from gateway.ledger.rollups import Dialect
from gateway.ledger.tables import (
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


class Span(msgspec.Struct, frozen=True):
    """From `since` (inclusive) to `until` (exclusive), in UTC microseconds; None is open."""

    since: int | None
    until: int | None


class Part(msgspec.Struct, frozen=True):
    """A piece of a span, and where to read it."""

    source: Source
    span: Span


def parts(span: Span) -> Iterator[Part]:
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


def _whole(span: Span) -> Iterator[Part]:
    since, until = span.since, span.until
    middle = Span(None if since is None else _up(since, DAY), None if until is None else until - until % DAY)
    if _is_empty(middle):
        yield from _nonempty("quarter", span)
        return
    yield from _nonempty("quarter", Span(since, middle.since)) if since is not None else ()
    yield Part("day", middle)
    yield from _nonempty("quarter", Span(middle.until, until)) if until is not None else ()


def cheapest(part: Part) -> Iterator[tuple[int, Part]]:
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


def _of_one_day(span: Span, day: Span) -> Iterator[tuple[int, Part]]:
    rests = [Part("quarter", one) for one in (Span(day.since, span.since), Span(span.until, day.until))]
    if _length(span) <= sum(_length(rest.span) for rest in rests):
        yield 1, Part("quarter", span)
        return
    yield 1, Part("day", day)
    yield from ((-1, rest) for rest in rests if not _is_empty(rest.span))


def _length(span: Span) -> int:
    return 0 if span.since is None or span.until is None else span.until - span.since


def _nonempty(source: Source, span: Span) -> Iterator[Part]:
    if not _is_empty(span):
        yield Part(source, span)


def _is_empty(span: Span) -> bool:
    return span.since is not None and span.until is not None and span.since >= span.until


def _up(at: int, length: int) -> int:
    return -(-at // length) * length


def totals(reading: Reading, part: Part, labels: Sequence[str], **only: str) -> Query:
    """The values of `labels` (dimensions) and the sums of tables.SUMS, grouped by them, of the groups `only`.

    Without labels one row, whose sums are None where there is nothing to add up.
    """
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
        query = select(*_values(labels, reading.dialect), *sums)
        return _grouped(_within(query, part, row.at, only), labels)
    rollup = _ROLLUPS[part.source][0]
    return _named(part, rollup, labels, (), SUMS, only)


def counterfactuals(reading: Reading, part: Part, labels: Sequence[str]) -> Query:
    """`labels`, the other deployment, and what the usage would have cost there, in nano-USD."""
    if part.source == "rows":
        column = usage_record.c.counterfactual_nano_usd
        other = _entries(column, reading.dialect)
        query = (
            select(*_values(labels, reading.dialect), other.c.key, func.sum(cast(other.c.value, BigInteger)))
            .select_from(usage_record)
            .join(other, onclause=true())
        )
        return _grouped(_within(query, part, usage_record.c.at, {}), (*labels, "elsewhere"))
    rollup = _ROLLUPS[part.source][1]
    return _named(part, rollup, labels, ("elsewhere",), ("nano_usd",), {})


def _named(
    part: Part,
    rollup: Table,
    labels: Sequence[str],
    keys: Sequence[str],
    sums: Sequence[str],
    only: dict[str, str],
) -> Query:
    """Sums of a rollup. The numbers of groups are added up before they are given names: half of the time."""
    names = usage_group.c
    if not labels and not only:
        query = select(*(rollup.c[key] for key in keys), *(func.sum(rollup.c[name]) for name in sums))
        return _grouped(_within(query, part, rollup.c.starts, {}), keys)
    query = _within(
        select(
            rollup.c.group_id,
            *(rollup.c[key] for key in keys),
            *(func.sum(rollup.c[name]).label(name) for name in sums),
        ).group_by(rollup.c.group_id, *(rollup.c[key] for key in keys)),
        part,
        rollup.c.starts,
        {},
    )
    if only:
        chosen = select(names.id).where(*(names[dimension] == name for dimension, name in only.items()))
        query = query.where(rollup.c.group_id.in_(chosen))
    added = query.subquery()
    query = select(
        *(names[label] for label in labels),
        *(added.c[key] for key in keys),
        *(func.sum(added.c[name]) for name in sums),
    ).select_from(added.join(usage_group, names.id == added.c.group_id))
    return _grouped(query, (*labels, *keys))


def _values(labels: Sequence[str], dialect: Dialect) -> list[ColumnElement[Any]]:
    return [_value(label, dialect) for label in labels]


def _value(label: str, dialect: Dialect) -> ColumnElement[Any]:
    if label.startswith(TAG):
        return _tag(label.removeprefix(TAG), dialect)
    return usage_record.c.occurred_at.is_not(None) if label == Dimension.LATE else usage_record.c[label]


def _tag(name: str, dialect: Dialect) -> ColumnElement[Any]:
    # By comparison: a path into JSON would have to be quoted, and SQLite has no way to quote a quote.
    entry = _entries(usage_record.c.tags, dialect)
    return select(entry.c.value).where(entry.c.key == name).correlate(usage_record).scalar_subquery()


def _entries(column: Column[Any], dialect: Dialect) -> Any:
    """The pairs of a column that holds a JSON object."""
    entries = func.json_each(column) if dialect == "sqlite" else func.json_each_text(cast(column, JSON))
    return entries.table_valued(Column("key", Text), Column("value", Text))


def _within(query: Query, part: Part, at: ColumnElement[int], only: dict[str, str]) -> Query:
    for dimension, name in only.items():
        query = query.where(usage_record.c[dimension] == name)
    if part.span.since is not None:
        query = query.where(at >= part.span.since)
    if part.span.until is not None:
        query = query.where(at < part.span.until)
    return query


def _grouped(query: Query, labels: Sequence[str]) -> Query:
    """By position: with parameters of their own, two expressions are never the same to PostgreSQL."""
    return query.group_by(*(literal_column(str(number + 1)) for number in range(len(labels))))
