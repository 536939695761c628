"""Prices over time: immutable versions, each in force from a moment on, chosen by when a request was sent."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec

from gateway.core.catalog import Price, Rates

STANDARD = "standard"


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


class PriceBook:
    """All versions of all prices."""

    def __init__(self, versions: Iterable[PriceVersion]) -> None:
        self._versions: defaultdict[tuple[str, str], list[PriceVersion]] = defaultdict(list)
        # Of two that begin together the one entered later is meant to replace the other.
        for one in sorted(versions, key=attrgetter("effective_from", "entered_at", "version")):
            self._versions[one.provider, one.model].append(one)

    def __iter__(self) -> Iterator[PriceVersion]:
        return (one for name in sorted(self._versions) for one in self._versions[name])

    def price_at(self, provider: str, model: str, at: int) -> Price | None:
        """The price of a request sent at `at` (UTC microseconds); None when none was in force."""
        in_force: dict[str, PriceVersion] = {}
        for one in self._versions.get((provider, model), ()):
            if one.effective_from <= at:
                in_force[one.tier] = one
        standard = in_force.pop(STANDARD, None)
        if standard is None:
            return None
        versions = {standard.version, *(one.version for one in in_force.values())}
        return Price(
            version="+".join(sorted(versions)),
            standard=standard.rates,
            tiers={tier: one.rates for tier, one in in_force.items()},
        )
