"""A request by its id, and records of refused requests, over both databases."""

from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import RefusedBy
from gateway.core.pricing import PriceBook
from gateway.core.refused_request import RefusedRequest
from gateway.finance.repricing import reprice
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.postgres.partitions import Month
from gateway.ledger.refused_retention import forget_refused
from gateway.ledger.requests import PAGE_ATTEMPTS, find_request
from gateway.ledger.retention import close
from gateway.ledger.tables import DAY
from tests.finance.test_repricing import SOURCES, version
from tests.ledger.ledger_records import FULL, make, run, write

Database = Any

FEBRUARY = Month(2026, 2).starts


def refused(number: int, at: int = FULL.at) -> RefusedRequest:
    return RefusedRequest(
        request_id=f"req_{number}",
        at=at,
        status=429,
        code="rate_limit_exceeded",
        refused_by=RefusedBy.LIMIT,
        scope="key:app",
        limit_name="requests_per_minute",
        message="key:app has reached its limit of 1 requests per minute. 学校",
        endpoint="chat",
        key="app",
        model="gpt-4o",
        stream=True,
    )


def refuse(database: Database, *records: RefusedRequest) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in records:
            writer.refuse(record)
        await writer.close()

    run(scenario())


def kept(database: Database) -> list[str]:
    return [name for (name,) in database.execute("SELECT request_id FROM refused_request ORDER BY at")]


def find(database: Database, request_id: str, folder: Path) -> Any:
    return find_request(database.url, folder / "journal", request_id)


def test_all_attempts_of_a_request_are_found_and_no_others(database: Database, tmp_path: Path) -> None:
    count = PAGE_ATTEMPTS + 3
    ids = [f"req_7:{number}" for number in range(1, count + 1)]
    rows = [make(number, attempt_id=one, request_id="req_7") for number, one in enumerate(ids)]
    write(database, *rows, make(1), make(2, attempt_id="req_70:1", request_id="req_70"))
    found = find(database, "req_7", tmp_path)
    assert [one["attempt_id"] for one in found.attempts] == ids
    assert found.state == "ended"
    assert found.cost_usd == pytest.approx(count * FULL.cost_nano_usd / 10**9)
    first = found.attempts[0]
    assert first["tags"] == dict(FULL.tags)
    assert first["facts"]["finds"] == "email"
    assert first["stream"] is FULL.stream
    assert first["counterfactual_usd"] == {"gpt-4o": 9.000000001}
    assert first["unseen_usd"] == 1.5
    assert find(database, "req_7:2", tmp_path) == found
    assert find(database, "req_8", tmp_path) is None


def test_an_attempt_that_came_late_has_the_time_of_its_dispatch(database: Database, tmp_path: Path) -> None:
    write(database, make(1))
    close(database.url, FEBRUARY, now=FEBRUARY + DAY)
    write(database, make(2, at=FEBRUARY - 2 * 10**6, attempt_id="req_2:1", request_id="req_2"))
    [attempt] = find(database, "req_2", tmp_path).attempts
    assert attempt["at"] == "2026-01-31T23:59:58.000Z"


def test_corrections_stand_beside_the_attempt_that_they_are_about(database: Database, tmp_path: Path) -> None:
    write(database, make(0))
    reprice(database.url, PriceBook([version()]), SOURCES, FULL.at, FULL.at + DAY)
    found = find(database, "req_00000000", tmp_path)
    [attempt] = found.attempts
    assert sorted(one["kind"] for one in attempt["corrections"]) == ["correction", "reversal"]
    assert found.cost_usd == attempt["cost_usd"] == FULL.cost_nano_usd / 10**9


def test_a_refused_request_is_kept_once_with_all_of_its_record(database: Database, tmp_path: Path) -> None:
    write(database, make(1))
    refuse(database, refused(1), refused(2))
    refuse(database, refused(1))  # a journal that is read again
    assert sorted(kept(database)) == ["req_1", "req_2"]
    found = find(database, "req_1", tmp_path)
    assert (found.state, found.attempts, found.cost_usd) == ("refused", [], 0)
    told = found.refusal
    assert told["message"].endswith("学校")
    assert [told[name] for name in ("status", "refused_by", "scope", "stream", "attempts", "team")] == [
        *(429, "limit", "key:app", True, 0, "")
    ]


def test_records_of_refusals_go_after_their_days_and_the_oldest_beyond_a_number(database: Database) -> None:
    write(database, make(1))
    refuse(database, *(refused(number, FULL.at + number * DAY) for number in range(10)))
    forget_refused(database.url, FULL.at + 2 * DAY)
    assert kept(database) == [f"req_{number}" for number in range(2, 10)]
    forget_refused(database.url, FULL.at + 2 * DAY, most=3)
    assert kept(database) == ["req_7", "req_8", "req_9"]
    assert database.attempts() == ["req_00000001:1"]


def test_more_days_than_have_passed_since_1970_keep_every_record_of_a_refusal(database: Database) -> None:
    write(database, make(1))
    refuse(database, refused(1))
    most_days = 10**15  # of `server.refusals_kept_days`
    forget_refused(database.url, FULL.at - most_days * DAY)
    assert kept(database) == ["req_1"]


def test_a_folder_of_journals_that_may_not_be_read_is_told(database: Database, tmp_path: Path) -> None:
    write(database, make(1))
    (tmp_path / "journal").write_text("no folder")
    with pytest.raises(LedgerUnavailable, match=r"journal .*/journal: Not a directory"):
        find(database, "req_1", tmp_path)
