"""The bill of own GPUs in the ledger's database: spans without gaps, by whichever gateway comes first."""

from collections.abc import Iterable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import func, select

from gateway.core.pool_cost import PoolPlan, PoolSpan, spans
from gateway.ledger.reading import Query, Reading
from gateway.ledger.spans import Span
from gateway.ledger.tables import pool_cost
from gateway.ledger.upkeep import Maintenance, upkeep

# "pool" in ASCII: PostgreSQL knows its advisory locks by number.
ACCRUAL_LOCK = 0x706F6F6C
# A shorter silence is another gateway's turn, or a restart; what was up before it was up during it.
KNOWN_GAP = 5 * 60 * 1_000_000

_FIELDS = PoolSpan.__struct_fields__
_DERIVED = ("gpu_microseconds", "gpu_nano_usd", "overhead_nano_usd", "capacity_tokens")
_COLUMNS = (*_FIELDS, *_DERIVED, "accrued_at")
_INSERT = (
    f"INSERT INTO pool_cost ({', '.join(_COLUMNS)}) "  # noqa: S608  # names from this file
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_LAST_END = "SELECT max(ends) FROM pool_cost WHERE deployment = ?"


class Accruing(msgspec.Struct, frozen=True):
    """A plan and since when this gateway has it. `is_new`: nothing before that belongs to it."""

    plan: PoolPlan
    since: int
    is_new: bool = False


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


def accrue(url: str, pools: Iterable[Accruing], now: int, zone: ZoneInfo) -> list[PoolSpan]:
    """Book what `pools` have cost since it was last done, until `now` (UTC microseconds).

    Returns what this call booked. One after the other: a second gateway goes on where the first has ended.
    Raises LedgerUnavailable, and then nothing was booked.
    """
    with upkeep(url, is_quick=True) as begin, begin(alone=False) as ledger:
        if ledger.dialect == "postgresql":
            ledger.run("SELECT pg_advisory_xact_lock(?)", ACCRUAL_LOCK)
        return [span for pool in pools for span in _accrue(ledger, pool, now, zone)]


def _accrue(ledger: Maintenance, pool: Accruing, now: int, zone: ZoneInfo) -> list[PoolSpan]:
    ((last,),) = ledger.run(_LAST_END, pool.plan.deployment)
    since = pool.since if last is None else max(last, pool.since) if pool.is_new else last
    present_from = pool.since if pool.since - since > KNOWN_GAP else since
    booked = list(spans(pool.plan, since, now, zone, present_from=present_from))
    for span in booked:
        values = [getattr(span, name) for name in (*_FIELDS, *_DERIVED)]
        ledger.run(_INSERT, *values, now)
    return booked


def pool_sums(ledger: Reading, span: Span) -> dict[str, PoolSums]:
    """What each pool cost in `span`, exactly: rows that its ends cut count for the part inside."""
    found = [_sums(row) for row in ledger.fetch(_whole(span))]
    inside = (cut.within(span.since, span.until) for cut in _cut(ledger, span))
    found.extend(_sums_of(one) for one in inside if one is not None)
    added: dict[str, PoolSums] = {}
    for one in found:
        before = added.get(one.deployment)
        added[one.deployment] = one if before is None else _added(before, one)
    return dict(sorted(added.items()))


def pool_spans(ledger: Reading, span: Span) -> list[PoolSpan]:
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


def _cut(ledger: Reading, span: Span) -> list[PoolSpan]:
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
