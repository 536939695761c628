"""The pool's bill in the ledger: whoever accrues, and whenever, each moment is in it once."""

import threading
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.core.money import NANO_PER_USD
from gateway.core.pool_cost import HOUR, SECOND, GpuPrice, PoolPlan, PoolSpan
from gateway.finance.pool_booking import KNOWN_GAP, Accruing, accrue
from gateway.ledger.pool_costs import PoolSums, pool_spans, pool_sums
from gateway.ledger.spans import Span
from gateway.ledger.url import database_of

Database = Any

UTC = ZoneInfo("UTC")
START = 1_793_491_200 * SECOND  # 2026-11-01
EVER = Span(None, None)
PLAN = PoolPlan(
    deployment="scout",
    gpu="H100-80GB",
    replicas=2,
    gpus_per_replica=8,
    prices=(GpuPrice(0, 2_990_000_001),),
    overhead_nano_per_month=8_000 * NANO_PER_USD + 7,
    saturation_milli=2_600_000,
)
OTHER = msgspec.structs.replace(PLAN, deployment="maverick", saturation_milli=None)


def hours(count: float) -> int:
    return START + int(count * HOUR)


@pytest.fixture
def ledger(database: Database) -> Database:
    database_of(database.url).create_if_absent()
    return database


def book(ledger: Database, until: int, *pools: Accruing) -> list[PoolSpan]:
    return accrue(ledger.waiting_url, pools or (Accruing(PLAN, START),), until, UTC)


def sums(ledger: Database, span: Span = EVER) -> dict[str, PoolSums]:
    with database_of(ledger.url).reading() as read:
        return pool_sums(read, span)


def rows(ledger: Database, span: Span = EVER) -> list[PoolSpan]:
    with database_of(ledger.url).reading() as read:
        return pool_spans(read, span)


def test_each_accrual_goes_on_where_the_last_one_ended(ledger: Database) -> None:
    for until in (0.5, 0.75, 0.75, 2, 1):
        book(ledger, hours(until))
    assert [(span.starts, span.ends) for span in rows(ledger)] == [
        (hours(0), hours(0.5)),
        (hours(0.5), hours(0.75)),
        (hours(0.75), hours(2)),
    ]
    assert sums(ledger)["scout"].gpu_microseconds == 16 * 2 * HOUR


def test_gateways_that_accrue_at_the_same_moment_neither_double_nor_skip(ledger: Database) -> None:
    booked: list[PoolSpan] = []

    def gateway(step: int) -> None:
        for turn in range(1, 8):
            booked.extend(book(ledger, START + turn * step * SECOND))

    threads = [threading.Thread(target=gateway, args=(step,)) for step in (61, 67, 71)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = rows(ledger)
    assert [span.starts for span in found] == [START, *(span.ends for span in found[:-1])]
    assert found[-1].ends == START + 7 * 71 * SECOND
    assert sorted(booked, key=lambda span: span.starts) == found  # so their metrics add up to the ledger


def test_the_sums_of_any_period_are_exact_to_the_nano_dollar(ledger: Database) -> None:
    for until in range(1, 30):
        book(ledger, START + until * 1_000_000_007, Accruing(PLAN, START), Accruing(OTHER, START))
    ends = (None, START - 5, START + 1, START + 3_500_000_011, START + 9_000_000_063, START + 10**12)
    whole = sums(ledger)["scout"]
    for cut in ends:
        before, after = (sums(ledger, span).get("scout") for span in (Span(None, cut), Span(cut, None)))
        both = [one for one in (before, after) if one is not None]
        if cut is not None:
            assert sum(one.nano_usd for one in both) == whole.nano_usd
            assert sum(one.gpu_microseconds for one in both) == whole.gpu_microseconds
            assert sum(one.capacity_tokens or 0 for one in both) == whole.capacity_tokens
    for since, until in ((START + 1, START + 2), (START + 999, START + 7_000_000_100)):
        cut_rows = [span for span in rows(ledger, Span(since, until)) if span.deployment == "scout"]
        found = sums(ledger, Span(since, until))["scout"]
        assert found.nano_usd == sum(span.nano_usd for span in cut_rows)
        assert (found.starts, found.ends) == (since, until)


def test_a_pool_without_a_saturation_has_no_capacity(ledger: Database) -> None:
    book(ledger, hours(1), Accruing(OTHER, START))
    assert sums(ledger)["maverick"].capacity_tokens is None


def test_a_gap_in_which_no_gateway_ran_is_booked_as_estimated(ledger: Database) -> None:
    book(ledger, hours(1))
    book(ledger, hours(6), Accruing(PLAN, hours(5)))
    assert [(span.starts, span.ends, span.estimated) for span in rows(ledger)] == [
        (hours(0), hours(1), False),
        (hours(1), hours(5), True),
        (hours(5), hours(6), False),
    ]
    found = sums(ledger)["scout"]
    assert found.gpu_microseconds == 16 * 6 * HOUR
    assert found.estimated_nano_usd == rows(ledger)[1].nano_usd


def test_a_short_gap_is_another_gateways_turn_and_no_estimate(ledger: Database) -> None:
    book(ledger, hours(1))
    book(ledger, hours(2), Accruing(PLAN, hours(1) + KNOWN_GAP))
    assert [span.estimated for span in rows(ledger)] == [False, False]


def test_a_pool_that_a_reload_brings_back_owes_nothing_for_the_time_without_it(ledger: Database) -> None:
    book(ledger, hours(1))
    book(ledger, hours(6), Accruing(PLAN, hours(5), is_new=True))
    assert [(span.starts, span.ends) for span in rows(ledger)] == [
        (hours(0), hours(1)),
        (hours(5), hours(6)),
    ]


def test_a_row_holds_what_it_was_computed_from(ledger: Database) -> None:
    book(ledger, hours(1))
    ((gpu, cost, overhead, tokens, accrued),) = ledger.execute(
        "SELECT gpu_microseconds, gpu_nano_usd, overhead_nano_usd, capacity_tokens, accrued_at FROM pool_cost"
    )
    (span,) = rows(ledger)
    assert (gpu, cost, overhead) == (span.gpu_microseconds, span.gpu_nano_usd, span.overhead_nano_usd)
    assert (tokens, accrued) == (2 * 2_600 * 3_600, hours(1))
