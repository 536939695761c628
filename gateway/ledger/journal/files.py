"""The few things that a journal asks of the file system, so that a test can be a disk that is full."""

import os
from pathlib import Path


class Files:
    """The operating system's files. Every method may raise OSError."""

    # No wrapper: this runs twice for each attempt. A write that has returned survives kill -9.
    write = staticmethod(os.write)

    def create(self, path: Path) -> int:
        """A descriptor that appends to a new file."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def sync(self, descriptor: int) -> None:
        """Return once everything written so far would survive a power cut."""
        os.fdatasync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """The same for the names in a folder."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
