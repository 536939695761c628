"""Repricing a period: for each row whose price was another one, a reversal and a row at the right price.

The row itself stays. Both new rows name it in `corrects` and end in its number of corrections so far; they
carry its time, or the first moment of the open period when its own is closed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.metering import BEYOND_HOLD
from gateway.core.pricing import PriceBook, cost
from gateway.core.rates import Price
from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.periods import SELECT_BOUNDS, PeriodBounds
from gateway.ledger.row_usage import negated, usage_of_row
from gateway.ledger.rows import Row
from gateway.ledger.tables import ALL_COLUMNS, MONEY, TOKENS
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
)


class Source(msgspec.Struct, frozen=True):
    """Whose price a deployment's rows have; `listed` is the one that the configuration gives it now."""

    provider: str
    model: str
    listed: Price


class Repriced(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were looked at and corrected, and what the corrected ones cost, in nano-USD."""

    rows: int = 0
    corrected: int = 0
    nano_usd_before: int = 0
    nano_usd_after: int = 0


def reprice(url: str, book: PriceBook, sources: Mapping[str, Source], since: int, until: int) -> Repriced:
    """Correct the rows from `since` to before `until` (UTC microseconds) of the deployments in `sources`.

    Rows for which `book` has no price stay as they are. A second time changes nothing, and stopped half-way
    it goes on when called again. Raises LedgerUnavailable.
    """
    done = Repriced()
    at, attempt_id = since, ""
    with database_of(url).maintenance() as maintenance:
        while True:
            with maintenance.begin() as ledger:
                page = [_named(row) for row in ledger.run(_PAGE, at, until, at, attempt_id)]
                done = _reprice_page(ledger, page, book, sources, done)
            if len(page) < PAGE_ROWS:
                return done
            at, attempt_id = page[-1]["at"], page[-1]["attempt_id"]


def _reprice_page(
    ledger: MaintenanceTransaction,
    page: Sequence[Named],
    book: PriceBook,
    sources: Mapping[str, Source],
    done: Repriced,
) -> Repriced:
    bounds = PeriodBounds(*ledger.run(SELECT_BOUNDS)[0])
    latest = _latest(ledger, page)
    new: list[Row] = []
    before = after = 0
    for row in page:
        number, current = latest.get(row["attempt_id"], (0, row))
        corrected = _at_right_price(row, current, book, sources)
        if corrected is not None:
            before += current["cost_nano_usd"]
            after += corrected["cost_nano_usd"]
            new += _correction(row, current, corrected, number + 1, bounds)
    if new:
        ledger.add(new)
    return Repriced(
        rows=done.rows + len(page),
        corrected=done.corrected + len(new) // 2,
        nano_usd_before=done.nano_usd_before + before,
        nano_usd_after=done.nano_usd_after + after,
    )


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
    price = book.price_at(source.provider, source.model, source.listed, dispatched)
    version = price.version_of(row["service_tier"])
    # What the configuration says now is no evidence of what held then.
    if version in (current["price_version"], source.listed.version):
        return None
    nano = cost(price.rates(row["service_tier"]), usage_of_row(row))
    if row["flags"] and row["flags"] != BEYOND_HOLD:  # as it was booked: never more than was set aside
        nano = min(nano, row["held_nano_usd"])
    return current | {"cost_nano_usd": nano, "price_version": version}


def _correction(row: Named, current: Named, corrected: Named, number: int, bounds: PeriodBounds) -> list[Row]:
    attempt_id, at, dispatched = row["attempt_id"], row["at"], row["occurred_at"]
    if bounds.closed is not None and at < bounds.closed:
        at, dispatched = bounds.closed, at if dispatched is None else dispatched
    shared = {"corrects": attempt_id, "at": at, "occurred_at": dispatched, "held_nano_usd": 0}
    elsewhere = json.loads(current["counterfactual_nano_usd"])
    reversal = current | shared | {name: -current[name] for name in _NEGATED}
    reversal |= {
        "usage": negated(current["usage"]),
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
