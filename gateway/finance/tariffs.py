"""From a price list to rates: what a list leaves out gets its price by a rule, and never none.

- Cached input that a tier or a band leaves out costs as plain input there does.
- Every other unit keeps the proportion that it has to plain input, or output, in the standard tier.
- A band that a tier leaves out keeps the proportion of the standard tier's band.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

import msgspec

from gateway.core.pricing import STANDARD
from gateway.core.rates import Band, Rates, week_hours
from gateway.core.usage import is_input, is_output

NANO_PER_USD_PER_UNIT = 10**15  # USD a unit -> nano-USD a million units

Amounts = dict[str, Decimal]  # USD a unit, by unit
Place = tuple[str, int]  # tier, and more than how many tokens; 0: of any request

_READ, _WRITTEN, _CACHED = "input_text", "output_text", "cached_text"
_MINUTES_A_DAY = 24 * 60


class Hours(msgspec.Struct, frozen=True):
    """Amounts on `days` (1 is Monday, UTC) from minute `begins` of the day to before minute `ends`.

    `above` are those of requests that read more than so many tokens then.
    """

    days: tuple[int, ...]
    begins: int
    ends: int
    amounts: Amounts
    above: Mapping[int, Amounts] = {}


class PriceList(msgspec.Struct, frozen=True):
    """What is listed of a model. The standard tier has a price for input; `hours` are of that tier."""

    places: Mapping[Place, Amounts]
    hours: tuple[Hours, ...] = ()

    @property
    def base(self) -> Amounts:
        """The standard tier, below all bands."""
        return self.places[STANDARD, 0]

    @property
    def thresholds(self) -> list[int]:
        return sorted({tokens for _, tokens in self.places if tokens})


class Tariffs(msgspec.Struct, frozen=True):
    """The rates of a model by tier."""

    standard: Rates
    tiers: dict[str, Rates]


def tariffs(listed: PriceList) -> Tariffs:
    """All rates of `listed`, nothing left out."""
    hours = tuple(
        part
        for one in listed.hours
        for part in week_hours(one.days, one.begins, one.ends, _tariff(_at_hours(listed, one), STANDARD))
    )
    names = sorted({tier for tier, _ in listed.places if tier != STANDARD})
    return Tariffs(
        msgspec.structs.replace(_tariff(listed, STANDARD), hours=hours),
        {tier: _tariff(listed, tier) for tier in names},
    )


def completed(given: Amounts, like: Amounts) -> Amounts:
    """`given`, and what it leaves out of `like` by the rules."""
    found = dict(given)
    for side in (_READ, _WRITTEN):
        if side in like:
            found.setdefault(side, like[side])
    if _READ in given and _CACHED in like:
        found.setdefault(_CACHED, found[_READ])
    for unit, amount in like.items():
        anchor = _READ if is_input(unit) else _WRITTEN if is_output(unit) else None
        if unit not in found:
            found[unit] = amount if anchor is None else scaled(amount, found.get(anchor), like.get(anchor))
    return found


def scaled(amount: Decimal, by: Decimal | None, of: Decimal | None) -> Decimal:
    """`amount` in the proportion of `by` to `of`, rounded up; as it is where there is none."""
    if not of or by is None:
        return amount
    exact = Fraction(amount) * Fraction(by) / Fraction(of) * NANO_PER_USD_PER_UNIT
    return Decimal(-(-exact.numerator // exact.denominator)) / NANO_PER_USD_PER_UNIT


def minute_of(text: str) -> int:
    """Minutes of the day of `04:30`; 24:00 is the end of it. Raises ValueError for what is no time."""
    hours, colon, minutes = text.partition(":")
    found = int(hours) * 60 + int(minutes)
    if not colon or not 0 <= int(minutes) < 60 or not 0 <= found <= _MINUTES_A_DAY:
        raise ValueError(f"{text!r} is no time of day: write it as 04:30")
    return found


def _at_hours(listed: PriceList, one: Hours) -> PriceList:
    """The standard tier while `one` holds: its bands keep their proportion."""
    cheaper = completed(one.amounts, listed.base)
    places = {(STANDARD, 0): cheaper}
    for tier, tokens in listed.places:
        if tier == STANDARD and tokens:
            like = _in_proportion(_band(listed, tokens), cheaper, listed.base)
            places[tier, tokens] = completed(one.above.get(tokens, {}), like)
    return PriceList(places)


def _tariff(listed: PriceList, tier: str) -> Rates:
    own = completed(listed.places[tier, 0], listed.base)
    bands = []
    for tokens in listed.thresholds:
        if (STANDARD, tokens) in listed.places or (tier, tokens) in listed.places:
            like = _in_proportion(_band(listed, tokens), own, listed.base)
            bands.append(Band(tokens, rates_of(completed(listed.places.get((tier, tokens), {}), like))))
    return msgspec.structs.replace(rates_of(own), above=tuple(bands))


def _band(listed: PriceList, tokens: int) -> Amounts:
    """The standard tier of a request that reads more than `tokens`."""
    return completed(listed.places.get((STANDARD, tokens), {}), listed.base)


def _in_proportion(amounts: Amounts, by: Amounts, of: Amounts) -> Amounts:
    return {unit: scaled(amount, by.get(unit), of.get(unit)) for unit, amount in amounts.items()}


def rates_of(amounts: Amounts) -> Rates:
    """Rates of amounts that have one for input."""
    given = {unit: _nano(amount) for unit, amount in amounts.items()}
    read, written = given.pop(_READ), given.pop(_WRITTEN, 0)
    return Rates(
        input=read,
        cached_input=given.pop(_CACHED, read),
        output=written,
        input_audio=given.pop("input_audio", read),
        output_audio=given.pop("output_audio", written),
        units=given,
    )


def _nano(usd_per_unit: Decimal) -> int:
    return int((usd_per_unit * NANO_PER_USD_PER_UNIT).to_integral_value(ROUND_CEILING))
