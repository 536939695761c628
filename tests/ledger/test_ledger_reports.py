"""What finance reads must be what was written, to the nano-dollar."""

import datetime as dt
import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from gateway.core.usage import Usage, usage_of
from gateway.ledger.dimensions import CALENDAR, Dimension
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.reports import RowsDeleted, usage_by
from gateway.ledger.retention import close, prune, rebuild
from gateway.ledger.sqlite import reading as sqlite_reading
from gateway.ledger.sqlite.engine import open_reader
from gateway.ledger.tables import QUARTER, usage_record
from tests.core.builders import used
from tests.ledger.ledger_records import FULL, make, write

Database = Any

NANO = Decimal("1e-9")


def micros(text: str, zone: str = "UTC") -> int:
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return round(moment.timestamp()) * 1_000_000


def test_a_report_adds_up_each_feature(database: Database) -> None:
    usage = used(input_text=100, input_cached=40, output_text=5, output_reasoning=2)
    write(
        database,
        make(1, feature="triage", usage=usage, cost_nano_usd=1, counterfactual_nano_usd={"gpt-4o": 3}),
        make(
            2, feature="triage", usage=usage, cost_nano_usd=2, counterfactual_nano_usd={"gpt-4o": 4, "b": 1}
        ),
        make(
            3,
            feature="triage",
            attempt_id="req_00000002:2",
            request_id="req_00000002",
            usage=usage,
            cost_nano_usd=4,
        ),
        make(4, feature="review", usage=Usage(), cost_nano_usd=10**15, counterfactual_nano_usd={}),
    )
    review, triage = usage_by(database.url, "feature")
    assert (triage.name, triage.requests, triage.attempts) == ("triage", 2, 3)
    assert (triage.input_tokens, triage.cached_input_tokens, triage.output_tokens) == (300, 120, 21)
    assert triage.cost_usd == 7 * NANO
    assert triage.counterfactual_usd == {"gpt-4o": (7 + 9_000_000_001) * NANO, "b": NANO}
    assert review.cost_usd == Decimal(10**6)
    assert review.counterfactual_usd == {}


@pytest.mark.parametrize("dimension", [one for one in Dimension if one not in (*CALENDAR, Dimension.LATE)])
def test_every_dimension_is_a_column_of_the_ledger(database: Database, dimension: Dimension) -> None:
    write(database, FULL)
    (row,) = usage_by(database.url, dimension)
    (stored,) = database.rows()
    value = stored[dimension.value]
    expected = str(bool(value)).lower() if dimension in {"stream", "estimated"} else str(value)
    assert row.group == {dimension.value: expected}
    assert row.cost_usd == Decimal("8.123456789")


def test_a_column_of_the_ledger_is_a_dimension_unless_it_is_a_number_or_an_id() -> None:
    left_out = {column.name for column in usage_record.c} - {one.value for one in Dimension}
    numbers = {name for name in left_out if name.endswith(("_tokens", "_nano_usd", "_ms"))}
    ids = {"attempt_id", "request_id", "upstream_request_id", "corrects"}
    maps = {"usage", "reported"}
    assert left_out - numbers - ids - maps == {"at", "occurred_at", "facts"}


def test_units_add_up_the_same_from_rows_and_from_totals(database: Database) -> None:
    """Plain rows have no map: their units are what the totals have beyond those of the others."""
    usages = [
        used(input_text=100, input_cached=40, output_text=5, output_reasoning=2),
        usage_of(
            {"input_text": 1, "cache_write_1h": 20, "cached_image": 300, "output_audio": 7, "requests": 1}
        ),
        usage_of({"input_image": 4_000, "output_reasoning": 50, "search_queries": 3}),
        Usage(),
    ]
    write(database, *(make(n, at=FULL.at + n, usage=usage) for n, usage in enumerate(usages)))
    expected = {
        "cache_write_1h": 20,
        "cached_image": 300,
        "cached_text": 40,
        "input_image": 4_000,
        "input_text": 61,
        "output_audio": 7,
        "output_reasoning": 52,
        "output_text": 5,
        "requests": 1,
        "search_queries": 3,
    }
    for dimension in ("feature", "replica", "day"):  # totals, rows, both
        (row,) = usage_by(database.url, dimension)
        assert row.units == expected
    rebuild(database.url)
    assert usage_by(database.url, "feature")[0].units == expected


