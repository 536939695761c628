"""A question of finance, and its answer as JSON or as the table that CSV and Parquet files hold."""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.core import calendar
from gateway.core.table import Column, ColumnKind, Table
from gateway.finance.tabular import FileFormat, encoded
from gateway.ledger.dimensions import Grouping, Unanswerable, by
from gateway.ledger.reports import UsageRow, usage_by

_COUNTS = ("requests", "attempts", "input_tokens", "cached_input_tokens", "output_tokens")


class UsageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage, and how grouped; when is read by `calendar.asked`, in the org's zone."""

    by: str
    period: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def dimensions(self) -> Grouping:
        return by(*(name.strip() for name in self.by.split(",")))

    def asked(self, now: float, zone: ZoneInfo) -> calendar.AskedPeriod:
        """When it begins and ends, asked at `now` (UTC seconds). Raises Unanswerable."""
        try:
            here = dt.datetime.fromtimestamp(now, zone)
            return calendar.asked(self.period, self.since, self.until, here)
        except ValueError as exc:
            raise Unanswerable(str(exc)) from exc


def usage_rows(url: str, question: UsageQuestion, *, now: float, timezone: str) -> list[UsageRow]:
    """Raises Unanswerable, LedgerUnavailable."""
    names = question.dimensions.names
    found = question.asked(now, ZoneInfo(timezone))
    return usage_by(url, names, found.since, found.until, timezone=timezone)


def usage_document(rows: Sequence[UsageRow], question: UsageQuestion, form: str) -> bytes:
    """`form` is json, csv or parquet. Raises ParquetMissing."""
    if form == "json":
        return (json.dumps(usage_json(rows), indent=2, ensure_ascii=False) + "\n").encode()
    return encoded(usage_table(rows, question.dimensions), FileFormat(form))


def usage_json(rows: Sequence[UsageRow]) -> list[dict[str, Any]]:
    """One object for each row. Nine digits after the point survive a float up to millions of dollars."""
    return [
        {
            **row.group,
            **{name: getattr(row, name) for name in _COUNTS},
            "cost_usd": float(row.cost_usd),
            "counterfactual_usd": {name: float(usd) for name, usd in row.counterfactual_usd.items()},
        }
        for row in rows
    ]


def usage_table(rows: Sequence[UsageRow], asked: Grouping) -> Table:
    """A column for each dimension, count and sum, and one for each deployment that was compared with."""
    others = sorted({name for row in rows for name in row.counterfactual_usd})
    columns = [
        *(Column(name) for name in asked.names),
        *(Column(name, ColumnKind.INTEGER) for name in _COUNTS),
        Column("cost_usd", ColumnKind.MONEY),
        *(Column(f"counterfactual_usd_{name}", ColumnKind.MONEY) for name in others),
    ]
    return Table(
        columns,
        [
            [
                *row.group.values(),
                *(getattr(row, name) for name in _COUNTS),
                row.cost_usd,
                *(row.counterfactual_usd.get(name) for name in others),
            ]
            for row in rows
        ],
    )
