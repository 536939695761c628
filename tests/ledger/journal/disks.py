"""A real file system of a few megabytes, to be filled and to be freed again."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024
PIECE_BYTES = 4096


class SmallDisk:
    """A disk at `path`. What `fill` takes belongs to somebody else, as a log that grows would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "somebody-elses.log"

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all of its room but `leave_bytes`."""
        with self._filler.open("ab", buffering=0) as file:
            excess = self.free_bytes() - leave_bytes
            while excess > 0 and (taken := _write(file.fileno(), min(excess, MIB))):
                excess -= taken
            if not leave_bytes:
                while _write(file.fileno(), PIECE_BYTES):
                    pass

    def free(self) -> None:
        """Give back what was taken."""
        self._filler.unlink()

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Skips the test where this machine lets nobody mount a tmpfs."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tollway-test", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk needs root: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _write(descriptor: int, size: int) -> int:
    """How many bytes the disk took."""
    try:
        return os.write(descriptor, bytes(size))
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return 0
