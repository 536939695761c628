"""What a unit of usage costs: rates by unit, by how much was read, by the hour, and by service tier."""

import datetime as dt
from collections.abc import Iterator, Mapping
from math import inf

import msgspec

from gateway.core.usage import CACHE_WRITE, REQUESTS, SEARCH_QUERIES, UNKNOWN, is_input, is_output

# What servers say as their `service_tier` where they mean the price list's first column.
STANDARD_TIERS = frozenset({"default", "standard", "auto", "on_demand"})
# Names for one tier: the one that lists have.
TIER_NAMES = {"batches": "batch", "fast": "priority"}


def tier_meant(name: str) -> str | None:
    """The tier that `name` is another name of, "standard" for the first column; None: it is its own."""
    return "standard" if name in STANDARD_TIERS else TIER_NAMES.get(name)


_FIELDS = {
    "input_text": "input",
    "cached_text": "cached_input",
    "output_text": "output",
    "input_audio": "input_audio",
    "output_audio": "output_audio",
}
# A unit without a rate of its own costs as this one does.
_LIKE = {
    "input_image": "input_text",
    "input_video": "input_text",
    "input_citation": "input_text",
    "cached_image": "cached_text",
    "cached_video": "cached_text",
    "cached_audio": "input_audio",
    "cache_write_audio": "input_audio",
    "output_image": "output_text",
    "output_reasoning": "output_text",
    "output_accepted_prediction": "output_text",
    "output_rejected_prediction": "output_text",
}
_FIELD_OF = _FIELDS | {unit: _FIELDS[like] for unit, like in _LIKE.items()}
# What a longer lifetime of a cached prompt costs at most, for one write that is listed: OpenAI's 12 hours.
LONG_WRITE = 2
_MINUTES_A_DAY, _MINUTES_A_WEEK = 24 * 60, 7 * 24 * 60
_MINUTE = 60 * 1_000_000
_MONDAY = dt.datetime(1970, 1, 5, tzinfo=dt.UTC)  # the first Monday of the epoch
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_WEEK_STARTS = (_MONDAY - _EPOCH) // dt.timedelta(microseconds=1)
# The dearest query of the catalogue is 0.035 USD. One whose price nobody gave costs that and no less.
UNLISTED_QUERY = 50_000_000 * 1_000_000


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices in nano-USD per million units. The fields are those of every list, `units` all others.

    `above` are the prices of a request that reads more than so many tokens, ascending: for all of it.
    `hours` are those of parts of the week.
    """

    input: int
    cached_input: int
    output: int
    input_audio: int
    output_audio: int
    units: Mapping[str, int] = {}
    above: tuple["Band", ...] = ()
    hours: tuple["WeekHours", ...] = ()

    def of(self, unit: str) -> int:
        """The rate of `unit`: listed, or by a rule (docs/prices.md); where there is neither, the dearest."""
        found = self.units.get(unit)
        if found is not None:
            return found
        if (field := _FIELD_OF.get(unit)) is not None:
            rate: int = getattr(self, field)
            return rate
        return self._cache_write(unit) if unit.startswith(CACHE_WRITE) else self._unlisted(unit)

    def _unlisted(self, unit: str) -> int:
        if unit == REQUESTS:  # most providers ask for nothing
            return 0
        if unit == SEARCH_QUERIES:
            return UNLISTED_QUERY
        read, written = self.dearest_input, self.dearest_output
        return read if is_input(unit) else written if is_output(unit) else max(read, written)

    def knows(self, unit: str) -> bool:
        """Whether `of` goes by a list or a rule, not by the dearest there is."""
        is_by_rule = unit in _FIELD_OF or unit.startswith(CACHE_WRITE) or unit == REQUESTS
        return unit in self.units or (is_by_rule and not unit.startswith(UNKNOWN))

    def _cache_write(self, unit: str) -> int:
        """Where no write has a price of its own, it costs as any other input does."""
        write = self.units.get(CACHE_WRITE, self.input)
        is_long = unit.endswith("h") and CACHE_WRITE in self.units
        return write * LONG_WRITE if is_long else write

    @property
    def dearest_input(self) -> int:
        listed = (rate for unit, rate in self.units.items() if is_input(unit))
        longest = self.units.get(CACHE_WRITE, 0) * LONG_WRITE
        return max(self.input, self.cached_input, self.input_audio, longest, *listed)

    @property
    def dearest_output(self) -> int:
        listed = (rate for unit, rate in self.units.items() if is_output(unit))
        return max(self.output, self.output_audio, *listed)

    def for_input(self, tokens: int) -> "Rates":
        """The rates of a request that read `tokens`."""
        found = self
        for band in self.above:
            if tokens > band.tokens:
                found = band.rates
        return found

    def at(self, at: int) -> "Rates":
        """The rates of `at`, in UTC microseconds since 1970."""
        minute = minute_of_week(at)
        return next((one.rates for one in self.hours if one.holds(minute)), self)

    def variants(self) -> Iterator["Rates"]:
        """What may hold at some hour."""
        yield self
        for one in self.hours:
            yield one.rates


class Band(msgspec.Struct, frozen=True):
    """The rates of a whole request that reads more than `tokens`."""

    tokens: int
    rates: Rates


class WeekHours(msgspec.Struct, frozen=True):
    """The rates from minute `begins` to before minute `ends` of a week, which begins on Monday, UTC."""

    begins: int
    ends: int
    rates: Rates

    def holds(self, minute: int) -> bool:
        return self.begins <= minute < self.ends


def week_hours(days: tuple[int, ...], begins: int, ends: int, rates: Rates) -> Iterator[WeekHours]:
    """On each of `days` (1 is Monday) from minute `begins` of the day to before minute `ends`.

    An end that is not after the beginning is on the next day; equal ones are a whole day.
    """
    for day in days:
        start = (day - 1) * _MINUTES_A_DAY + begins
        end = (day - 1) * _MINUTES_A_DAY + ends + (_MINUTES_A_DAY if ends <= begins else 0)
        yield WeekHours(start, min(end, _MINUTES_A_WEEK), rates)
        if end > _MINUTES_A_WEEK:
            yield WeekHours(0, end - _MINUTES_A_WEEK, rates)


def minute_of_week(at: int) -> int:
    """Minutes since Monday 00:00 UTC, at UTC microseconds since 1970."""
    return (at - _WEEK_STARTS) // _MINUTE % _MINUTES_A_WEEK


Bound = tuple[int, int]


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable price. `tiers` holds the rates of service tiers that differ from the standard one.

    `tier_versions` names the versions of those tiers whose price is of another version than the standard one.
    Derived, never given, and upper bounds (input, output) per million tokens: `dearest_standard` of the
    standard tier, `dearest_any` of all, and `steps` the same of requests that read more than so many tokens,
    ascending. In nano-USD: `per_request` is what a request costs beside its tokens, `per_search` one search,
    listed or not.
    """

    version: str
    standard: Rates
    tiers: Mapping[str, Rates] = {}
    tier_versions: Mapping[str, str] = {}
    dearest_standard: Bound = (0, 0)
    dearest_any: Bound = (0, 0)
    steps: tuple[tuple[int, Bound, Bound], ...] = ()
    per_request: int = 0
    per_search: int = 0
    has_hours: bool = False

    def __post_init__(self) -> None:
        rates = (self.standard, *self.tiers.values())
        bounds = {tokens: self._bounds(tokens) for tokens in self._thresholds()}
        standard, any_tier = bounds.pop(0)
        every = [one for tier in rates for hour in tier.variants() for one in (hour, *_banded(hour))]
        derived = {
            "dearest_standard": standard,
            "dearest_any": any_tier,
            "steps": tuple((tokens, *bounds[tokens]) for tokens in sorted(bounds)),
            "per_request": max(_of_one(one, REQUESTS) for one in every),
            "per_search": max(_of_one(one, SEARCH_QUERIES) for one in every),
            "has_hours": any(one.hours for one in rates),
        }
        for name, value in derived.items():
            msgspec.structs.force_setattr(self, name, value)

    def _thresholds(self) -> set[int]:
        tiers = (self.standard, *self.tiers.values())
        return {0} | {band.tokens for tier in tiers for one in tier.variants() for band in one.above}

    def _bounds(self, tokens: int) -> tuple[Bound, Bound]:
        """What a request may cost that reads more than `tokens`, and no more than the next threshold."""
        found = [
            (hour.dearest_input, hour.dearest_output)
            for tier in (self.standard, *self.tiers.values())
            for hour in _up_to(tier, tokens)
        ]
        own = [(one.dearest_input, one.dearest_output) for one in _up_to(self.standard, tokens)]
        return _greatest(own), _greatest(found)

    def rates(self, service_tier: str | None) -> Rates:
        """Rates of the tier that the response names. One that is not listed costs the dearest of all."""
        if service_tier is None or service_tier in STANDARD_TIERS:
            return self.standard
        found = self.tiers.get(service_tier) or self.tiers.get(TIER_NAMES.get(service_tier, service_tier))
        return self._dearest_tier() if found is None else found

    def knows(self, service_tier: str | None) -> bool:
        """Whether that tier has a price."""
        if service_tier is None or service_tier in STANDARD_TIERS:
            return True
        return service_tier in self.tiers or TIER_NAMES.get(service_tier, service_tier) in self.tiers

    def _dearest_tier(self) -> Rates:
        """Each rate at the tier that asks the most for it."""
        return _dearest_of((self.standard, *self.tiers.values()))

    def version_of(self, service_tier: str | None) -> str:
        """Which version `rates` gives for the same tier."""
        if not self.tier_versions or service_tier is None:
            return self.version
        name = TIER_NAMES.get(service_tier, service_tier)
        return self.tier_versions.get(service_tier) or self.tier_versions.get(name, self.version)

    def dearest(self, service_tier: str | None, tokens: int = 0) -> Bound:
        """Upper bound (input, output) per million tokens for a request that asks for `service_tier`.

        It reads at most `tokens`. Only an explicit `default` pins the standard tier: with anything else the
        account's settings decide.
        """
        is_pinned = service_tier == "default"
        found = self.dearest_standard if is_pinned else self.dearest_any
        for threshold, standard, any_tier in self.steps:
            if tokens > threshold:
                found = standard if is_pinned else any_tier
        return found

    def at(self, at: int) -> "Price":
        """What holds at `at` (UTC microseconds) of prices that differ by the hour."""
        if not self.has_hours:
            return self
        return Price(
            version=self.version,
            standard=self.standard.at(at),
            tiers={tier: rates.at(at) for tier, rates in self.tiers.items()},
            tier_versions=self.tier_versions,
        )

    def span(self, at: int) -> tuple[float, float]:
        """From when to before when what `at` gives stays the same (UTC microseconds)."""
        if not self.has_hours:
            return -inf, inf
        borders = {
            border
            for rates in (self.standard, *self.tiers.values())
            for one in rates.hours
            for border in (one.begins, one.ends)
        }
        minute, whole = minute_of_week(at), at - (at - _WEEK_STARTS) % _MINUTE
        since = min((minute - border) % _MINUTES_A_WEEK for border in borders)
        until = min((border - minute - 1) % _MINUTES_A_WEEK + 1 for border in borders)
        return whole - since * _MINUTE, whole + until * _MINUTE


