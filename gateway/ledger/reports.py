"""Reports for finance, from the rollups of the ledger and, at the ends of a span, from its rows."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import func, select

from gateway.core import calendar
from gateway.core.money import usd_decimal
from gateway.core.usage import CACHED, REASONING, is_input, is_output
from gateway.ledger.database import ReadTransaction
from gateway.ledger.dimensions import Dimension, Grouping, Unanswerable, by
from gateway.ledger.spans import Span, SpanPart, cheapest, parts
from gateway.ledger.tables import COSTS, QUARTER, SUMS, TOKENS, period_end, usage_quarter
from gateway.ledger.url import database_of
from gateway.ledger.usage_queries import IS_CORRECTION, counterfactuals, totals, unit_costs, units

LATEST_PARTS = 4
# Stands for the unit of what was booked by a version that kept no costs of units.
UNSPLIT = "unsplit"
_N = TypeVar("_N", int, Decimal)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_PERIODS = {
    Dimension.DAY: (calendar.day, "%Y-%m-%d"),
    Dimension.WEEK: (calendar.week, "%G-W%V"),
    Dimension.MONTH: (calendar.month, "%Y-%m"),
}


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one group. Amounts in USD, exact. `requests` counts each request once, `attempts` each try.

    A request counts where its first attempt does, and so once in all; an attempt that followed elsewhere (on
    another deployment, or past midnight) counts there as an attempt.
    What corrects earlier rows has a row of its own (`is_correction`), with what it adds to tokens and money,
    or takes away; it counts as neither. So the others are what was charged when it happened.
    `group` has the value of each dimension, in the order in which they were asked for.
    `counterfactual_usd` is what the same usage would have cost on each other deployment. `units` is all of
    the usage by unit; images and audio of release 0.1.0 are text there. `unit_costs` are what each unit cost,
    and under UNSPLIT what older versions have booked as a whole: together `cost_usd`.
    """

    group: dict[str, str]
    requests: int
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    counterfactual_usd: dict[str, Decimal]
    units: dict[str, int]
    unit_costs: dict[str, Decimal]
    is_correction: bool = False

    def plus(self, other: "UsageRow") -> "UsageRow":
        """The sum of two rows, for the group of this one."""
        sums = (
            "requests",
            "attempts",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "cost_usd",
        )
        return msgspec.structs.replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in sums},
            counterfactual_usd=_added(self.counterfactual_usd, other.counterfactual_usd, Decimal(0)),
            units=_added(self.units, other.units, 0),
            unit_costs=_added(self.unit_costs, other.unit_costs, Decimal(0)),
        )

    @property
    def name(self) -> str:
        """The values of its dimensions."""
        return ", ".join(self.group.values())


class RowsDeleted(Unanswerable):
    """Only totals are left of a part of the span, and they do not know all the dimensions asked for."""


def _added(one: Mapping[str, _N], other: Mapping[str, _N], nothing: _N) -> dict[str, _N]:
    return {name: one.get(name, nothing) + other.get(name, nothing) for name in {**one, **other}}


class _Slice(msgspec.Struct, frozen=True):
    """A piece of the span that lies in one day, week and month, as far as these are asked for."""

    values: dict[str, str]
    span: Span


# Whether it is one of corrections, and its values in the order of the dimensions asked for.
_Group = tuple[bool, tuple[str, ...]]
# Of a part: the totals, then the costs elsewhere, the units and their costs by name, each by its labels.
_Rows = list[tuple[Any, ...]]
_Found = tuple[_Rows, tuple[_Rows, _Rows, _Rows]]
_ByName = defaultdict[_Group, defaultdict[str, int]]


