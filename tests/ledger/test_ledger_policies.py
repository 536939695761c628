"""Policy versions in the ledger's database: each text once, each change once, whoever noted it."""

from typing import Any

import pytest

from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.policies import InForce, PolicyText, keep_policy_text, put_in_force, read_policies
from tests.ledger.ledger_records import run

Database = Any


def text(version: str, **changes: Any) -> PolicyText:
    fields: dict[str, Any] = {"text": f"# {version} 学校\n", "whole": True, "kept_at": 1}
    return PolicyText(version=version, **(fields | changes))


def put(database: Database, version: str, at: int, how: str = "admin") -> None:
    put_in_force(database.url, text(version, kept_at=at), InForce(at=at, version=version, how=how))


@pytest.fixture
def ready(database: Database) -> Database:
    async def migrate() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(migrate())
    return database


def test_changes_come_back_in_order_with_the_texts(ready: Database) -> None:
    put(ready, "aaa", 1, "start")
    put(ready, "bbb", 2)
    put(ready, "aaa", 3)
    history = read_policies(ready.url)
    assert history.changes == [
        InForce(at=1, version="aaa", how="start"),
        InForce(at=2, version="bbb", how="admin"),
        InForce(at=3, version="aaa", how="admin"),
    ]
    assert history.texts == {"aaa": text("aaa", kept_at=1), "bbb": text("bbb", kept_at=2)}


def test_a_change_that_several_workers_note_is_one(ready: Database) -> None:
    for at in (1, 2, 3):
        put(ready, "aaa", at)
    assert [change.at for change in read_policies(ready.url).changes] == [1]


def test_two_workers_that_note_it_at_the_same_moment_are_told_as_one(ready: Database) -> None:
    put(ready, "aaa", 1)
    ready.execute("INSERT INTO policy_in_force (at, version, how) VALUES (2, 'aaa', 'signal')")
    assert [change.at for change in read_policies(ready.url).changes] == [1]


def test_a_text_can_be_kept_without_ever_having_been_in_force(ready: Database) -> None:
    keep_policy_text(ready.url, text("ccc", whole=False))
    keep_policy_text(ready.url, text("ccc", text="another", kept_at=2))
    history = read_policies(ready.url)
    assert (history.changes, history.texts) == ([], {"ccc": text("ccc", whole=False)})


def test_without_a_ledger_it_says_so(database: Database) -> None:
    with pytest.raises(LedgerUnavailable):
        read_policies(database.url)
    with pytest.raises(LedgerUnavailable):
        put(database, "aaa", 1)
