"""What every `Database` promises: one specification for SQLite and PostgreSQL, a method after the other.

What the writer makes of a `RowStore` is in test_ledger_writer, what reports read in test_ledger_reports.
"""

import itertools
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from gateway.ledger.database import Batch, MaintenanceTransaction, RefusedRow, RowsRefused, RowStore
from gateway.ledger.database import Database as LedgerDatabase
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.postgres.partitions import Month
from gateway.ledger.reports import usage_by
from gateway.ledger.retention import close, prune
from gateway.ledger.revisions import HEAD, LEAST_TABLE, REVISIONS, VERSION_TABLE
from gateway.ledger.rows import Row, row_of
from gateway.ledger.tables import ALL_COLUMNS, COLUMNS, COSTS, usage_record
from gateway.ledger.url import database_of
from tests.ledger.ledger_records import FULL, make, run

Database = Any

JANUARY, FEBRUARY, MARCH = (Month(2026, month).starts for month in (1, 2, 3))
ENTER = "INSERT INTO policy_in_force (at, version, how) VALUES (?, ?, ?)"
IN_FORCE = "SELECT at FROM policy_in_force ORDER BY at"
ATTEMPT_IDS = select(usage_record.c.attempt_id).order_by(usage_record.c.attempt_id)


@pytest.fixture
def ledger(database: Database) -> LedgerDatabase:
    """A ledger with its tables, in which a lock is waited for as long as in service."""
    found = database_of(database.waiting_url)
    found.create_if_absent()
    return found


async def write_all(store: RowStore, rows: list[Row]) -> Sequence[RefusedRow]:
    """Commit those that can be kept, as a writer does. Those that never can be."""
    try:
        await store.write(Batch(rows))
        return []
    except RowsRefused as exc:
        await store.write(Batch(exc.others(rows)))
        return exc.refused


def write(ledger: LedgerDatabase, *records: Any) -> list[str]:
    """Reasons of those that were refused."""

    async def scenario() -> list[str]:
        store = ledger.row_store()
        await store.open()
        refused = await write_all(store, [row_of(record) for record in records])
        await store.close()
        return [row.reason for row in refused]

    return run(scenario())


def attempts(ledger: LedgerDatabase) -> list[str]:
    with ledger.reading() as transaction:
        return [name for (name,) in transaction.fetch(ATTEMPT_IDS)]


def whole_row(number: int, **changes: Any) -> Row:
    """As `add` takes it: with the columns that only corrections fill."""
    values = dict(zip(COLUMNS, row_of(make(number, **changes)), strict=True))
    values |= {"kind": "usage", "corrects": None, "occurred_at": None}
    return tuple(values[name] for name in ALL_COLUMNS)


def make_older(database: Database) -> None:
    """Undo the newest revision. The version before had the positions of journals too."""
    database.execute("DROP TABLE refused_request")
    database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{REVISIONS[-2]}'")


def make_release_0_1_0(database: Database) -> None:
    """Undo all revisions that it does not know."""
    make_older(database)
    undo(database, ("unit_cost_quarter", "unit_cost_day"), ("rates", "unit_nano_usd", *COSTS))
    for table, column in itertools.product(("usage_quarter", "usage_day"), COSTS):
        database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    undo(database, ("price_terms", "unit_quarter", "unit_day"), ("usage", "flags", "reported"))
    database.execute(f"DROP TABLE {VERSION_TABLE}")


def undo(database: Database, tables: Sequence[str], columns: Sequence[str]) -> None:
    for table in tables:
        database.execute(f"DROP TABLE {table}")
    for column in columns:
        database.execute(f"ALTER TABLE usage_record DROP COLUMN {column}")


# --- create_if_absent, create_or_migrate ---


def test_tables_are_created_where_there_are_none(database: Database) -> None:
    database_of(database.url).create_if_absent()
    assert database.execute(f"SELECT version_num FROM {VERSION_TABLE}") == [(HEAD,)]
    # What release 0.1.0 reads, and knows.
    assert database.execute(f"SELECT version_num FROM {LEAST_TABLE}") == [("0005",)]
    assert database.rows() == []


def test_creating_again_changes_nothing(ledger: LedgerDatabase) -> None:
    write(ledger, make(1))
    ledger.create_if_absent()
    assert attempts(ledger) == [make(1).attempt_id]


def test_an_older_ledger_is_left_as_it_is_by_creating(ledger: LedgerDatabase, database: Database) -> None:
    make_older(database)
    ledger.create_if_absent()
    assert database.execute(f"SELECT version_num FROM {VERSION_TABLE}") == [(REVISIONS[-2],)]


