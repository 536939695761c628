"""Periods and moments as people name them: `last-month`, `2026-Q4`, `2026-11-05`; `30d` ago.

One way to say a period: every command and every report of the admin port reads it here.
"""

import datetime as dt
import re
from collections.abc import Callable

import msgspec

NAMES = "today, yesterday, week, last-week, month, last-month, quarter, last-quarter, year or last-year"
EXAMPLES = "2026, 2026-Q4, 2026-11, 2026-W47 or 2026-11-05"
MOMENTS = "7d or 12h ago, 2026-11-05 or 2026-11-05T08:30"

_DAY = dt.timedelta(days=1)
_WEEK = dt.timedelta(days=7)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class AskedPeriod(msgspec.Struct, frozen=True):
    """From `since` to before `until`, both aware; None is open."""

    since: dt.datetime | None
    until: dt.datetime | None

    @property
    def microseconds(self) -> tuple[int | None, int | None]:
        """Both ends in UTC microseconds since 1970."""
        return tuple(None if at is None else (at - _EPOCH) // _MICROSECOND for at in (self.since, self.until))  # type: ignore[return-value]

    def __str__(self) -> str:
        """`2026-11-01 to 2026-12-01`; moments within a day with their time."""
        since = "the beginning" if self.since is None else shown(self.since)
        return f"{since} to {'now' if self.until is None else shown(self.until)}"


def asked(period_name: str | None, since: str | None, until: str | None, now: dt.datetime) -> AskedPeriod:
    """The period that somebody names, or its ends. `now` is in the zone that all of it is meant in.

    Raises ValueError with what may be written.
    """
    if period_name is not None:
        if since is not None or until is not None:
            raise ValueError("name a period, or its beginning and end, not both")
        return AskedPeriod(*period(period_name, now.date()).bounds(_zone(now)))
    found = AskedPeriod(*(None if text is None else moment(text, now) for text in (since, until)))
    if found.since is not None and found.since >= (found.until or now):
        raise ValueError("the period ends before it begins: its beginning must be earlier than its end")
    return found


def moment(text: str, now: dt.datetime) -> dt.datetime:
    """`7d` before `now`, or a day or time of its zone. Raises ValueError with what may be written."""
    if (ago := re.fullmatch(r"(\d{1,5})([mhdw])", text)) is not None:
        return now - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no moment: write {MOMENTS}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


def _zone(now: dt.datetime) -> dt.tzinfo:
    if now.tzinfo is None:
        raise TypeError("a moment without a zone")
    return now.tzinfo


def shown(at: dt.datetime) -> str:
    """A day, or a moment within one, as people write it: `2026-11-05`, `2026-11-05 08:30`, `... 08:30:12`."""
    text = at.isoformat(sep=" ", timespec="seconds")[:19]
    return text.removesuffix(" 00:00:00").removesuffix(":00")


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


def start_of_day(date: dt.date, zone: dt.tzinfo) -> int:
    """The first moment of `date` in `zone`, in UTC microseconds since 1970."""
    return (_midnight(date, zone) - _EPOCH) // _MICROSECOND


def _midnight(date: dt.date, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(), zone)


_KINDS: dict[str, Callable[[dt.date], Days]] = {
    "week": week,
    "month": month,
    "quarter": quarter,
    "year": year,
}