class _Sums:
    """Adds up by group. `apart`: corrections have groups of their own."""

    def __init__(self, asked: Grouping, *, apart: bool) -> None:
        self._asked = asked
        self._labels = (IS_CORRECTION, *asked.columns) if apart else asked.columns
        self._apart = apart
        self._totals: defaultdict[_Group, list[int]] = defaultdict(lambda: [0] * len(SUMS))
        self._others, self._units, self._unit_costs = _by_name(), _by_name(), _by_name()
        self._latest: dict[SpanPart, _Found] = {}

    def add(self, ledger: ReadTransaction, sign: int, part: SpanPart, values: dict[str, str]) -> None:
        labels = self._labels
        found_totals, found_by_name = self._read(ledger, part)
        for row in found_totals:
            found, added = row[: len(labels)], row[len(labels) :]
            if added[0] is None:
                continue  # a sum over no rows
            sums = self._totals[self._group(found, values)]
            for number, one in enumerate(added):
                sums[number] += sign * int(one)
        for sums_by_name, rows in zip(
            (self._others, self._units, self._unit_costs), found_by_name, strict=True
        ):
            for *named, name, amount in rows:
                sums_by_name[self._group(named, values)][name] += sign * int(amount)

    def _read(self, ledger: ReadTransaction, part: SpanPart) -> _Found:
        """What is taken off one day is added to the next: the latest parts are kept, not read again."""
        labels = self._labels
        if part not in self._latest:
            if len(self._latest) == LATEST_PARTS:
                del self._latest[next(iter(self._latest))]
            self._latest[part] = (
                ledger.fetch(totals(ledger, part, labels)),
                (
                    ledger.fetch(counterfactuals(ledger, part, labels)),
                    ledger.fetch(units(ledger, part, labels)),
                    ledger.fetch(unit_costs(ledger, part, labels)),
                ),
            )
        return self._latest[part]

    def rows(self) -> list[UsageRow]:
        # What a day held outside of the span was added and taken off again: nothing is left of its group.
        # Those of corrections come last.
        return [self._row(group, sums) for group, sums in sorted(self._totals.items()) if any(sums)]

    def _group(self, found: Sequence[Any], values: dict[str, str]) -> _Group:
        is_correction = self._apart and bool(found[0])
        of_columns = found[1:] if self._apart else found
        named = values | {
            name: _text(name, one) for name, one in zip(self._asked.columns, of_columns, strict=True)
        }
        return is_correction, tuple(named[name] for name in self._asked.names)

    def _row(self, group: _Group, sums: list[int]) -> UsageRow:
        named = dict(zip(SUMS, sums, strict=True))
        others = self._others[group]
        is_correction, values = group
        return UsageRow(
            group=dict(zip(self._asked.names, values, strict=True)),
            is_correction=is_correction,
            requests=named["requests"],
            attempts=named["attempts"],
            input_tokens=named["input_tokens"],
            cached_input_tokens=named["cached_input_tokens"],
            output_tokens=named["output_tokens"],
            cost_usd=usd_decimal(named["cost_nano_usd"]),
            counterfactual_usd={
                elsewhere: usd_decimal(others[elsewhere]) for elsewhere in sorted(others) if others[elsewhere]
            },
            units=_all_units(self._units[group], [named[name] for name in TOKENS]),
            unit_costs={
                unit: usd_decimal(nano)
                for unit, nano in _all_costs(
                    self._unit_costs[group], [named[name] for name in COSTS], named["cost_nano_usd"]
                ).items()
            },
        )


def _by_name() -> _ByName:
    return defaultdict(lambda: defaultdict(int))


def _all_costs(mapped: Mapping[str, int], totals: Sequence[int], whole: int) -> dict[str, int]:
    """What each unit cost, and what of `whole` nobody has split."""
    found = _all_units(mapped, totals)
    unsplit = whole - sum(found.values())
    return found | {UNSPLIT: unsplit} if unsplit else found


def _all_units(mapped: Mapping[str, int], totals: Sequence[int]) -> dict[str, int]:
    """All units: those of rows with a map, and what `totals`, in the order of TOKENS, have beyond them."""
    all_read, all_cached, all_written, all_thought = totals
    read = sum(amount for unit, amount in mapped.items() if is_input(unit))
    cached = sum(amount for unit, amount in mapped.items() if unit.startswith(CACHED))
    written = sum(amount for unit, amount in mapped.items() if is_output(unit))
    thought = mapped.get(REASONING, 0)
    beyond = {
        "input_text": all_read - all_cached - read + cached,
        "cached_text": all_cached - cached,
        "output_text": all_written - all_thought - written + thought,
        REASONING: all_thought - thought,
    }
    found = {unit: mapped.get(unit, 0) + beyond.get(unit, 0) for unit in sorted({*mapped, *beyond})}
    return {unit: amount for unit, amount in found.items() if amount}


