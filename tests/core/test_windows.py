"""Budget windows follow the calendar of the org's time zone, daylight saving included."""

import datetime
import math
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.windows import Per, Window, window_at

NEW_YORK = ZoneInfo("America/New_York")
TOKYO = ZoneInfo("Asia/Tokyo")
KATHMANDU = ZoneInfo("Asia/Kathmandu")  # +05:45
UTC = ZoneInfo("UTC")
HOUR = 3600.0
DAY = 24 * HOUR


def at(text: str, zone: ZoneInfo = UTC) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def shown(window: Window, zone: ZoneInfo) -> tuple[str, str]:
    """Both ends as local time."""
    start, end = (
        datetime.datetime.fromtimestamp(moment, zone).replace(tzinfo=None).isoformat(" ", "minutes")
        for moment in (window.start, window.end)
    )
    return start, end


def test_a_day_in_march_has_23_hours_in_new_york():
    window = window_at(Per.DAY, at("2026-03-08T12:00", NEW_YORK), NEW_YORK)
    assert shown(window, NEW_YORK) == ("2026-03-08 00:00", "2026-03-09 00:00")
    assert window.end - window.start == 23 * HOUR


def test_a_day_in_november_has_25_hours_in_new_york():
    window = window_at(Per.DAY, at("2026-11-01T12:00", NEW_YORK), NEW_YORK)
    assert shown(window, NEW_YORK) == ("2026-11-01 00:00", "2026-11-02 00:00")
    assert window.end - window.start == 25 * HOUR


def test_both_occurrences_of_the_repeated_hour_lie_in_the_same_day():
    first = at("2026-11-01T01:30", NEW_YORK)
    assert window_at(Per.DAY, first, NEW_YORK) == window_at(Per.DAY, first + HOUR, NEW_YORK)


def test_the_week_and_the_month_of_the_change_are_an_hour_longer():
    now = at("2026-11-01T12:00", NEW_YORK)
    week, month = window_at(Per.WEEK, now, NEW_YORK), window_at(Per.MONTH, now, NEW_YORK)
    assert week.end - week.start == 7 * DAY + HOUR
    assert month.end - month.start == 30 * DAY + HOUR


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [
        ("2026-01-31T23:59:59", "2026-01-01 00:00", "2026-02-01 00:00"),
        ("2026-02-01T00:00:00", "2026-02-01 00:00", "2026-03-01 00:00"),
        ("2028-02-29T23:59:59", "2028-02-01 00:00", "2028-03-01 00:00"),
        ("2026-12-31T23:59:59", "2026-12-01 00:00", "2027-01-01 00:00"),
        ("2027-01-01T00:00:00", "2027-01-01 00:00", "2027-02-01 00:00"),
    ],
)
def test_months_end_at_midnight_in_tokyo(now: str, start: str, end: str):
    window = window_at(Per.MONTH, at(now, TOKYO), TOKYO)
    assert shown(window, TOKYO) == (start, end)


def test_the_month_in_tokyo_begins_nine_hours_before_that_in_utc():
    now = at("2026-11-30T16:00")
    assert window_at(Per.MONTH, now, TOKYO).start == at("2026-11-30T15:00")
    assert window_at(Per.MONTH, now, UTC).start == at("2026-11-01T00:00")


def test_a_day_in_kathmandu_begins_at_a_quarter_past_six_in_utc():
    window = window_at(Per.DAY, at("2026-11-23T12:00", KATHMANDU), KATHMANDU)
    assert window.start == at("2026-11-22T18:15")


def test_an_hour_in_kathmandu_begins_on_the_local_hour():
    window = window_at(Per.HOUR, at("2026-11-23T12:20", KATHMANDU), KATHMANDU)
    assert shown(window, KATHMANDU) == ("2026-11-23 12:00", "2026-11-23 13:00")
    assert window.start % HOUR == 15 * 60


def test_a_minute_is_sixty_seconds():
    window = window_at(Per.MINUTE, at("2026-11-23T12:20:59.5"), UTC)
    assert window == Window(at("2026-11-23T12:20"), at("2026-11-23T12:21"))


@pytest.mark.parametrize("day", ["2026-11-23T00:00", "2026-11-25T12:00", "2026-11-29T23:59:59"])
def test_weeks_begin_on_monday(day: str):
    assert shown(window_at(Per.WEEK, at(day), UTC), UTC) == ("2026-11-23 00:00", "2026-11-30 00:00")


def test_a_week_may_reach_over_the_new_year():
    window = window_at(Per.WEEK, at("2027-01-01T12:00"), UTC)
    assert shown(window, UTC) == ("2026-12-28 00:00", "2027-01-04 00:00")


def test_a_lifetime_has_no_end():
    assert window_at(Per.LIFETIME, at("2026-11-23T12:00"), TOKYO) == Window(0.0, math.inf)


def test_a_midnight_that_the_clocks_skip_still_begins_the_day():
    havana = ZoneInfo("America/Havana")  # 00:00 becomes 01:00
    window = window_at(Per.DAY, at("2026-03-08T12:00", havana), havana)
    assert window.end - window.start == 23 * HOUR
    assert window == window_at(Per.DAY, window.start, havana)


def test_a_day_that_a_country_skipped_leaves_no_gap():
    apia = ZoneInfo("Pacific/Apia")  # 2011-12-30 did not take place
    before, after = (window_at(Per.DAY, at(f"2011-12-{day}T12:00", apia), apia) for day in (29, 31))
    assert before.end == after.start


zones = st.sampled_from(
    [
        *(
            "UTC",
            "America/New_York",
            "Asia/Tokyo",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Chatham",
        ),
        *("America/Havana", "America/St_Johns", "Africa/Cairo", "Asia/Kolkata", "Pacific/Apia"),
        *("Europe/London", "Asia/Beirut", "Atlantic/Azores", "America/Santiago", "Antarctica/Troll"),
    ]
).map(ZoneInfo)
# Whole microseconds, as finer ones are not kept by the calendar; 2001 to 2065.
moments = st.integers(10**9 * 10**6, 3 * 10**9 * 10**6).map(lambda micros: micros / 10**6)
calendar = st.sampled_from([Per.DAY, Per.WEEK, Per.MONTH])


@given(st.sampled_from(Per), moments, zones)
def test_a_window_contains_now(per: Per, now: float, zone: ZoneInfo):
    window = window_at(per, now, zone)
    assert window.start <= now < window.end


@given(calendar, moments, zones)
def test_adjacent_windows_touch(per: Per, now: float, zone: ZoneInfo):
    window = window_at(per, now, zone)
    assert window_at(per, window.end, zone).start == window.end
    assert window_at(per, window.start - 1, zone).end == window.start


@given(calendar, moments, zones)
def test_every_moment_of_a_window_gives_the_same_window(per: Per, now: float, zone: ZoneInfo):
    window = window_at(per, now, zone)
    assert window_at(per, window.start, zone) == window
    assert window_at(per, window.end - 1, zone) == window


@given(st.sampled_from([Per.MINUTE, Per.HOUR]), moments)
def test_short_windows_touch_where_no_clock_is_set(per: Per, now: float):
    for zone in (UTC, TOKYO, KATHMANDU):
        window = window_at(per, now, zone)
        assert window_at(per, window.end, zone).start == window.end
