"""One worker's journal on a disk: what is kept, what is removed, what a full disk does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.errors import Unavailable
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import final_frame, names_frame
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.tail import JournalTail
from tests.ledger.journal.faults import Quota, attempt_of, begun, crash, found_dead, journals
from tests.ledger.ledger_records import final_entry, final_half, intent_half

SMALL = JournalLimits(segment_bytes=4096, total_bytes=64 * 1024)


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return journals(tmp_path / "journal")


@pytest.fixture
def journal(folder: JournalFolder) -> Iterator[Journal]:
    yield Journal(folder.claim_new(), limits=SMALL)


def with_quota(
    folder: JournalFolder, left_bytes: int, limits: JournalLimits = SMALL
) -> tuple[Journal, Quota]:
    disk = Quota(left_bytes)
    return Journal(folder.claim_new(), disk, limits), disk


def segments(folder: JournalFolder) -> list[Path]:
    return begun(folder.path)


def outcomes(folder: JournalFolder) -> dict[str, str]:
    """What a replay would insert, by attempt; the first record of an attempt is the one that counts."""
    found: dict[str, str] = {}
    for attempt, outcome in found_dead(folder):
        found.setdefault(attempt, outcome)
    return found


def test_an_intent_without_an_end_is_presumed_and_an_end_is_final(
    journal: Journal, folder: JournalFolder
) -> None:
    journal.intend(*intent_half(1))
    journal.intend(*intent_half(2))
    journal.append([final_entry(1)])
    crash(journal)
    assert found_dead(folder) == [("req_1:1", "success"), ("req_2:1", "presumed")]


def test_the_living_are_left_alone(journal: Journal, folder: JournalFolder) -> None:
    journal.intend(*intent_half(1))
    assert list(folder.dead()) == []
    crash(journal)
    assert len(found_dead(folder)) == 1


def test_a_segment_goes_once_all_in_it_has_ended_and_is_committed(
    journal: Journal, folder: JournalFolder
) -> None:
    for number in range(1, 101):
        journal.intend(*intent_half(number))
        journal.append([final_entry(number)])
    many = len(segments(folder))
    assert many > 10
    journal.release(0)
    assert len(segments(folder)) == many
    journal.release(50)
    assert 1 < len(segments(folder)) < many
    journal.release(100)
    assert len(segments(folder)) == journal.segment_count() == 1
    journal.close(100)
    assert segments(folder) == []
    assert not list(folder.path.glob("*.lock"))


def test_an_intent_keeps_its_segment_until_its_end_is_written(
    journal: Journal, folder: JournalFolder
) -> None:
    journal.intend(*intent_half("long"))
    for number in range(1, 31):
        journal.intend(*intent_half(number))
        journal.append([final_entry(number)])
    journal.release(30)
    assert len(segments(folder)) == 2
    journal.append([final_entry("long")])
    journal.release(30)  # who reads the end again needs the intent
    assert len(segments(folder)) == 2
    journal.release(31)
    assert len(segments(folder)) == 1
    journal.intend(*intent_half("long"))
    journal.append([final_entry("long")])
    crash(journal)
    assert outcomes(folder)["req_long:1"] == "success"


def test_a_long_answer_does_not_keep_everything(journal: Journal, folder: JournalFolder) -> None:
    number = 0
    for batch in range(300):
        journal.intend(*intent_half(f"long-{batch}"))
        for _ in range(3):
            number += 1
            journal.intend(*intent_half(number))
            journal.append([final_entry(number)])
        if batch >= 30:
            number += 1
            journal.append([final_entry(f"long-{batch - 30}")])
        journal.release(number)
        assert journal.total_bytes() < SMALL.total_bytes
        assert journal.has_space
    crash(journal)
    expected = {f"req_long-{batch}:1" for batch in range(270, 300)}
    assert {name for name, outcome in outcomes(folder).items() if outcome == "presumed"} == expected


def test_at_its_bound_admission_slows_and_goes_on_when_the_ledger_has_caught_up(
    journal: Journal, folder: JournalFolder
) -> None:
    number = 0
    while journal.has_space:
        number += 1
        journal.intend(*intent_half(number))
        journal.append([final_entry(number)])
    assert "MiB wait to be committed" in (journal.problem() or "")
    journal.intend(*intent_half("admitted before"))  # what was admitted is still written down
    journal.release(number)
    assert journal.has_space
    assert journal.problem() is None
    crash(journal)
    assert outcomes(folder)["req_admitted before:1"] == "presumed"


def test_without_room_on_the_disk_nothing_may_be_sent(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 1500)
    journal.intend(*intent_half(1))
    with pytest.raises(Unavailable):
        for number in range(2, 10):
            journal.intend(*intent_half(number))
    assert not journal.has_space
    assert "No space left on device" in (journal.problem() or "")
    journal.release(0)
    assert not journal.has_space
    disk.left_bytes = 100_000
    journal.release(0)
    assert journal.has_space
    assert journal.problem() is None
    journal.intend(*intent_half("later"))
    journal.append([final_entry("later")])
    crash(journal)
    found = outcomes(folder)
    assert found["req_1:1"] == "presumed"
    assert found["req_later:1"] == "success"


def test_an_end_that_the_disk_did_not_take_is_written_when_it_can_be(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    journal.intend(*intent_half(1))
    journal.intend(*intent_half(2))
    disk.left_bytes = 10
    journal.append([final_entry(1)])
    journal.append([final_entry(2)])
    assert not journal.has_space
    disk.left_bytes = 100_000
    journal.release(0)
    crash(journal)
    assert outcomes(folder) == {"req_1:1": "success", "req_2:1": "success"}


def test_an_end_that_was_written_late_keeps_its_segment_too(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    journal.intend(*intent_half(1))
    disk.left_bytes = 0
    journal.append([final_entry(1)])
    disk.left_bytes = 100_000
    journal.release(0)
    for number in range(2, 21):
        journal.intend(*intent_half(number))
    for number in range(2, 21):  # ends in younger segments
        journal.append([final_entry(number)])
    journal.release(0)
    crash(journal)
    assert set(outcomes(folder).values()) == {"success"}
    assert len(outcomes(folder)) == 20


def test_an_end_that_no_disk_takes_until_the_stop_leaves_its_intent(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    journal.intend(*intent_half(1))
    disk.left_bytes = 0
    journal.append([final_entry(1)])
    journal.release(0)
    journal.close(0)
    assert outcomes(folder) == {"req_1:1": "presumed"}


def test_entries_keep_their_numbers_over_a_full_disk(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    tail = JournalTail(folder.path, journal.worker)
    for number in range(1, 6):
        journal.intend(*intent_half(number))
    journal.append([final_entry(1)])
    disk.left_bytes = len(final_frame(final_half(2)[1])) + 100
    journal.append([final_entry(2), final_entry(3)])  # the first is whole there, the second is not
    journal.append([final_entry(4)])
    assert (journal.written, journal.taken) == (1, 4)
    read = tail.read(100)
    disk.left_bytes = 100_000
    journal.release(0)
    journal.append([final_entry(5)])
    read += tail.read(100)
    assert [(entry.number, attempt_of(entry)[0]) for entry in read] == [
        (number, f"req_{number}:1") for number in range(1, 6)
    ]
    tail.close()
    crash(journal)


def test_a_full_disk_leaves_no_heap_of_empty_segments(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    journal.intend(*intent_half(1))
    disk.left_bytes = 10
    with pytest.raises(Unavailable):
        journal.intend(*intent_half(2))
    for _ in range(20):
        disk.left_bytes = len(names_frame()) + 100  # enough to begin a segment
        with pytest.raises(Unavailable):
            journal.intend(*intent_half(2))
        journal.release(0)
    assert len(segments(folder)) <= 3
    crash(journal)


def test_a_torn_write_hurts_nobody_else(folder: JournalFolder) -> None:
    journal, disk = with_quota(folder, 100_000)
    journal.intend(*intent_half(1))
    disk.left_bytes = 300
    with pytest.raises(Unavailable):
        journal.intend(*intent_half(2))
    disk.left_bytes = 100_000
    journal.release(0)
    journal.intend(*intent_half(3))
    journal.append([final_entry(3)])
    crash(journal)
    assert outcomes(folder) == {"req_1:1": "presumed", "req_3:1": "success"}


def test_a_worker_that_closes_leaves_what_the_ledger_does_not_have(
    journal: Journal, folder: JournalFolder
) -> None:
    journal.intend(*intent_half(1))
    journal.append([final_entry(1)])
    journal.intend(*intent_half(2))
    journal.append([final_entry(2)])
    journal.close(1)
    assert outcomes(folder) == {"req_1:1": "success", "req_2:1": "success"}


def test_a_folder_without_room_is_said_at_once_and_stays_clean(folder: JournalFolder) -> None:
    with pytest.raises(OSError, match="No space"):
        with_quota(folder, 10)
    assert segments(folder) == []


def test_syncing_covers_every_segment_and_their_names_once(folder: JournalFolder) -> None:
    class Counting(Files):
        def __init__(self) -> None:
            self.synced = self.folders = 0

        def sync(self, descriptor: int) -> None:
            self.synced += 1

        def sync_folder(self, path: Path) -> None:
            self.folders += 1

    disk = Counting()
    journal = Journal(folder.claim_new(), disk, SMALL)
    for number in range(1, 31):
        journal.intend(*intent_half(number))
    journal.sync()
    assert (disk.synced, disk.folders) == (journal.segment_count(), 1)
    journal.sync()
    assert (disk.synced, disk.folders) == (journal.segment_count(), 1)
    crash(journal)


def test_another_ledgers_journal_is_left_alone(journal: Journal, folder: JournalFolder) -> None:
    journal.intend(*intent_half(1))
    crash(journal)
    other = JournalFolder(folder.path, "ba9876543210")
    assert list(other.dead()) == []
    assert other.foreign() == {"0123456789ab"}
    assert folder.foreign() == set()
    assert len(found_dead(folder)) == 1


def test_a_segment_whose_lock_was_deleted_is_found_all_the_same(
    journal: Journal, folder: JournalFolder
) -> None:
    journal.intend(*intent_half(1))
    crash(journal)
    for lock in folder.path.glob("*.lock"):
        lock.unlink()
    assert outcomes(folder) == {"req_1:1": "presumed"}


def test_only_one_replays_at_a_time(folder: JournalFolder) -> None:
    with folder.replaying() as first, folder.replaying() as second:
        assert (first, second) == (True, False)
    with folder.replaying() as third:
        assert third
