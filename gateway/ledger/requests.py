"""One request by the id that its client sees: its attempts, and its refusal, from ledger and journal."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import column, select, table

from gateway.core.money import usd_decimal
from gateway.core.record import ROUTE_FIELDS, SENT_FIELDS
from gateway.core.refused_request import RefusedRequest
from gateway.ledger.database import ReadTransaction
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal.opening import journal_folder
from gateway.ledger.journal.search import Journalled, search
from gateway.ledger.rows import JSON_COLUMNS
from gateway.ledger.tables import ALL_COLUMNS, COLUMNS, period_end, refused_request, usage_record
from gateway.ledger.url import database_of

PAGE_ATTEMPTS = 32

Attempt = dict[str, Any]

_row = usage_record.c
# PostgreSQL finds a row by its time. This table has that of every attempt.
_attempt_times = table("usage_attempt", column("attempt_id"), column("at"))
_BOOLEANS = frozenset({"stream", "estimated"})
_LEFT_OUT = frozenset({"request_id", "kind", "corrects", "occurred_at"})
# What is known of an attempt before it ends.
_BEFORE_THE_END = frozenset({*ROUTE_FIELDS, *SENT_FIELDS, "facts"})
_decode = msgspec.json.Decoder().decode


class FoundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one request. As JSON it is what `requests show` and the admin API answer.

    `state` is `under_way` while an attempt has not ended, `refused` where its client got an error of the
    gateway, else `ended`. `attempts` are in their order, with the ledger's columns by name: moments as UTC,
    money as USD, and None for what an attempt under way does not know yet. `corrections` of an attempt are
    later rows about it, which its `cost_usd` does not contain. `refusal` has the fields of a RefusedRequest.
    """

    request_id: str
    state: str
    cost_usd: float
    attempts: Sequence[Attempt]
    refusal: Mapping[str, Any] | None


def find_request(url: str, journal_dir: Path | None, request_id: str) -> FoundRequest | None:
    """The request, or the one of the attempt, that has this id; None where nothing is known of it.

    `journal_dir` is where the journals of the ledger at `url` are; None: where they are without a setting.
    What stands there, on this machine, is found before it is committed. Raises LedgerUnavailable.
    """
    request_id = request_id.partition(":")[0]
    database = database_of(url)
    folder = journal_folder(database.paths, journal_dir)
    try:
        journalled = search(folder, request_id)  # first: what leaves it meanwhile is committed
    except OSError as exc:
        raise LedgerUnavailable(f"journal {folder.path}: {exc.strerror or exc}") from exc
    with database.reading() as ledger:
        rows = _rows_of(ledger, request_id)
        corrections = _corrections_of(ledger, list(rows))
        refused = _refused_in(ledger, request_id) or journalled.refused
    attempts = _attempts(rows, journalled)
    if not attempts and refused is None:
        return None
    for attempt in attempts:
        attempt["corrections"] = corrections.get(attempt["attempt_id"], [])
    return FoundRequest(
        request_id=request_id,
        state=_state(attempts, refused),
        cost_usd=sum(attempt["cost_usd"] or 0.0 for attempt in attempts),
        attempts=attempts,
        refusal=None if refused is None else _refusal(refused),
    )


def nothing_known(request_id: str, refusals_kept_days: int) -> str:
    """What to tell whoever asked for the id of no known request."""
    return (
        f"Nothing is known of '{request_id[:100]}'. Use the x-request-id of an answer. Refused requests are "
        f"kept for {refusals_kept_days} days, fewer when there were too many; the log may still have them."
    )


def _state(attempts: Sequence[Attempt], refused: RefusedRequest | None) -> str:
    if any(attempt["state"] == "under_way" for attempt in attempts):
        return "under_way"
    return "ended" if refused is None else "refused"


# --- from the database ---