def test_several_dimensions_group_by_all_of_them_in_the_order_asked_for(database: Database) -> None:
    months = ["2026-10-31T14:59:59", "2026-10-31T15:00", "2026-11-02T00:00"]  # of UTC
    write(
        database,
        *(
            make(10 * n + m, at=micros(text), feature=feature, cost_nano_usd=2 ** (3 * m + n))
            for n, text in enumerate(months)
            for m, feature in enumerate(("triage", "review"))
        ),
    )
    found = usage_by(database.url, ["month", "feature", "week"], timezone="Asia/Tokyo")
    assert [(row.group, row.cost_usd) for row in found] == [
        ({"month": month, "feature": feature, "week": week}, nano * NANO)
        for month, feature, week, nano in [
            ("2026-10", "review", "2026-W44", 8),
            ("2026-10", "triage", "2026-W44", 1),
            ("2026-11", "review", "2026-W44", 16),
            ("2026-11", "review", "2026-W45", 32),
            ("2026-11", "triage", "2026-W44", 2),
            ("2026-11", "triage", "2026-W45", 4),
        ]
    ]
    assert found[0].counterfactual_usd == {"gpt-4o": Decimal("9.000000001")}


def test_a_request_with_several_tags_is_counted_once(database: Database) -> None:
    write(
        database,
        make(1, tags={"team": "blue", "ticket": 'a"b'}, cost_nano_usd=1),
        make(2, tags={"team": "blue"}, cost_nano_usd=2),
        make(3, tags={}, cost_nano_usd=4),
    )
    every = usage_by(database.url, "tags")
    assert sum(row.cost_usd for row in every) == 7 * NANO
    assert [json.loads(row.name) for row in every] == [
        {"team": "blue", "ticket": 'a"b'},
        {"team": "blue"},
        {},
    ]
    by_one = usage_by(database.url, ["tag:team", "tag:ticket"])
    assert [(row.group, row.cost_usd) for row in by_one] == [
        ({"tag:team": "", "tag:ticket": ""}, 4 * NANO),
        ({"tag:team": "blue", "tag:ticket": ""}, 2 * NANO),
        ({"tag:team": "blue", "tag:ticket": 'a"b'}, 1 * NANO),
    ]


@pytest.mark.parametrize("name", ['x"y', "x'y", "x.y", "$", "顧客", "%s", ":one"])
def test_a_tag_is_found_whatever_it_is_called(database: Database, name: str) -> None:
    write(database, make(1, tags={name: "here"}), make(2, tags={"x": "elsewhere"}))
    assert [row.name for row in usage_by(database.url, f"tag:{name}")] == ["", "here"]


def test_what_totals_do_not_know_is_not_reported_for_deleted_rows(database: Database) -> None:
    write(database, *(make(n, at=micros(f"2026-{month}-05T00:00")) for n, month in enumerate(("09", "10"))))
    now, october = micros("2026-11-05T00:00"), micros("2026-10-01T00:00")
    close(database.waiting_url, october, now=now)
    prune(database.waiting_url, october, now=now)
    assert len(usage_by(database.url, ["feature", "month"])) == 2
    with pytest.raises(RowsDeleted, match=r"before 2026-10-01 were deleted.* replica"):
        usage_by(database.url, ["feature", "replica"])
    (row,) = usage_by(database.url, ["feature", "replica"], dt.datetime(2026, 10, 1))
    assert row.attempts == 1


def test_since_is_included_and_until_is_not(database: Database) -> None:
    write(database, *(make(hour, at=micros(f"2026-11-01T{hour:02}:00")) for hour in range(5)))
    since, until = (dt.datetime(2026, 11, 1, hour, tzinfo=dt.UTC) for hour in (1, 3))
    assert usage_by(database.url, "feature", since, until)[0].attempts == 2
    assert usage_by(database.url, "feature", since)[0].attempts == 4
    assert usage_by(database.url, "feature", None, until)[0].attempts == 3
    assert usage_by(database.url, "feature", until, until) == []
    assert usage_by(database.url, "day", until, until) == []


def test_times_without_a_zone_are_local_times_of_the_org(database: Database) -> None:
    write(database, make(1, at=micros("2026-11-01T00:00", "Asia/Tokyo")))
    day = dt.datetime(2026, 11, 1)
    assert len(usage_by(database.url, "feature", day, timezone="Asia/Tokyo")) == 1
    assert usage_by(database.url, "feature", day) == []


