"""A real disk that fills: who may still be sent, what stays written, and what happens once there is room."""

import asyncio
import ctypes
import errno
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import Unavailable
from gateway.ledger.audit.verify import verify
from gateway.ledger.errors import LedgerDiskFull, LedgerUnavailable
from gateway.ledger.journal import files
from gateway.ledger.journal.frames import Damage, read_frames
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.ledger import JournaledLedger, JournalTimes
from gateway.ledger.journal.opening import writer_settings
from gateway.ledger.journal.tail import LedgerEntry
from gateway.ledger.postgres.partitions import Month
from gateway.ledger.price_versions import enter_prices
from gateway.ledger.process.messages import WriterSettings
from gateway.ledger.retention import close
from gateway.ledger.rows import ATTEMPT_ID, row_of
from gateway.ledger.spill import Spill
from gateway.ledger.sqlite.database import SqliteDatabase
from gateway.ledger.url import database_of
from gateway.ledger.writer import JournalPosition, LedgerWriter
from tests.e2e.harness import simulators
from tests.ledger.journal.disks import MIB, PIECE_BYTES, SmallDisk, small_disk
from tests.ledger.journal.faults import begun, crash, found_dead, journals
from tests.ledger.journal.served import Served
from tests.ledger.journal.test_database_unavailable import (
    CHANGES,
    CLIENTS,
    FAST,
    QUEUE_ROWS,
    Load,
    Sqlite,
    check_refusals,
    lag_is_over,
    leftovers,
    play,
    told,
)
from tests.ledger.journal.test_journaled_ledger import SHORT_WAITS
from tests.ledger.journal.test_start_without_database import WAITS
from tests.ledger.ledger_records import final_entry, final_half, intent_half, make, run, until
from tests.ledger.price_records import version
from tests.ledger.writer_service import writer_service

SEGMENT_BYTES = 64 * 1024
UNDER_WAY = 20
LIMITS = JournalLimits(segment_bytes=SEGMENT_BYTES)
QUICK = JournalTimes(release_seconds=0.01)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8 * MIB) as found:
        yield found


def is_whole(folder: Path) -> bool:
    """Whether every byte of the journals is part of a frame."""
    contents = (path.read_bytes() for path in begun(folder))
    return not any(isinstance(part, Damage) for content in contents for part in read_frames(content))


def test_when_the_disk_is_full_requests_go_on_to_a_bound_and_all_of_them_end(disk: SmallDisk) -> None:
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=LIMITS)
    disk.fill()
    sent = 0
    while journal.has_space:
        journal.intend(*intent_half(sent))
        if sent >= UNDER_WAY:
            journal.append([final_entry(sent - UNDER_WAY)])
        sent += 1
    assert SEGMENT_BYTES < journal.total_bytes() < 2 * SEGMENT_BYTES  # the current one, and half of the next
    assert f"the disk of {folder.path} is full" in (journal.problem() or "")
    for number in range(sent - UNDER_WAY, sent):
        journal.append([final_entry(number)])
    assert not journal.unwritten
    assert is_whole(folder.path)
    crash(journal)
    assert found_dead(folder) == [(f"req_{number}:1", "success") for number in range(sent)]


def test_requests_come_again_once_there_is_room(disk: SmallDisk) -> None:
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=LIMITS)
    disk.fill()
    with capture_logs() as logs:
        while journal.has_space:
            journal.intend(*intent_half(journal.total_bytes()))
        for _ in range(3):
            journal.release(0)
            assert not journal.has_space
        disk.free()
        journal.release(0)
        assert journal.has_space
        assert journal.problem() is None
    assert [entry["event"] for entry in logs] == ["journal.disk_full", "journal.disk_has_room"]
    journal.intend(*intent_half("later"))
    crash(journal)
    assert ("req_later:1", "presumed") in found_dead(folder)


def test_the_last_segment_that_a_full_disk_had_room_for_takes_requests_too(disk: SmallDisk) -> None:
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=LIMITS)
    disk.fill()
    while journal.has_space:
        journal.intend(*intent_half(journal.total_bytes()))
    disk.free()
    disk.fill(leave_bytes=SEGMENT_BYTES + 2 * PIECE_BYTES)  # room for one more, and not for two
    journal.release(0)
    before = journal.total_bytes()
    while journal.has_space:
        journal.intend(*intent_half(journal.total_bytes()))
    assert journal.total_bytes() - before > SEGMENT_BYTES // 2
    crash(journal)


