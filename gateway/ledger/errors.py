"""What can go wrong with the ledger, in the words of whoever runs it."""

import errno
import os
from pathlib import Path

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
SCARCE_BYTES = 256 * 1024  # less than a transaction of SQLite needs


class LedgerUnavailable(Exception):
    """The ledger cannot be read or written now. The message names the database and says what to do."""


class LedgerUnusable(LedgerUnavailable):
    """Waiting will not mend it: a wrong password or path, no such database, a newer version's ledger."""


class LedgerDiskFull(LedgerUnavailable):
    """The disk has no room, or the quota is used up. It goes on by itself once there is some."""


def disk_full(what: str, folder: Path) -> LedgerDiskFull:
    """`what` cannot be written, since the disk of `folder` is full."""
    return LedgerDiskFull(f"{what}: the disk of {folder.absolute()} is full; make room there, and it goes on")


def file_failure(what: str, folder: Path, error: OSError) -> LedgerUnavailable:
    """What `error` means for `what`, which is kept in `folder`: waiting helps against a full disk alone."""
    if is_no_space(error):
        return disk_full(what, folder)
    return LedgerUnusable(f"{what}: {error.strerror or error}")


def is_no_space(error: OSError) -> bool:
    """Whether the disk is full, or the quota is used up."""
    return error.errno in _NO_SPACE


def has_no_space(folder: Path) -> bool:
    """Whether next to nothing is free on the disk of `folder`."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < SCARCE_BYTES
