"""Reports for finance, straight from the rows of the ledger."""

import datetime as dt
import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Text,
    and_,
    column,
    func,
    select,
    true,
    values,
)
from sqlalchemy.exc import DatabaseError

from gateway.adapters.ledger.engine import database_path, open_reader
from gateway.adapters.ledger.errors import LedgerUnavailable
from gateway.adapters.ledger.migrate import require_head
from gateway.adapters.ledger.tables import usage_record
from gateway.core.money import usd_decimal

Query = Select[*tuple[Any, ...]]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Dimension(enum.StrEnum):
    """What usage can be grouped by."""

    ORG = "org"
    TEAM = "team"
    FEATURE = "feature"
    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    ZONE = "zone"
    PRIVACY = "privacy"
    OUTCOME = "outcome"
    DAY = "day"  # calendar days of the time zone, as YYYY-MM-DD


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one group. Amounts in USD, exact. `requests` counts each request once, `attempts` each try.

    A request whose attempts fall into several groups (two deployments, or two days) counts in each of them.
    `counterfactual_usd` is what the same usage would have cost on each other deployment.
    """

    dimension: Dimension
    name: str
    requests: int
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    counterfactual_usd: dict[str, Decimal]


class Span(msgspec.Struct, frozen=True):
    """From `since` (inclusive) to `until` (exclusive), in UTC microseconds; None is open."""

    since: int | None
    until: int | None


def usage_by(
    url: str,
    dimension: Dimension | str,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    *,
    timezone: str = "UTC",
) -> list[UsageRow]:
    """Usage from `since` to before `until`, grouped by `dimension`, ordered by the group's name.

    Times without a zone are local times of `timezone` (an IANA name). Raises LedgerUnavailable when the
    ledger cannot be read, ValueError for an unknown dimension, ZoneInfoNotFoundError for an unknown zone.
    """
    zone = ZoneInfo(timezone)
    span = Span(_microseconds(since, zone), _microseconds(until, zone))
    path = database_path(url)
    try:
        with open_reader(path).connect() as connection:
            require_head(connection, path)
            return _usage(connection, Dimension(dimension), span, zone)
    except DatabaseError as exc:
        raise LedgerUnavailable(f"ledger {path}: {exc.orig}") from exc


def _usage(connection: Connection, dimension: Dimension, span: Span, zone: ZoneInfo) -> list[UsageRow]:
    # One read transaction: both queries see the same rows, whatever is written meanwhile.
    if dimension is Dimension.DAY:
        days = _days(connection, span, zone)
        if days is None:
            return []
        source, group = days
    else:
        source, group = usage_record, usage_record.c[dimension.value]
    counterfactual = _counterfactuals(connection, source, group, span)
    totals = connection.execute(_within(_totals(source, group), span))
    return [
        UsageRow(
            dimension=dimension,
            name=name,
            requests=requests,
            attempts=attempts,
            input_tokens=int(input_tokens),
            cached_input_tokens=int(cached),
            output_tokens=int(output_tokens),
            cost_usd=usd_decimal(int(nano)),
            counterfactual_usd=counterfactual.get(name, {}),
        )
        for name, requests, attempts, input_tokens, cached, output_tokens, nano in totals
    ]


def _totals(source: FromClause, group: ColumnElement[str]) -> Query:
    row = usage_record.c
    return (
        select(
            group,
            func.count(row.request_id.distinct()),
            func.count(),
            func.sum(row.input_tokens),
            func.sum(row.cached_input_tokens),
            func.sum(row.output_tokens),
            func.sum(row.cost_nano_usd),
        )
        .select_from(source)
        .group_by(group)
        .order_by(group)
    )


def _counterfactuals(
    connection: Connection, source: FromClause, group: ColumnElement[str], span: Span
) -> dict[str, dict[str, Decimal]]:
    """Sums by group and deployment, in USD."""
    other = func.json_each(usage_record.c.counterfactual_nano_usd).table_valued("key", "value")
    query = (
        select(group, other.c.key, func.sum(other.c.value))
        .select_from(source)
        .join(other, onclause=true())
        .group_by(group, other.c.key)
        .order_by(group, other.c.key)
    )
    sums: dict[str, dict[str, Decimal]] = {}
    for name, deployment, nano in connection.execute(_within(query, span)):
        sums.setdefault(name, {})[deployment] = usd_decimal(int(nano))
    return sums


def _within(query: Query, span: Span) -> Query:
    if span.since is not None:
        query = query.where(usage_record.c.at >= span.since)
    if span.until is not None:
        query = query.where(usage_record.c.at < span.until)
    return query


def _days(connection: Connection, span: Span, zone: ZoneInfo) -> tuple[FromClause, ColumnElement[str]] | None:
    """The ledger joined to the calendar days of `zone`, which no database knows as well as zoneinfo does.

    None when no row lies in `span`.
    """
    at = usage_record.c.at
    first, last = connection.execute(_within(select(func.min(at), func.max(at)), span)).one()
    if first is None:
        return None
    day = values(column("name", Text), column("starts", BigInteger), column("ends", BigInteger), name="day")
    days = day.data(list(_calendar(first, last, zone))).cte()
    joined = days.join(usage_record, and_(at >= days.c.starts, at < days.c.ends))
    return joined, days.c.name


def _calendar(first: int, last: int, zone: ZoneInfo) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of the days of `zone` from that of `first` to that of `last`, in microseconds."""
    day = _local_date(first, zone)
    while day <= _local_date(last, zone):
        following = day + dt.timedelta(days=1)
        yield day.isoformat(), _midnight(day, zone), _midnight(following, zone)
        day = following


def _local_date(microseconds: int, zone: ZoneInfo) -> dt.date:
    return (_EPOCH + microseconds * _MICROSECOND).astimezone(zone).date()


def _midnight(day: dt.date, zone: ZoneInfo) -> int:
    return (dt.datetime.combine(day, dt.time(), zone) - _EPOCH) // _MICROSECOND


def _microseconds(moment: dt.datetime | None, zone: ZoneInfo) -> int | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return (aware - _EPOCH) // _MICROSECOND
