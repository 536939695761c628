"""Reports for finance, from the rollups of the ledger and, at the ends of a span, from its rows."""

import datetime as dt
import enum
from collections import defaultdict
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from gateway.adapters.ledger.reading import Reading, reading
from gateway.adapters.ledger.spans import START, Span, counterfactuals, parts, totals
from gateway.adapters.ledger.tables import SUMS
from gateway.core.money import usd_decimal

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Dimension(enum.StrEnum):
    """What usage can be grouped by."""

    ORG = "org"
    TEAM = "team"
    FEATURE = "feature"
    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    ZONE = "zone"
    PRIVACY = "privacy"
    OUTCOME = "outcome"
    DAY = "day"  # calendar days of the time zone, as YYYY-MM-DD


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of one group. Amounts in USD, exact. `requests` counts each request once, `attempts` each try.

    A request counts where its first attempt does, and so once in all; an attempt that followed elsewhere (on
    another deployment, or past midnight) counts there as an attempt. Corrections of earlier rows change
    tokens and money and count as neither.
    `counterfactual_usd` is what the same usage would have cost on each other deployment.
    """

    dimension: Dimension
    name: str
    requests: int
    attempts: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    counterfactual_usd: dict[str, Decimal]


def usage_by(
    url: str,
    dimension: Dimension | str,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    *,
    timezone: str = "UTC",
) -> list[UsageRow]:
    """Usage from `since` to before `until`, grouped by `dimension`, ordered by the group's name.

    Times without a zone are local times of `timezone` (an IANA name). Raises LedgerUnavailable when the
    ledger cannot be read, ValueError for an unknown dimension, ZoneInfoNotFoundError for an unknown zone.
    """
    zone = ZoneInfo(timezone)
    span = Span(_microseconds(since, zone), _microseconds(until, zone))
    with reading(url) as ledger:
        return _usage(ledger, Dimension(dimension), span, zone)


def _usage(ledger: Reading, dimension: Dimension, span: Span, zone: ZoneInfo) -> list[UsageRow]:
    by_day = dimension is Dimension.DAY
    label = START if by_day else dimension.value
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(SUMS))
    others: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for part in parts(span, days=not by_day):
        for found, *added in ledger.fetch(totals(part, label)):
            if added[0] is None:
                continue  # a sum over no rows
            name = _local_date(found, zone).isoformat() if by_day else found
            sums[name] = [before + int(one) for before, one in zip(sums[name], added, strict=True)]
        for found, elsewhere, nano in ledger.fetch(counterfactuals(ledger, part, label)):
            name = _local_date(found, zone).isoformat() if by_day else found
            others[name][elsewhere] += int(nano)
    return [_row(dimension, name, sums[name], others[name]) for name in sorted(sums)]


def _row(dimension: Dimension, name: str, sums: list[int], others: dict[str, int]) -> UsageRow:
    named = dict(zip(SUMS, sums, strict=True))
    return UsageRow(
        dimension=dimension,
        name=name,
        requests=named["requests"],
        attempts=named["attempts"],
        input_tokens=named["input_tokens"],
        cached_input_tokens=named["cached_input_tokens"],
        output_tokens=named["output_tokens"],
        cost_usd=usd_decimal(named["cost_nano_usd"]),
        counterfactual_usd={elsewhere: usd_decimal(others[elsewhere]) for elsewhere in sorted(others)},
    )


def _local_date(microseconds: int, zone: ZoneInfo) -> dt.date:
    return (_EPOCH + microseconds * _MICROSECOND).astimezone(zone).date()


def _microseconds(moment: dt.datetime | None, zone: ZoneInfo) -> int | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return (aware - _EPOCH) // _MICROSECOND
