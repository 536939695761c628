"""The bill of a pool and who pays for it: nothing is lost between the parts, however they are cut."""

import datetime as dt
import itertools
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import NANO_PER_USD, share_out
from gateway.core.pool_cost import (
    HOUR,
    SECOND,
    GpuPrice,
    Idle,
    PoolPlan,
    PoolSpan,
    Weights,
    allocate,
    spans,
)

UTC = ZoneInfo("UTC")
TOKYO = ZoneInfo("Asia/Tokyo")
NEW_YORK = ZoneInfo("America/New_York")
DAY = 24 * HOUR


def at(year: int, month: int, day: int, hour: int = 0, zone: ZoneInfo = UTC) -> int:
    return round(dt.datetime(year, month, day, hour, tzinfo=zone).timestamp()) * SECOND


def plan(**changes: object) -> PoolPlan:
    given = {
        "deployment": "scout",
        "gpu": "H100-80GB",
        "replicas": 2,
        "gpus_per_replica": 8,
        "prices": (GpuPrice(0, 3 * NANO_PER_USD),),
        "overhead_nano_per_month": 7_440 * NANO_PER_USD,
        "saturation_milli": 2_600_000,
    }
    return PoolPlan(**(given | changes))


def booked(
    since: int, until: int, one: PoolPlan | None = None, zone: ZoneInfo = UTC, present_from: int = 0
) -> list[PoolSpan]:
    return list(spans(one or plan(), since, until, zone, present_from=present_from))


def total(found: list[PoolSpan]) -> int:
    return sum(span.nano_usd for span in found)


# --- the bill ---


def test_sixteen_gpus_at_three_dollars_for_a_day_with_a_day_of_octobers_overhead() -> None:
    (span,) = booked(at(2026, 10, 5), at(2026, 10, 6))
    assert span.gpu_microseconds == 16 * DAY
    assert span.gpu_nano_usd == 16 * 24 * 3 * NANO_PER_USD
    assert span.overhead_nano_usd == 240 * NANO_PER_USD  # a thirty-first of 7,440
    assert span.capacity_tokens == 2 * 2_600 * 86_400


@pytest.mark.parametrize("zone", [UTC, TOKYO, NEW_YORK])
@pytest.mark.parametrize("month", range(1, 12))
def test_a_calendar_month_has_all_of_its_overhead_however_long_it_is(zone: ZoneInfo, month: int) -> None:
    found = booked(at(2026, month, 1, zone=zone), at(2026, month + 1, 1, zone=zone), zone=zone)
    assert sum(span.overhead_nano_usd for span in found) == 7_440 * NANO_PER_USD


def test_a_price_holds_from_its_first_day_and_before_the_first_nothing_is_billed() -> None:
    prices = (GpuPrice(at(2026, 10, 3), 3), GpuPrice(at(2026, 10, 10), 2))
    found = booked(at(2026, 10, 1), at(2026, 10, 12), plan(prices=prices))
    assert [(span.starts, span.ends, span.nano_usd_per_gpu_hour) for span in found] == [
        (at(2026, 10, 3), at(2026, 10, 10), 3),
        (at(2026, 10, 10), at(2026, 10, 12), 2),
    ]


def test_what_lies_before_the_gateway_was_there_is_estimated_and_cut_off() -> None:
    found = booked(at(2026, 10, 5), at(2026, 10, 6), present_from=at(2026, 10, 5, 9))
    assert [(span.ends - span.starts, span.estimated) for span in found] == [
        (9 * HOUR, True),
        (15 * HOUR, False),
    ]


moments = st.integers(at(2026, 1, 1), at(2026, 6, 1))
plans = st.builds(
    plan,
    replicas=st.integers(1, 7),
    gpus_per_replica=st.integers(1, 8),
    prices=st.lists(st.tuples(moments, st.integers(1, 10**10)), max_size=3, unique_by=lambda one: one[0]).map(
        lambda found: (GpuPrice(0, 2_990_000_001), *(GpuPrice(*one) for one in sorted(found)))
    ),
    overhead_nano_per_month=st.integers(0, 10**14),
    saturation_milli=st.integers(1, 10**8),
)


@given(
    one=plans, cuts=st.lists(moments, min_size=2, max_size=12), zone=st.sampled_from([UTC, TOKYO, NEW_YORK])
)
def test_a_period_costs_the_same_however_often_it_was_accrued(
    one: PoolPlan, cuts: list[int], zone: ZoneInfo
) -> None:
    cuts.sort()
    whole = booked(cuts[0], cuts[-1], one, zone)
    pieces = [span for a, b in itertools.pairwise(cuts) for span in booked(a, b, one, zone)]
    for amount in ("gpu_nano_usd", "overhead_nano_usd", "gpu_microseconds", "capacity_tokens"):
        assert sum(getattr(span, amount) for span in whole) == sum(getattr(span, amount) for span in pieces)


