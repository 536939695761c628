"""Prices as lines of a table: what is written reads back to the same rates, whatever they have."""

from decimal import InvalidOperation
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.money import nano_from_usd
from gateway.core.rates import Rates
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.price_sheet import Line, lines_of, rates_of_lines
from gateway.finance.tariffs import tariffs

CATALOGUE = PriceCatalogue()
BASE = {"input": "2", "output": "10"}


def read(*lines: Line) -> Rates:
    return rates_of_lines(lines)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-6-astra"),
        ("anthropic", "claude-haiku-5-5"),
        ("deepseek", "deepseek-flash"),
        ("dashscope", "qwen-plus-2025-07-28"),
        ("perplexity", "sonar-deep-research"),
        ("perplexity", "pplx-70b-online"),
    ],
)
def test_a_price_of_the_catalogue_reads_back_as_it_was_written(provider: str, model: str) -> None:
    found = CATALOGUE.find(provider, model)
    assert found is not None
    assert found.prices is not None
    expected = tariffs(found.prices).standard
    assert read(*lines_of(expected)) == expected


UNITS = ("cache_write", "cache_write_1h", "output_reasoning", "input_image", "requests", "search_queries")
nanos = st.integers(0, 10**12).map(lambda thousands: thousands * 1000)
amounts = st.builds(
    lambda five, units: (
        dict(zip(("input", "cached_input", "output", "input_audio", "output_audio"), five, strict=True))
        | units
    ),
    st.lists(nanos, min_size=5, max_size=5),
    st.fixed_dictionaries(dict.fromkeys(UNITS[:4], nanos)),
)


@settings(max_examples=50, deadline=None)
@given(base=amounts, band=amounts, night=amounts, night_band=amounts)
def test_bands_and_hours_read_back(base: Any, band: Any, night: Any, night_band: Any) -> None:
    def line(given: dict[str, int], **where: Any) -> Line:
        return Line({name: f"{nano / 10**9:.9f}" for name, nano in given.items()}, **where)

    def exact(given: dict[str, int]) -> dict[str, int]:
        return {name: nano_from_usd(f"{nano / 10**9:.9f}") for name, nano in given.items()}

    hours = "mon,sun 22:00-02:00"
    rates = read(
        line(base),
        line(band, above=1000),
        line(night, hours=hours),
        line(night_band, above=1000, hours=hours),
    )
    assert rates.input == exact(base)["input"]
    assert rates.above[0].rates.of("cache_write") == exact(band)["cache_write"]
    assert [one.rates.output for one in rates.hours] == [exact(night)["output"]] * 3
    assert rates.hours[0].rates.above[0].rates.of("input_image") == exact(night_band)["input_image"]
    assert read(*lines_of(rates)) == rates


def test_what_a_line_leaves_out_follows_the_rules() -> None:
    rates = read(Line(BASE | {"cache_write": "2.5", "per_search": "0.01"}), Line({"input": "4"}, above=1000))
    assert (rates.cached_input, rates.of("search_queries")) == (rates.input, 10_000_000 * 1_000_000)
    band = rates.above[0].rates
    assert (band.input, band.output) == (nano_from_usd("4"), nano_from_usd("10"))
    assert band.of("cache_write") == nano_from_usd("5")
    assert band.of("search_queries") == rates.of("search_queries")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([Line(BASE, above=5)], "none for the price itself"),
        ([Line({"input": "1"})], "needs an output price"),
        ([Line({"output": "1"})], "needs an input price"),
        ([Line(BASE), Line(BASE, hours="sometimes")], "are no hours"),
        ([Line(BASE), Line(BASE, hours="mon 1:00-25:00")], "is no time of day"),
        ([Line(BASE | {"input": "-1"})], "must be >= 0"),
        ([Line(BASE | {"input": "NaN"})], "must be >= 0"),
    ],
)
def test_lines_that_are_no_price_are_refused(lines: list[Line], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(*lines)
    with pytest.raises(InvalidOperation):
        read(Line(BASE | {"input": "two"}))
