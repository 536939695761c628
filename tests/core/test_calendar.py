"""Periods of the calendar: what their names mean on a day, and which moments they are in a zone."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import calendar

TODAY = dt.date(2026, 11, 5)  # a Thursday


@pytest.mark.parametrize(
    ("text", "first", "end"),
    [
        ("today", "2026-11-05", "2026-11-06"),
        ("yesterday", "2026-11-04", "2026-11-05"),
        ("week", "2026-11-02", "2026-11-09"),
        ("last-week", "2026-10-26", "2026-11-02"),
        ("month", "2026-11-01", "2026-12-01"),
        ("last-month", "2026-10-01", "2026-11-01"),
        ("quarter", "2026-10-01", "2027-01-01"),
        ("last-quarter", "2026-07-01", "2026-10-01"),
        ("year", "2026-01-01", "2027-01-01"),
        ("Last-Year", "2025-01-01", "2026-01-01"),
        ("2024", "2024-01-01", "2025-01-01"),
        ("2026-q4", "2026-10-01", "2027-01-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2024-02", "2024-02-01", "2024-03-01"),
        ("2026-W01", "2025-12-29", "2026-01-05"),
        ("2024-02-29", "2024-02-29", "2024-03-01"),
    ],
)
def test_a_period_is_named_as_people_name_it(text: str, first: str, end: str) -> None:
    found = calendar.period(text, TODAY)
    assert (found.first.isoformat(), found.end.isoformat()) == (first, end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "last-",
        "last-day",
        "2026-13",
        "2026-Q5",
        "2025-W53",
        "2026-02-29",
        "26-01",
        "last-last-week",
    ],
)
def test_what_is_no_period_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no period: write today, .* or as 2026, 2026-Q4"):
        calendar.period(text, TODAY)


def test_the_last_month_of_january_is_december() -> None:
    found = calendar.period("last-month", dt.date(2026, 1, 31))
    assert (found.first, found.end) == (dt.date(2025, 12, 1), dt.date(2026, 1, 1))


@given(st.dates(dt.date(1970, 1, 1), dt.date(2999, 12, 1)))
def test_periods_hold_their_day_and_follow_each_other_without_a_gap(date: dt.date) -> None:
    for kind in (calendar.day, calendar.week, calendar.month, calendar.quarter, calendar.year):
        found = kind(date)
        assert found.first <= date < found.end
        assert kind(found.end).first == found.end
        assert kind(found.end - dt.timedelta(days=1)) == found


def test_a_day_is_as_long_as_the_clock_makes_it() -> None:
    first, end = calendar.period("2026-11-01", TODAY).bounds(ZoneInfo("America/New_York"))
    assert end.astimezone(dt.UTC) - first.astimezone(dt.UTC) == dt.timedelta(hours=25)
