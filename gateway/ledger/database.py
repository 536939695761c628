"""The seam behind which a ledger's database stands: SQLite and PostgreSQL, one contract suite over both.

`url.database_of` chooses; what both share (rows, rollups, reports, closed periods) is beside this file.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Select

from gateway.core.refused_request import RefusedRequest
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.journal.frames import Note
from gateway.ledger.paths import LedgerPaths
from gateway.ledger.rollups import Dialect
from gateway.ledger.rows import Row

Query = Select[*tuple[Any, ...]]


class RefusedRow(NamedTuple):
    """A row that the database will never take, and why."""

    row: Row
    reason: str


class Advance(NamedTuple):
    """The journal of `worker` was in the ledger up to the number `before`, and is now up to `after`."""

    worker: str
    before: int
    after: int


class Batch(NamedTuple):
    """What one transaction takes, and how far that brings the journals that it comes from.

    `notes` are entries of the audit log, `refused` records of refused requests.
    """

    rows: Sequence[Row]
    notes: Sequence[Note] = ()
    advances: Sequence[Advance] = ()
    refused: Sequence[RefusedRequest] = ()


class RowsRefused(Exception):
    """The database will never take these rows of a batch: nothing of it was committed."""

    def __init__(self, refused: Sequence[RefusedRow]) -> None:
        super().__init__(f"{len(refused)} rows are refused")
        self.refused = refused

    def others(self, rows: Sequence[Row]) -> list[Row]:
        """Those of `rows` that were not refused."""
        refused = {id(row) for row, _ in self.refused}
        return [row for row in rows if id(row) not in refused]


class JournalMoved(Exception):
    """A journal is not where its `Advance` expects it: nothing of the batch was committed."""


class RowStore(Protocol):
    """Where the writer puts rows. Each method raises LedgerUnavailable when it cannot now."""

    @property
    def slice_rows(self) -> int:
        """The number of rows that `write` takes most cheaply, and the most that it takes."""
        ...

    async def open(self) -> None:
        """Connect, and create or migrate the tables."""
        ...

    async def write(self, batch: Batch) -> None:
        """Commit all or nothing of `batch`. An attempt that is there already is left as it is.

        Raises RowsRefused, with all of its rows that can never be kept, and JournalMoved.
        """
        ...

    async def committed(self, worker: str) -> int:
        """The number up to which the journal of `worker` is in the ledger; 0 when nothing of it is."""
        ...

    async def forget(self, worker: str) -> None:
        """The journal of `worker` is gone, and its number is of no more use."""
        ...

    async def check(self) -> None:
        """See that what is written would still be found. Done before each commit in any case."""
        ...

    async def close(self) -> None: ...


class ReadTransaction(Protocol):
    """All its queries see the same rows, whatever is written meanwhile."""

    @property
    def dialect(self) -> Dialect: ...

    def fetch(self, query: Query) -> list[tuple[Any, ...]]:
        """All rows that answer `query`."""
        ...

    def batches(self, query: Query, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The same, `rows` at a time, for more of them than should be in memory. Booleans may be 0 and 1."""
        ...


class MaintenanceTransaction(Protocol):
    """One open transaction that changes the ledger."""

    @property
    def dialect(self) -> Dialect: ...

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that answer `statement`, whose parameters are question marks."""
        ...

    def add(self, rows: Sequence[Row]) -> None:
        """Insert `rows` (in the order of ALL_COLUMNS), unless they are there, and keep the rollups."""
        ...

    def lock(self, number: int) -> None:
        """Wait until no other transaction holds the lock `number`, and hold it until this one ends."""
        ...

    def drop_partitions(self, before: int) -> int:
        """Drop those that end by `before` (UTC microseconds). Returns how many rows they held."""
        ...


class Maintenance(Protocol):
    """Transactions that close, delete, rebuild or reprice. Gateways may go on running beside them."""

    def begin(self, *, exclusive: bool = True) -> AbstractContextManager[MaintenanceTransaction]:
        """Leaving it commits, and an exception undoes it.

        `exclusive`: no writer has an open transaction meanwhile. SQLite knows no other kind.
        """
        ...

    def delete_rows(self, before: int) -> int:
        """Delete the rows before `before` (UTC microseconds), and return how many those were.

        SQLite's writers wait for each transaction, so there it takes many short ones.
        """
        ...


class Database(Protocol):
    """A place where a ledger is, or will be. `str` names it in messages, without passwords.

    All but `row_store` block, and must not run on an event loop's thread.
    """

    @property
    def paths(self) -> LedgerPaths:
        """Where the files that belong to this ledger stand."""
        ...

    def row_store(self, trail: AuditTrail | None = None, *, sync_each_commit: bool = False) -> RowStore:
        """Not yet open. With a `trail` each of its transactions also holds the receipts of its rows.

        `sync_each_commit`: a power cut takes no commit that has returned. PostgreSQL always does so.
        """
        ...

    def reading(self) -> AbstractContextManager[ReadTransaction]:
        """Raises LedgerUnavailable, on entering and for each query."""
        ...

    def maintenance(self, *, is_quick: bool = False) -> AbstractContextManager[Maintenance]:
        """Raises LedgerUnavailable, on entering and within.

        `is_quick`: its transactions take moments, so a server that does not answer is given up early.
        """
        ...

    def create_if_absent(self) -> None:
        """Create the tables where there are none. An older ledger stays: its gateways may be running.

        Raises LedgerUnavailable.
        """
        ...

    def create_or_migrate(self) -> tuple[str | None, str]:
        """Bring it to this version. The revisions before (None: there was no ledger) and after.

        Idempotent, and safe beside gateways that start at the same time. Raises LedgerUnavailable.
        """
        ...
