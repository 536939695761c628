"""The folder in which the workers of one ledger keep their journals, and who of them is alive.

    <ledger>-<worker>.lock               locked by its worker for as long as that lives
    <ledger>-<worker>.00000001.journal2  its segments, in order
    <ledger>-<worker>.00000001.damaged   a replayed segment that was not whole, for a person to read
    <ledger>.replay                      locked by whoever replays, so that a start can wait for it

The kernel drops a lock with its process, however that ends. A name says which ledger its rows belong to:
nobody replays them into another one. Segments of release 0.1.0 end in `.journal`. That release leaves
`.journal2` alone, since it cannot read everything there.
"""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from gateway.ledger.journal.files import Files
from gateway.private_files import private_folder

SEGMENT_SUFFIX = ".journal2"
OLD_SEGMENT_SUFFIX = ".journal"
SEGMENT_SUFFIXES = OLD_SEGMENT_SUFFIX, SEGMENT_SUFFIX
DAMAGED_SUFFIX = ".damaged"
LOCK_SUFFIX = ".lock"
REPLAY_SUFFIX = ".replay"


class Claim(msgspec.Struct, frozen=True):
    """A worker's name and the lock that proves it alive."""

    folder: Path
    worker: str
    descriptor: int

    def segment_path(self, number: int) -> Path:
        return self.folder / f"{self.worker}.{number:08}{SEGMENT_SUFFIX}"

    def segments(self) -> list[Path]:
        """The segments of this worker in the order in which they were written."""
        return segments_of(self.folder, self.worker)

    def renewed(self) -> "Claim":
        """The same claim, on a new lock where somebody has removed the file. Raises OSError."""
        path = _lock_path(self.folder, self.worker)
        if Files().is_at(path, self.descriptor):
            return self
        if not self.folder.exists():
            private_folder(self.folder)
        descriptor = _open_lock(path)
        if not _lock(descriptor):
            os.close(descriptor)
            raise OSError(errno.EBUSY, f"{path.name} was removed, and another process holds it now")
        os.close(self.descriptor)
        return msgspec.structs.replace(self, descriptor=descriptor)

    def give_up(self) -> None:
        """End the claim; with no segment left, nothing remains of the worker."""
        try:
            if not self.segments():
                with suppress(OSError):  # a lock that stays behind is found again by the next replay
                    _lock_path(self.folder, self.worker).unlink(missing_ok=True)
        finally:
            os.close(self.descriptor)


class JournalFolder:
    """The journals of the ledger called `ledger`, in the folder `path`. Methods block and raise OSError."""

    def __init__(self, path: Path, ledger: str) -> None:
        self.path = path
        self._ledger = ledger

    def prepare(self) -> None:
        private_folder(self.path)

    def claim_new(self) -> Claim:
        """A name that nobody has had."""
        while True:
            # The time comes first: workers then sort by age.
            worker = f"{self._ledger}-{time.time_ns():016x}{secrets.token_hex(4)}"
            if (claim := self._claim(worker)) is not None:
                return claim

    def dead(self) -> Iterator[Claim]:
        """The workers that live no more, oldest first. Each is the caller's until it gives the claim up."""
        for worker in self.workers():
            if (claim := self._claim(worker)) is not None:
                yield claim

    def foreign(self) -> set[str]:
        """Names of other ledgers whose journals lie here too."""
        names = {
            path.name.rpartition("-")[0] for path in self.path.iterdir() if path.suffix in SEGMENT_SUFFIXES
        }
        return names - {self._ledger}

    def damaged(self) -> int:
        """How many damaged segments of this ledger are kept here."""
        start = f"{self._ledger}-"
        return sum(
            path.suffix == DAMAGED_SUFFIX and path.name.startswith(start) for path in self.path.iterdir()
        )

    @contextmanager
    def replaying(self) -> Iterator[bool]:
        """Whether the caller is the only one who replays now; it is until it leaves."""
        descriptor = _open_lock(self.path / f"{self._ledger}{REPLAY_SUFFIX}")
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def workers(self) -> list[str]:
        """Names of all that have left something here, oldest first."""
        start = f"{self._ledger}-"
        suffixes = LOCK_SUFFIX, *SEGMENT_SUFFIXES
        return sorted(
            {
                start + path.name.removeprefix(start).partition(".")[0]
                for path in self.path.iterdir()
                if path.name.startswith(start) and path.suffix in suffixes
            }
        )

    def _claim(self, worker: str) -> Claim | None:
        """None when somebody holds the name, or has just removed it."""
        descriptor = _open_lock(_lock_path(self.path, worker))
        # The file may have been locked, replayed and removed since it was opened: that lock guards nothing.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return Claim(self.path, worker, descriptor)
        os.close(descriptor)
        return None


def segments_of(folder: Path, worker: str) -> list[Path]:
    """The segments of `worker` in `folder`, in the order of their writing; none without a folder."""
    start = f"{worker}."
    try:
        # Not as paths: the writer asks five times a second, and every worker's files are there.
        names = [entry for entry in os.listdir(folder) if entry.startswith(start)]  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(SEGMENT_SUFFIXES)]


def _lock_path(folder: Path, worker: str) -> Path:
    return folder / f"{worker}{LOCK_SUFFIX}"


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
