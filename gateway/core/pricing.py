"""Prices over time, and what usage costs at them: integers only.

A price version is immutable and in force from a moment on; which one counts is decided by when a request was
sent. Versions rank above the price that the configuration gives a deployment (its `price`, its `cost`, or the
catalogue's), tier by tier: that one holds before the first version, and for tiers that have none.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

import msgspec

from gateway.core.catalog import Deployment
from gateway.core.money import NANO_PER_USD, TOKENS_PER_PRICE_UNIT, share_out
from gateway.core.rates import Price, Rates
from gateway.core.usage import Usage

STANDARD = "standard"

# A hold also covers the dearer price that begins while its request may still be sent, in microseconds.
HORIZON = 3600 * 1_000_000


class PriceVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of one tier of a provider's model from `effective_from` on. Times in UTC microseconds since 1970.

    `tier` is STANDARD, or what a response says as its `service_tier` (`batch`, `flex`, `priority`).
    """

    provider: str
    model: str
    tier: str
    effective_from: int
    version: str
    rates: Rates
    entered_at: int


class _Period:
    """What is in force for one model from one moment to the next, by tier."""

    __slots__ = ("_by_tier", "_over")

    def __init__(self, by_tier: dict[str, PriceVersion]) -> None:
        self._by_tier = by_tier
        self._over: dict[str, Price] = {}

    def over(self, listed: Price) -> Price:
        """The price with `listed` for every tier that has no version."""
        # Equal versions are equal numbers, and a process sees few of them.
        found = self._over.get(listed.version)
        if found is None:
            found = self._over[listed.version] = self._laid_over(listed)
        return found

    def _laid_over(self, listed: Price) -> Price:
        tiers = dict(self._by_tier)
        standard = tiers.pop(STANDARD, None)
        own = listed.version if standard is None else standard.version
        versions = dict.fromkeys(listed.tiers, listed.version)
        versions.update(listed.tier_versions)
        versions.update((tier, one.version) for tier, one in tiers.items())
        return Price(
            version=own,
            standard=listed.standard if standard is None else standard.rates,
            tiers={**listed.tiers, **{tier: one.rates for tier, one in tiers.items()}},
            tier_versions={tier: version for tier, version in versions.items() if version != own},
        )


class _History(msgspec.Struct, frozen=True):
    """One model's periods, in order. `starts[n]` is the first moment of `periods[n]`."""

    starts: list[int]
    periods: list[_Period]


class PriceBook:
    """All versions of all prices, looked up for each request. Never changed: a new book replaces it."""

    def __init__(self, versions: Iterable[PriceVersion] = ()) -> None:
        by_model: defaultdict[tuple[str, str], list[PriceVersion]] = defaultdict(list)
        # Of two that begin together the one entered later is meant to replace the other.
        for one in sorted(versions, key=attrgetter("effective_from", "entered_at", "version")):
            by_model[one.provider, one.model].append(one)
        self._versions = dict(by_model)
        starts = {one.effective_from for found in by_model.values() for one in found}
        self._last_start = max(starts, default=0)
        # When something changes: a price begins, or comes so near that holds have to cover it.
        self._changes = sorted(starts | {start - HORIZON for start in starts})
        self._histories = {name: _history(found) for name, found in by_model.items()}

    def __iter__(self) -> Iterator[PriceVersion]:
        return (one for name in sorted(self._versions) for one in self._versions[name])

    def price_at(self, provider: str, model: str, listed: Price, at: int) -> Price:
        """The price of a request sent at `at` (UTC microseconds); `listed` is the configuration's."""
        return self._whole_price(provider, model, listed, at).at(at)

    def _whole_price(self, provider: str, model: str, listed: Price, at: int) -> Price:
        """The same with what holds at other hours."""
        history = self._histories.get((provider, model))
        if history is None:
            return listed
        index = bisect_right(history.starts, at) - 1
        return listed if index < 0 else history.periods[index].over(listed)

    def price_of(self, deployment: Deployment, at: int) -> Price:
        """As `price_at`, for a deployment."""
        listed = deployment.price_listed_at(at)
        if not self._histories:
            return listed.at(at)
        return self.price_at(deployment.provider, deployment.model, listed, at)

    def _whole_of(self, deployment: Deployment, at: int) -> Price:
        """As `price_of`, with what holds at other hours."""
        listed = deployment.price_listed_at(at)
        return self._whole_price(deployment.provider, deployment.model, listed, at)

    def next_change(self, at: int, deployments: Iterable[Deployment] = ()) -> float:
        """The first moment after `at` (UTC microseconds) at which `price_of` or `prices_soon` may change.

        By the versions, and by the dates that the configuration gives prices of `deployments`.
        """
        index = bisect_right(self._changes, at)
        found = [*self._changes[index : index + 1], *_listed_changes(deployments)]
        return min((moment for moment in found if moment > at), default=math.inf)

    def last_change(self, at: int, deployments: Iterable[Deployment] = ()) -> float:
        """The last moment up to `at` (UTC microseconds) at which they may have changed."""
        index = bisect_right(self._changes, at)
        found = [*self._changes[max(index - 1, 0) : index], *_listed_changes(deployments)]
        return max((moment for moment in found if moment <= at), default=-math.inf)

    def span(self, deployment: Deployment, at: int, others: Iterable[Deployment] = ()) -> tuple[float, float]:
        """From when to before when `price_of` and `prices_soon` stay as at `at` (UTC microseconds).

        Those of `others` may change at their dates too, but for what they cost at other hours.
        """
        begins, ends = self._whole_of(deployment, at).span(at)
        dated = (deployment, *others)
        return max(begins, self.last_change(at, dated)), min(ends, self.next_change(at, dated))

    def prices_soon(self, deployment: Deployment, at: int) -> tuple[Price, ...]:
        """The price at `at`, and those that begin before a request held then can have been sent.

        Each is whole: it bounds what holds at any hour.
        """
        price = self._whole_of(deployment, at)
        later = {dated.since for dated in deployment.later_prices}
        if at >= self._last_start and not later:  # nearly always: nothing is known of a time to come
            return (price,)
        history = self._histories.get((deployment.provider, deployment.model))
        if history is not None:
            later.update(history.starts)
        soon = sorted(start for start in later if at < start <= at + HORIZON)
        return (price, *(self._whole_of(deployment, start) for start in soon))


