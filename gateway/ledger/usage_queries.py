"""The queries that add up usage for a part of a span, from rollups or from rows."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
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

from gateway.ledger.database import Query, ReadTransaction
from gateway.ledger.dimensions import TAG, Dimension
from gateway.ledger.rollups import Dialect
from gateway.ledger.spans import SpanPart
from gateway.ledger.tables import (
    CORRECTION,
    CORRECTIONS,
    COSTS,
    LATE_CORRECTION,
    MONEY,
    SUMS,
    TOKENS,
    counterfactual_day,
    counterfactual_quarter,
    unit_cost_day,
    unit_cost_quarter,
    unit_day,
    unit_quarter,
    usage_day,
    usage_group,
    usage_quarter,
    usage_record,
)

# A label beside the dimensions: whether it corrects another row.
IS_CORRECTION = "is_correction"

_ROLLUPS = {
    "quarter": (usage_quarter, counterfactual_quarter, unit_quarter, unit_cost_quarter),
    "day": (usage_day, counterfactual_day, unit_day, unit_cost_day),
}


def totals(reading: ReadTransaction, part: SpanPart, labels: Sequence[str], **only: str) -> Query:
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
        sums += [func.sum(row[name]) for name in (*TOKENS, *MONEY, *COSTS)]
        query = select(*_values(labels, reading.dialect), *sums)
        return _grouped(_within(query, part, row.at, only), labels)
    rollup = _ROLLUPS[part.source][0]
    return _named(part, rollup, labels, (), SUMS, only)


def counterfactuals(reading: ReadTransaction, part: SpanPart, labels: Sequence[str]) -> Query:
    """`labels`, the other deployment, and what the usage would have cost there, in nano-USD."""
    if part.source == "rows":
        return _entries_of_rows(reading, part, labels, usage_record.c.counterfactual_nano_usd)
    rollup = _ROLLUPS[part.source][1]
    return _named(part, rollup, labels, ("elsewhere",), ("nano_usd",), {})


def units(reading: ReadTransaction, part: SpanPart, labels: Sequence[str]) -> Query:
    """`labels`, a unit of usage, and its amount: of the rows that have their whole map."""
    if part.source == "rows":
        return _entries_of_rows(reading, part, labels, usage_record.c.usage)
    rollup = _ROLLUPS[part.source][2]
    return _named(part, rollup, labels, ("unit",), ("amount",), {})


def unit_costs(reading: ReadTransaction, part: SpanPart, labels: Sequence[str]) -> Query:
    """`labels`, a unit of usage, and what it cost in nano-USD: of the rows that have their whole map."""
    if part.source == "rows":
        return _entries_of_rows(reading, part, labels, usage_record.c.unit_nano_usd)
    rollup = _ROLLUPS[part.source][3]
    return _named(part, rollup, labels, ("unit",), ("nano_usd",), {})


def _entries_of_rows(
    reading: ReadTransaction, part: SpanPart, labels: Sequence[str], column: Column[Any]
) -> Query:
    """`labels`, and the names and sums of `column`, which holds JSON objects of numbers."""
    entry = _entries(column, reading.dialect)
    query = (
        select(*_values(labels, reading.dialect), entry.c.key, func.sum(cast(entry.c.value, BigInteger)))
        .select_from(usage_record)
        .join(entry, onclause=true())
        .where(column != "{}")
    )
    return _grouped(_within(query, part, usage_record.c.at, {}), (*labels, "key"))


def _named(
    part: SpanPart,
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
        *(_named_value(label) for label in labels),
        *(added.c[key] for key in keys),
        *(func.sum(added.c[name]) for name in sums),
    ).select_from(added.join(usage_group, names.id == added.c.group_id))
    return _grouped(query, (*labels, *keys))


def _values(labels: Sequence[str], dialect: Dialect) -> list[ColumnElement[Any]]:
    return [_value(label, dialect) for label in labels]


def _value(label: str, dialect: Dialect) -> ColumnElement[Any]:
    if label.startswith(TAG):
        return _tag(label.removeprefix(TAG), dialect)
    row = usage_record.c
    match label:
        case Dimension.LATE:
            return row.occurred_at.is_not(None)
        case Dimension.OUTCOME:  # as in the rollups
            late = case((row.occurred_at.is_(None), CORRECTION), else_=LATE_CORRECTION)
            return case((row.corrects.is_(None), row.outcome), else_=late)
        case _ if label == IS_CORRECTION:
            return row.corrects.is_not(None)
        case _:
            return row[label]


def _named_value(label: str) -> ColumnElement[Any]:
    """`label` of a group of the rollups."""
    names = usage_group.c
    return names.outcome.in_(CORRECTIONS) if label == IS_CORRECTION else names[label]


def _tag(name: str, dialect: Dialect) -> ColumnElement[Any]:
    # By comparison: a path into JSON would have to be quoted, and SQLite has no way to quote a quote.
    entry = _entries(usage_record.c.tags, dialect)
    return select(entry.c.value).where(entry.c.key == name).correlate(usage_record).scalar_subquery()


def _entries(column: Column[Any], dialect: Dialect) -> Any:
    """The pairs of a column that holds a JSON object."""
    entries = func.json_each(column) if dialect == "sqlite" else func.json_each_text(cast(column, JSON))
    return entries.table_valued(Column("key", Text), Column("value", Text))


def _within(query: Query, part: SpanPart, at: ColumnElement[int], only: dict[str, str]) -> Query:
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