def test_migrating_says_which_revisions_there_were_and_are(database: Database) -> None:
    ledger = database_of(database.url)
    assert ledger.create_or_migrate() == (None, HEAD)
    assert ledger.create_or_migrate() == (HEAD, HEAD)
    make_older(database)
    assert ledger.create_or_migrate() == (REVISIONS[-2], HEAD)
    assert database.execute("SELECT * FROM refused_request") == []


def test_a_ledger_of_release_0_1_0_is_taken_over(database: Database) -> None:
    ledger = database_of(database.url)
    ledger.create_or_migrate()
    make_release_0_1_0(database)
    assert ledger.create_or_migrate() == ("0005", HEAD)
    assert database.execute(f"SELECT version_num FROM {LEAST_TABLE}") == [("0005",)]


def test_a_ledger_that_a_newer_version_has_added_to_is_used_and_left_as_it_is(
    ledger: LedgerDatabase, database: Database
) -> None:
    database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert ledger.create_or_migrate() == (HEAD, HEAD)
    write(ledger, make(1))
    assert attempts(ledger) == [make(1).attempt_id]
    assert database.execute(f"SELECT version_num FROM {VERSION_TABLE}") == [("9999",)]


def test_a_newer_ledger_is_refused_by_every_method(ledger: LedgerDatabase, database: Database) -> None:
    database.execute(f"UPDATE {LEAST_TABLE} SET version_num = '9999'")
    for method in (ledger.create_or_migrate, lambda: attempts(ledger), lambda: write(ledger, make(1))):
        with pytest.raises(LedgerUnavailable, match="newer version: upgrade Tollway"):
            method()
    with pytest.raises(LedgerUnavailable, match="newer version"), ledger.maintenance():
        pass


# --- reading, maintenance: on entering ---


def test_a_place_without_tables_is_named_and_not_created(database: Database) -> None:
    ledger = database_of(database.url)
    for entering in (ledger.reading, ledger.maintenance):
        with pytest.raises(LedgerUnavailable, match="gateway") as refusal, entering():
            pass
        assert str(ledger) in str(refusal.value)


def test_an_older_ledger_is_not_read_and_not_maintained(ledger: LedgerDatabase, database: Database) -> None:
    make_older(database)
    for entering in (ledger.reading, ledger.maintenance):
        with pytest.raises(LedgerUnavailable, match="starting the gateway migrates it"), entering():
            pass


# --- row_store ---


def test_rows_are_kept_once_and_the_first_stays(ledger: LedgerDatabase, database: Database) -> None:
    assert write(ledger, make(1), make(2)) == []
    assert write(ledger, make(2, model="other"), make(3)) == []
    assert [(row["attempt_id"], row["model"]) for row in database.rows()] == [
        (make(number).attempt_id, FULL.model) for number in (1, 2, 3)
    ]


def test_a_store_takes_as_many_rows_as_it_says_in_one_call(ledger: LedgerDatabase) -> None:
    count = ledger.row_store().slice_rows
    assert write(ledger, *map(make, range(count))) == []
    assert len(attempts(ledger)) == count


def test_an_sqlite_of_usual_limits_takes_them_too(sqlite: Database) -> None:
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)  # Debian's has no such bound

    ledger = database_of(sqlite.url)
    ledger.create_if_absent()
    count = ledger.row_store().slice_rows
    event.listen(Engine, "connect", limit)
    try:
        assert write(ledger, *map(make, range(count))) == []
    finally:
        event.remove(Engine, "connect", limit)
    assert len(sqlite.attempts()) == count


def test_rows_of_a_deleted_period_are_refused_and_the_others_kept(
    ledger: LedgerDatabase, database: Database
) -> None:
    close(database.waiting_url, FEBRUARY, now=MARCH)
    prune(database.waiting_url, FEBRUARY, now=MARCH)
    (reason,) = write(ledger, make(1, at=JANUARY), make(2, at=MARCH))
    assert "its period was deleted" in reason
    assert attempts(ledger) == [make(2).attempt_id]


def test_rows_that_can_be_kept_are_kept_once_those_that_never_can_be_are_put_aside(
    ledger: LedgerDatabase,
) -> None:
    good, broken = row_of(make(1)), (None, *row_of(make(2))[1:])

    async def scenario() -> Sequence[RefusedRow]:
        store = ledger.row_store()
        await store.open()
        with pytest.raises(RowsRefused):
            await store.write(Batch([good, broken]))
        assert attempts(ledger) == []  # before the broken one is put aside nothing is committed
        refused = await write_all(store, [good, broken])
        await store.close()
        return refused

    assert [refused.row for refused in run(scenario())] == [broken]
    assert attempts(ledger) == [make(1).attempt_id]


