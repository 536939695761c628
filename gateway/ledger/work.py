"""What was done for whom, by the finest group that a pool's cost is shared among."""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, func, select

from gateway.ledger.reading import Query, Reading
from gateway.ledger.spans import Part, Span, parts
from gateway.ledger.tables import (
    MONEY,
    SUMS,
    TOKENS,
    usage_day,
    usage_group,
    usage_quarter,
    usage_record,
)


class Payer(NamedTuple):
    """Whom work was done for, and where."""

    deployment: str
    team: str
    feature: str
    model: str


class Done(NamedTuple):
    """Sums of usage, in the order of tables.SUMS. Cached tokens are part of input, reasoning of output."""

    attempts: int = 0
    requests: int = 0
    estimated_attempts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    unseen_nano_usd: int = 0

    def plus(self, other: "Done") -> "Done":
        return Done(*(one + another for one, another in zip(self, other, strict=True)))


NOTHING = Done()

_ROLLUPS = {"quarter": usage_quarter, "day": usage_day}


def work_done(ledger: Reading, span: Span) -> dict[Payer, Done]:
    """All usage of `span`, in the order of the payers' names."""
    found: dict[Payer, Done] = {}
    for part in parts(span):
        for row in ledger.fetch(_query(part)):
            payer = Payer(*row[: len(Payer._fields)])
            done = Done(*map(int, row[len(Payer._fields) :]))
            found[payer] = found.get(payer, NOTHING).plus(done)
    return dict(sorted(found.items()))


def _query(part: Part) -> Query:
    if part.source == "rows":
        row = usage_record.c
        names: list[ColumnElement[Any]] = [row[name] for name in Payer._fields]
        query = select(*names, *_sums_of_rows())
        return _within(query, row.at, part.span).group_by(*names)
    rollup = _ROLLUPS[part.source]
    names = [usage_group.c[name] for name in Payer._fields]
    query = select(*names, *(func.sum(rollup.c[name]) for name in SUMS)).select_from(
        rollup.join(usage_group, usage_group.c.id == rollup.c.group_id)
    )
    return _within(query, rollup.c.starts, part.span).group_by(*names)


def _sums_of_rows() -> list[ColumnElement[Any]]:
    row = usage_record.c
    is_attempt = row.corrects.is_(None)
    counted = (is_attempt, is_attempt & row.attempt_id.endswith(":1"), is_attempt & row.estimated)
    sums: list[ColumnElement[Any]] = [func.sum(case((one, 1), else_=0)) for one in counted]
    return [*sums, *(func.sum(row[name]) for name in (*TOKENS, *MONEY))]


def _within(query: Query, at: ColumnElement[int], span: Span) -> Query:
    if span.since is not None:
        query = query.where(at >= span.since)
    if span.until is not None:
        query = query.where(at < span.until)
    return query