def usage_by(
    url: str,
    dimensions: str | Sequence[str],
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    *,
    timezone: str = "UTC",
) -> list[UsageRow]:
    """Usage from `since` to before `until`, grouped by `dimensions`, ordered by their values.

    Times without a zone are local times of `timezone` (an IANA name). Raises LedgerUnavailable when the
    ledger cannot be read, Unanswerable for an unknown dimension or deleted rows, ZoneInfoNotFoundError for
    an unknown zone.
    """
    zone = ZoneInfo(timezone)
    asked = by(dimensions) if isinstance(dimensions, str) else by(*dimensions)
    span = Span(_microseconds(since, zone), _microseconds(until, zone))
    with database_of(url).reading() as ledger:
        return usage_in(ledger, asked, span, zone)


def usage_in(
    ledger: ReadTransaction, asked: Grouping, span: Span, zone: dt.tzinfo, *, apart: bool = True
) -> list[UsageRow]:
    """As `usage_by`, together with whatever else is read in the same transaction.

    `apart`: corrections have rows of their own; else they are part of the group that they correct.
    """
    if asked.needs_rows:
        _require_rows(ledger, asked, span, zone)
    sums = _Sums(asked, apart=apart)
    for piece in _slices(ledger, asked, span, zone):
        for sign, part in _parts(asked, piece.span):
            sums.add(ledger, sign, part, piece.values)
    return sums.rows()


def span_of(since: dt.datetime, until: dt.datetime) -> Span:
    """From one aware moment to before another."""
    return Span((since - _EPOCH) // _MICROSECOND, (until - _EPOCH) // _MICROSECOND)


def _parts(asked: Grouping, span: Span) -> Iterator[tuple[int, SpanPart]]:
    if asked.needs_rows:
        yield 1, SpanPart("rows", span)
        return
    for part in parts(span):
        yield from cheapest(part)


def _require_rows(ledger: ReadTransaction, asked: Grouping, span: Span, zone: dt.tzinfo) -> None:
    deleted = select(func.max(period_end.c.before)).where(period_end.c.act == "pruned")
    ((before,),) = ledger.fetch(deleted)
    if before is not None and (span.since is None or span.since < before):
        since = (_EPOCH + before * _MICROSECOND).astimezone(zone)
        raise RowsDeleted(
            f"the rows before {since:%Y-%m-%d} were deleted, and the totals that are left do not know "
            f"{', '.join(asked.columns)}; ask for what came since then, or for other dimensions"
        )


def _slices(ledger: ReadTransaction, asked: Grouping, span: Span, zone: dt.tzinfo) -> Iterator[_Slice]:
    """The span, cut where a calendar period that is asked for ends. Nothing for times without any usage."""
    if not asked.calendar:
        yield _Slice({}, span)
        return
    starts = usage_quarter.c.starts
    ((first, last),) = ledger.fetch(select(func.min(starts), func.max(starts)))
    if first is None:
        return
    at = first if span.since is None else max(first, span.since)
    end = last + QUARTER if span.until is None else min(last + QUARTER, span.until)
    while at < end:
        values, ends = _periods(asked.calendar, at, zone)
        yield _Slice(values, Span(at, min(ends, end)))
        at = ends


def _periods(kinds: Sequence[Dimension], at: int, zone: dt.tzinfo) -> tuple[dict[str, str], int]:
    """What each kind of period that holds `at` is called, and when the first of them ends."""
    date = (_EPOCH + at * _MICROSECOND).astimezone(zone).date()
    values: dict[str, str] = {}
    ends: list[int] = []
    for kind in kinds:
        days_of, form = _PERIODS[kind]
        values[kind.value] = date.strftime(form)
        ends.append((days_of(date).bounds(zone)[1] - _EPOCH) // _MICROSECOND)
    return values, min(ends)


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if name in {Dimension.STREAM, Dimension.ESTIMATED, Dimension.LATE}:  # SQLite has no booleans
        return "true" if value else "false"
    return str(value)


def _microseconds(moment: dt.datetime | None, zone: ZoneInfo) -> int | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return (aware - _EPOCH) // _MICROSECOND