def _banded(rates: Rates) -> list[Rates]:
    return [band.rates for band in rates.above]


def _up_to(rates: Rates, tokens: int) -> list[Rates]:
    """What may hold at some hour for a request that reads more than `tokens`, or less."""
    return [
        one
        for hour in rates.variants()
        for one in (hour, *(band.rates for band in hour.above if band.tokens <= tokens))
    ]


def _greatest(bounds: list[Bound]) -> Bound:
    return max(one[0] for one in bounds), max(one[1] for one in bounds)


def _of_one(rates: Rates, unit: str) -> int:
    """The price of one, rounded up."""
    return -(-rates.of(unit) // 1_000_000)


def _dearest_of(tiers: tuple[Rates, ...]) -> Rates:
    names = {unit for one in tiers for unit in one.units}
    thresholds = sorted({band.tokens for one in tiers for band in one.above})
    return Rates(
        input=max(one.input for one in tiers),
        cached_input=max(one.cached_input for one in tiers),
        output=max(one.output for one in tiers),
        input_audio=max(one.input_audio for one in tiers),
        output_audio=max(one.output_audio for one in tiers),
        units={unit: max(one.of(unit) for one in tiers) for unit in names},
        above=tuple(
            Band(tokens, _dearest_of(tuple(one.for_input(tokens + 1) for one in tiers)))
            for tokens in thresholds
        ),
    )
