"""The catalogue's keys as a grammar, and every model of it against the vendors' own arithmetic."""

import itertools
import random
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec
import pytest

from gateway.core.admission import hold_nano
from gateway.core.catalog import Deployment, Modality
from gateway.core.estimate import Estimate, ask_for
from gateway.core.pricing import STANDARD, cost
from gateway.core.rates import Price
from gateway.core.usage import Usage, usage_of
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.price_grammar import price_key, price_list
from gateway.finance.tariffs import tariffs
from tests.core.builders import candidates_of, chat, deployment, parsed, principal

CATALOGUE = PriceCatalogue()
PAYER = principal()


@pytest.mark.parametrize(
    ("key", "unit", "tier", "above"),
    [
        ("input_cost_per_token", "input_text", STANDARD, 0),
        ("output_cost_per_token_batches", "output_text", "batch", 0),
        ("cache_read_input_token_cost", "cached_text", STANDARD, 0),
        ("input_cost_per_token_cache_hit", "cached_text", STANDARD, 0),
        ("cache_creation_input_token_cost", "cache_write", STANDARD, 0),
        ("cache_creation_input_token_cost_above_1hr", "cache_write_1h", STANDARD, 0),
        ("cache_creation_input_token_cost_above_1hr_above_200k_tokens", "cache_write_1h", STANDARD, 200_000),
        ("cache_creation_input_audio_token_cost", "cache_write_audio", STANDARD, 0),
        ("input_cost_per_token_above_272k_tokens_priority", "input_text", "priority", 272_000),
        ("input_cost_per_token_priority_above_272k_tokens", "input_text", "priority", 272_000),
        ("cache_read_input_audio_token_cost", "cached_audio", STANDARD, 0),
        ("output_cost_per_reasoning_token_flex", "output_reasoning", "flex", 0),
        ("output_cost_per_token_a_tier_of_tomorrow", "output_text", "a_tier_of_tomorrow", 0),
        ("input_cost_per_hologram_token", "input_hologram", STANDARD, 0),
        ("input_cost_per_second", "seconds_input", STANDARD, 0),
        ("input_cost_per_audio_per_second", "audio_seconds_input", STANDARD, 0),
        ("input_cost_per_character", "characters_input", STANDARD, 0),
        ("output_cost_per_image", "images_output", STANDARD, 0),
        ("output_cost_per_second_1080p", "seconds_output_1080p", STANDARD, 0),
        ("input_cost_per_request", "requests", STANDARD, 0),
        ("search_context_cost_per_query", "search_queries", STANDARD, 0),
        ("citation_cost_per_token", "input_citation", STANDARD, 0),
    ],
)
def test_a_key_says_what_it_prices_at_which_tier_in_which_band(
    key: str, unit: str, tier: str, above: int
) -> None:
    assert price_key(key) == (unit, (tier, above))


@pytest.mark.parametrize(
    "key", ["max_input_tokens", "source", "supports_vision", "input_cost_per_token2", "mode"]
)
def test_what_is_no_price_is_none(key: str) -> None:
    assert price_key(key) is None


def test_every_price_for_tokens_of_the_catalogue_is_understood() -> None:
    keys = {
        key
        for name in CATALOGUE.names
        for key in CATALOGUE.entry(name)
        if "token" in key and "cost" in key and not key.startswith(("explicit_", "input_dbu", "output_dbu"))
    }
    assert {key for key in keys if price_key(key) is None} == set()


def test_prices_of_hours_are_in_force_in_their_windows() -> None:
    found = CATALOGUE.find("deepseek", "deepseek-flash") or CATALOGUE.find("openai", "deepseek-flash")
    assert found is not None
    assert found.prices is not None
    price = Price(version="v", standard=tariffs(found.prices).standard)
    monday = 1_764_547_200_000_000
    hour = 3600 * 1_000_000
    peak, cheap = 300_000_000, 150_000_000
    rates = {0: cheap, 1: peak, 3: peak, 4: cheap, 6: peak, 9: peak, 10: cheap, 23: cheap}
    assert {at: price.at(monday + at * hour).standard.input for at in rates} == rates
    assert price.at(monday + 5 * 24 * hour + 12 * hour).standard.input == cheap  # Saturday


def test_tiered_pricing_is_bands() -> None:
    found = CATALOGUE.find("dashscope", "qwen-plus-2025-07-28")
    assert found is not None
    assert found.prices is not None
    at = tariffs(found.prices).standard
    assert (at.input, at.output, at.of("output_reasoning")) == (400_000_000, 1_200_000_000, 4_000_000_000)
    assert [(band.tokens, band.rates.input) for band in at.above] == [(256_000, 1_200_000_000)]
    assert at.above[0].rates.of("output_reasoning") == 12_000_000_000


# --- every model, against arithmetic of its own ---

