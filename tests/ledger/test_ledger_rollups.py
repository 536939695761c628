"""Rollups are the rows added up, whatever came in which order, and reports read them to the nano-dollar."""

import datetime as dt
import itertools
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.pricing import cost_parts
from gateway.core.record import Outcome
from gateway.core.usage import Usage, usage_of
from gateway.core.windows import Per, Window
from gateway.ledger.reports import usage_by
from gateway.ledger.spans import Span, SpanPart, cheapest, parts
from gateway.ledger.spending import spent_in_windows
from gateway.ledger.tables import DAY, QUARTER
from gateway.ports import BudgetView
from tests.ledger.ledger_records import FULL, make, write

Database = Any

HOUR = 4 * QUARTER
moments = st.integers(0, 3 * DAY).map(lambda after: FULL.at + after)
ends = st.none() | moments | st.integers(0, 3 * 96).map(lambda n: FULL.at - FULL.at % DAY + n * QUARTER)


def budget(kind: str, name: str, start: float) -> BudgetView:
    return BudgetView(
        kind=kind,
        name=name,
        per=Per.DAY,
        window=Window(start, start + 86_400),
        limit_nano=0,
        spent_nano=0,
        held_nano=0,
        unseen_nano=0,
    )


@given(ends, ends)
def test_the_parts_of_a_span_cover_it_once_and_are_whole(since: Any, until: Any) -> None:
    found = list(parts(Span(since, until)))
    if since is not None and until is not None and since >= until:
        assert found == []
        return
    assert (found[0].span.since, found[-1].span.until) == (since, until)
    for before, after in itertools.pairwise(found):
        assert before.span.until == after.span.since
    for part in found:
        grain = {"rows": 1, "quarter": QUARTER, "day": DAY}[part.source]
        for end in (part.span.since, part.span.until):
            assert end is None or end % grain == 0
        if part.source == "rows":
            assert part.span.since // QUARTER == (part.span.until - 1) // QUARTER


@given(st.integers(0, 190), st.integers(1, 191))
def test_most_of_a_day_is_the_day_less_the_rest(first: int, last: int) -> None:
    if first >= last:
        return
    midnight = FULL.at - FULL.at % DAY
    part = SpanPart("quarter", Span(midnight + first * QUARTER, midnight + last * QUARTER))
    counted: Counter[int] = Counter()
    quarters_read = 0
    for sign, one in cheapest(part):
        numbers = range((one.span.since - midnight) // QUARTER, (one.span.until - midnight) // QUARTER)
        counted.update(dict.fromkeys(numbers, sign))
        quarters_read += len(numbers) if one.source == "quarter" else 0
    assert +counted == Counter(range(first, last))
    assert min(counted.values()) >= 0
    assert quarters_read <= 96
    if last <= 96:
        assert quarters_read <= 48


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(moments, st.sampled_from(["a", "b"]), st.integers(0, 10**12), st.booleans())),
    ends,
    ends,
)
def test_a_report_of_any_span_is_the_sum_of_its_rows(
    database: Database, attempts: list[tuple[int, str, int, bool]], since: Any, until: Any
) -> None:
    database.forget()
    records = [
        make(n, at=at, deployment=name, cost_nano_usd=nano, estimated=estimated)
        for n, (at, name, nano, estimated) in enumerate(attempts)
    ]
    write(database, *records, *records[::-1])  # each twice: only the first counts
    expected: Counter[str] = Counter()
    for record in records:
        if (since is None or record.at >= since) and (until is None or record.at < until):
            expected[record.deployment] += record.cost_nano_usd
    first, last = (None if end is None else moment(end) for end in (since, until))
    found = usage_by(database.url, "deployment", first, last)
    assert {row.name: row.cost_usd * 10**9 for row in found} == expected
    assert sum(
        row.cost_usd for row in usage_by(database.url, "day", first, last, timezone="Asia/Kolkata")
    ) == (sum(row.cost_usd for row in found))