def test_beyond_what_is_kept_for_them_ends_wait_for_the_disk(disk: SmallDisk) -> None:
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=JournalLimits(segment_bytes=8192))
    disk.fill()
    sent: list[str] = []
    with pytest.raises(Unavailable):
        for number in range(100):  # nobody asks whether there is room
            journal.intend(*intent_half(number))
            sent.append(f"req_{number}:1")
    for number in range(len(sent)):
        journal.append([final_entry(number)])
    assert journal.unwritten
    disk.free()
    journal.release(0)
    assert not journal.unwritten
    assert is_whole(folder.path)
    crash(journal)
    assert found_dead(folder) == [(name, "success") for name in sent]


def test_a_segment_that_was_left_keeps_no_room(disk: SmallDisk) -> None:
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=LIMITS)
    journal.intend(*intent_half(1))
    assert disk.free_bytes() <= 8 * MIB - 2 * SEGMENT_BYTES
    journal.close(0)
    [left] = begun(folder.path)
    assert left.stat().st_blocks * 512 < SEGMENT_BYTES
    assert disk.free_bytes() > 8 * MIB - SEGMENT_BYTES


def test_a_file_system_that_promises_nothing_is_written_as_far_as_it_goes(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(files, "_fallocate", unsupported)
    folder = journals(disk.path / "journal")
    journal = Journal(folder.claim_new(), limits=LIMITS)
    disk.fill()
    sent = 0
    with pytest.raises(Unavailable):
        while True:
            journal.intend(*intent_half(sent))
            sent += 1
    assert not journal.has_space
    disk.free()
    journal.release(0)
    assert journal.has_space
    journal.intend(*intent_half("later"))
    crash(journal)
    assert len(found_dead(folder)) == sent + 1


def test_who_asks_for_room_on_a_full_disk_is_told_at_once(disk: SmallDisk) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{disk.path}/ledger.db"
        async with writer_service(writer_settings(url)) as (_, address):
            folder = journals(disk.path / "ledger.db.journal")
            ledger = JournaledLedger(folder, lambda: address, limits=LIMITS, times=QUICK)
            await ledger.start()
            disk.fill()
            sent = 0
            while ledger.has_room():
                ledger.intend(*intent_half(sent))
                ledger.append(*final_half(sent))
                sent += 1
                await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="disk"):
                ledger.wait_for_room().send(None)  # without waiting for anything
            disk.free()
            await until(ledger.has_room)
            await ledger.flush()
            await ledger.close()
        rows = await Sqlite(disk.path).rows()
        assert [row["outcome"] for row in rows] == ["success"] * sent
        assert is_whole(folder.path)

    run(scenario())


def refuses_at_once(ledger: JournaledLedger) -> bool:
    """Whether it says that the disk is full to who asks for room, and lets nobody wait."""
    asked = ledger.wait_for_room()
    try:
        asked.send(None)
    except Unavailable as refusal:
        return "disk" in str(refusal)
    finally:
        asked.close()
    return False


async def starts_on_a_full_disk(
    disk: SmallDisk, settings: WriterSettings, problem: type[LedgerUnavailable]
) -> None:
    """A start with the journal there raises `problem` and refuses requests; with room it begins."""
    folder = journals(disk.path)
    disk.fill()
    async with writer_service(settings) as (_, address):
        ledger = JournaledLedger(folder, lambda: address, limits=LIMITS, times=QUICK)
        with pytest.raises(problem, match=f"the disk of {disk.path} is full"):
            await ledger.start()
        await until(lambda: refuses_at_once(ledger))
        disk.free()
        await ledger.start()
        assert ledger.has_room()
        await ledger.close()


def test_a_start_on_a_full_disk_says_so_and_begins_once_there_is_room(disk: SmallDisk) -> None:
    settings = writer_settings(f"sqlite:///{disk.path}/ledger.db")
    run(starts_on_a_full_disk(disk, settings, LedgerUnavailable))


def test_a_start_without_room_for_a_journal_says_so_and_begins_once_there_is_some(
    tmp_path: Path, disk: SmallDisk
) -> None:
    settings = writer_settings(f"sqlite:///{tmp_path}/ledger.db", folder=disk.path)
    run(starts_on_a_full_disk(disk, settings, LedgerDiskFull))


