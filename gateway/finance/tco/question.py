"""A question and its answer, the same for the command and the admin API."""

import datetime as dt
import re

import msgspec

from gateway.core.pool_cost import SECOND
from gateway.finance.tco.compare import TcoRows, compare
from gateway.finance.tco.measured import measure
from gateway.finance.tco.report import Comparison, WhatIf
from gateway.finance.tco.sources import TcoSources
from gateway.finance.tco.what_if import parse, supposed
from gateway.ledger.spans import Span

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class WrongTime(Exception):
    """A moment that cannot be read. The message says how to write one."""


class TcoPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """`since` and `until` are `30d` ago, a day or a time in the org's zone; None: open, and now."""

    since: str | None = None
    until: str | None = None
    by: TcoRows = TcoRows.FEATURE
    what_if: str = ""


def answer(sources: TcoSources, question: TcoPeriod, now: dt.datetime) -> Comparison:
    """Raises WrongTime, WrongWhatIf, LedgerUnavailable."""
    here = now.astimezone(sources.time_zone)
    until = here if question.until is None else moment(question.until, here)
    since = None if question.since is None else _microseconds(moment(question.since, here))
    span = Span(since, _microseconds(until))
    if since is not None and span.until is not None and since >= span.until:
        raise WrongTime("the period ends before it begins: since must be earlier than until")
    measured = measure(sources, span, int(now.timestamp() * SECOND))
    actual = compare(measured, question.by)
    if not question.what_if:
        return Comparison(actual=actual)
    assumptions = parse(question.what_if, measured)
    other = compare(supposed(measured, assumptions), question.by)
    return Comparison(
        actual=actual,
        what_if=WhatIf(
            given=dict(assumptions.given),
            difference_usd=round(other.totals.fully_loaded_usd - actual.totals.fully_loaded_usd, 9),
            report=other,
        ),
    )


def moment(text: str, now: dt.datetime) -> dt.datetime:
    """`7d` before `now`, or a day or time of its zone. Raises WrongTime."""
    if (ago := re.fullmatch(r"(\d{1,5})([mhdw])", text)) is not None:
        return now - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise WrongTime(f"{text}: write 7d, 12h, 2026-11-01 or 2026-11-01T08:30") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


def _microseconds(at: dt.datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
