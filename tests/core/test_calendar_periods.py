"""One way to say a period, whoever asks."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from gateway.core.calendar import asked

BERLIN = ZoneInfo("Europe/Berlin")
NOW = dt.datetime(2026, 12, 1, 10, 30, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("period", "since", "until", "shown"),
    [
        ("last-month", None, None, "2026-11-01 to 2026-12-01"),
        ("2026-Q4", None, None, "2026-10-01 to 2027-01-01"),
        (None, "30d", None, "2026-11-01 10:30 to now"),
        (None, "2026-11-05", "2026-11-06T08:30", "2026-11-05 to 2026-11-06 08:30"),
        (None, None, "12h", "the beginning to 2026-11-30 22:30"),
        (None, None, None, "the beginning to now"),
    ],
)
def test_a_period_is_read_and_shown(
    period: str | None, since: str | None, until: str | None, shown: str
) -> None:
    assert str(asked(period, since, until, NOW)) == shown


def test_days_begin_at_midnight_of_the_zone_also_when_the_clock_changes() -> None:
    since, until = asked("2026-10-25", None, None, NOW).microseconds
    assert since is not None
    assert until is not None
    assert until - since == 25 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("period", "since", "until", "said"),
    [
        ("soon", None, None, "is no period"),
        ("month", "7d", None, "not both"),
        (None, "yesterday", None, "is no moment: write 7d or 12h ago, 2026-11-05"),
        (None, "2026-11-09", "2026-11-02", "ends before it begins"),
        (None, "2027-01-01", None, "ends before it begins"),
    ],
)
def test_what_is_none_says_what_to_write(
    period: str | None, since: str | None, until: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        asked(period, since, until, NOW)
