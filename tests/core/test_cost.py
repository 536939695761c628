"""Cost in integer nano-USD: exact against decimal arithmetic, rounded up once."""

import math
from decimal import ROUND_CEILING, Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import NANO_PER_USD, nano_from_usd, usd_decimal
from gateway.core.pricing import cost, cost_parts, flat_cost, rates_used, usd_text
from gateway.core.rates import Band, Rates, week_hours
from gateway.core.usage import NO_USAGE, Usage, usage_of
from tests.core.builders import price, rates, used

GPT_4O = rates("2.50", "10", cached="1.25")
AUDIO = rates("2.50", "10", input_audio="40", output_audio="80")


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO_PER_USD


def test_gpt_4o_by_hand():
    usage = used(input_text=1000, input_cached=400, output_text=200)
    assert usd(cost(GPT_4O, usage)) == Decimal("0.0015") + Decimal("0.0005") + Decimal("0.002")


def test_audio_has_its_own_rates():
    usage = used(input_text=100, input_audio=1000, output_text=10, output_audio=500)
    assert usd(cost(AUDIO, usage)) == Decimal("0.00025") + Decimal("0.04") + Decimal("0.0001") + Decimal(
        "0.04"
    )


def test_images_cost_what_text_costs_and_reasoning_what_output_costs():
    usage = used(input_image=765, output_reasoning=300)
    assert cost(GPT_4O, usage) == cost(GPT_4O, Usage(input_text=765, output_text=300))


def test_cached_tokens_are_charged_once_at_their_own_rate():
    assert cost(GPT_4O, used(input_text=100, input_cached=100)) == 100 * 1250


def test_cached_tokens_are_text_and_images_first_and_audio_last():
    part_of_text = used(input_text=100, input_audio=50, input_cached=80)
    more_than_text = used(input_text=100, input_audio=50, input_cached=120)
    assert cost(AUDIO, part_of_text) == 80 * 2500 + 20 * 2500 + 50 * 40_000
    # No list has a price for cached audio here: it costs what audio does.
    assert cost(AUDIO, more_than_text) == 100 * 2500 + 50 * 40_000


def test_no_usage_costs_nothing():
    assert cost(GPT_4O, NO_USAGE) == 0


def test_the_smallest_fraction_of_a_nano_dollar_is_rounded_up_once():
    least = Rates(input=1, cached_input=1, output=1, input_audio=1, output_audio=1)
    usage = used(
        input_text=2, input_audio=1, input_cached=1, output_text=1, output_audio=1, output_reasoning=1
    )
    assert cost(least, usage) == 1


def test_a_listed_tier_has_its_own_rates_and_the_standard_one_several_names():
    tiered = price(GPT_4O, priority=rates("4.25", "17"), batch=rates("1.25", "5"))
    assert tiered.rates("priority") == tiered.rates("fast") == rates("4.25", "17")
    assert tiered.rates("batch").input == tiered.rates("batches").input == nano_from_usd("1.25")
    for name in (None, "default", "standard", "auto", "on_demand"):
        assert tiered.rates(name) == GPT_4O
        assert tiered.knows(name)


def test_a_tier_without_a_price_costs_the_dearest_of_each_unit():
    tiered = price(
        msgspec.structs.replace(GPT_4O, units={"cache_write": 7}),
        batch=rates("1.25", "20"),
        flex=rates("9", "1"),
    )
    found = tiered.rates("hyper")
    assert not tiered.knows("hyper")
    assert (found.input, found.output) == (nano_from_usd("9"), nano_from_usd("20"))
    assert found.of("cache_write") == nano_from_usd("9")  # a tier that lists no writes asks for plain input


AMOUNTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("input_text", "output_text", "cached_text", "output_reasoning", "cache_write_1h", "search_queries"),
        st.integers(0, 10**9),
    ),
)


