"""Price versions in the ledger's database: entered once, never changed.

The five rates that every list has stand in `price_version`, which release 0.1.0 reads too. A version that has
more (other units, bands, hours) stands in `price_terms` as a whole.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from sqlalchemy import select

from gateway.core.pricing import PriceBook, PriceVersion
from gateway.core.rates import Rates
from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.tables import price_terms, price_version
from gateway.ledger.url import database_of

FIELDS = ("input", "cached_input", "output", "input_audio", "output_audio")

_VERSION = ("provider", "model", "tier", "effective_from", "version")
_KEY = ("provider", "model", "tier", "token_type", "effective_from", "version")
_COLUMNS = (*_KEY, "nano_usd_per_million", "entered_at")
_INSERT = (
    f"INSERT INTO price_version ({', '.join(_COLUMNS)}) "  # noqa: S608  # names from this file
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
)
_FIND = (
    "SELECT nano_usd_per_million FROM price_version "  # noqa: S608  # names from this file
    f"WHERE {' AND '.join(f'{name} = ?' for name in _KEY)}"
)
_INSERT_TERMS = (
    f"INSERT INTO price_terms ({', '.join(_VERSION)}, terms) "  # noqa: S608  # names from this file
    f"VALUES ({', '.join('?' * len(_VERSION))}, ?) ON CONFLICT DO NOTHING"
)
_FIND_TERMS = (
    "SELECT terms FROM price_terms "  # noqa: S608  # names from this file
    f"WHERE {' AND '.join(f'{name} = ?' for name in _VERSION)}"
)
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Rates).decode


class PriceChanged(Exception):
    """A version is entered already, with another price. The message says what to do."""


def enter_prices(url: str, versions: Iterable[PriceVersion]) -> None:
    """Enter all or none of `versions`; the same again changes nothing. Makes the ledger where there is none.

    Raises PriceChanged when one is there with other rates, LedgerUnavailable.
    """
    database = database_of(url)
    database.create_if_absent()
    with database.maintenance() as maintenance, maintenance.begin(exclusive=False) as ledger:
        for one in versions:
            is_there = bool(ledger.run(_FIND, *_key(one, FIELDS[0])))
            for token_type in FIELDS:
                _enter(ledger, one, token_type, getattr(one.rates, token_type))
            _enter_terms(ledger, one, is_there=is_there)


def _key(one: PriceVersion, token_type: str) -> tuple[str | int, ...]:
    return one.provider, one.model, one.tier, token_type, one.effective_from, one.version


def _enter(ledger: MaintenanceTransaction, one: PriceVersion, token_type: str, nano: int) -> None:
    key = _key(one, token_type)
    ledger.run(_INSERT, *key, nano, one.entered_at)
    ((kept,),) = ledger.run(_FIND, *key)
    if kept != nano:
        raise _changed(one, token_type)


def _enter_terms(ledger: MaintenanceTransaction, one: PriceVersion, *, is_there: bool) -> None:
    key = (one.provider, one.model, one.tier, one.effective_from, one.version)
    rates = one.rates
    terms = _encode(rates).decode() if rates.units or rates.above or rates.hours else None
    if terms is not None and not is_there:
        ledger.run(_INSERT_TERMS, *key, terms)
    kept = next((text for (text,) in ledger.run(_FIND_TERMS, *key)), None)
    if (None if kept is None else _decode(kept)) != (None if terms is None else rates):
        raise _changed(one, "unit, band or hour")


def _changed(one: PriceVersion, what: str) -> PriceChanged:
    return PriceChanged(
        f"version {one.version} of {one.provider}/{one.model} ({one.tier}) has another "
        f"{what} price already; prices never change: give the new one a version of its own"
    )


def read_prices(url: str) -> PriceBook:
    """All prices ever entered. Raises LedgerUnavailable."""
    table, whole = price_version, price_terms
    with database_of(url).reading() as ledger:
        rows = ledger.fetch(select(*(table.c[name] for name in _COLUMNS)))
        terms = {
            tuple(key): _decode(text)
            for *key, text in ledger.fetch(select(*(whole.c[name] for name in (*_VERSION, "terms"))))
        }
    found: defaultdict[tuple[str, str, str, int, str], dict[str, int]] = defaultdict(dict)
    entered: dict[tuple[str, str, str, int, str], int] = {}
    for provider, model, tier, token_type, effective_from, version, nano, entered_at in rows:
        key = (provider, model, tier, effective_from, version)
        found[key][token_type] = nano
        entered[key] = entered_at
    return PriceBook(
        PriceVersion(
            provider=key[0],
            model=key[1],
            tier=key[2],
            effective_from=key[3],
            version=key[4],
            rates=terms.get(key) or msgspec.convert(rates, Rates),
            entered_at=entered[key],
        )
        for key, rates in found.items()
    )
