"""From any database to the one that this version writes, or a clear refusal."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway import ledger
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.opening import open_ledger
from gateway.ledger.reports import usage_by
from gateway.ledger.revisions import HEAD, LEAST_TABLE, REVISIONS, VERSION_TABLE
from gateway.ledger.rows import row_of
from gateway.ledger.sqlite.engine import BUSY_TIMEOUT_SECONDS, open_writer
from gateway.ledger.tables import COLUMNS, metadata
from gateway.ledger.url import database_of
from tests.ledger.ledger_records import FULL, RecordWriter, make, run

Database = Any

PACKAGE = Path(ledger.__file__).parent


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(PACKAGE / "migrations"))
    return ScriptDirectory.from_config(config)


def test_the_code_names_the_revisions_that_the_package_carries() -> None:
    assert scripts().get_heads() == [HEAD]
    assert tuple(reversed([script.revision for script in scripts().walk_revisions()])) == REVISIONS


def test_migrations_from_nothing_make_the_table_that_the_code_describes(sqlite: Database) -> None:
    database_of(sqlite.url).create_or_migrate()
    with open_writer(sqlite.path).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_rows_of_the_first_version_are_added_up_when_the_second_one_opens_it(sqlite: Database) -> None:
    def first_version() -> None:
        sqlite.path.parent.mkdir()
        with open_writer(sqlite.path).connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(PACKAGE / "migrations"))
            config.attributes.update(connection=connection, version_table=VERSION_TABLE)
            command.upgrade(config, "0001")

    first_version()
    records = [make(n, at=FULL.at + n * 3_600_000_000, cost_nano_usd=n) for n in range(1, 60)]
    known = COLUMNS.index("facts")  # all from there on came later
    marks = ", ".join("?" * known)
    with closing(sqlite3.connect(sqlite.path)) as connection, connection:
        rows = [row_of(record)[:known] for record in records]
        connection.executemany(f"INSERT INTO usage_record VALUES ({marks})", rows)
    database_of(sqlite.url).create_or_migrate()
    (row,) = usage_by(sqlite.url, "feature")
    assert (row.requests, row.attempts, row.cost_usd * 10**9) == (59, 59, sum(range(60)))
    assert row.counterfactual_usd["gpt-4o"] * 10**9 == 59 * 9_000_000_001
    assert sum(day.attempts for day in usage_by(sqlite.url, "day", timezone="Asia/Tokyo")) == 59


def test_migrating_again_changes_nothing_and_does_not_import_alembic(sqlite: Database) -> None:
    database_of(sqlite.url).create_or_migrate()
    database_bytes = sqlite.path.read_bytes()
    code = (
        "import sys; from gateway.ledger.url import database_of; "
        f"database_of({sqlite.url!r}).create_or_migrate(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert sqlite.path.read_bytes() == database_bytes


def test_an_up_to_date_database_is_opened_while_somebody_writes(sqlite: Database) -> None:
    database_of(sqlite.url).create_or_migrate()
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        database_of(sqlite.url).create_or_migrate()


def test_several_processes_may_start_on_a_new_database_at_once(sqlite: Database) -> None:
    code = f"from gateway.ledger.url import database_of; database_of({sqlite.url!r}).create_or_migrate()"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert sqlite.rows() == []


def test_a_lock_on_a_new_file_that_outlasts_sqlites_own_timeout_is_waited_for(sqlite: Database) -> None:
    sqlite.path.parent.mkdir()
    with closing(sqlite3.connect(sqlite.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(1.5 * BUSY_TIMEOUT_SECONDS, other.execute, ["ROLLBACK"])
        release.start()
        database_of(sqlite.url).create_or_migrate()
        release.join()
    assert sqlite.rows() == []


def test_a_database_of_a_newer_version_is_refused(sqlite: Database) -> None:
    database_of(sqlite.url).create_or_migrate()
    with closing(sqlite3.connect(sqlite.path)) as connection, connection:
        connection.execute(f"UPDATE {LEAST_TABLE} SET version_num = '9999'")
    with pytest.raises(LedgerUnavailable, match="newer version: upgrade Tollway"):
        run(open_ledger(sqlite.url).start())
    with pytest.raises(LedgerUnavailable, match="newer version"):
        usage_by(sqlite.url, "feature")


def test_another_programs_alembic_is_left_alone(sqlite: Database) -> None:
    sqlite.path.parent.mkdir()
    with closing(sqlite3.connect(sqlite.path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('theirs')")
    database_of(sqlite.url).create_or_migrate()
    with closing(sqlite3.connect(sqlite.path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("theirs",)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "not a database URL"),
        ("sqlite://", "memory forgets"),
        ("sqlite:///:memory:", "memory forgets"),
        ("mysql://user:hunter2@host/db", "not supported"),
    ],
)
def test_a_url_that_cannot_be_a_ledger_is_refused_without_showing_passwords(url: str, words: str) -> None:
    with pytest.raises(LedgerUnavailable, match=words) as refusal:
        open_ledger(url)
    assert "hunter2" not in str(refusal.value)


def test_paths_that_cannot_be_written_are_clear_errors(tmp_path: Path) -> None:
    obstacle = tmp_path / "file"
    obstacle.write_text("not a database at all, but long enough for SQLite to look at " * 20)
    for path, words in [
        (obstacle / "ledger.db", "cannot make the folder"),
        (tmp_path, "unable to open"),
        (obstacle, "not a database"),
    ]:
        with pytest.raises(LedgerUnavailable, match=words) as refusal:
            run(open_ledger(f"sqlite:///{path}").start())
        assert str(path) in str(refusal.value)


def test_folders_are_made_and_their_names_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "100%" / "学校 [1]" / "ledger.db"

    async def scenario() -> None:
        writer = RecordWriter(open_ledger(f"sqlite:///{path}"))
        await writer.start()
        writer.append(make(1))
        await writer.close()

    run(scenario())
    assert usage_by(f"sqlite:///{path}", "feature")[0].attempts == 1