@given(AMOUNTS, st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_parts_of_whole_nano_dollars_are_amount_times_rate(
    units: dict[str, int], given: int, cached: int, output: int
) -> None:
    rate = 1_000_000
    whole = Rates(
        input=given * rate,
        cached_input=cached * rate,
        output=output * rate,
        input_audio=0,
        output_audio=0,
        units={"search_queries": 7 * rate},
    )
    usage = usage_of(units)
    used_rates = rates_used(whole, usage)
    expected = [amount * used_rates.get(unit, 0) // rate for unit, amount in in_order(usage)]
    assert cost_parts(cost(whole, usage), usage, used_rates) == expected


@given(AMOUNTS, st.lists(st.integers(0, 10**12), min_size=5, max_size=5), st.integers(0, 10**15))
def test_parts_add_up_to_what_was_booked_however_little(
    units: dict[str, int], listed: list[int], held: int
) -> None:
    given, cached, output, write, search = listed
    odd = Rates(
        input=given,
        cached_input=cached,
        output=output,
        input_audio=0,
        output_audio=0,
        units={"cache_write": write, "search_queries": search},
    )
    usage = usage_of(units)
    full, used_rates = cost(odd, usage), rates_used(odd, usage)
    for booked in (full, min(full, held)):
        parts = cost_parts(booked, usage, used_rates)
        assert sum(parts) == booked
        for (unit, amount), part in zip(in_order(usage), parts, strict=True):
            assert 0 <= part < amount * used_rates.get(unit, 0) / 1_000_000 + 2


def in_order(usage: Usage) -> list[tuple[str, int]]:
    return [("input_text", usage.input_text), ("output_text", usage.output_text), *usage.others]


def test_a_row_whose_rates_nobody_knows_has_no_parts() -> None:
    assert cost_parts(12_345, Usage(10, 20), {}) == [0, 0]


UNITS = {"cache_write": 10, "output_reasoning": 90, "input_image": 70}
LISTED = Rates(input=8, cached_input=1, output=40, input_audio=60, output_audio=80, units=UNITS)


@pytest.mark.parametrize(
    ("unit", "rate", "is_known"),
    [
        ("input_text", 8, True),
        ("cached_text", 1, True),
        ("cached_image", 1, True),
        ("cached_audio", 60, True),
        ("input_image", 70, True),
        ("input_video", 8, True),
        ("cache_write", 10, True),
        ("cache_write_5m", 10, True),
        ("cache_write_1h", 20, True),
        ("output_reasoning", 90, True),
        ("output_rejected_prediction", 40, True),
        ("output_image", 40, True),
        ("requests", 0, True),
        ("input_hologram", 70, False),
        ("output_hologram", 90, False),
        ("unknown_dream", 90, False),
        ("search_queries", 50_000_000 * 1_000_000, False),
    ],
)
def test_every_unit_has_a_rate_listed_by_rule_or_the_dearest(unit: str, rate: int, is_known: bool):
    assert LISTED.of(unit) == rate
    assert LISTED.knows(unit) is is_known


def test_writes_into_a_cache_cost_plain_input_where_no_list_asks_more():
    assert GPT_4O.of("cache_write") == GPT_4O.of("cache_write_12h") == GPT_4O.input


def test_a_band_is_for_the_whole_request_and_begins_above_its_threshold():
    at = msgspec.structs.replace(
        GPT_4O, above=(Band(1000, rates("5", "15", cached="2.5")), Band(5000, rates("7", "20")))
    )
    assert cost(at, Usage(input_text=1000, output_text=10)) == 1000 * 2500 + 10 * 10_000
    assert cost(at, Usage(input_text=1001, output_text=10)) == 1001 * 5000 + 10 * 15_000
    # What came from a cache, or went into one, was read as well.
    assert cost(at, used(input_text=1001, input_cached=900)) == 101 * 5000 + 900 * 2500
    assert cost(at, Usage(input_text=6000)) == 6000 * 7000
    assert flat_cost(at, Usage(input_text=6000)) == 6000 * 2500
    assert price(at).dearest(None, 1000) == (nano_from_usd("2.50"), nano_from_usd("10"))
    assert price(at).dearest(None, 1001) == (nano_from_usd("5"), nano_from_usd("15"))
    assert price(at).dearest(None, 10**6) == (nano_from_usd("7"), nano_from_usd("20"))


MONDAY = 1_764_547_200_000_000  # 2025-12-01 00:00 UTC
MINUTE = 60 * 1_000_000


def test_prices_of_the_hour_hold_from_minute_to_minute_and_say_until_when():
    cheap = rates("1", "4")
    at = price(msgspec.structs.replace(GPT_4O, hours=tuple(week_hours((1, 7), 16 * 60, 30, cheap))))
    night = MONDAY + 16 * 60 * MINUTE
    for moment, expected in {
        MONDAY - 1: cheap,  # Sunday's begin on Sunday and end on Monday
        MONDAY: cheap,
        MONDAY + 30 * MINUTE: GPT_4O,
        night - 1: GPT_4O,
        night: cheap,
        night + 24 * 60 * MINUTE: GPT_4O,  # Tuesday
    }.items():
        assert at.at(moment).standard.input == expected.input
        begins, ends = at.span(moment)
        assert begins <= moment < ends
        assert at.at(int(begins)).standard.input == at.at(int(ends) - 1).standard.input == expected.input
    assert at.span(night) == (night, night + (8 * 60 + 30) * MINUTE)
    assert price(GPT_4O).span(night) == (-math.inf, math.inf)


def test_the_dearest_rates_cover_all_hours():
    peak = msgspec.structs.replace(GPT_4O, hours=tuple(week_hours((1,), 0, 0, rates("9", "90"))))
    assert price(peak).dearest("default") == (nano_from_usd("9"), nano_from_usd("90"))


def test_the_dearest_rates_cover_every_tier_unless_the_default_one_is_pinned():
    tiered = price(GPT_4O, priority=rates("4.25", "17"), batch=rates("1.25", "5"))
    assert tiered.dearest(None) == tiered.dearest("auto") == (nano_from_usd("4.25"), nano_from_usd("17"))
    assert tiered.dearest("default") == (nano_from_usd("2.50"), nano_from_usd("10"))
    assert price(AUDIO).dearest(None) == (nano_from_usd("40"), nano_from_usd("80"))


def test_the_dearest_rates_cover_a_cache_that_costs_more_than_reading():
    assert price(rates("1", "2", cached="3")).dearest(None)[0] == nano_from_usd("3")


# --- properties ---

rate = st.integers(0, 10**12)
all_rates = st.builds(Rates, input=rate, cached_input=rate, output=rate, input_audio=rate, output_audio=rate)
tokens = st.integers(0, 10**6)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    text, image, audio = draw(tokens), draw(tokens), draw(tokens)
    return used(
        input_text=text,
        input_image=image,
        input_audio=audio,
        input_cached=draw(st.integers(0, text + image + audio)),
        output_text=draw(tokens),
        output_audio=draw(tokens),
        output_reasoning=draw(tokens),
    )


def exactly(usage: Usage, at: Rates) -> Decimal:
    """The price without rounding, from the columns that the usage makes, worked out anew."""
    text, image, audio, cached, written, spoken, thought = usage.columns()
    plain = text + image
    cheap = min(cached, plain)
    return (
        Decimal(cheap) * at.cached_input
        + Decimal(plain - cheap) * at.input
        + Decimal(audio) * at.input_audio
        + Decimal(written + thought) * at.output
        + Decimal(spoken) * at.output_audio
    ) / 1_000_000


@given(all_rates, usages())
def test_cost_is_exact_decimal_arithmetic_rounded_up_once(at: Rates, usage: Usage):
    assert cost(at, usage) == exactly(usage, at).to_integral_value(rounding=ROUND_CEILING)


@given(all_rates, st.lists(usages(), min_size=2, max_size=2))
def test_two_requests_cost_what_their_sum_costs_within_rounding(at: Rates, pair: list[Usage]):
    first, second = pair
    units = {
        unit: first.units.get(unit, 0) + second.units.get(unit, 0) for unit in first.units | second.units
    }
    both = cost(at, usage_of(units))
    assert both <= cost(at, first) + cost(at, second) <= both + 1


# --- money ---


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [
        ("1", 10**9),
        ("0.000000001", 1),
        ("0.0000000001", 1),
        ("2.5000000001", 2_500_000_001),
        (20_000, 20_000 * 10**9),
        (Decimal("-0.0000000015"), -1),
        ("0", 0),
    ],
)
def test_dollars_become_nano_dollars_rounded_up(dollars: Decimal | int | str, nano: int):
    assert nano_from_usd(dollars) == nano


@given(st.integers(-(10**20), 10**20))
def test_nano_dollars_are_written_and_read_exactly(nano: int):
    assert nano_from_usd(usd_text(nano)) == nano
    assert usd_decimal(nano) == Decimal(usd_text(nano))


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.000000000"), (1_500_000_000, "1.500000000"), (7, "0.000000007"), (-7, "-0.000000007")],
)
def test_money_is_written_with_nine_digits(nano: int, text: str):
    assert usd_text(nano) == text
