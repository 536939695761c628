"""Repricing a period: for each row whose price was another one, a reversal and a row at the right price.

The row itself stays. Both new rows name it in `corrects` and end in its number of corrections so far; they
carry its time, or the first moment of the open period when its own is closed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.catalog import DatedPrice
from gateway.core.pricing import PriceBook, cost, rates_used
from gateway.core.rates import Price
from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.periods import SELECT_BOUNDS, PeriodBounds
from gateway.ledger.row_usage import negated, usage_of_row
from gateway.ledger.rows import Row, cost_columns, units_text
from gateway.ledger.tables import ALL_COLUMNS, COSTS, MONEY, TOKENS
from gateway.ledger.url import database_of

PAGE_ROWS = 400  # in one transaction; a gateway's writer waits for it

Named = dict[str, Any]

_NAMES = ", ".join(ALL_COLUMNS)
_PAGE = (
    f"SELECT {_NAMES} FROM usage_record WHERE at >= ? AND at < ? AND (at > ? OR attempt_id > ?) "  # noqa: S608
    f"AND corrects IS NULL ORDER BY at, attempt_id LIMIT {PAGE_ROWS}"
)
_CORRECTED = f"SELECT {_NAMES} FROM usage_record WHERE kind = 'correction' AND corrects IN "  # noqa: S608
_NEGATED = (
    "input_text_tokens",
    "input_image_tokens",
    "input_audio_tokens",
    "output_text_tokens",
    "output_audio_tokens",
    *TOKENS,
    *MONEY,
    *COSTS,
)


class Source(msgspec.Struct, frozen=True):
    """Whose price a deployment's rows have; `listed` is the one that the configuration gives it.

    `dated` are those that take its place there, each from a moment on.
    """

    provider: str
    model: str
    listed: Price
    dated: tuple[DatedPrice, ...] = ()

    def listed_at(self, at: int) -> tuple[Price, bool]:
        """The configuration's price at `at` (UTC microseconds), and whether a date in it says so."""
        begun = [one.price for one in self.dated if one.since <= at]
        return (begun[-1], True) if begun else (self.listed, False)


class PriceChange(NamedTuple):
    """From which price rows of a deployment came to which, by the names of the versions."""

    deployment: str
    before: str
    after: str


class Repriced(msgspec.Struct):
    """How many rows were looked at and corrected, and what the corrected ones cost, in nano-USD.

    `changes`: of each change of price the number of rows, and what they cost before and after it.
    """

    rows: int = 0
    corrected: int = 0
    nano_usd_before: int = 0
    nano_usd_after: int = 0
    changes: dict[PriceChange, tuple[int, int, int]] = {}

    def count(self, current: Named, corrected: Named) -> None:
        """`current` is to become `corrected`."""
        before, after = current["cost_nano_usd"], corrected["cost_nano_usd"]
        self.corrected += 1
        self.nano_usd_before += before
        self.nano_usd_after += after
        change = PriceChange(current["deployment"], current["price_version"], corrected["price_version"])
        rows, nano_before, nano_after = self.changes.get(change, (0, 0, 0))
        self.changes[change] = rows + 1, nano_before + before, nano_after + after


def reprice(
    url: str,
    book: PriceBook,
    sources: Mapping[str, Source],
    since: int,
    until: int,
    *,
    is_trial: bool = False,
) -> Repriced:
    """Correct the rows from `since` to before `until` (UTC microseconds) of the deployments in `sources`.

    Rows for which neither `book` nor a date in the configuration has a price stay as they are. A second time
    changes nothing, and stopped half-way it goes on when called again. `is_trial`: only say what it would do.
    Raises LedgerUnavailable.
    """
    done = Repriced()
    at, attempt_id = since, ""
    with database_of(url).maintenance() as maintenance:
        while True:
            with maintenance.begin(exclusive=not is_trial) as ledger:
                page = [_named(row) for row in ledger.run(_PAGE, at, until, at, attempt_id)]
                new = _reprice_page(ledger, page, book, sources, done)
                if new and not is_trial:
                    ledger.add(new)
            if len(page) < PAGE_ROWS:
                return done
            at, attempt_id = page[-1]["at"], page[-1]["attempt_id"]