def _rows_of(ledger: ReadTransaction, request_id: str) -> dict[str, Mapping[str, Any]]:
    """By attempt, in their order. Attempts are numbered from 1 on."""
    found: dict[str, Mapping[str, Any]] = {}
    first = 1
    while True:
        ids = [f"{request_id}:{number}" for number in range(first, first + PAGE_ATTEMPTS)]
        query = select(usage_record).where(_row.attempt_id.in_(ids))
        if ledger.dialect == "postgresql":
            query = query.where(_row.at.in_(_times_of(ledger, ids)))
        page = {row[0]: dict(zip(ALL_COLUMNS, row, strict=True)) for row in ledger.fetch(query)}
        if not page:
            return found
        found |= {one: page[one] for one in ids if one in page}
        first += PAGE_ATTEMPTS


def _times_of(ledger: ReadTransaction, ids: Sequence[str]) -> list[int]:
    """When these were dispatched; and, since a late row is dated there, where periods were closed."""
    times = select(_attempt_times.c.at).where(_attempt_times.c.attempt_id.in_(ids))
    closed = select(period_end.c.before).where(period_end.c.act == "closed")
    return [at for query in (times, closed) for (at,) in ledger.fetch(query)]


def _corrections_of(ledger: ReadTransaction, ids: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    columns = (_row.corrects, _row.kind, _row.at, _row.cost_nano_usd, _row.price_version)
    for corrects, kind, at, nano, price in ledger.fetch(
        select(*columns).where(_row.corrects.in_(ids)).order_by(_row.at, _row.attempt_id)
    ):
        correction = {"kind": kind, "at": _moment(at), "cost_usd": _usd(nano), "price_version": price}
        found.setdefault(corrects, []).append(correction)
    return found


def _refused_in(ledger: ReadTransaction, request_id: str) -> RefusedRequest | None:
    names = RefusedRequest.__struct_fields__
    columns = (refused_request.c[name] for name in names)
    for row in ledger.fetch(select(*columns).where(refused_request.c.request_id == request_id)):
        return msgspec.convert(dict(zip(names, row, strict=True)), RefusedRequest)
    return None


# --- as a document ---


def _attempts(rows: Mapping[str, Mapping[str, Any]], journalled: Journalled) -> list[Attempt]:
    """Of all places, each once: the ledger knows best."""
    found = {attempt_id: _attempt(row, "ended") for attempt_id, row in rows.items()}
    for state, parts in (("ended", journalled.ended), ("under_way", journalled.under_way)):
        for attempt_id, row in parts.items():
            if attempt_id not in found:
                found[attempt_id] = _attempt(dict(zip(COLUMNS, row, strict=True)), state)
    return sorted(found.values(), key=lambda one: int(one["attempt_id"].rpartition(":")[2]))


def _attempt(row: Mapping[str, Any], state: str) -> Attempt:
    is_known = _everything if state == "ended" else _BEFORE_THE_END.__contains__
    attempt: Attempt = {"attempt_id": row["attempt_id"], "state": state}
    for name, value in row.items():
        if name not in _LEFT_OUT:
            shown, told = _shown(name, value)
            attempt[shown] = told if is_known(name) else None
    attempt["at"] = _moment(row.get("occurred_at") or row["at"])
    return attempt


def _everything(_name: str) -> bool:
    return True


def _shown(name: str, value: Any) -> tuple[str, Any]:
    """A column and its value as people and programs read them."""
    if name in JSON_COLUMNS:
        value = _decode(value)
    elif name in _BOOLEANS:
        value = bool(value)
    if name == "rates":
        return "rates_usd_per_million", {unit: _usd(rate) for unit, rate in value.items()}
    if name.endswith("_nano_usd"):
        name = name.removesuffix("_nano_usd") + "_usd"
        value = {key: _usd(nano) for key, nano in value.items()} if isinstance(value, dict) else _usd(value)
    return name, value


def _refusal(refused: RefusedRequest) -> Mapping[str, Any]:
    return msgspec.structs.asdict(refused) | {"at": _moment(refused.at)}


def _moment(at: int) -> str:
    moment = datetime.datetime.fromtimestamp(at / 1_000_000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _usd(nano: int) -> float:
    return float(usd_decimal(nano))