def test_a_row_that_no_database_takes_is_not_lost_when_its_file_has_no_room(
    tmp_path: Path, disk: SmallDisk
) -> None:
    spill = Spill(disk.path, "ledger.db")
    before, refused, after = row_of(make(1)), row_of(make(2, duration_ms=None)), row_of(make(3))

    async def scenario() -> None:
        store = SqliteDatabase(tmp_path / "ledger.db").row_store()
        writer = LedgerWriter(store, spill, SHORT_WAITS)
        await writer.start()
        disk.fill(leave_bytes=PIECE_BYTES)
        spill.refuse(before, "fits in part")
        with pytest.raises(LedgerDiskFull):
            spill.refuse(before, "x" * 2 * PIECE_BYTES)
        entries = [LedgerEntry(row, None, number) for number, row in enumerate((before, refused, after), 1)]
        writer.put(entries, JournalPosition("worker"))
        await until(writer.is_disk_full)
        assert await store.committed("worker") == 0
        disk.free()
        await writer.flush()
        assert await store.committed("worker") == 3
        await writer.close()

    run(scenario())
    kept = [json.loads(line) for line in (disk.path / "ledger.db.refused.jsonl").read_text().splitlines()[2:]]
    assert [line["row"]["attempt_id"] for line in kept] == [refused[ATTEMPT_ID]]


def test_a_command_on_a_full_disk_says_what_to_do(disk: SmallDisk) -> None:
    url = f"sqlite:///{disk.path}/ledger.db"
    database_of(url).create_or_migrate()
    disk.fill()
    for command in (
        lambda: enter_prices(url, [version()]),
        lambda: verify(url),
        lambda: close(url, Month(2026, 1).starts, now=Month(2026, 3).starts),
    ):
        with pytest.raises(LedgerUnavailable, match=f"the disk of {disk.path} is full; make room there"):
            command()
    disk.free()
    enter_prices(url, [version()])
    assert verify(url).ok


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["lives through it", "killed meanwhile"])
def test_a_full_disk_under_load_loses_nothing(tmp_path: Path, killed: bool) -> None:
    """SQLite and journal on one disk. What upstreams have answered is what the ledger has in the end."""

    async def scenario(disk: SmallDisk) -> None:
        async with AsyncExitStack() as stack:
            hosted, pool = await stack.enter_async_context(simulators(FAST, [FAST, FAST]))
            database = Sqlite(disk.path)
            served = Served(tmp_path, hosted, pool, CHANGES, database.url)
            load = Load(served)
            stack.push_async_callback(load.close)
            async with served.running() as process:
                await load.run(40)
                assert not load.refusals
                disk.fill()
                await load.run(10 * QUEUE_ROWS)
                check_refusals(load)
                assert all("disk" in refusal.json()["error"]["message"] for refusal in load.refusals)
                went_on = len(load.answers) - len(load.refusals) - 40
                assert QUEUE_ROWS - 40 <= went_on <= QUEUE_ROWS + 2 * CLIENTS
                status, why = await load.readiness()
                assert (status, f"the disk of {disk.path} is full" in why) == (503, True), why
                [failure] = told(served, "ledger.write_failed")
                assert "is full" in failure["problem"]
                if killed:
                    process.kill()
                    await process.wait()
                else:
                    disk.free()
                    await load.ready()
                    await load.run(20)
            if killed:
                await starts_once_there_is_room(served, disk, load)
            async with served.running():  # what a stop has left is taken up before it serves
                pass
            seen = [attempt.attempt_id for one in (hosted, *pool) for attempt in one.attempts()]
            rows = await database.rows()
            assert sorted(row["attempt_id"] for row in rows) == sorted(map(str, seen))
            assert sum(row["outcome"] == "success" for row in rows) == len(load.answers) - len(load.refusals)
            assert leftovers(disk.path / "ledger.db.journal") == []

    with small_disk(tmp_path / "disk", 40 * MIB) as disk:
        play(scenario(disk))


async def starts_once_there_is_room(served: Served, disk: SmallDisk, load: Load) -> None:
    """A start on the disk that is still full says what it waits for, and serves by itself afterwards."""
    async with served.running(WAITS):
        while f"the disk of {disk.path} is full" not in (await load.readiness())[1]:
            await asyncio.sleep(0.05)
        disk.free()
        await load.ready()
        await load.run(20)
        await lag_is_over(served)
