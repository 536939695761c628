"""A question of finance, and its answer as JSON or as the table that CSV and Parquet files hold."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.core import calendar
from gateway.core.table import Column, ColumnKind, Table
from gateway.finance.tabular import FileFormat, encoded
from gateway.ledger.dimensions import Dimension, Grouping, Unanswerable, by
from gateway.ledger.reports import UsageRow, usage_by

# Stands among the dimensions, and takes rows apart by unit of usage.
TOKEN_TYPE = "token_type"  # noqa: S105  # a dimension
_COUNTS = ("requests", "attempts", "input_tokens", "cached_input_tokens", "output_tokens")


class UsageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage, and how grouped; when is read by `calendar.asked`, in the org's zone."""

    by: str
    period: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def dimensions(self) -> Grouping:
        """What the ledger groups by. Units are not among it: each row has all of them."""
        names = [name for name in self._names if name != TOKEN_TYPE]
        return by(*(names or [Dimension.ORG]))

    @property
    def by_unit(self) -> bool:
        """Whether each row is to be taken apart by unit of usage."""
        return TOKEN_TYPE in self._names

    @property
    def columns(self) -> tuple[str, ...]:
        """The dimensions that are shown, in the order asked for."""
        return tuple(self._names)

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in self.by.split(",")]

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
        found = units_json(rows, question) if question.by_unit else usage_json(rows)
        return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()
    table = units_table(rows, question) if question.by_unit else usage_table(rows, question.dimensions)
    return encoded(table, FileFormat(form))


def units_json(rows: Sequence[UsageRow], question: UsageQuestion) -> list[dict[str, Any]]:
    """One object for each unit of each row: its amount and cost. Corrections say so, as in `usage_json`."""
    return [
        {
            **{name: (row.group | {TOKEN_TYPE: unit})[name] for name in question.columns},
            "amount": row.units.get(unit, 0),
            "cost_usd": float(row.unit_costs.get(unit, 0)),
            **({"correction": True} if row.is_correction else {}),
        }
        for row, unit in _by_unit(rows)
    ]


def units_table(rows: Sequence[UsageRow], question: UsageQuestion) -> Table:
    """The same as a table."""
    corrects = any(row.is_correction for row in rows)
    columns = [
        *map(Column, question.columns),
        Column("amount", ColumnKind.INTEGER),
        Column("cost_usd", ColumnKind.MONEY),
        *([Column("correction")] if corrects else []),
    ]
    return Table(
        columns,
        [
            [
                *((row.group | {TOKEN_TYPE: unit})[name] for name in question.columns),
                row.units.get(unit, 0),
                row.unit_costs.get(unit, Decimal(0)),
                *([str(row.is_correction).lower()] if corrects else []),
            ]
            for row, unit in _by_unit(rows)
        ],
    )


def _by_unit(rows: Sequence[UsageRow]) -> Iterator[tuple[UsageRow, str]]:
    """Each row with each unit that it has an amount or a cost of."""
    return ((row, unit) for row in rows for unit in sorted({*row.units, *row.unit_costs}))


def usage_json(rows: Sequence[UsageRow]) -> list[dict[str, Any]]:
    """One object for each row; those that correct others say so in `correction`.

    Nine digits after the point survive a float up to millions of dollars.
    """
    return [
        {
            **row.group,
            **{name: getattr(row, name) for name in _COUNTS},
            "cost_usd": float(row.cost_usd),
            "counterfactual_usd": {name: float(usd) for name, usd in row.counterfactual_usd.items()},
            **({"correction": True} if row.is_correction else {}),
        }
        for row in rows
    ]


def usage_table(rows: Sequence[UsageRow], asked: Grouping) -> Table:
    """A column for each dimension, count and sum, and one for each deployment that was compared with.

    A last one, `correction`, where some row corrects others.
    """
    others = sorted({name for row in rows for name in row.counterfactual_usd})
    corrects = any(row.is_correction for row in rows)
    columns = [
        *(Column(name) for name in asked.names),
        *(Column(name, ColumnKind.INTEGER) for name in _COUNTS),
        Column("cost_usd", ColumnKind.MONEY),
        *(Column(f"counterfactual_usd_{name}", ColumnKind.MONEY) for name in others),
        *([Column("correction")] if corrects else []),
    ]
    return Table(
        columns,
        [
            [
                *row.group.values(),
                *(getattr(row, name) for name in _COUNTS),
                row.cost_usd,
                *(row.counterfactual_usd.get(name) for name in others),
                *([str(row.is_correction).lower()] if corrects else []),
            ]
            for row in rows
        ],
    )
