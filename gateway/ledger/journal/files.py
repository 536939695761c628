"""The few things that a journal asks of the file system, so that a test can be a disk that is full."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

COPIED_TOGETHER = 1024 * 1024
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: the blocks are the file's, and it is not longer for it
_NO_PROMISE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


class Files:
    """The operating system's files. Every method may raise OSError."""

    # No wrapper: this runs twice for each attempt. A write that has returned survives kill -9.
    write = staticmethod(os.write)

    def create(self, path: Path) -> int:
        """A descriptor that appends to a new file."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def reserve(self, descriptor: int, size: int) -> None:
        """Have the disk promise the first `size` bytes of an empty file, which stays empty.

        Does nothing where the file system makes no such promise.
        """
        if _fallocate is None:
            return
        while _fallocate(descriptor, _KEEP_SIZE, 0, size):
            number = ctypes.get_errno()
            if number in _NO_PROMISE:
                return
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def give_back(self, descriptor: int) -> None:
        """Free what was reserved and not written."""
        os.ftruncate(descriptor, os.fstat(descriptor).st_size)

    def is_at(self, path: Path, descriptor: int) -> bool:
        """Whether the file at `path` is the one that is open."""
        try:
            found, opened = os.stat(path), os.fstat(descriptor)  # noqa: PTH116
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)

    def copy(self, descriptor: int, path: Path) -> int:
        """What was written to a file that is open and was removed, at `path` again. A new descriptor."""
        source = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = self.create(path)
            try:
                while part := os.read(source, COPIED_TOGETHER):
                    if self.write(target, part) != len(part):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.close(target)
                path.unlink(missing_ok=True)
                raise
        finally:
            os.close(source)
        return target

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


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    """Linux's own: what Python offers makes the file longer, and its readers would find zeros."""
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError):
        return None
    # `off_t` is as wide as a long wherever this runs: 64-bit Linux.
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    function.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = function
    return found


_fallocate = _find_fallocate()
