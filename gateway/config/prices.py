"""Schema of a deployment's `price`, in USD per million tokens, and the price list that it stands for."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config.kinds import AllowBlank, Count, Name, Section, Text, Usd, refusal
from gateway.core.pricing import STANDARD
from gateway.core.rates import tier_meant
from gateway.core.usage import REQUESTS, SEARCH_QUERIES
from gateway.finance.price_sheet import DAYS, RATES
from gateway.finance.tariffs import Amounts, Hours, Place, PriceList, completed, minute_of, scaled

UNIT = re.compile(r"(input|cached|output)_[a-z0-9_]+|cache_write(_\d+[mh])?(_audio)?")
_MILLION = 10**6


def _unit(name: str) -> str:
    if UNIT.fullmatch(name) is None:
        raise refusal(
            "is no unit: use cache_write, cache_write_1h, output_reasoning, input_image, cached_audio ..., "
            "or input_NAME and output_NAME for what an upstream counts as NAME_tokens"
        )
    return name


def _tier(name: str) -> str:
    meant = tier_meant(name)
    if meant is not None:
        raise refusal(f"is another name of {'the price itself' if meant == STANDARD else meant}: write that")
    return name


def _time(text: str) -> str:
    try:
        minute_of(text)
    except ValueError as exc:
        raise refusal("must be a time of day such as 04:30") from exc
    return text


def _day(text: str) -> str:
    if text not in DAYS:
        raise refusal(f"must be one of {', '.join(DAYS)}")
    return text


Units = Annotated[dict[Annotated[str, AfterValidator(_unit)], Usd], AllowBlank]
TimeOfDay = Annotated[Text, AfterValidator(_time)]
Day = Annotated[Text, AfterValidator(_day)]


class PartPrice(Section):
    """Some prices in USD per million tokens."""

    input: Usd | None = Field(default=None, description="USD per million input tokens")
    cached_input: Usd | None = Field(
        default=None, description="USD per million input tokens read from the cache"
    )
    output: Usd | None = Field(default=None, description="USD per million output tokens")
    input_audio: Usd | None = Field(default=None, description="USD per million audio input tokens")
    output_audio: Usd | None = Field(default=None, description="USD per million audio output tokens")
    units: Units = Field(default={}, description="USD per million tokens of each other unit by its name")


class BandPrice(PartPrice):
    """Prices of a whole request that reads more than so many tokens."""

    tokens: Count = Field(description="a request that reads more than this costs these prices, all of it")


class HoursPrice(PartPrice):
    """Prices of a part of the week, in UTC. What is left out keeps its proportion to the other hours."""

    from_: TimeOfDay = Field(alias="from", description="first moment of the day, UTC, such as 16:30")
    until: TimeOfDay = Field(description="the moment at which they end, UTC; of the next day if not later")
    days: Annotated[tuple[Day, ...], AllowBlank] = Field(
        default=DAYS, description="days on which they begin; left out: every day", min_length=1
    )


class TierPrice(PartPrice):
    """Prices of a service tier in USD per million tokens. What is left out is as in the standard tier."""

    above: Annotated[tuple[BandPrice, ...], AllowBlank] = Field(
        default=(),
        description="prices of requests that read more; left out: in the standard tier's proportion",
    )


class Price(Section):
    """Prices in USD per million tokens."""

    input: Usd = Field(description="USD per million input tokens")
    cached_input: Usd | None = Field(
        default=None, description="USD per million input tokens read from the cache; left out: as `input`"
    )
    output: Usd | None = Field(
        default=None,
        description="USD per million output tokens; needed unless the deployment only serves embeddings",
    )
    input_audio: Usd | None = Field(
        default=None, description="USD per million audio input tokens; left out: as `input`"
    )
    output_audio: Usd | None = Field(
        default=None, description="USD per million audio output tokens; left out: as `output`"
    )
    units: Units = Field(
        default={},
        description="USD per million tokens of each other unit by its name, such as `cache_write` or "
        "`output_reasoning`; left out: in the catalogue's proportion, else by the rules of docs/prices.md",
    )
    per_request: Usd | None = Field(default=None, description="USD for each request, beside its tokens")
    per_search: Usd | None = Field(default=None, description="USD for each search that an answer made")
    above: Annotated[tuple[BandPrice, ...] | None, AllowBlank] = Field(
        default=None,
        description="prices of requests that read more; left out: those of the catalogue, in its proportion",
    )
    hours: Annotated[tuple[HoursPrice, ...], AllowBlank] = Field(
        default=(), description="prices of parts of the week, in UTC"
    )
    batch: TierPrice | None = Field(
        default=None, description="prices where the response says `service_tier: batch`"
    )
    flex: TierPrice | None = Field(
        default=None, description="prices where the response says `service_tier: flex`"
    )
    priority: TierPrice | None = Field(
        default=None, description="prices where the response says `service_tier: priority`"
    )
    tiers: Annotated[dict[Annotated[Name, AfterValidator(_tier)], TierPrice], AllowBlank] = Field(
        default={}, description="prices of any other service tier by the name that responses have for it"
    )


def price_list(price: Price, catalogue: PriceList | None) -> PriceList:
    """What the file says, and what it leaves out and the `catalogue` knows of the model, in proportion."""
    base = _amounts(price)
    base.setdefault("output_text", Decimal(0))
    for name, given in ((REQUESTS, price.per_request), (SEARCH_QUERIES, price.per_search)):
        if given is not None:
            base[name] = given
    places: dict[Place, Amounts] = {}
    if catalogue is not None:
        known = catalogue.base
        base = completed(base, known)
        for tokens in catalogue.thresholds if price.above is None else ():
            band = completed(catalogue.places.get((STANDARD, tokens), {}), known)
            places[STANDARD, tokens] = {
                unit: scaled(amount, base.get(unit), known.get(unit)) for unit, amount in band.items()
            }
    places[STANDARD, 0] = base
    for one in price.above or ():
        places[STANDARD, one.tokens] = _amounts(one)
    for tier, part in _tiers(price).items():
        places[tier, 0] = {**_with_audio(base), **_amounts(part)}
        places |= {(tier, one.tokens): _amounts(one) for one in part.above}
    return PriceList(places, tuple(_hours(one) for one in price.hours))


def _with_audio(base: Amounts) -> Amounts:
    """`base` with what each price has, given or not."""
    read, written = base["input_text"], base["output_text"]
    return {"cached_text": read, "input_audio": read, "output_audio": written, **base}


def _tiers(price: Price) -> Mapping[str, TierPrice]:
    named = {"batch": price.batch, "flex": price.flex, "priority": price.priority}
    return {**{tier: part for tier, part in named.items() if part is not None}, **price.tiers}


def _amounts(part: Price | PartPrice) -> Amounts:
    """USD a unit of what is given."""
    given = {**{unit: getattr(part, name) for name, unit in RATES.items()}, **part.units}
    return {unit: usd / _MILLION for unit, usd in given.items() if usd is not None}


def _hours(one: HoursPrice) -> Hours:
    days = tuple(DAYS.index(day) + 1 for day in one.days)
    return Hours(days, minute_of(one.from_), minute_of(one.until), _amounts(one))
