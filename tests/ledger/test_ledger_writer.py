"""The ledger's specification, over every database that it can live in."""

import asyncio
import concurrent.futures
import gc
import json
import math
import resource
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.core.usage import Usage
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.journal.tail import LedgerEntry
from gateway.ledger.rows import careful_row_of, row_of
from gateway.ledger.sqlite.store import SLICE_ROWS
from gateway.ledger.tables import COLUMNS
from gateway.ledger.writer import JournalPosition
from tests.ledger.ledger_records import FULL, make, run, until

Database = Any  # one of conftest's


def events(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs]


def test_every_field_comes_back_as_it_went_in(database: Database) -> None:
    plain = make(
        2, reported_model=None, finish_reason=None, service_tier=None, ttft_ms=None, upstream_request_id=None
    )

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        writer.append(FULL)
        writer.append(plain)
        await writer.close()

    run(scenario())
    for row, record in zip(database.rows(), (FULL, plain), strict=True):
        assert tuple(row[column] for column in COLUMNS) == row_of(record)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(codec=None, exclude_categories=[])),
    st.dictionaries(st.text(), st.text(st.characters(codec=None, exclude_categories=[]))),
    st.integers(),
)
def test_whatever_a_client_sends_reaches_the_table(
    database: Database, text: str, tags: dict[str, str], count: int
) -> None:
    attempt = f"weird-{hash((text, str(tags), count))}:1"
    record = make(attempt_id=attempt, model=text, tags=tags, usage=Usage(input_text=count), status=count)

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        writer.append(record)
        await writer.close()

    run(scenario())
    row = next(row for row in database.rows() if row["attempt_id"] == attempt)
    assert row["model"] == dict(zip(COLUMNS, row_of(record), strict=True))["model"]
    assert database.refused() == ""


def test_rows_keep_the_order_in_which_they_were_appended(database: Database) -> None:
    count = 3 * SLICE_ROWS + 17

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for number in range(count):
            writer.append(make(number))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await writer.close()

    run(scenario())
    assert database.attempts() == [make(number).attempt_id for number in range(count)]


