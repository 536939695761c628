"""Calendar windows of budgets, in the org's time zone. Daylight saving: some days last 23 or 25 hours."""

import datetime
import enum
from zoneinfo import ZoneInfo

import msgspec


class Per(enum.StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


# A rolling window is kept as this many equal parts and the one that fills now. A part leaves as a whole once
# all of it is past, so spending counts for the window's length and at most one part longer, never shorter.
ROLLING_PARTS = 60
ROLLING_SECONDS = {
    Per.MINUTE: 60,
    Per.HOUR: 3600,
    Per.DAY: 86_400,
    Per.WEEK: 7 * 86_400,
    Per.MONTH: 30 * 86_400,
}


def part_seconds(per: Per) -> int:
    """Length of one part of a rolling window, in whole seconds. A lifetime does not roll."""
    return ROLLING_SECONDS[per] // ROLLING_PARTS


class Window(msgspec.Struct, frozen=True):
    """[start, end) in UTC seconds since 1970. `end` is infinity for a lifetime."""

    start: float
    end: float


def window_at(per: Per, now: float, zone: ZoneInfo) -> Window:
    """The window of kind `per` that holds `now` (UTC seconds). Weeks begin on Monday."""
    if per is Per.LIFETIME:
        return Window(0.0, float("inf"))
    if per in {Per.MINUTE, Per.HOUR}:
        return _short(3600 if per is Per.HOUR else 60, now, zone)
    local = datetime.datetime.fromtimestamp(now, zone)
    first, following = _days(per, local.date())
    return Window(_midnight(first, zone), _midnight(following, zone))


def _short(seconds: int, now: float, zone: ZoneInfo) -> Window:
    # Offsets such as +05:45 shift where an hour begins, so align on local time, not on UTC.
    offset = datetime.datetime.fromtimestamp(now, zone).utcoffset() or datetime.timedelta()
    shift = offset.total_seconds()
    start = (now + shift) // seconds * seconds - shift
    return Window(start, start + seconds)


def _days(per: Per, day: datetime.date) -> tuple[datetime.date, datetime.date]:
    if per is Per.DAY:
        return day, day + datetime.timedelta(days=1)
    if per is Per.WEEK:
        monday = day - datetime.timedelta(days=day.weekday())
        return monday, monday + datetime.timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + datetime.timedelta(days=32)).replace(day=1)


def _midnight(day: datetime.date, zone: ZoneInfo) -> float:
    return datetime.datetime.combine(day, datetime.time(), zone).timestamp()
