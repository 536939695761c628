"""Closing a period, deleting its rows while keeping its totals, and making the rollups anew from the rows."""

import msgspec

from gateway.ledger.months import Month
from gateway.ledger.periods import BOUNDS, Bounds
from gateway.ledger.rollups import rebuild_rollups
from gateway.ledger.tables import QUARTER
from gateway.ledger.upkeep import Begin, Maintenance, upkeep

DELETE_ROWS = 20_000  # in one transaction, so that a writer on the same database waits for moments only


class PeriodRefused(Exception):
    """The ledger cannot do this with that period. The message says why and what to do."""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuilding found. Money in nano-USD; equal sums say that the rollups had been right."""

    rows: int
    nano_usd_before: int
    nano_usd_after: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger stands. Moments in UTC microseconds, None: nothing is closed, or deleted."""

    closed_before: int | None
    pruned_before: int | None
    rows: int
    corrections: int
    nano_usd: int


def status(url: str) -> Status:
    """What is closed and deleted, and what the ledger holds, deleted rows' totals included.

    Raises LedgerUnavailable.
    """
    with upkeep(url) as begin, begin(alone=False) as ledger:
        bounds = _bounds(ledger)
        counts = "SELECT count(*), count(corrects) FROM usage_record"
        ((rows, corrections),) = ledger.run(counts)
        return Status(
            closed_before=bounds.closed,
            pruned_before=bounds.pruned,
            rows=rows,
            corrections=corrections,
            nano_usd=_total(ledger),
        )


def close(url: str, before: int, *, now: int) -> None:
    """Close everything before `before`: what comes later for it becomes a correction in the open period.

    Both in UTC microseconds. Again is no error. Raises PeriodRefused for a time to come, LedgerUnavailable.
    """
    if before > now:
        raise PeriodRefused("ledger: that period has not ended yet")
    with upkeep(url) as begin, begin() as ledger:
        _mark(ledger, "closed", before, now)


def prune(url: str, before: int, *, now: int) -> int:
    """Delete the rows before `before`, and keep their totals. Returns how many rows were deleted.

    Both in UTC microseconds. Stopped half-way it goes on from there when called again. Raises PeriodRefused
    for what is not closed or begins within a quarter of an hour, LedgerUnavailable.
    """
    if before % QUARTER:
        raise PeriodRefused("ledger: a period ends with a quarter of an hour")
    with upkeep(url) as begin:
        with begin() as ledger:
            closed = _bounds(ledger).closed
            if closed is None or before > closed:
                raise PeriodRefused("ledger: only closed periods can be deleted; close it first")
            # From here on no writer adds to it, so the totals are what they will always be.
            _mark(ledger, "pruned", before, now)
            deleted = _drop_partitions(ledger, before) if ledger.dialect == "postgresql" else 0
        if ledger.dialect == "postgresql":
            return deleted + _delete_rest(begin, before)
        while found := _delete_some(begin, before):
            deleted += found
        return deleted


def rebuild(url: str) -> Rebuilt:
    """Make all rollups anew, but for deleted periods. Raises LedgerUnavailable.

    One transaction: reports see the old numbers or the new ones, and writers wait for its end.
    """
    with upkeep(url) as begin, begin() as ledger:
        before = _total(ledger)
        for statement in rebuild_rollups(ledger.dialect, _bounds(ledger).pruned):
            ledger.run(statement)
        ((rows,),) = ledger.run("SELECT count(*) FROM usage_record")
        return Rebuilt(rows=rows, nano_usd_before=before, nano_usd_after=_total(ledger))


def _total(ledger: Maintenance) -> int:
    ((nano,),) = ledger.run("SELECT coalesce(sum(cost_nano_usd), 0) FROM usage_quarter")
    return int(nano)


def _bounds(ledger: Maintenance) -> Bounds:
    return Bounds(*ledger.run(BOUNDS)[0])


def _mark(ledger: Maintenance, act: str, before: int, now: int) -> None:
    insert = "INSERT INTO period_end (act, before, done_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    ledger.run(insert, act, before, now)


def _drop_partitions(ledger: Maintenance, before: int) -> int:
    """Drop the months that end by `before`. Returns how many rows they held."""
    found = ledger.run(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'usage_record'::regclass"
    )
    rows = 0
    for (name,) in found:
        year, month = map(int, str(name).rsplit("_", 2)[1:])
        if Month(year, month).following.starts <= before:
            ((held,),) = ledger.run(f"SELECT count(*) FROM {name}")  # noqa: S608  # a name from the catalogue
            ledger.run(f"DROP TABLE {name}")
            rows += held
    return rows


def _delete_rest(begin: Begin, before: int) -> int:
    # Not alone: writers never touch these rows any more. Attempts of dropped months are deleted here too.
    with begin(alone=False) as ledger:
        ledger.run("DELETE FROM usage_attempt WHERE at < ?", before)
        return len(ledger.run("DELETE FROM usage_record WHERE at < ? RETURNING 1", before))


def _delete_some(begin: Begin, before: int) -> int:
    some = f"SELECT rowid FROM usage_record WHERE at < ? ORDER BY at LIMIT {DELETE_ROWS}"  # noqa: S608
    with begin() as ledger:
        return len(ledger.run(f"DELETE FROM usage_record WHERE rowid IN ({some}) RETURNING 1", before))  # noqa: S608
