"""The ledger's specification, over every database that it can live in."""

import asyncio
import concurrent.futures
import gc
import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.core.answer import Usage
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.opening import open_ledger
from gateway.ledger.rows import careful_row_of, row_of
from gateway.ledger.sqlite.store import SLICE_ROWS
from gateway.ledger.tables import COLUMNS
from gateway.ledger.writer import WriterLimits
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


def test_a_pause_of_commits_takes_what_came_before_it_and_nothing_after(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for number in range(3):
            writer.append(make(number))
        writer.pause_commits()
        writer.append(make(3))
        await writer.flush()
        assert [row["attempt_id"] for row in database.rows()] == [make(n).attempt_id for n in range(3)]
        assert writer.lag_rows() == 1
        writer.resume_commits()
        await writer.flush()
        assert len(database.rows()) == 4
        writer.pause_commits()
        writer.append(make(4))
        await writer.close()

    run(scenario())
    assert len(database.rows()) == 5


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


def test_the_queue_has_a_bound_which_admission_waits_at(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer(queue_rows=3)
        await writer.start()
        with database.locked():
            for number in range(3):
                assert writer.has_room()
                writer.append(make(number))
            assert not writer.has_room()
            writer.append(make(3))  # admitted before the bound was reached
            waiting = [asyncio.create_task(writer.wait_for_room()) for _ in range(5)]
            cancelled = waiting.pop()
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in waiting)
            cancelled.cancel()
        await asyncio.gather(*waiting)
        assert writer.has_room()
        await writer.wait_for_room()
        await writer.close()

    run(scenario())
    assert len(database.attempts()) == 4


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


def test_closing_with_the_database_unavailable_spills_and_the_next_start_replays(database: Database) -> None:
    async def outage() -> list[Any]:
        writer = database.writer(close_timeout_seconds=0.05)
        await writer.start()
        writer.append(make(0))
        await writer.flush()
        with capture_logs() as logs, database.gone():
            for number in range(SLICE_ROWS * 2 + 3):
                writer.append(make(number, model="学校\ud800"))
            await writer.close()
        return logs

    async def back() -> list[Any]:
        writer = database.writer()
        with capture_logs() as logs:
            await writer.start()
        assert len(database.attempts()) == SLICE_ROWS * 2 + 3  # the replay is done when start returns
        await writer.close()
        return logs

    logs = run(outage())
    assert logs[-1]["event"] == "ledger.spilled"
    assert [Path(logs[-1]["file"])] == database.spills()
    assert logs[-1]["rows"] == SLICE_ROWS * 2 + 3
    assert events(run(back())) == ["ledger.replayed"]
    assert database.spills() == []
    assert database.attempts() == [make(number).attempt_id for number in range(SLICE_ROWS * 2 + 3)]
    assert database.rows()[1]["model"] == "学校\ufffd"


def test_replaying_the_same_spill_twice_adds_nothing(database: Database) -> None:
    async def spill() -> None:
        writer = database.writer(close_timeout_seconds=0.01)
        await writer.start()
        with database.gone():
            writer.append(make(1))
            await writer.close()

    async def restart() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(spill())
    (path,) = database.spills()
    content = path.read_bytes()
    run(restart())
    path.write_bytes(content)
    run(restart())
    assert len(database.attempts()) == 1


def test_a_spill_with_torn_lines_gives_what_it_has_and_is_kept(database: Database) -> None:
    async def spill() -> None:
        writer = database.writer(close_timeout_seconds=0.01)
        await writer.start()
        with database.gone():
            writer.append(make(1))
            await writer.close()

    async def restart() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(spill())
    (path,) = database.spills()
    without_org = json.loads(path.read_bytes()) | {"attempt_id": "other:1", "org": None}
    path.write_bytes(path.read_bytes() + json.dumps(without_org).encode() + b"\n" + path.read_bytes()[:40])
    run(restart())
    assert database.attempts() == [make(1).attempt_id]
    assert [kept.suffix for kept in database.spills()] == [".unreadable"]


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


def test_an_append_after_close_is_not_dropped_either(database: Database) -> None:
    async def late() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()
        await writer.close()
        writer.append(make(1))
        writer.append(make(2))
        assert writer.lag_rows() == 0

    async def restart() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(late())
    run(restart())
    assert sorted(database.attempts()) == [make(1).attempt_id, make(2).attempt_id]


def test_a_writer_that_never_started_saves_its_rows_on_close(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        writer.append(make(1))
        await writer.close()
        assert writer.lag_rows() == 0

    async def restart() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(scenario())
    run(restart())
    assert database.attempts() == [make(1).attempt_id]


def test_cancelling_close_saves_the_rows_all_the_same(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        with database.gone():
            writer.append(make(1))
            closing = asyncio.create_task(writer.close())
            await until(writer.problem)
            closing.cancel()
            await asyncio.wait({closing})
            assert closing.cancelled()
        assert len(database.spills()) == 1

    run(scenario())


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


def test_a_spill_of_an_earlier_version_is_replayed_without_what_it_did_not_know(database: Database) -> None:
    row = dict(zip(COLUMNS, careful_row_of(make(1)), strict=True))
    del row["facts"]
    database.spill_folder.mkdir()
    path = database.spill_folder / f"{database.spill_name}.unsaved-1.jsonl"
    path.write_text(json.dumps(row) + "\n")

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(scenario())
    assert [(row["attempt_id"], row["facts"]) for row in database.rows()] == [(make(1).attempt_id, "{}")]
    assert database.spills() == []


def test_a_closed_writer_does_not_start_again_to_write_nothing(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()
        with pytest.raises(LedgerUnusable):
            await writer.start()

    run(scenario())


def test_appends_during_close_are_saved_one_way_or_the_other(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        closing = None
        for number in range(300):
            writer.append(make(number))
            if number == 100:
                closing = asyncio.create_task(writer.close())
            if number % 10 == 0:
                await asyncio.sleep(0)
        assert closing is not None
        await closing

    async def restart() -> None:
        writer = database.writer()
        await writer.start()
        await writer.close()

    run(scenario())
    run(restart())
    assert sorted(database.attempts()) == [make(number).attempt_id for number in range(300)]


def test_flush_fails_clearly_once_the_writer_is_closed(database: Database) -> None:
    async def scenario() -> None:
        writer = database.writer(close_timeout_seconds=0.01)
        await writer.start()
        with database.gone():
            writer.append(make(1))
            flush = asyncio.create_task(writer.flush())
            await asyncio.sleep(0)
            await writer.close()
            with pytest.raises(LedgerUnavailable, match="spill file"):
                await flush

    run(scenario())


def test_a_bug_in_the_store_is_told_and_close_still_saves(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_records: object) -> list[Any]:
        raise KeyError("bug")

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
        assert events(logs) == ["task.failed", "ledger.spilled"]

    run(scenario())
    assert len(database.spills()) == 1


def test_rows_that_cannot_even_be_spilled_are_counted_in_the_log(database: Database, tmp_path: Path) -> None:
    obstacle = tmp_path / "file"
    obstacle.write_text("")

    async def scenario() -> None:
        limits = WriterLimits(close_timeout_seconds=0.01, linger_seconds=0.001)
        writer = open_ledger(database.url, spill_folder=obstacle / "folder", limits=limits)
        await writer.start()
        with database.gone(), capture_logs() as logs:
            writer.append(make(1))
            with pytest.raises(LedgerUnavailable, match="cannot write"):
                await writer.close()
        assert logs[-1]["event"] == "ledger.not_spilled"
        assert logs[-1]["rows"] == writer.lag_rows() == 1

    run(scenario())


def test_a_hundred_thousand_rows_pass_in_bounded_memory(database: Database) -> None:
    bound = 2_000

    async def scenario() -> None:
        writer = database.writer(queue_rows=bound)
        await writer.start()
        for number in range(100_000):
            if not writer.has_room():
                await writer.wait_for_room()
            writer.append(make(number))
            assert writer.lag_rows() <= bound
            if number == 20_000:
                gc.collect()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 30  # the rows that followed take 100 MB
        await writer.close()

    run(scenario())
    assert len(database.rows()) == 100_000


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
