"""Crashes and full disks for the journal's tests, and what a replay finds after them."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.ledger.journal.replay import Replay

from gateway.core.record import UsageRecord
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim, JournalFolder
from gateway.ledger.journal.journal import Journal

LEDGER = "0123456789ab"


def journals(path: Path) -> JournalFolder:
    folder = JournalFolder(path, LEDGER)
    folder.prepare()
    return folder


def crash(journal: Journal) -> None:
    """What kill -9 does: descriptors close, and with them the lock goes. Nothing else happens."""
    for segment in journal._segments:
        os.close(segment._descriptor)
    os.close(journal._claim.descriptor)


def found_dead(folder: JournalFolder) -> list[UsageRecord]:
    """What a replay would put into the ledger now. Changes nothing."""
    records: list[UsageRecord] = []
    for claim in folder.dead():
        records += Replay(claim).records()
        claim.give_up()
    return records


def read_claim(claim: Claim) -> list[UsageRecord]:
    return list(Replay(claim).records())


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

    def truncate(self, descriptor: int, size: int) -> None:
        self.left_bytes += os.fstat(descriptor).st_size - size
        os.ftruncate(descriptor, size)


def ledger_rows(path: Path) -> dict[str, str]:
    """Outcome of each attempt in the ledger. The table takes an attempt once."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT attempt_id, outcome FROM usage_record"))