STEMS = {
    "input_text": "input_cost_per_token",
    "output_text": "output_cost_per_token",
    "cached_text": "cache_read_input_token_cost",
    "cached_audio": "cache_read_input_audio_token_cost",
    "cached_image": "cache_read_input_image_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "input_audio": "input_cost_per_audio_token",
    "output_audio": "output_cost_per_audio_token",
    "input_image": "input_cost_per_image_token",
    "output_image": "output_cost_per_image_token",
    "output_reasoning": "output_cost_per_reasoning_token",
    "input_video": "input_cost_per_video_token",
}
BANDS = (0, 100, 128, 200, 272, 512)  # thousands of tokens
OF_PROMPT = ("input_", "cached_", "cache_write")


def vendors_price(entry: Mapping[str, Any], unit: str, tier: str, band: int) -> Decimal | None:
    """USD for one, where the vendor lists it for exactly that."""
    above = f"_above_{band}k_tokens" if band else ""
    found = entry.get(f"{STEMS[unit]}{above}{tier}")
    if found is None or isinstance(found, bool):
        return None
    return Decimal(str(found)).quantize(Decimal("1e-15"), ROUND_CEILING)  # nano-dollars for a million


def vendors_cost(entry: Mapping[str, Any], usage: Usage, tier: str) -> Decimal | None:
    """USD by the list alone, for a usage all of whose units it lists; None where it leaves one out."""
    read = sum(n for unit, n in usage.units.items() if unit.startswith(OF_PROMPT))
    bands = [band for band in BANDS if vendors_price(entry, "input_text", tier, band) is not None]
    band = max((one for one in bands if read > one * 1000), default=0)
    known = {
        one for one in BANDS for t in ("", tier) if vendors_price(entry, "input_text", t, one) is not None
    }
    if band != max((one for one in known if read > one * 1000), default=0):
        return None  # the tier lists no such band; it follows from the standard one
    total = Decimal(0)
    for unit, amount in usage.units.items():
        each = vendors_price(entry, unit, tier, band)
        if each is None:
            return None
        total += each * amount
    return total


def usages(chance: random.Random, entry: Mapping[str, Any], read: int, written: int) -> Iterator[Usage]:
    """Some that lie within a prompt of `read` and an answer of `written` tokens."""
    listed = [unit for unit, stem in STEMS.items() if any(key.startswith(stem) for key in entry)]
    prompt = sorted({"input_text", *(one for one in listed if one.startswith(OF_PROMPT))})
    answer = sorted({"output_text", *(one for one in listed if not one.startswith(OF_PROMPT))})
    yield usage_of({"input_text": read, "output_text": written})
    for least in (1, max(read // 2, 1)):
        total = chance.randint(least, read)
        yield usage_of(split(chance, prompt, total) | split(chance, answer, chance.randint(0, written)))


def split(chance: random.Random, units: list[str], total: int) -> dict[str, int]:
    cuts = sorted(chance.randint(0, total) for _ in units[1:])
    return {unit: b - a for unit, (a, b) in zip(units, itertools.pairwise([0, *cuts, total]), strict=True)}


def priced(entry: Mapping[str, Any]) -> Price | None:
    listed = price_list(entry)
    if listed is None:
        return None
    found = tariffs(listed)
    return Price(version="v", standard=found.standard, tiers=found.tiers)


def held(item: Deployment, tier: str | None, read: int, written: int) -> int:
    call = parsed(chat(max_tokens=written) | ({} if tier is None else {"service_tier": tier}))
    ask = ask_for(call, PAYER, candidates_of(item), (Estimate(read, read, written),))
    return hold_nano(ask, written)


@pytest.mark.parametrize("part", range(4))
def test_of_every_model_a_hold_covers_what_the_vendor_asks_for_and_that_is_what_is_booked(part: int) -> None:
    """At any tier that it lists, in any band, with any units."""
    chance, compared = random.Random(part), 0
    plain = deployment(context_tokens=10**7, max_output_tokens=10**6, accepts=frozenset(Modality))
    for name in CATALOGUE.names[part::4]:
        entry = CATALOGUE.entry(name)
        price = priced(entry)
        if price is None:
            continue
        item = msgspec.structs.replace(plain, price=price)
        now = price.at(0)
        read, written = chance.choice((10, 90_000, 201_000, 300_000, 600_000)), chance.choice((1, 4000))
        most = held(item, None, read, written)
        for tier in (None, *price.tiers, "a tier that nobody lists"):
            suffix = "" if tier is None else f"_{ {'batch': 'batches'}.get(tier, tier) }"
            for usage in usages(chance, entry, read, written):
                booked = cost(now.rates(tier), usage)
                assert booked <= most, (name, tier, usage)
                if tier is None:
                    assert booked <= held(item, "default", read, written), (name, usage)
                if "tiered_pricing" in entry or "off_peak_pricing" in entry:
                    continue
                asked = vendors_cost(entry, usage, suffix)
                if asked is not None:
                    compared += 1
                    nano = (asked * 10**9).to_integral_value(ROUND_CEILING)
                    assert booked == nano, (name, tier, usage, asked)
    assert compared > 1000
