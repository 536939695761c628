"""The monthly partitions of the ledger on PostgreSQL: months of UTC, named by year and month."""

import datetime as dt
from collections.abc import Sequence

import msgspec

from gateway.ledger.rows import Row
from gateway.ledger.tables import COLUMNS

_AT = COLUMNS.index("at")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Month(msgspec.Struct, frozen=True, order=True):
    """One month of UTC."""

    year: int
    month: int

    @property
    def partition(self) -> str:
        return f"usage_record_{self.year:04}_{self.month:02}"

    @property
    def starts(self) -> int:
        """Its first moment in UTC microseconds since 1970."""
        return (dt.datetime(self.year, self.month, 1, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND

    @property
    def following(self) -> "Month":
        return Month(self.year + self.month // 12, self.month % 12 + 1)


def month_of(at: int) -> Month:
    """The month of UTC microseconds since 1970."""
    moment = _EPOCH + at * _MICROSECOND
    return Month(moment.year, moment.month)


def months_of(rows: Sequence[Row]) -> list[Month]:
    """The months of `rows`, each with the one after it: the first row of a month finds its place made."""
    ats = [at for row in rows if isinstance(at := row[_AT], int)]
    if not ats:
        return []
    first, last = month_of(min(ats)), month_of(max(ats))
    months = {first, last} if first.following >= last else {month_of(at) for at in ats}
    return sorted(months | {month.following for month in months})


def month_in(partition: str) -> Month:
    """The month whose rows are in the table `partition`, whatever schema stands before its name."""
    year, month = map(int, partition.rsplit("_", 2)[1:])
    return Month(year, month)


def create_partition(month: Month) -> str:
    """SQL that makes the partition of `month`, unless it exists."""
    return (
        f"CREATE TABLE IF NOT EXISTS {month.partition} PARTITION OF usage_record "
        f"FOR VALUES FROM ({month.starts}) TO ({month.following.starts})"
    )