# What holds where no version was ever entered.
NO_VERSIONS = PriceBook()


def _listed_changes(deployments: Iterable[Deployment]) -> Iterator[int]:
    """When a price of the configuration's begins, or comes so near that holds have to cover it."""
    for deployment in deployments:
        for later in deployment.later_prices:
            yield later.since - HORIZON
            yield later.since


def _history(versions: list[PriceVersion]) -> _History:
    """`versions` of one model, in the order in which they come into force."""
    starts: list[int] = []
    periods: list[_Period] = []
    in_force: dict[str, PriceVersion] = {}
    for one in versions:
        in_force[one.tier] = one
        if starts and starts[-1] == one.effective_from:
            periods.pop()
        else:
            starts.append(one.effective_from)
        periods.append(_Period(dict(in_force)))
    return _History(starts, periods)


def cost(rates: Rates, usage: Usage) -> int:
    """Cost of the usage of one request in nano-USD, rounded up once. The rates are those for what it read."""
    if rates.above:
        rates = rates.for_input(usage.input_tokens)
    millionths = usage.input_text * rates.input + usage.output_text * rates.output
    for unit, amount in usage.others:
        millionths += amount * rates.of(unit)
    return -(-millionths // TOKENS_PER_PRICE_UNIT)


def rates_used(rates: Rates, usage: Usage) -> dict[str, int]:
    """What `cost` multiplies each unit of `usage` by, in nano-USD per million."""
    if rates.above:
        rates = rates.for_input(usage.input_tokens)
    used = {}
    if usage.input_text:
        used["input_text"] = rates.input
    if usage.output_text:
        used["output_text"] = rates.output
    for unit, _ in usage.others:
        used[unit] = rates.of(unit)
    return used


def cost_parts(nano: int, usage: Usage, rates: Mapping[str, int]) -> list[int]:
    """`nano`, what `usage` was booked at, by unit: text read, text written, then its `others` in their order.

    Whole nano-USD, which add up to it. `rates` are those of `rates_used`. Where less was booked than they
    make, each unit has its share of it. All 0 where no unit has a rate: then nobody can tell.
    """
    weights = [
        usage.input_text * rates.get("input_text", 0),
        usage.output_text * rates.get("output_text", 0),
        *[amount * rates.get(unit, 0) for unit, amount in usage.others],
    ]
    return share_out(nano, weights) if sum(weights) > 0 else [0] * len(weights)


def flat_cost(rates: Rates, usage: Usage) -> int:
    """As `cost`, whatever was read: for the usage of several requests, which no band is meant for."""
    return cost(msgspec.structs.replace(rates, above=()) if rates.above else rates, usage)


def usd_text(nano: int) -> str:
    """`nano` as decimal dollars with nine digits, exactly: 1_500_000_000 -> '1.500000000'."""
    sign = "-" if nano < 0 else ""
    dollars, rest = divmod(abs(nano), NANO_PER_USD)
    return f"{sign}{dollars}.{rest:09d}"
