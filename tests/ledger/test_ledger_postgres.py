"""What only a server does: it becomes unreachable, answers late, keeps months apart and has passwords."""

import asyncio
import datetime as dt
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.ledger.database import Batch
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.opening import open_ledger
from gateway.ledger.postgres.partitions import Month, month_of
from gateway.ledger.reports import usage_by
from gateway.ledger.rows import row_of
from gateway.ledger.tables import COLUMNS
from gateway.ledger.url import database_of
from gateway.ledger.writer import WriterLimits
from tests.ledger.ledger_records import FULL, RecordWriter, make, run, until
from tests.ledger.postgres_server import postgres_server

Database = Any

MONTH = 31 * 24 * 3600 * 1_000_000


def partitions(database: Database) -> list[str]:
    found = database.execute("SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1")
    return [name for (name,) in found if name.count("_") == 3]


def kept(database: Database, *records: Any) -> list[str]:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in records:
            writer.append(record)
        await writer.close()

    run(scenario())
    return database.attempts()


def test_each_month_has_a_partition_made_ahead_and_late_rows_find_theirs(postgres: Database) -> None:
    kept(postgres, make(1, at=Month(2026, 11).starts))
    assert partitions(postgres) == ["usage_record_2026_11", "usage_record_2026_12"]
    late = Month(2025, 2).starts - 1
    kept(postgres, make(2, at=late))
    assert partitions(postgres)[:2] == ["usage_record_2025_01", "usage_record_2025_02"]
    assert postgres.execute("SELECT attempt_id FROM usage_record_2025_01") == [(make(2).attempt_id,)]


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (0, "usage_record_1970_01"),
        (-1, "usage_record_1969_12"),
        (Month(2026, 12).starts, "usage_record_2026_12"),
        (Month(2027, 1).starts - 1, "usage_record_2026_12"),
    ],
)
def test_months_are_those_of_utc(at: int, name: str) -> None:
    assert month_of(at).partition == name


def test_an_attempt_is_one_row_even_when_its_second_record_names_another_month(postgres: Database) -> None:
    assert len(kept(postgres, make(1), make(1, at=FULL.at + 2 * MONTH))) == 1
    assert len(kept(postgres, make(1, at=FULL.at - 2 * MONTH), make(2))) == 2
    assert usage_by(postgres.url, "org")[0].attempts == 2