def test_an_attempt_appended_twice_is_one_row_and_the_first_stays(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        writer.append(make(1, cost_nano_usd=5))
        await writer.flush()
        writer.append(make(1, cost_nano_usd=6))
        writer.append(make(2))
        await writer.close()

    run(scenario())
    assert [row["cost_nano_usd"] for row in database.rows()] == [5, FULL.cost_nano_usd]


def test_flush_returns_when_the_rows_are_committed(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer(linger_seconds=3_600)  # only the flush can make it write
        await writer.start()
        writer.append(make(1))
        assert writer.lag_rows() == 1
        await writer.flush()
        assert writer.lag_rows() == 0
        assert len(database.rows()) == 1
        await writer.flush()
        await writer.close()

    run(scenario())


def test_a_cancelled_flush_leaves_the_others_waiting_rightly(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        with database.locked():
            writer.append(make(1))
            first, second = (asyncio.create_task(writer.flush()) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.wait({first})
        await second
        assert len(database.rows()) == 1
        await writer.close()

    run(scenario())


def test_a_locked_database_loses_nothing_says_so_once_and_catches_up(database: Database) -> None:
    async def scenario() -> list[Any]:
        writer = database.writer()
        await writer.start()
        with capture_logs() as logs:
            with database.locked():
                for number in range(SLICE_ROWS + 9):
                    writer.append(make(number))
                await until(writer.problem)
                assert "lock" in str(writer.problem())
                writer.append(make(SLICE_ROWS + 9))
            await writer.flush()
            assert writer.problem() is None
        await writer.close()
        return logs

    logs = run(scenario())
    assert events(logs) == ["ledger.write_failed", "ledger.write_recovered"]
    assert database.attempts() == [make(number).attempt_id for number in range(SLICE_ROWS + 10)]


def test_a_table_that_vanishes_for_a_while_loses_nothing(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        with database.gone():
            writer.append(make(1))
            await until(writer.problem)
        await writer.close()

    run(scenario())
    assert len(database.attempts()) == 1


def test_a_writer_abandoned_in_the_middle_leaves_whole_slices_only(database: Database) -> None:
    writer = database.writer()
    size = writer._store.slice_rows

    async def abandoned() -> None:
        await writer.start()
        for number in range(4 * size):
            writer.append(make(number))
        await until(lambda: writer.lag_rows() < 4 * size)
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        run(abandoned())
    kept = database.attempts()
    assert len(kept) % size == 0
    assert kept == [make(number).attempt_id for number in range(len(kept))]


def test_a_row_that_no_database_takes_is_put_aside_and_holds_up_nobody(database: Database) -> None:
    async def scenario() -> list[Any]:
        writer = database.writer()
        await writer.start()
        with capture_logs() as logs:
            writer.append(make(1))
            writer.append(make(2, duration_ms=None))
            writer.append(make(3, org=object()))
            writer.append(make(4, ttft_ms=math.nan, duration_ms=math.nan))
            await writer.flush()
            assert writer.problem() is None
        await writer.close()
        return logs

    logs = run(scenario())
    assert database.attempts() == [make(1).attempt_id, make(4).attempt_id]
    assert events(logs) == ["ledger.row_refused"] * 2
    assert [json.loads(line)["row"].keys() for line in database.refused().splitlines()]
    assert make(2).attempt_id in database.refused()
    assert make(3).attempt_id in database.refused()


def test_a_spill_that_another_worker_has_just_replayed_is_no_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        writer = database.writer()
        gone = database.spill_folder / f"{database.spill_name}.unsaved-1.jsonl"
        monkeypatch.setattr(writer._spill, "files", lambda: [gone])
        await writer.start()
        await writer.close()

    run(scenario())
    assert database.attempts() == []


def test_a_closed_writer_does_not_start_again_to_write_nothing(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()
        with pytest.raises(LedgerUnusable):
            await writer.start()

    run(scenario())


def test_closing_leaves_no_task(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        writer.append(make(1))
        await writer.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_closing_leaves_no_thread(sqlite: Database) -> None:
    async def scenario() -> concurrent.futures.ThreadPoolExecutor:
        writer = sqlite.writer()
        await writer.start()
        writer.append(make(1))
        await writer.close()
        return writer._store._thread

    executor = run(scenario())
    with pytest.raises(RuntimeError):
        executor.submit(print)
    executor.shutdown(wait=True)


def saved(number: int, **changes: Any) -> dict[str, Any]:
    """A row as release 0.1.0 saved it."""
    return dict(zip(COLUMNS, careful_row_of(make(number, **changes)), strict=True))


def restart(database: Database) -> list[Any]:
    """What a start and a stop of the writer log."""

    async def scenario() -> list[Any]:
        writer = database.writer()
        with capture_logs() as logs:
            await writer.start()
        await writer.close()
        return logs

    return run(scenario())


def test_rows_that_an_earlier_release_could_not_save_are_in_the_ledger_when_a_start_returns(
    database: Database,
) -> None:
    count = 2 * SLICE_ROWS + 3
    path = database.spill(*(saved(number, model="学校\ud800") for number in range(count)))
    content = path.read_bytes()
    told = [event for event in events(restart(database)) if event.startswith("ledger.")]
    assert told == ["ledger.replayed"]
    assert database.spills() == []
    assert database.attempts() == [make(number).attempt_id for number in range(count)]
    assert database.rows()[1]["model"] == "学校\ufffd"
    path.write_bytes(content)
    restart(database)
    assert len(database.attempts()) == count


def test_a_file_of_rows_with_torn_lines_gives_what_it_has_and_is_kept(database: Database) -> None:
    path = database.spill(saved(1), saved(2) | {"attempt_id": "other:1", "org": None})
    path.write_bytes(path.read_bytes() + path.read_bytes()[:40])
    restart(database)
    assert database.attempts() == [make(1).attempt_id]
    assert [kept.suffix for kept in database.spills()] == [".unreadable"]


def test_a_file_of_rows_of_an_earlier_version_lacks_what_it_did_not_know(database: Database) -> None:
    row = saved(1)
    del row["facts"]
    database.spill(row)
    restart(database)
    assert [(row["attempt_id"], row["facts"]) for row in database.rows()] == [(make(1).attempt_id, "{}")]
    assert database.spills() == []


def test_closing_with_the_database_unavailable_says_how_much_is_left(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer(close_timeout_seconds=0.05)
        await writer.start()
        writer.append(make(0))
        await writer.flush()
        with database.gone():
            for number in range(1, SLICE_ROWS + 4):
                writer.append(make(number))
            await writer.close()
            await writer.close()
            assert writer.lag_rows() == SLICE_ROWS + 3

    run(scenario())
    assert database.attempts() == [make(0).attempt_id]


def test_flush_fails_clearly_once_the_writer_is_closed(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer(close_timeout_seconds=0.01)
        await writer.start()
        with database.gone():
            writer.append(make(1))
            flush = asyncio.create_task(writer.flush())
            await asyncio.sleep(0)
            await writer.close()
            with pytest.raises(LedgerUnavailable, match="stays in the journal"):
                await flush

    run(scenario())


def test_a_bug_in_the_store_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_batch: object) -> list[Any]:
        raise AssertionError("bug")

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        monkeypatch.setattr(writer._store, "write", broken)
        with capture_logs() as logs:
            writer.append(make(1))
            await until(writer.problem)
            with pytest.raises(LedgerUnavailable):
                await writer.flush()
            await writer.close()
        assert events(logs) == ["task.failed"]

    run(scenario())


def test_a_hundred_thousand_rows_pass_in_bounded_memory(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for number in range(100_000):
            if not writer.has_room():
                await writer.wait_for_room()
            writer.append(make(number))
            if number == 20_000:
                gc.collect()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 30  # the rows that followed take 100 MB
        await writer.close()

    run(scenario())
    assert len(database.rows()) == 100_000


def test_a_faulty_row_costs_its_transaction_neither_the_others_nor_their_place(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        position = JournalPosition("worker")
        rows = [row_of(make(1)), row_of(make(2, duration_ms=None)), row_of(make(3))]
        writer.put([LedgerEntry(row, None, number) for number, row in enumerate(rows, 1)], position)
        await writer.flush()
        assert position.committed == await writer._store.committed("worker") == 3
        await writer.close()

    run(scenario())
    assert database.attempts() == [make(1).attempt_id, make(3).attempt_id]


def test_what_another_writer_has_committed_meanwhile_is_entered_once(database: Database) -> None:
    """As after a kill, when the dead writer's transaction arrives behind its successor's look."""

    async def scenario() -> None:
        writer, other = database.writer(), database.writer()
        await writer.start()
        await other.start()
        entries = [LedgerEntry(row_of(make(number)), None, number) for number in range(1, 6)]
        other.put(entries[:3], JournalPosition("worker"))
        await other.flush()
        position = JournalPosition("worker")
        writer.put(entries, position)
        await writer.flush()
        assert position.committed == 5
        assert writer.lag_rows() == position.queued == 0
        await writer.close()
        await other.close()

    run(scenario())
    assert database.attempts() == [make(number).attempt_id for number in range(1, 6)]


def test_a_ledger_that_was_restored_from_a_backup_goes_on_with_what_comes(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        position = JournalPosition("worker")
        writer.put([LedgerEntry(row_of(make(1)), None, 1)], position)
        await writer.flush()
        database.execute("DELETE FROM journal_position")
        writer.put([LedgerEntry(row_of(make(2)), None, 2)], position)
        await writer.flush()
        assert await writer._store.committed("worker") == 2
        await writer._store.forget("worker")
        assert await writer._store.committed("worker") == 0
        await writer.close()

    run(scenario())
    assert len(database.attempts()) == 2
