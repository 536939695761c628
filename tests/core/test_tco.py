"""A pool against a hosted price: published numbers come out, and the curve meets where it says."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import NANO_PER_USD
from gateway.core.pool_cost import HOUR, Weights
from gateway.core.rates import Rates
from gateway.core.tco import HOURS_PER_MONTH, Full, Tokens, break_even, hosted_cost

WEIGHTS = Weights(prefill=1, cached=1, decode=4)
GPT_4O = Rates(
    input=2_500_000_000, cached_input=1_250_000_000, output=10_000_000_000, input_audio=0, output_audio=0
)
ONE = Fraction(1)
# Maverick FP8 on 8xH100 at 3 USD for a month, as published: 3,164 output tokens/s at 1k in, 1k out.
MAVERICK = Full(
    bill_nano=17_520 * NANO_PER_USD,
    capacity=WEIGHTS.work(1, 0, 1) * 3_164 * 3_600 * HOURS_PER_MONTH,
    microseconds=HOURS_PER_MONTH * HOUR,
    mix=Tokens(1_000, 0, 1_000),
    weights=WEIGHTS,
    marginal_rate=0,
)


def test_maverick_against_gpt_4o_as_published() -> None:
    found = break_even(MAVERICK, "gpt-4o", GPT_4O, ONE)
    prices = {round(point.utilisation, 2): point.pool_usd_per_million_tokens for point in found.curve}
    assert [round(prices[at], 2) for at in (1.0, 0.5, 0.2)] == [1.05, 2.11, 5.27]
    assert found.hosted_usd_per_million_tokens == 6.25
    assert found.utilisation is not None
    assert round(found.utilisation, 2) == 0.17


def test_a_marginal_cost_above_the_hosted_price_never_breaks_even() -> None:
    dear = Full(
        bill_nano=1, capacity=1, microseconds=1, mix=Tokens(1, 0, 1), weights=WEIGHTS, marginal_rate=10**11
    )
    found = break_even(dear, "gpt-4o", GPT_4O, ONE)
    assert (found.utilisation, found.tokens_per_month) == (None, None)


def test_a_tokenizer_that_needs_fewer_tokens_makes_the_provider_cheaper() -> None:
    found = break_even(MAVERICK, "gpt-4o", GPT_4O, Fraction(4, 5))
    assert found.hosted_usd_per_million_tokens == 5.0


def test_cached_tokens_have_their_own_hosted_price() -> None:
    assert hosted_cost(GPT_4O, Tokens(100, 40, 10)) == 60 * 2_500 + 40 * 1_250 + 10 * 10_000


@given(
    bill=st.integers(1, 10**15),
    read=st.integers(1, 10**12),
    written=st.integers(0, 10**12),
    capacity=st.integers(1, 10**15),
)
def test_at_the_break_even_both_cost_the_same(bill: int, read: int, written: int, capacity: int) -> None:
    full = Full(
        bill_nano=bill,
        capacity=capacity,
        microseconds=HOUR,
        mix=Tokens(read, 0, written),
        weights=WEIGHTS,
        marginal_rate=0,
    )
    found = break_even(full, "gpt-4o", GPT_4O, ONE)
    assert found.utilisation is not None
    pool = bill / float(full.tokens) / found.utilisation / 1_000  # nano-USD a token in USD a million
    assert pool == pytest.approx(found.hosted_usd_per_million_tokens)
    cheaper = [
        point.pool_usd_per_million_tokens < point.hosted_usd_per_million_tokens for point in found.curve
    ]
    assert cheaper == sorted(cheaper)