def test_the_same_rows_from_several_processes_at_once_are_kept_and_added_up_once(postgres: Database) -> None:
    code = f"""
import asyncio, pathlib, random, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from gateway.ledger.opening import open_ledger
from tests.ledger.ledger_records import RecordWriter, make

async def main():
    writer = RecordWriter(open_ledger({postgres.url!r}, spill_folder=pathlib.Path({str(postgres.folder)!r})))
    await writer.start()
    numbers = list(range(3000))
    random.shuffle(numbers)
    for number in numbers:
        writer.append(make(number))
        if number % 50 == 0:
            await asyncio.sleep(0.001)
    await writer.flush()
    await writer.close()

asyncio.run(main())
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(postgres.attempts()) == len(set(postgres.attempts())) == 3000
    (row,) = usage_by(postgres.url, "feature")
    assert (row.attempts, row.cost_usd * 10**9) == (3000, 3000 * FULL.cost_nano_usd)


def test_a_connection_that_an_administrator_ends_is_made_anew(postgres: Database) -> None:
    async def scenario() -> None:
        writer = postgres.writer()
        await writer.start()
        writer.append(make(1))
        await writer.flush()
        await asyncio.to_thread(postgres.disconnect_everybody)
        writer.append(make(2))
        await writer.flush()
        assert writer.problem() is None
        await writer.close()

    run(scenario())
    assert len(postgres.attempts()) == 2


def test_a_server_that_crashes_and_comes_back_loses_nothing(tmp_path: Any) -> None:
    with postgres_server() as server:

        def writer(**limits: Any) -> RecordWriter:
            limits = {"retry_seconds": 0.005, "retry_ceiling_seconds": 0.02, "linger_seconds": 0.001} | limits
            return RecordWriter(
                open_ledger(server.url(), spill_folder=tmp_path, limits=WriterLimits(**limits))
            )

        async def scenario() -> None:
            ledger = writer()
            await ledger.start()
            for number in range(300):
                ledger.append(make(number))
            await until(lambda: ledger.lag_rows() < 300)
            server.stop(signal.SIGQUIT)
            for number in range(300, 600):
                ledger.append(make(number))
            await until(ledger.problem)
            assert "postgresql://tollway@" in str(ledger.problem())
            server.start()
            await ledger.flush()
            assert ledger.problem() is None
            await ledger.close()

        run(scenario())
        (row,) = usage_by(server.url(), "feature")
        assert (row.attempts, row.cost_usd * 10**9) == (600, 600 * FULL.cost_nano_usd)


def test_a_committed_row_survives_the_crash_of_a_server_that_answers_before_it_writes(tmp_path: Any) -> None:
    lazy = ("synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=0")
    with postgres_server(*lazy) as server:

        async def scenario() -> None:
            ledger = RecordWriter(open_ledger(server.url(), spill_folder=tmp_path))
            await ledger.start()
            for number in range(3):
                ledger.append(make(number))
                await ledger.flush()
            server.stop(signal.SIGQUIT)
            await ledger.close()

        run(scenario())
        server.start()
        assert usage_by(server.url(), "org")[0].attempts == 3


def test_a_stop_ends_while_the_server_is_silent_in_the_middle_of_a_slice(tmp_path: Any) -> None:
    with postgres_server() as server:

        async def scenario() -> None:
            limits = WriterLimits(linger_seconds=0.001, close_timeout_seconds=0.01)
            ledger = RecordWriter(open_ledger(server.url(), spill_folder=tmp_path, limits=limits))
            await ledger.start()
            ledger.append(make(1))
            await ledger.flush()
            other = await asyncpg.connect(server.url())
            await other.execute("BEGIN; LOCK TABLE usage_attempt")
            ledger.append(make(2))
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.005)
            server.freeze_everything()
            try:
                await ledger.close()
            finally:
                server.thaw()
            assert ledger.lag_rows() == 1
            await other.close()

        run(scenario())
        assert usage_by(server.url(), "org")[0].attempts == 1
        assert not list(tmp_path.iterdir())


def test_a_statement_that_takes_too_long_is_given_up_and_tried_again(postgres: Database) -> None:
    async def scenario() -> None:
        postgres.url += "&statement_timeout=50ms"
        writer = postgres.writer()
        await writer.start()
        slow = "CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(9); RETURN NEW; END' "
        postgres.execute(slow + "LANGUAGE plpgsql")
        postgres.execute("CREATE TRIGGER slow BEFORE INSERT ON usage_attempt EXECUTE FUNCTION slow()")
        writer.append(make(1))
        await until(writer.problem)
        assert "statement timeout" in str(writer.problem())
        postgres.execute("DROP TRIGGER slow ON usage_attempt")
        await writer.flush()
        await writer.close()

    run(scenario())
    assert len(postgres.attempts()) == 1


def test_a_cancelled_write_is_as_if_it_had_never_been_or_is_whole(postgres: Database) -> None:
    async def scenario() -> None:
        writer = postgres.writer()
        await writer.start()
        for number in range(40):
            batch = Batch([row_of(make(number)), row_of(make(number + 100))])
            write = asyncio.create_task(writer._store.write(batch))
            await asyncio.sleep(number * 0.0005)
            write.cancel()
            await asyncio.wait({write})
        await writer.close()

    run(scenario())
    attempts = postgres.attempts()
    assert len(attempts) % 2 == 0
    found = usage_by(postgres.url, "feature")
    assert sum(row.attempts for row in found) == len(attempts)


def test_a_row_too_strange_for_an_index_is_kept_all_the_same(postgres: Database) -> None:
    # Nine texts of 512 characters of four bytes each: more than PostgreSQL puts into an index.
    names = ("org", "team", "feature", "key", "model", "deployment", "zone", "privacy")
    assert (
        len(kept(postgres, make(1, **dict.fromkeys(names, "".join(map(chr, range(0x10000, 0x10200))))))) == 1
    )
    assert usage_by(postgres.url, "org")[0].attempts == 1


def test_a_database_of_a_newer_version_is_refused_on_postgres_too(postgres: Database) -> None:
    kept(postgres)
    postgres.execute("UPDATE ledger_revision SET version_num = '9999'")
    with pytest.raises(LedgerUnavailable, match="newer version: upgrade Tollway"):
        run(postgres.writer().start())
    with pytest.raises(LedgerUnavailable, match="newer version"):
        usage_by(postgres.url, "feature")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("?sslmode=nonsense", "sslmode"),
        ("@127.0.0.1:1/db", "refused|Connect|connect"),
    ],
)
def test_servers_that_cannot_be_reached_are_clear_errors_without_passwords(
    postgres: Database, change: str, words: str
) -> None:
    base, _, query = postgres.url.partition("?")
    url = f"{base}{change}&{query}".replace("//tollway@", "//tollway:hunter2@")
    if change.startswith("@"):
        url = f"postgresql://tollway:hunter2{change}"
    with pytest.raises(LedgerUnavailable, match=words) as refusal:
        run(open_ledger(url).start())
    assert "hunter2" not in str(refusal.value)


def test_a_server_without_tls_never_hears_the_password_when_the_url_asks_for_tls() -> None:
    async def scenario() -> None:
        heard = bytearray()
        left = asyncio.Event()

        async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.extend(await reader.readexactly(8))
            writer.write(b"N")
            heard.extend(await reader.read())
            writer.close()
            await writer.wait_closed()
            left.set()

        server = await asyncio.start_server(refuse_tls, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LedgerUnavailable, match="SSL"):
            url = f"postgresql://me:hunter2@127.0.0.1:{port}/books?sslmode=require"
            await open_ledger(url).start()
        await left.wait()
        server.close()
        await server.wait_closed()
        assert b"hunter2" not in heard
        assert b"books" not in heard

    run(scenario())


def test_an_address_never_shows_its_password() -> None:
    address = database_of("postgresql://me:hunter2@host:5433/books?sslmode=verify-full&password=hunter2")
    assert str(address) == repr(address) == "postgresql://me@host:5433/books"


def test_reports_are_the_same_from_both_databases(postgres: Database, sqlite: Database) -> None:
    records = [
        make(number, at=FULL.at + number * 7_777_777_777, deployment="ab"[number % 2], cost_nano_usd=number)
        for number in range(100)
    ]
    since = dt.datetime(2026, 11, 2, 3, 4, 5, tzinfo=dt.UTC)
    for database in (postgres, sqlite):
        assert kept(database, *records) == [record.attempt_id for record in records]
    for dimension in ("deployment", "day", "outcome"):
        assert usage_by(postgres.url, dimension, since, timezone="Asia/Kathmandu") == usage_by(
            sqlite.url, dimension, since, timezone="Asia/Kathmandu"
        )
    assert [tuple(row[column] for column in COLUMNS) for row in postgres.rows()] == [
        row_of(record) for record in records
    ]
