"""Cost in integer nano-USD: exact against decimal arithmetic, each component rounded up."""

from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answer import NO_USAGE, Usage
from gateway.core.catalog import Rates
from gateway.core.money import NANO_PER_USD, nano_from_usd, usd_decimal
from gateway.core.pricing import cost, usd_text
from tests.core.builders import price, rates

GPT_4O = rates("2.50", "10", cached="1.25")
AUDIO = rates("2.50", "10", input_audio="40", output_audio="80")


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO_PER_USD


def test_gpt_4o_by_hand():
    usage = Usage(input_text=1000, input_cached=400, output_text=200)
    assert usd(cost(GPT_4O, usage)) == Decimal("0.0015") + Decimal("0.0005") + Decimal("0.002")


def test_audio_has_its_own_rates():
    usage = Usage(input_text=100, input_audio=1000, output_text=10, output_audio=500)
    assert usd(cost(AUDIO, usage)) == Decimal("0.00025") + Decimal("0.04") + Decimal("0.0001") + Decimal(
        "0.04"
    )


def test_images_cost_what_text_costs_and_reasoning_what_output_costs():
    usage = Usage(input_image=765, output_reasoning=300)
    assert cost(GPT_4O, usage) == cost(GPT_4O, Usage(input_text=765, output_text=300))


def test_cached_tokens_are_charged_once_at_their_own_rate():
    assert cost(GPT_4O, Usage(input_text=100, input_cached=100)) == 100 * 1250


def test_cached_tokens_are_text_and_images_first_and_audio_last():
    part_of_text = Usage(input_text=100, input_audio=50, input_cached=80)
    more_than_text = Usage(input_text=100, input_audio=50, input_cached=120)
    assert cost(AUDIO, part_of_text) == 80 * 2500 + 20 * 2500 + 50 * 40_000
    assert cost(AUDIO, more_than_text) == 120 * 2500 + 30 * 40_000


def test_no_usage_costs_nothing():
    assert cost(GPT_4O, NO_USAGE) == 0


def test_the_smallest_fraction_of_a_nano_dollar_is_rounded_up_for_each_component():
    least = Rates(input=1, cached_input=1, output=1, input_audio=1, output_audio=1)
    usage = Usage(
        input_text=2, input_audio=1, input_cached=1, output_text=1, output_audio=1, output_reasoning=1
    )
    assert cost(least, usage) == 5


def test_an_unlisted_tier_is_the_standard_one_and_a_listed_one_has_its_own_rates():
    tiered = price(GPT_4O, priority=rates("4.25", "17"), batch=rates("1.25", "5"))
    assert tiered.rates("priority") == rates("4.25", "17")
    assert tiered.rates("batch").input == nano_from_usd("1.25")
    assert tiered.rates(None) == tiered.rates("default") == tiered.rates("scale") == GPT_4O


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
    return Usage(
        input_text=text,
        input_image=image,
        input_audio=audio,
        input_cached=draw(st.integers(0, text + image + audio)),
        output_text=draw(tokens),
        output_audio=draw(tokens),
        output_reasoning=draw(tokens),
    )


def components(usage: Usage, at: Rates) -> list[tuple[int, int]]:
    """(tokens, rate) of each priced component, worked out anew."""
    plain = usage.input_text + usage.input_image
    cached_plain = min(usage.input_cached, plain)
    cached_audio = usage.input_cached - cached_plain
    return [
        (usage.input_cached, at.cached_input),
        (plain - cached_plain, at.input),
        (usage.input_audio - cached_audio, at.input_audio),
        (usage.output_text + usage.output_reasoning, at.output),
        (usage.output_audio, at.output_audio),
    ]


@given(all_rates, usages())
def test_cost_is_exact_decimal_arithmetic_with_each_component_rounded_up(at: Rates, usage: Usage):
    expected = sum(
        (Decimal(count) * rate / 1_000_000).to_integral_value(rounding=ROUND_CEILING)
        for count, rate in components(usage, at)
    )
    assert cost(at, usage) == expected


@given(all_rates, usages())
def test_cost_is_never_below_the_exact_price_and_less_than_five_nano_dollars_above(at: Rates, usage: Usage):
    exact = sum(Decimal(count) * rate / 1_000_000 for count, rate in components(usage, at))
    assert exact <= cost(at, usage) < exact + 5


@given(all_rates, st.lists(usages(), min_size=2, max_size=2))
def test_two_requests_cost_what_their_sum_costs_within_rounding(at: Rates, pair: list[Usage]):
    first, second = (
        Usage(input_text=usage.input_text, output_text=usage.output_text, output_audio=usage.output_audio)
        for usage in pair
    )
    both = Usage(
        input_text=first.input_text + second.input_text,
        output_text=first.output_text + second.output_text,
        output_audio=first.output_audio + second.output_audio,
    )
    apart = cost(at, first) + cost(at, second)
    assert cost(at, both) <= apart <= cost(at, both) + 3


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