def test_a_store_that_syncs_each_commit_keeps_the_same_rows(ledger: LedgerDatabase) -> None:
    async def scenario() -> None:
        store = ledger.row_store(sync_each_commit=True)
        await store.open()
        await store.write(Batch([row_of(make(1))]))
        await store.close()

    run(scenario())
    assert attempts(ledger) == [make(1).attempt_id]


def test_a_store_is_closed_twice_without_harm(ledger: LedgerDatabase) -> None:
    async def scenario() -> None:
        store = ledger.row_store()
        await store.open()
        await store.close()
        await store.close()

    run(scenario())


# --- reading ---


def test_a_reading_sees_the_same_rows_whatever_is_written_meanwhile(ledger: LedgerDatabase) -> None:
    write(ledger, make(1))
    with ledger.reading() as transaction:
        before = transaction.fetch(ATTEMPT_IDS)
        write(ledger, make(2))
        assert transaction.fetch(ATTEMPT_IDS) == before
    assert len(attempts(ledger)) == 2


def test_batches_hold_all_rows_and_no_more_of_them_at_a_time_than_asked(ledger: LedgerDatabase) -> None:
    write(ledger, *map(make, range(7)))
    with ledger.reading() as transaction:
        batches = list(transaction.batches(ATTEMPT_IDS, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [name for batch in batches for (name,) in batch] == attempts(ledger)


def test_a_query_that_fails_is_the_ledgers_error(ledger: LedgerDatabase, database: Database) -> None:
    with database.gone(), pytest.raises(LedgerUnavailable, match="usage_record"):
        attempts(ledger)


# --- maintenance ---


def test_leaving_a_transaction_commits_it_and_an_exception_undoes_it(
    ledger: LedgerDatabase, database: Database
) -> None:
    with ledger.maintenance() as maintenance:
        for exclusive in (True, False):
            with maintenance.begin(exclusive=exclusive) as transaction:
                transaction.run(ENTER, 1 + exclusive, "v", "start")
            with pytest.raises(KeyError), maintenance.begin(exclusive=exclusive) as transaction:
                transaction.run(ENTER, 3 + exclusive, "v", "start")
                raise KeyError
    assert database.execute(IN_FORCE) == [(1,), (2,)]


def test_a_quick_maintenance_does_the_same(ledger: LedgerDatabase, database: Database) -> None:
    with ledger.maintenance(is_quick=True) as maintenance, maintenance.begin() as transaction:
        transaction.run(ENTER, 1, "v", "start")
        assert transaction.run(IN_FORCE) == [(1,)]
    assert database.execute(IN_FORCE) == [(1,)]


def test_rows_that_are_added_are_kept_once_and_added_up(ledger: LedgerDatabase, database: Database) -> None:
    rows = [whole_row(number, cost_nano_usd=10**9) for number in range(3)]
    with ledger.maintenance() as maintenance:
        for some in (rows[:2], rows[1:]):
            with maintenance.begin() as transaction:
                transaction.add(some)
    (total,) = usage_by(database.url, "org")
    assert (len(database.rows()), total.attempts, total.cost_usd) == (3, 3, 3)


@pytest.mark.parametrize("how", ["exclusive", "lock"])
def test_of_two_transactions_the_second_waits_for_the_first(ledger: LedgerDatabase, how: str) -> None:
    order: list[str] = []
    entered = threading.Event()

    def hold(transaction: MaintenanceTransaction) -> None:
        if how == "lock":
            transaction.lock(7)

    def second() -> None:
        with ledger.maintenance() as maintenance:
            entered.set()
            with maintenance.begin(exclusive=how == "exclusive") as transaction:
                hold(transaction)
                order.append("second")

    thread = threading.Thread(target=second)
    with ledger.maintenance() as maintenance:
        with maintenance.begin(exclusive=how == "exclusive") as transaction:
            hold(transaction)
            thread.start()
            assert entered.wait(30)
            thread.join(0.2)
            order.append("first")
        thread.join(30)
    assert order == ["first", "second"]


def test_rows_before_a_moment_are_deleted_and_counted(ledger: LedgerDatabase) -> None:
    ats = [JANUARY, FEBRUARY - 1, FEBRUARY, MARCH - 1, MARCH]
    write(ledger, *(make(number, at=at) for number, at in enumerate(ats)))
    before = FEBRUARY + 1
    with ledger.maintenance() as maintenance:
        with maintenance.begin() as transaction:
            dropped = transaction.drop_partitions(before)
        assert dropped + maintenance.delete_rows(before) == 3
        assert maintenance.delete_rows(before) == 0
    assert attempts(ledger) == [make(3).attempt_id, make(4).attempt_id]
