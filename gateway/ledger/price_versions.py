"""Price versions in the ledger's database: entered once, never changed."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from sqlalchemy import select

from gateway.core.catalog import Rates
from gateway.core.pricing import PriceBook, PriceVersion
from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.tables import price_version
from gateway.ledger.url import database_of

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
            for token_type, nano in msgspec.structs.asdict(one.rates).items():
                _enter(ledger, one, token_type, nano)


def _enter(ledger: MaintenanceTransaction, one: PriceVersion, token_type: str, nano: int) -> None:
    key = (one.provider, one.model, one.tier, token_type, one.effective_from, one.version)
    ledger.run(_INSERT, *key, nano, one.entered_at)
    ((kept,),) = ledger.run(_FIND, *key)
    if kept != nano:
        raise PriceChanged(
            f"version {one.version} of {one.provider}/{one.model} ({one.tier}) has another "
            f"{token_type} price already; prices never change: give the new one a version of its own"
        )


def read_prices(url: str) -> PriceBook:
    """All prices ever entered. Raises LedgerUnavailable."""
    table = price_version
    with database_of(url).reading() as ledger:
        rows = ledger.fetch(select(*(table.c[name] for name in _COLUMNS)))
    found: defaultdict[tuple[str, str, str, int, str], dict[str, int]] = defaultdict(dict)
    entered: dict[tuple[str, str, str, int, str], int] = {}
    for provider, model, tier, token_type, effective_from, version, nano, entered_at in rows:
        key = (provider, model, tier, effective_from, version)
        found[key][token_type] = nano
        entered[key] = entered_at
    return PriceBook(
        PriceVersion(
            provider=provider,
            model=model,
            tier=tier,
            effective_from=effective_from,
            version=version,
            rates=Rates(**rates),
            entered_at=entered[provider, model, tier, effective_from, version],
        )
        for (provider, model, tier, effective_from, version), rates in found.items()
    )
