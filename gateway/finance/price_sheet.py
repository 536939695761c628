"""Rates as lines of a table that people edit, and back: one for the price itself, each band, each hour.

Amounts are USD per million units. A cell `hours` has days and times in UTC: `mon,tue 16:30-00:30`, and a
semicolon between two of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from gateway.core.pricing import STANDARD, usd_text
from gateway.core.rates import Rates, WeekHours
from gateway.core.usage import REQUESTS, SEARCH_QUERIES
from gateway.finance.tariffs import Amounts, Hours, Place, PriceList, minute_of, tariffs

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Columns of every table, and the unit that each prices.
RATES = {
    "input": "input_text",
    "cached_input": "cached_text",
    "output": "output_text",
    "input_audio": "input_audio",
    "output_audio": "output_audio",
}
# Columns of amounts for one, not for a million.
EACH = {"per_request": REQUESTS, "per_search": SEARCH_QUERIES}
_MILLION = 10**6
_DAY = 24 * 60


class Line(msgspec.Struct, frozen=True):
    """Amounts by column, of requests that read more than `above` tokens, at `hours` ("": at all others)."""

    amounts: Mapping[str, str]
    above: int = 0
    hours: str = ""


def rates_of_lines(lines: Iterable[Line]) -> Rates:
    """The rates that `lines` are. Raises ValueError, or InvalidOperation for what is no number."""
    base: Amounts | None = None
    places: dict[Place, Amounts] = {}
    by_hours: dict[str, dict[int, Amounts]] = {}
    for line in lines:
        amounts = _amounts(line)
        if line.hours:
            by_hours.setdefault(line.hours, {})[line.above] = amounts
        else:
            places[STANDARD, line.above] = amounts
            base = amounts if not line.above else base
    if base is None:
        raise ValueError("has a line for a band or for hours, and none for the price itself")
    if "input_text" not in base:
        raise ValueError("needs an input price")
    if "output_text" not in base:  # left out by mistake, all that models write would be free
        raise ValueError("needs an output price; 0 for a model that only embeds")
    bands = {tokens for found in by_hours.values() for tokens in found if tokens}
    for tokens in sorted(bands):
        places.setdefault((STANDARD, tokens), {})
    hours = (one for text, found in by_hours.items() for one in _hours(text, found))
    return tariffs(PriceList(places, tuple(hours))).standard


def lines_of(rates: Rates) -> Iterator[Line]:
    """The lines of `rates`, nothing left out."""
    yield from _banded(rates, "")
    alike: dict[bytes, list[WeekHours]] = {}
    for one in rates.hours:
        alike.setdefault(msgspec.json.encode(one.rates, order="sorted"), []).append(one)
    for found in alike.values():
        yield from _banded(found[0].rates, "; ".join(map(_text, found)))


def _banded(rates: Rates, hours: str) -> Iterator[Line]:
    yield Line(_cells(rates), hours=hours)
    for band in rates.above:
        yield Line(_cells(band.rates), band.tokens, hours)


def _cells(rates: Rates) -> dict[str, str]:
    cells = {name: plain(getattr(rates, name)) for name in RATES}
    each = {unit: name for name, unit in EACH.items()}
    for unit, nano in sorted(rates.units.items()):
        if unit in each:
            cells[each[unit]] = plain(nano // _MILLION)
        else:
            cells[unit] = plain(nano)
    return cells


def plain(nano: int) -> str:
    """USD without zeros at the end."""
    return usd_text(nano).rstrip("0").rstrip(".")


def _amounts(line: Line) -> Amounts:
    """USD a unit, by unit."""
    found: Amounts = {}
    for name, text in line.amounts.items():
        usd = Decimal(text)
        if not usd.is_finite() or usd < 0:
            raise ValueError("a price must be >= 0")
        found[EACH.get(name) or RATES.get(name, name)] = usd if name in EACH else usd / _MILLION
    return found


def _hours(text: str, found: Mapping[int, Amounts]) -> Iterator[Hours]:
    bands: dict[int, Any] = {tokens: amounts for tokens, amounts in found.items() if tokens}
    for part in text.split(";"):
        days, _, span = part.strip().partition(" ")
        begins, dash, ends = span.partition("-")
        if not dash or any(day not in DAYS for day in days.split(",")):
            raise ValueError(f"{part.strip()!r} are no hours: write them as mon,tue 16:30-00:30, in UTC")
        numbers = tuple(DAYS.index(day) + 1 for day in days.split(","))
        yield Hours(numbers, minute_of(begins), minute_of(ends), found.get(0, {}), bands)


def _text(one: WeekHours) -> str:
    day, begins = divmod(one.begins, _DAY)
    ends = one.ends % _DAY
    return f"{DAYS[day]} {_time(begins)}-{_time(ends)}"


def _time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
