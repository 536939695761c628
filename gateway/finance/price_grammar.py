"""The price catalogue's keys, read as a grammar: what is priced, in which band, at which tier.

    <what>[_above_<n>k_tokens][_<tier>]      in either order, in any combination

`<what>` names a unit (`input_cost_per_token`, `cache_read_input_token_cost`, `output_cost_per_image`). What
follows it is a tier, whatever its name, so that a tier of tomorrow needs no line here; where it begins with a
digit, it is a variant of the unit (`output_cost_per_second_1080p`). Two members of an entry are objects:
`tiered_pricing` (bands) and `off_peak_pricing` (hours).
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from gateway.core.pricing import STANDARD
from gateway.core.rates import TIER_NAMES
from gateway.core.usage import CACHE_WRITE, CACHED, SEARCH_QUERIES
from gateway.finance.tariffs import Amounts, Hours, Place, PriceList, minute_of

_ABOVE = re.compile(r"_above_(\d+)k_tokens")
# What is counted by tokens: a modality in the middle, or nothing for text.
_TOKENS = re.compile(
    r"(?P<side>input|output)_cost_per_(?:(?P<kind>[a-z]+)_)?token(?P<hit>_cache_hit)?(?P<rest>.*)|"
    r"cache_(?P<cache>read|creation)_input_(?:(?P<cached>[a-z]+)_)?token_cost(?P<life>_above_1hr)?(?P<cache_rest>.*)"
)
_COUNTED = re.compile(r"(?P<side>input|output)_cost_per_(?P<noun>[a-z]+(?:_per_second)?)(?P<rest>.*)")
_NOUNS = {
    "second": "seconds",
    "character": "characters",
    "image": "images",
    "pixel": "pixels",
    "page": "pages",
    "audio_per_second": "audio_seconds",
    "video_per_second": "video_seconds",
}
_WHOLE = {
    "input_cost_per_query": SEARCH_QUERIES,
    "search_context_cost_per_query": SEARCH_QUERIES,
    "input_cost_per_request": "requests",
    "citation_cost_per_token": "input_citation",
}


def price_list(entry: Mapping[str, Any]) -> PriceList | None:
    """What `entry` says of prices; None when it lists none for tokens, or only half of one."""
    found = _listed(entry)
    base = found.get((STANDARD, 0), {})
    if "input_text" not in base or not _is_whole(entry, base):
        return None
    # A tier is one where reading has a price; a price for a part alone says nothing of the whole.
    tiers = {tier for tier, _ in found if "input_text" in found.get((tier, 0), {})}
    return PriceList(
        {place: amounts for place, amounts in found.items() if place[0] in tiers}, tuple(_hours(entry))
    )


def _is_whole(entry: Mapping[str, Any], base: Amounts) -> bool:
    """A few models that generate have a price for reading only; what they write is not free."""
    return bool(base.get("output_text")) or not base["input_text"] or entry.get("mode") == "embedding"


def price_key(key: str) -> tuple[str, Place] | None:
    """The unit that `key` prices, its tier, and its band; None for what is no price."""
    bands = _ABOVE.findall(key)
    if len(bands) > 1:
        return None
    name = _ABOVE.sub("", key)
    found = _unit_and_rest(name)
    if found is None:
        return None
    unit, rest = found
    if rest and not rest.startswith("_"):
        return None
    tail = rest.removeprefix("_")
    if tail[:1].isdigit():
        unit, tail = f"{unit}_{tail}", ""
    return unit, (TIER_NAMES.get(tail, tail) or STANDARD, int(bands[0]) * 1000 if bands else 0)


def _unit_and_rest(name: str) -> tuple[str, str] | None:
    for whole, unit in _WHOLE.items():
        if name == whole or name.startswith(f"{whole}_"):
            return unit, name.removeprefix(whole)
    if (found := _TOKENS.fullmatch(name)) is not None:
        if found["cache"] is None:
            kind = "text" if found["kind"] is None else found["kind"]
            prefix = CACHED if found["hit"] else f"{found['side']}_"
            return f"{prefix}{kind}", found["rest"]
        kind = found["cached"]
        if found["cache"] == "read":
            return f"{CACHED}{kind or 'text'}", found["cache_rest"]
        life = "_1h" if found["life"] else ""
        return f"{CACHE_WRITE}{life}{f'_{kind}' if kind else ''}", found["cache_rest"]
    if (found := _COUNTED.fullmatch(name)) is not None and found["noun"] in _NOUNS:
        return f"{_NOUNS[found['noun']]}_{found['side']}", found["rest"]
    return None


def _listed(entry: Mapping[str, Any]) -> dict[Place, Amounts]:
    """Every amount of `entry` by its place."""
    found: dict[Place, Amounts] = {}
    # Longest last: of two names for one unit the plainer one holds (`..._token_cache_hit` is the other).
    for key in sorted(entry, key=lambda key: ("cache_hit" not in key, key)):
        priced, amount = price_key(key), _amount(entry[key])
        if priced is not None and amount is not None:
            unit, place = priced
            found.setdefault(place, {})[unit] = amount
    for band in entry.get("tiered_pricing") or ():
        begins = band.get("range") if isinstance(band, dict) else None
        if begins:
            found.setdefault((STANDARD, int(begins[0])), {}).update(_plain(band))
    return found


def _plain(prices: Mapping[str, Any]) -> Amounts:
    """Amounts by unit of an object that has neither tiers nor bands."""
    return {
        priced[0]: amount
        for key in prices
        if (priced := price_key(key)) is not None and (amount := _amount(prices[key])) is not None
    }


def _amount(value: object) -> Decimal | None:
    """USD a unit. Of an object (of sizes of a search) the dearest; a few entries have numbers as text."""
    if isinstance(value, dict):
        found = [one for one in map(_amount, value.values()) if one is not None]
        return max(found, default=None)
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


def _hours(entry: Mapping[str, Any]) -> Iterator[Hours]:
    """Parts of the week with prices of their own, in UTC."""
    given = entry.get("off_peak_pricing")
    if not isinstance(given, dict):
        return
    for window in given.get("windows") or ():
        spans = window.get("hours_utc")
        days = tuple(map(int, window.get("weekdays") or range(1, 8)))
        for span in [spans] if isinstance(spans, str) else spans or ():
            begins, _, ends = span.partition("-")
            yield Hours(days, minute_of(begins), minute_of(ends), _plain(given))