def _reprice_page(
    ledger: MaintenanceTransaction,
    page: Sequence[Named],
    book: PriceBook,
    sources: Mapping[str, Source],
    done: Repriced,
) -> list[Row]:
    """The rows that correct those of `page`, which are counted in `done`."""
    bounds = PeriodBounds(*ledger.run(SELECT_BOUNDS)[0])
    latest = _latest(ledger, page)
    new: list[Row] = []
    for row in page:
        number, current = latest.get(row["attempt_id"], (0, row))
        corrected = _at_right_price(row, current, book, sources)
        if corrected is not None:
            done.count(current, corrected)
            new += _correction(row, current, corrected, number + 1, bounds)
    done.rows += len(page)
    return new


def _latest(ledger: MaintenanceTransaction, page: Sequence[Named]) -> dict[str, tuple[int, Named]]:
    """The number and row of the last correction of each row that has one."""
    ids = [row["attempt_id"] for row in page]
    if not ids:
        return {}
    rows = ledger.run(f"{_CORRECTED}({', '.join('?' * len(ids))})", *ids)
    numbered = ((int(row["attempt_id"].rpartition("#")[2]), row) for row in map(_named, rows))
    return {row["corrects"]: (number, row) for number, row in sorted(numbered, key=lambda pair: pair[0])}


def _at_right_price(
    row: Named, current: Named, book: PriceBook, sources: Mapping[str, Source]
) -> Named | None:
    """`current` at the price of when it was dispatched; None when it has that price, or none is known."""
    source = sources.get(row["deployment"])
    if source is None:
        return None
    dispatched = row["at"] if row["occurred_at"] is None else row["occurred_at"]
    listed, is_dated = source.listed_at(dispatched)
    price = book.price_at(source.provider, source.model, listed, dispatched)
    version = price.version_of(row["service_tier"])
    if version == current["price_version"]:
        return None
    # What the configuration says now without a date is no evidence of what held then.
    if version == listed.version and not is_dated:
        return None
    rates, usage = price.rates(row["service_tier"]), usage_of_row(row)
    if price.per_request:  # which the price before may not have asked for
        usage = usage.with_request()
    nano = cost(rates, usage)
    if row["flags"]:  # as it was booked: never more than was set aside
        nano = min(nano, row["held_nano_usd"])
    used = rates_used(rates, usage)
    booked = {
        "cost_nano_usd": nano,
        "price_version": version,
        "usage": units_text(usage),
        "rates": json.dumps(used),
    }
    return (
        current | booked | dict(zip((*COSTS, "unit_nano_usd"), cost_columns(nano, usage, used), strict=True))
    )


def _correction(row: Named, current: Named, corrected: Named, number: int, bounds: PeriodBounds) -> list[Row]:
    attempt_id, at, dispatched = row["attempt_id"], row["at"], row["occurred_at"]
    if bounds.closed is not None and at < bounds.closed:
        at, dispatched = bounds.closed, at if dispatched is None else dispatched
    shared = {"corrects": attempt_id, "at": at, "occurred_at": dispatched, "held_nano_usd": 0}
    elsewhere = json.loads(current["counterfactual_nano_usd"])
    reversal = current | shared | {name: -current[name] for name in _NEGATED}
    reversal |= {
        "usage": negated(current["usage"]),
        "unit_nano_usd": negated(current["unit_nano_usd"]),
        "attempt_id": f"{attempt_id}#{number}r",
        "kind": "reversal",
        "counterfactual_nano_usd": json.dumps({name: -nano for name, nano in elsewhere.items()}),
    }
    correction = corrected | shared | {"attempt_id": f"{attempt_id}#{number}", "kind": "correction"}
    return [_row(reversal), _row(correction)]


def _named(row: Sequence[Any]) -> Named:
    # Databases give booleans as such or as numbers; the writer takes numbers.
    return {
        name: int(value) if isinstance(value, bool) else value
        for name, value in zip(ALL_COLUMNS, row, strict=True)
    }


def _row(row: Named) -> Row:
    return tuple(row[name] for name in ALL_COLUMNS)
