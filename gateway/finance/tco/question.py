"""A question and its answer, the same for the command and the admin API."""

import datetime as dt

import msgspec

from gateway.core import calendar
from gateway.core.pool_cost import SECOND
from gateway.finance.tco.compare import TcoRows, compare
from gateway.finance.tco.measured import measure
from gateway.finance.tco.report import Comparison, WhatIf
from gateway.finance.tco.sources import TcoSources
from gateway.finance.tco.what_if import parse, supposed
from gateway.ledger.spans import Span


class WrongTime(Exception):
    """A moment that cannot be read. The message says how to write one."""


class TcoPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """As `calendar.asked` reads it, in the org's zone. Without an end it is now."""

    period: str | None = None
    since: str | None = None
    until: str | None = None
    by: TcoRows = TcoRows.FEATURE
    what_if: str = ""


def answer(sources: TcoSources, question: TcoPeriod, now: dt.datetime) -> Comparison:
    """Raises WrongTime, WrongWhatIf, LedgerUnavailable."""
    here = now.astimezone(sources.time_zone)
    try:
        found = calendar.asked(question.period, question.since, question.until, here)
    except ValueError as exc:
        raise WrongTime(str(exc)) from exc
    until = found.until or here
    if question.period is not None:
        until = min(until, here)  # a month that is not over is asked about as far as it goes
    span = Span(*calendar.AskedPeriod(found.since, until).microseconds)
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
