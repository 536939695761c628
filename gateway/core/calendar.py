"""Periods of the calendar as people name them: `last-month`, `2026`, `2026-Q4`, `2026-W47`, `2026-11-05`."""

import datetime as dt
import re
from collections.abc import Callable

import msgspec

NAMES = "today, yesterday, week, last-week, month, last-month, quarter, last-quarter, year or last-year"
EXAMPLES = "2026, 2026-Q4, 2026-11, 2026-W47 or 2026-11-05"

_DAY = dt.timedelta(days=1)
_WEEK = dt.timedelta(days=7)


class Days(msgspec.Struct, frozen=True):
    """Whole days, from `first` to before `end`. Which moments they are is for a time zone to say."""

    first: dt.date
    end: dt.date

    def bounds(self, zone: dt.tzinfo) -> tuple[dt.datetime, dt.datetime]:
        """The first moment of `first` and of `end` in `zone`."""
        return _midnight(self.first, zone), _midnight(self.end, zone)


def day(of: dt.date) -> Days:
    return Days(of, of + _DAY)


def week(of: dt.date) -> Days:
    """Weeks begin on Monday."""
    monday = of - dt.timedelta(days=of.weekday())
    return Days(monday, monday + _WEEK)


def month(of: dt.date) -> Days:
    return _months(of.year, of.month, 1)


def quarter(of: dt.date) -> Days:
    return _months(of.year, of.month - (of.month - 1) % 3, 3)


def year(of: dt.date) -> Days:
    return _months(of.year, 1, 12)


def period(text: str, today: dt.date) -> Days:
    """What `text` names on the day `today`. Raises ValueError with what may be written."""
    name = text.strip().lower()
    ago, _, kind = name.rpartition("last-")
    if name in {"today", "yesterday"}:
        return day(today if name == "today" else today - _DAY)
    if ago == "" and kind in _KINDS:
        this = _KINDS[kind](today)
        return this if kind == name else _KINDS[kind](this.first - _DAY)
    try:
        return _dated(name.upper())
    except ValueError:
        raise ValueError(f"{text!r} is no period: write {NAMES}, or as {EXAMPLES}") from None


def _dated(text: str) -> Days:
    if match := re.fullmatch(r"(\d{4})-Q([1-4])", text):
        return _months(int(match[1]), 3 * int(match[2]) - 2, 3)
    if match := re.fullmatch(r"(\d{4})-W(\d\d)", text):
        return week(dt.date.fromisocalendar(int(match[1]), int(match[2]), 1))
    if re.fullmatch(r"\d{4}", text):
        return _months(int(text), 1, 12)
    if re.fullmatch(r"\d{4}-\d\d", text):
        return _months(int(text[:4]), int(text[5:]), 1)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return day(dt.date.fromisoformat(text))
    raise ValueError(text)


def _months(year: int, first: int, count: int) -> Days:
    last = first + count
    return Days(dt.date(year, first, 1), dt.date(year + (last - 1) // 12, (last - 1) % 12 + 1, 1))


def _midnight(date: dt.date, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(), zone)


_KINDS: dict[str, Callable[[dt.date], Days]] = {
    "week": week,
    "month": month,
    "quarter": quarter,
    "year": year,
}
