"""No damaged segment is ever deleted, and no removed file loses a row, whether its worker lives or not."""

from pathlib import Path

import pytest

from gateway.ledger.journal.folder import DAMAGED_SUFFIX, JournalFolder
from gateway.ledger.journal.frames import FrameKind, is_torn
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.tail import JournalTail
from tests.ledger.journal.faults import begun, crash, found_dead, journals
from tests.ledger.ledger_records import final_entry, intent_half

SMALL = JournalLimits(segment_bytes=4096, total_bytes=64 * 1024)


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return journals(tmp_path / "journal")


@pytest.fixture
def journal(folder: JournalFolder) -> Journal:
    return Journal(folder.claim_new(), limits=SMALL)


def fill(journal: Journal, first: int, last: int) -> None:
    for number in range(first, last):
        journal.intend(*intent_half(number))
        journal.append([final_entry(number)])


def kept(folder: JournalFolder) -> list[Path]:
    return sorted(folder.path.glob(f"*{DAMAGED_SUFFIX}"))


def test_a_damaged_segment_of_a_worker_that_lives_is_kept(journal: Journal, folder: JournalFolder) -> None:
    """Its worker removes what is committed, and knows of no damage."""
    fill(journal, 1, 40)
    first = begun(folder.path)[0]
    content = bytearray(first.read_bytes())
    content[content.index(FrameKind.FINAL.marker) + 20] ^= 0xFF
    first.write_bytes(content)
    tail = JournalTail(folder.path, journal.worker)
    while tail.read(1000):
        pass
    journal.release(journal.written)
    assert not first.exists()
    assert [path.read_bytes() for path in kept(folder)] == [bytes(content)]
    assert folder.damaged() == 1
    tail.close()
    crash(journal)


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut off", "damaged"])
def test_only_an_end_that_was_cut_off_is_no_damage(
    journal: Journal, folder: JournalFolder, is_cut: bool
) -> None:
    fill(journal, 1, 3)
    crash(journal)
    [path] = begun(folder.path)
    content = bytearray(path.read_bytes())
    if is_cut:
        del content[-5:]
    else:
        content[-5] ^= 0xFF
    path.write_bytes(content)
    assert found_dead(folder) == [("req_1:1", "success"), ("req_2:1", "presumed")]
    assert [one.read_bytes() for one in kept(folder)] == ([] if is_cut else [bytes(content)])


def test_what_a_write_leaves_that_was_cut_off() -> None:
    frame = FrameKind.FINAL.marker + b"\x00" * 40
    assert is_torn(frame[:1])
    assert is_torn(frame[:3])
    assert not is_torn(b"\x00" * 3)
    assert not is_torn(b"\x00" * 4096)  # what a power cut may leave


@pytest.mark.parametrize("what", ["segments", "lock", "spare", "folder"])
def test_files_that_somebody_removed_are_written_anew(
    journal: Journal, folder: JournalFolder, what: str
) -> None:
    fill(journal, 1, 40)
    journal.intend(*intent_half("open"))
    for path in list(folder.path.iterdir()):
        is_begun = path.suffix == ".journal2" and path.stat().st_size > 0
        names = {"segments": is_begun, "lock": path.suffix == ".lock", "spare": path.suffix == ".journal2"}
        if what == "folder" or names[what]:
            path.unlink()
    if what == "folder":
        folder.path.rmdir()
    journal.release(0)
    assert journal.problem() is None
    assert list(folder.dead()) == []  # it lives
    fill(journal, 40, 60)
    crash(journal)
    found = dict(found_dead(folder))
    assert found == {f"req_{number}:1": "success" for number in range(1, 60)} | {"req_open:1": "presumed"}