@given(one=plans, since=moments, length=st.integers(1, 90 * DAY), cut=moments)
def test_any_two_neighbouring_periods_add_up_to_both(
    one: PoolPlan, since: int, length: int, cut: int
) -> None:
    found = booked(since, since + length, one, TOKYO)
    before = [part for span in found if (part := span.within(None, cut)) is not None]
    after = [part for span in found if (part := span.within(cut, None)) is not None]
    assert total(before) + total(after) == total(found)


# --- who pays ---

work = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(-5, 10**15), max_size=8)


@given(amount=st.integers(0, 10**15), weights=st.lists(st.integers(0, 10**12), min_size=1, max_size=9))
def test_what_is_shared_out_adds_up_and_nobody_is_more_than_one_off(amount: int, weights: list[int]) -> None:
    if not any(weights):
        weights[0] = 1
    parts = share_out(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(weights))) < 1


def test_what_does_not_divide_goes_to_the_largest_remainders_and_among_equals_to_the_first() -> None:
    assert share_out(10, [1, 1, 1]) == [4, 3, 3]
    assert share_out(10, [1, 3, 2]) == [2, 5, 3]  # 1.67, 5, 3.33


def test_nothing_to_share_needs_nobody_and_something_does() -> None:
    assert share_out(0, []) == []
    with pytest.raises(ValueError, match="nobody"):
        share_out(1, [0, 0])


@given(
    bill=st.integers(0, 10**15),
    done=work,
    capacity=st.none() | st.integers(0, 10**16),
    idle=st.sampled_from(Idle),
)
def test_features_and_idle_are_always_the_bill(
    bill: int, done: dict[str, int], capacity: int | None, idle: Idle
) -> None:
    found = allocate(bill, done, capacity, idle, payer=lambda name: name[0])
    shares = found.shares.values()
    assert sum(share.nano_usd for share in shares) + found.apart_nano == bill
    assert sum(share.workload_nano for share in shares) + found.idle_nano == bill
    assert all(share.workload_nano >= 0 and share.idle_nano >= 0 for share in shares)


BY_NAME: dict[Idle, dict[str, tuple[int, int]]] = {
    Idle.PROPORTIONAL: {"chat": (300, 450), "search": (100, 150)},
    Idle.EVEN: {"chat": (300, 300), "search": (100, 300)},
    Idle.APART: {"chat": (300, 0), "search": (100, 0)},
}


@pytest.mark.parametrize("idle", list(Idle))
def test_idle_cost_goes_to_whom_it_is_configured_to_go(idle: Idle) -> None:
    found = allocate(1_000, {"chat": 3_000, "search": 1_000}, 10_000, idle)
    assert {name: (one.workload_nano, one.idle_nano) for name, one in found.shares.items()} == BY_NAME[idle]
    assert found.apart_nano == (600 if idle is Idle.APART else 0)
    assert found.utilisation == Fraction(2, 5)


def test_even_shares_are_those_of_payers_and_within_one_go_by_work() -> None:
    done = {("chat", "auto"): 30, ("chat", "llama"): 10, ("search", "auto"): 10}
    found = allocate(1_000, done, 100, Idle.EVEN, payer=lambda name: name[0])
    assert [found.shares[name].idle_nano for name in done] == [188, 62, 250]


def test_a_pool_that_nobody_used_is_idle_and_nobodys() -> None:
    found = allocate(1_000, {"chat": 0}, 10, Idle.PROPORTIONAL)
    assert (found.shares, found.apart_nano, found.idle_nano, found.utilisation) == ({}, 1_000, 1_000, 0)


def test_more_work_than_the_saturation_says_leaves_nothing_idle() -> None:
    found = allocate(1_000, {"chat": 20}, 10, Idle.PROPORTIONAL)
    assert (found.idle_nano, found.utilisation) == (0, 2)


def test_without_a_saturation_all_of_the_bill_is_workload() -> None:
    found = allocate(1_000, {"chat": 3, "search": 1}, None, Idle.PROPORTIONAL)
    assert [one.workload_nano for one in found.shares.values()] == [750, 250]
    assert (found.idle_nano, found.utilisation) == (0, None)


def test_a_full_pool_reads_as_many_tokens_as_it_writes() -> None:
    weights = Weights(prefill=1, cached=1, decode=4)
    assert weights.capacity(2_600) == weights.work(2_600, 0, 2_600)


def test_cached_tokens_count_by_their_own_weight() -> None:
    assert Weights(prefill=10, cached=1, decode=40).work(100, 60, 5) == 400 + 60 + 200
