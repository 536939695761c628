"""Where a ledger's files stand. Versions of Tollway that run side by side must agree on every name."""

from pathlib import Path

from gateway.ledger.url import database_of


def test_files_of_an_sqlite_ledger_stand_beside_it() -> None:
    paths = database_of("sqlite:////var/lib/ledger.db").paths
    assert paths.name == "ledger.db"
    assert paths.spill_folder == Path("/var/lib")
    assert paths.journal_folder == Path("/var/lib/ledger.db.journal")
    assert paths.journal_name == "45edc5005773"
    assert paths.key_file(Path("/journal")) == Path("/var/lib/ledger.db.audit-key")


def test_files_of_a_server_s_ledger_stand_in_the_working_directory_or_with_the_journal() -> None:
    paths = database_of("postgresql://me:hunter2@db.example:5432/books?sslmode=require").paths
    assert paths.name == "books"
    assert paths.spill_folder == Path("tollway-ledger")
    assert paths.journal_folder == Path("tollway.journal")
    assert paths.journal_name == "9c2c91636006"
    assert paths.key_file(None) == Path("tollway.audit-key")
    assert paths.key_file(Path("/journal")) == Path("/journal/tollway.audit-key")


def test_a_server_that_the_url_leaves_out_is_part_of_the_journal_s_name() -> None:
    assert database_of("postgresql:///books?host=/run/postgresql").paths.journal_name == "057e9a4ca506"


def test_a_database_s_name_is_made_fit_for_a_file() -> None:
    assert database_of("postgresql://me@host/a b%2Fc").paths.name == "a_b_c"