PLAIN = Usage(100, 40), {"input_text": 1_000_000_001, "output_text": 3_333_333}
CACHED = (
    usage_of({"input_text": 7, "cached_text": 3, "output_text": 5, "output_reasoning": 11}),
    {
        "input_text": 4_000_000,
        "cached_text": 1_000_000,
        "output_text": 9_000_000,
        "output_reasoning": 9_000_000,
    },
)
MAPPED = FULL.usage, FULL.rates
UNKNOWN = Usage(100, 40), {}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            moments,
            st.sampled_from(["a", "b"]),
            st.integers(1, 10**12),
            st.sampled_from([PLAIN, CACHED, MAPPED, UNKNOWN]),
        )
    ),
    ends,
    ends,
)
def test_costs_of_units_add_up_to_the_cost_however_they_are_grouped(
    database: Database, attempts: list[tuple[int, str, int, Any]], since: Any, until: Any
) -> None:
    database.forget()
    records = [
        make(n, at=at, deployment=name, cost_nano_usd=nano, usage=usage, rates=rates)
        for n, (at, name, nano, (usage, rates)) in enumerate(attempts)
    ]
    write(database, *records)
    expected: Counter[str] = Counter()
    for record in records:
        if (since is None or record.at >= since) and (until is None or record.at < until):
            parts = cost_parts(record.cost_nano_usd, record.usage, record.rates)
            units = ("input_text", "output_text", *(unit for unit, _ in record.usage.others))
            expected.update(dict(zip(units, parts, strict=True)))
            expected["unsplit"] += 0 if record.rates else record.cost_nano_usd
    first, last = (None if end is None else moment(end) for end in (since, until))
    for grouping in ("deployment", "deployment,day", "deployment,price_version"):
        found: Counter[str] = Counter()
        for row in usage_by(database.url, grouping.split(","), first, last):
            assert sum(row.unit_costs.values()) == row.cost_usd
            found.update({unit: int(usd * 10**9) for unit, usd in row.unit_costs.items()})
        assert +found == +expected


def moment(microseconds: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)


def test_a_request_counts_once_where_it_began_and_each_attempt_where_it_went(database: Database) -> None:
    write(
        database,
        make(1, deployment="first", outcome=Outcome.TIMEOUT),
        make(2, attempt_id="req_00000001:2", request_id="req_00000001", deployment="second"),
        make(3, attempt_id="req_00000001:11", request_id="req_00000001", deployment="second"),
    )
    found = [(row.name, row.requests, row.attempts) for row in usage_by(database.url, "deployment")]
    assert found == [("first", 1, 1), ("second", 0, 2)]
    assert [(row.requests, row.attempts) for row in usage_by(database.url, "feature")] == [(1, 3)]


def test_days_of_a_zone_with_half_and_quarter_hours_are_sums_of_rollups(database: Database) -> None:
    start = FULL.at - FULL.at % DAY
    write(database, *(make(n + 1, at=start + n * QUARTER + QUARTER - 1) for n in range(96)))
    days = usage_by(database.url, "day", timezone="Asia/Kathmandu")  # 5:45 ahead
    assert [row.attempts for row in days] == [4 * 24 - 23, 23]


def test_spending_of_a_window_is_exact_wherever_it_begins(database: Database) -> None:
    records = [
        make(n, at=FULL.at + n * HOUR // 2, feature="ab"[n % 2], cost_nano_usd=2**n, unseen_nano_usd=3 * 2**n)
        for n in range(50)
    ]
    write(database, *records)
    starts = [FULL.at / 10**6, FULL.at // 10**6 + 3600, FULL.at // 10**6 + 40_000.5, 0.0, 9e9]
    budgets = [budget(kind, name, at) for at in starts for kind, name in [("feature", "a"), ("org", "acme")]]
    spent = [
        sum(
            record.cost_nano_usd
            for record in records
            if getattr(record, one.kind) == one.name and record.at >= int(one.window.start * 10**6)
        )
        for one in budgets
    ]
    assert spent_in_windows(database.url, budgets) == [(nano, 3 * nano) for nano in spent]
    assert spent_in_windows("sqlite:////nowhere/at/all.db", []) == []