def test_days_are_those_of_the_orgs_calendar(database: Database) -> None:
    moments = ["2026-10-31T23:59:59", "2026-11-01T00:00", "2026-11-01T23:59:59", "2026-11-03T12:00"]
    write(database, *(make(n, at=micros(text, "Asia/Tokyo")) for n, text in enumerate(moments)))
    tokyo = usage_by(database.url, "day", timezone="Asia/Tokyo")
    assert [(row.name, row.attempts) for row in tokyo] == [
        ("2026-10-31", 1),
        ("2026-11-01", 2),
        ("2026-11-03", 1),
    ]
    assert tokyo[1].counterfactual_usd == {"gpt-4o": Decimal("18.000000002")}


@pytest.mark.parametrize(("date", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-11-02", 24)])
def test_a_day_has_as_many_hours_as_the_clock_gives_it(database: Database, date: str, hours: int) -> None:
    start = micros(f"{date}T00:00", "America/New_York")
    hour = 3_600_000_000
    write(database, *(make(n + 2, at=start + n * hour) for n in range(-2, 30)))
    days = {row.name: row.attempts for row in usage_by(database.url, "day", timezone="America/New_York")}
    assert days[date] == hours


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["triage", "review", "学校"]),
            st.integers(0, 10**15),
            st.integers(0, 40 * 86_400),
            st.dictionaries(st.sampled_from(["gpt-4o", "b"]), st.integers(1, 10**15)),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
)
def test_any_grouping_adds_up_to_the_same_total(
    database: Database, attempts: list[tuple[str, int, int, dict[str, int]]], timezone: str
) -> None:
    database.forget()
    records = [
        make(
            n, feature=feature, cost_nano_usd=nano, at=FULL.at + second * 10**6, counterfactual_nano_usd=other
        )
        for n, (feature, nano, second, other) in enumerate(attempts)
    ]
    write(database, *records)
    total = sum(record.cost_nano_usd for record in records) * NANO
    others: Counter[str] = Counter()
    for record in records:
        others.update(record.counterfactual_nano_usd)
    for dimension in [*Dimension, ("week", "feature"), ("day", "tag:ticket")]:
        rows = usage_by(database.url, dimension, timezone=timezone)
        assert sum(row.cost_usd for row in rows) == total
        assert sum(row.attempts for row in rows) == len(records)
        sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for row in rows:
            for deployment, usd in row.counterfactual_usd.items():
                sums[deployment] += usd
        assert sums == {deployment: nano * NANO for deployment, nano in others.items()}


def test_a_report_reads_while_the_writer_holds_the_lock(sqlite: Database) -> None:
    write(sqlite, FULL)
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(usage_by(sqlite.url, "feature")) == 1


def test_a_report_without_a_ledger_says_so_and_makes_none(sqlite: Database) -> None:
    with pytest.raises(LedgerUnavailable, match="no such file"):
        usage_by(sqlite.url, "feature")
    assert not sqlite.path.exists()


def test_a_report_of_an_empty_postgres_says_what_to_do(postgres: Database) -> None:
    with pytest.raises(LedgerUnavailable, match="starting the gateway migrates it"):
        usage_by(postgres.url, "feature")


@pytest.mark.parametrize("dimension", ["feature", "day", "replica"])
def test_reports_find_rows_at_the_ends_of_their_span_by_the_index(
    sqlite: Database, dimension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(sqlite, FULL)
    asked: list[tuple[str, Any]] = []

    def open_listening(path: Any) -> Any:
        engine = open_reader(path)
        event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
        return engine

    monkeypatch.setattr(sqlite_reading, "open_reader", open_listening)
    quarter = FULL.at - FULL.at % QUARTER
    first, last = (
        dt.datetime.fromtimestamp(at / 10**6, dt.UTC) for at in (quarter + 10**6, quarter + QUARTER - 10**6)
    )
    usage_by(sqlite.url, dimension, first, last)
    asked = [(query, values) for query, values in asked if "FROM usage_record" in query]
    assert len(asked) == 4  # totals, costs elsewhere, units, their costs
    with closing(sqlite3.connect(sqlite.path)) as connection:
        for query, values in asked:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
            assert "usage_record_at_feature" in plan, plan


def test_questions_that_cannot_be_answered_are_clear_errors(database: Database) -> None:
    write(database, FULL)
    with pytest.raises(ValueError, match="colour"):
        usage_by(database.url, "colour")
    with pytest.raises(ValueError, match="each once"):
        usage_by(database.url, ["feature", "feature"])
    with pytest.raises(ZoneInfoNotFoundError):
        usage_by(database.url, "feature", timezone="Mars/Olympus")
