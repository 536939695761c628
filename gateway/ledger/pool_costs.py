"""What own GPUs cost, in the ledger's database: spans of time without gaps, one row each."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import func, select

from gateway.core.pool_cost import PoolSpan
from gateway.ledger.database import MaintenanceTransaction, Query, ReadTransaction
from gateway.ledger.spans import Span
from gateway.ledger.tables import pool_cost

# For one booking after the other. "pool" in ASCII: PostgreSQL knows its advisory locks by number.
ACCRUAL_LOCK = 0x706F6F6C

_FIELDS = PoolSpan.__struct_fields__
_DERIVED = ("gpu_microseconds", "gpu_nano_usd", "overhead_nano_usd", "capacity_tokens")
_COLUMNS = (*_FIELDS, *_DERIVED, "accrued_at")
_INSERT = (
    f"INSERT INTO pool_cost ({', '.join(_COLUMNS)}) "  # noqa: S608  # names from this file
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_LAST_END = "SELECT max(ends) FROM pool_cost WHERE deployment = ?"


class PoolSums(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool cost in a span. `ends` is how far it is known; `capacity_tokens` None: in part unknown.

    `microseconds` is how long it was provisioned for, `replica_microseconds` the same times its replicas.
    """

    deployment: str
    starts: int
    ends: int
    microseconds: int
    replica_microseconds: int
    gpu_microseconds: int
    gpu_nano_usd: int
    overhead_nano_usd: int
    estimated_nano_usd: int
    capacity_tokens: int | None

    @property
    def nano_usd(self) -> int:
        return self.gpu_nano_usd + self.overhead_nano_usd


def last_end(ledger: MaintenanceTransaction, deployment: str) -> int | None:
    """Until when the pool of `deployment` is booked, in UTC microseconds; None: never."""
    ((last,),) = ledger.run(_LAST_END, deployment)
    return None if last is None else int(last)


def add_pool_span(ledger: MaintenanceTransaction, span: PoolSpan, accrued_at: int) -> None:
    """Keep `span`, which no row overlaps. `accrued_at` in UTC microseconds."""
    values = [getattr(span, name) for name in (*_FIELDS, *_DERIVED)]
    ledger.run(_INSERT, *values, accrued_at)


def pool_sums(ledger: ReadTransaction, span: Span) -> dict[str, PoolSums]:
    """What each pool cost in `span`, exactly: rows that its ends cut count for the part inside."""
    found = [_sums(row) for row in ledger.fetch(_whole(span))]
    inside = (cut.within(span.since, span.until) for cut in _cut(ledger, span))
    found.extend(_sums_of(one) for one in inside if one is not None)
    added: dict[str, PoolSums] = {}
    for one in found:
        before = added.get(one.deployment)
        added[one.deployment] = one if before is None else _added(before, one)
    return dict(sorted(added.items()))


def pool_spans(ledger: ReadTransaction, span: Span) -> list[PoolSpan]:
    """Every row of `span`, cut at its ends, by deployment and time."""
    row = pool_cost.c
    query = select(*(row[name] for name in _FIELDS)).order_by(row.deployment, row.starts)
    if span.since is not None:
        query = query.where(row.ends > span.since)
    if span.until is not None:
        query = query.where(row.starts < span.until)
    cut = (_span(one).within(span.since, span.until) for one in ledger.fetch(query))
    return [one for one in cut if one is not None]


def _whole(span: Span) -> Query:
    row = pool_cost.c
    length = row.ends - row.starts
    query = select(
        row.deployment,
        func.min(row.starts),
        func.max(row.ends),
        func.sum(length),
        func.sum(row.replicas * length),
        func.sum(row.gpu_microseconds),
        func.sum(row.gpu_nano_usd),
        func.sum(row.overhead_nano_usd),
        func.sum(row.gpu_nano_usd + row.overhead_nano_usd).filter(row.estimated),
        func.sum(row.capacity_tokens),
        func.count() - func.count(row.capacity_tokens),
    ).group_by(row.deployment)
    if span.since is not None:
        query = query.where(row.starts >= span.since)
    if span.until is not None:
        query = query.where(row.ends <= span.until)
    return query


def _cut(ledger: ReadTransaction, span: Span) -> list[PoolSpan]:
    row = pool_cost.c
    ends = [(row.starts < end) & (row.ends > end) for end in (span.since, span.until) if end is not None]
    if not ends:
        return []
    at_an_end = ends[0] if len(ends) == 1 else ends[0] | ends[1]
    return [_span(one) for one in ledger.fetch(select(*(row[name] for name in _FIELDS)).where(at_an_end))]


def _span(row: tuple[Any, ...]) -> PoolSpan:
    values: Mapping[str, Any] = dict(zip(_FIELDS, row, strict=True))
    return PoolSpan(**{**values, "estimated": bool(values["estimated"])})


def _sums(row: tuple[Any, ...]) -> PoolSums:
    deployment, *numbers, capacity, unknown = row
    starts, ends, time, replica_time, gpu_time, gpu, overhead, estimated = (int(one or 0) for one in numbers)
    return PoolSums(
        deployment=deployment,
        starts=starts,
        ends=ends,
        microseconds=time,
        replica_microseconds=replica_time,
        gpu_microseconds=gpu_time,
        gpu_nano_usd=gpu,
        overhead_nano_usd=overhead,
        estimated_nano_usd=estimated,
        capacity_tokens=None if unknown else int(capacity),
    )


def _sums_of(span: PoolSpan) -> PoolSums:
    length = span.ends - span.starts
    return PoolSums(
        deployment=span.deployment,
        starts=span.starts,
        ends=span.ends,
        microseconds=length,
        replica_microseconds=span.replicas * length,
        gpu_microseconds=span.gpu_microseconds,
        gpu_nano_usd=span.gpu_nano_usd,
        overhead_nano_usd=span.overhead_nano_usd,
        estimated_nano_usd=span.nano_usd if span.estimated else 0,
        capacity_tokens=span.capacity_tokens,
    )


def _added(one: PoolSums, other: PoolSums) -> PoolSums:
    unknown = one.capacity_tokens is None or other.capacity_tokens is None
    return PoolSums(
        deployment=one.deployment,
        starts=min(one.starts, other.starts),
        ends=max(one.ends, other.ends),
        microseconds=one.microseconds + other.microseconds,
        replica_microseconds=one.replica_microseconds + other.replica_microseconds,
        gpu_microseconds=one.gpu_microseconds + other.gpu_microseconds,
        gpu_nano_usd=one.gpu_nano_usd + other.gpu_nano_usd,
        overhead_nano_usd=one.overhead_nano_usd + other.overhead_nano_usd,
        estimated_nano_usd=one.estimated_nano_usd + other.estimated_nano_usd,
        capacity_tokens=None if unknown else (one.capacity_tokens or 0) + (other.capacity_tokens or 0),
    )
