"""Periods close, rows go, totals stay: on both databases, and while a gateway writes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ledger import rollups
from gateway.ledger.postgres.partitions import Month
from gateway.ledger.reports import usage_by
from gateway.ledger.retention import PeriodRefused, close, prune, rebuild
from gateway.ledger.tables import QUARTER
from tests.ledger.ledger_records import FULL, make, run, write

Database = Any

JANUARY, FEBRUARY, MARCH, APRIL = (Month(2026, month).starts for month in (1, 2, 3, 4))
NOW = Month(2026, 6).starts
ROLLUPS = tuple(f"{one.name}_{grain}" for one in rollups.ROLLUPS for grain in ("quarter", "day"))


def totals(database: Database) -> list[Any]:
    return [
        usage_by(database.url, dimension, timezone="Asia/Tokyo") for dimension in ("feature", "day", "zone")
    ]


def rollups(database: Database) -> list[list[tuple[Any, ...]]]:
    return [sorted(map(tuple, database.execute(f"SELECT * FROM {name}"))) for name in ROLLUPS]


def spread(count: int) -> list[Any]:
    """Records from January to the end of March."""
    step = (APRIL - JANUARY) // count
    return [
        make(n, at=JANUARY + n * step, cost_nano_usd=n, feature="ab"[n % 2], estimated=n % 3 == 0)
        for n in range(count)
    ]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5 * 10**11), st.sampled_from("ab"), st.integers(0, 9)), max_size=30))
def test_rollups_rebuilt_from_the_rows_are_the_same(
    database: Database, rows: list[tuple[int, str, int]]
) -> None:
    database.forget()
    records = [
        make(n, at=FULL.at + at, zone=zone, cost_nano_usd=nano) for n, (at, zone, nano) in enumerate(rows)
    ]
    write(database, *records[: len(records) // 2])
    write(database, *records)
    kept = rollups(database)
    rebuilt = rebuild(database.url)
    assert rollups(database) == kept
    assert rebuilt.rows == len(records)
    assert rebuilt.nano_usd_before == rebuilt.nano_usd_after == sum(nano for _, _, nano in rows)


def test_rollups_that_were_damaged_are_right_again_after_a_rebuild(database: Database) -> None:
    write(database, *spread(30))
    right = rollups(database)
    database.execute("UPDATE usage_quarter SET cost_nano_usd = cost_nano_usd + 5")
    database.execute("DELETE FROM usage_day")
    rebuilt = rebuild(database.url)
    assert rebuilt.nano_usd_before - rebuilt.nano_usd_after == 30 * 5
    assert rollups(database) == right


def test_deleting_a_period_keeps_its_totals_and_the_other_rows(database: Database) -> None:
    write(database, *spread(90))
    before = totals(database)
    close(database.url, MARCH, now=NOW)
    early = sum(record.at < FEBRUARY + 8 * QUARTER for record in spread(90))
    assert prune(database.url, FEBRUARY + 8 * QUARTER, now=NOW) == early  # within a partition
    assert len(database.rows()) == 90 - early
    assert totals(database) == before
    assert prune(database.url, FEBRUARY + 8 * QUARTER, now=NOW) == 0
    kept = rollups(database)
    rebuild(database.url)
    assert rollups(database) == kept
    assert totals(database) == before


def test_months_that_are_over_are_dropped_whole_on_postgres(postgres: Database) -> None:
    write(postgres, *spread(90))
    close(postgres.url, MARCH, now=NOW)
    prune(postgres.url, MARCH, now=NOW)
    left = {name for (name,) in postgres.execute("SELECT tablename FROM pg_tables") if "record_2026" in name}
    assert left == {"usage_record_2026_03", "usage_record_2026_04"}
    assert postgres.execute("SELECT count(*) FROM usage_attempt WHERE at < " + str(MARCH)) == [(0,)]


def test_rows_that_come_after_their_period_was_deleted_are_put_aside_not_counted_twice(
    database: Database,
) -> None:
    write(database, *spread(9))
    before = totals(database)
    close(database.url, MARCH, now=NOW)
    prune(database.url, MARCH, now=NOW)
    write(database, *spread(9))
    assert totals(database) == before
    assert "its period was deleted" in database.refused()
    assert len(database.refused().splitlines()) == sum(record.at < MARCH for record in spread(9))


def test_what_comes_late_for_a_closed_period_is_a_correction_in_the_open_one(database: Database) -> None:
    write(database, make(1, at=FEBRUARY - 1))
    close(database.url, FEBRUARY, now=NOW)
    late = make(2, at=FEBRUARY - 2, cost_nano_usd=7)
    write(database, late, make(1, at=FEBRUARY - 1), make(3, at=FEBRUARY))
    write(database, late)
    rows = {row["attempt_id"]: row for row in database.rows()}
    assert len(rows) == 3
    moved = rows[late.attempt_id]
    assert (moved["kind"], moved["at"], moved["occurred_at"]) == ("correction", FEBRUARY, FEBRUARY - 2)
    assert rows[make(3).attempt_id]["kind"] == "usage"
    days = [(row.name, row.attempts) for row in usage_by(database.url, "day")]
    assert days == [("2026-01-31", 1), ("2026-02-01", 2)]
    kept = rollups(database)
    rebuild(database.url)
    assert rollups(database) == kept


def test_only_what_is_over_can_be_closed_and_only_what_is_closed_deleted(database: Database) -> None:
    write(database)
    with pytest.raises(PeriodRefused, match="not ended"):
        close(database.url, NOW + 1, now=NOW)
    with pytest.raises(PeriodRefused, match="close it first"):
        prune(database.url, MARCH, now=NOW)
    close(database.url, FEBRUARY, now=NOW)
    with pytest.raises(PeriodRefused, match="close it first"):
        prune(database.url, MARCH, now=NOW)
    with pytest.raises(PeriodRefused, match="quarter"):
        prune(database.url, FEBRUARY - 1, now=NOW)


def test_a_gateway_that_writes_meanwhile_loses_nothing(database: Database, tmp_path: Path) -> None:
    import asyncio

    url = database.waiting_url

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in spread(300):
            writer.append(record)
        await writer.flush()
        await asyncio.to_thread(close, url, MARCH, now=NOW)
        work = asyncio.create_task(asyncio.to_thread(prune, url, MARCH, now=NOW))
        number = 1000
        while not work.done():
            writer.append(make(number, at=APRIL + number))
            number += 1
            await asyncio.sleep(0.001)
        await work
        await asyncio.to_thread(rebuild, url)
        await writer.close()
        assert usage_by(database.url, "org")[0].attempts == 300 + number - 1000

    run(scenario())
