"""Crashes and full disks for the journal's tests, and what a replay finds after them."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.journal import Journal
from gateway.ledger.journal.tail import JournalTail, LedgerEntry
from gateway.ledger.rows import ATTEMPT_ID
from gateway.ledger.tables import COLUMNS

LEDGER = "0123456789ab"
OUTCOME = COLUMNS.index("outcome")


def journals(path: Path) -> JournalFolder:
    folder = JournalFolder(path, LEDGER)
    folder.prepare()
    return folder


def begun(path: Path) -> list[Path]:
    """The segments in the folder `path`, without those that a worker keeps ready."""
    return sorted(segment for segment in path.glob("*.journal2") if segment.stat().st_size)


def crash(journal: Journal) -> None:
    """What kill -9 does: descriptors close, and with them the lock goes. Nothing else happens."""
    for segment in [*journal._segments, *([] if journal._next is None else [journal._next])]:
        os.close(segment._descriptor)
    os.close(journal._claim.descriptor)


def found_dead(folder: JournalFolder) -> list[tuple[str, str]]:
    """Attempts that a replay would put into the ledger now, and their outcomes. Changes nothing."""
    found: list[tuple[str, str]] = []
    for claim in folder.dead():
        found += read_dead(JournalTail(claim.folder, claim.worker))
        claim.give_up()
    return found


def read_dead(tail: JournalTail) -> list[tuple[str, str]]:
    """All that a dead worker's journal says, ends first."""
    entries = [*tail.read(10**6), *tail.presumed()]
    tail.close()
    return [attempt_of(entry) for entry in entries if entry.row is not None]


def attempt_of(entry: LedgerEntry) -> tuple[str, str]:
    """An attempt and its outcome."""
    assert entry.row is not None
    return str(entry.row[ATTEMPT_ID]), str(entry.row[OUTCOME])


class Quota(Files):
    """A disk that takes so many bytes more, and the beginning of what does not fit, as real ones do."""

    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes

    def write(self, descriptor: int, data: bytes) -> int:  # type: ignore[override]
        fits = data[: self.left_bytes]
        if data and not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left_bytes -= len(fits)
        return os.write(descriptor, fits)


def ledger_rows(path: Path) -> dict[str, str]:
    """Outcome of each attempt in the ledger. The table takes an attempt once."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT attempt_id, outcome FROM usage_record"))
