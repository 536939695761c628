"""Closing a period, deleting its rows while keeping its totals, and making the rollups anew from the rows."""

import msgspec

from gateway.ledger.database import MaintenanceTransaction
from gateway.ledger.periods import SELECT_BOUNDS, PeriodBounds
from gateway.ledger.rollups import rebuild_rollups
from gateway.ledger.tables import QUARTER
from gateway.ledger.url import database_of


class PeriodRefused(Exception):
    """The ledger cannot do this with that period. The message says why and what to do."""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuilding found. Money in nano-USD; equal sums say that the rollups had been right."""

    rows: int
    nano_usd_before: int
    nano_usd_after: int


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger stands. Moments in UTC microseconds, None: nothing is closed, or deleted."""

    closed_before: int | None
    pruned_before: int | None
    rows: int
    corrections: int
    nano_usd: int


def status(url: str) -> LedgerStatus:
    """What is closed and deleted, and what the ledger holds, deleted rows' totals included.

    Raises LedgerUnavailable.
    """
    with database_of(url).maintenance() as maintenance, maintenance.begin(exclusive=False) as ledger:
        bounds = _bounds(ledger)
        counts = "SELECT count(*), count(corrects) FROM usage_record"
        ((rows, corrections),) = ledger.run(counts)
        return LedgerStatus(
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
    with database_of(url).maintenance() as maintenance, maintenance.begin() as ledger:
        _mark(ledger, "closed", before, now)


def prune(url: str, before: int, *, now: int) -> int:
    """Delete the rows before `before`, and keep their totals. Returns how many rows were deleted.

    Both in UTC microseconds. Stopped half-way it goes on from there when called again. Raises PeriodRefused
    for what is not closed or begins within a quarter of an hour, LedgerUnavailable.
    """
    if before % QUARTER:
        raise PeriodRefused("ledger: a period ends with a quarter of an hour")
    with database_of(url).maintenance() as maintenance:
        with maintenance.begin() as ledger:
            closed = _bounds(ledger).closed
            if closed is None or before > closed:
                raise PeriodRefused("ledger: only closed periods can be deleted; close it first")
            # From here on no writer adds to it, so the totals are what they will always be.
            _mark(ledger, "pruned", before, now)
            dropped = ledger.drop_partitions(before)
        return dropped + maintenance.delete_rows(before)


def rebuild(url: str) -> Rebuilt:
    """Make all rollups anew, but for deleted periods. Raises LedgerUnavailable.

    One transaction: reports see the old numbers or the new ones, and writers wait for its end.
    """
    with database_of(url).maintenance() as maintenance, maintenance.begin() as ledger:
        before = _total(ledger)
        for statement in rebuild_rollups(ledger.dialect, _bounds(ledger).pruned):
            ledger.run(statement)
        ((rows,),) = ledger.run("SELECT count(*) FROM usage_record")
        return Rebuilt(rows=rows, nano_usd_before=before, nano_usd_after=_total(ledger))


def _total(ledger: MaintenanceTransaction) -> int:
    ((nano,),) = ledger.run("SELECT coalesce(sum(cost_nano_usd), 0) FROM usage_quarter")
    return int(nano)


def _bounds(ledger: MaintenanceTransaction) -> PeriodBounds:
    return PeriodBounds(*ledger.run(SELECT_BOUNDS)[0])


def _mark(ledger: MaintenanceTransaction, act: str, before: int, now: int) -> None:
    insert = "INSERT INTO period_end (act, before, done_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    ledger.run(insert, act, before, now)
