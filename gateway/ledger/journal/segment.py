"""One file of a worker's journal."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from gateway.ledger.journal.files import Files
from gateway.ledger.journal.frames import names_frame, start_frame


class Segment:
    """Append-only, and nothing is ever cut off: the ledger's writer reads it while it is written.

    `open` are the intents in it that have no end in any segment yet, with their frames. `needed_until` is the
    number of the youngest end or note that needs it: those written in it, and the ends of its intents.
    It is of no more use once nothing is open and everything up to `needed_until` is committed.

    A write that fails may leave the beginning of a frame behind. Then the segment takes nothing more.
    """

    __slots__ = (
        "_descriptor",
        "_files",
        "_write",
        "is_broken",
        "needed_until",
        "open",
        "path",
        "size",
        "synced",
    )

    def __init__(self, files: Files, path: Path, start: int) -> None:
        """Create the file, after `start` ends and notes. Raises OSError, and then leaves none behind."""
        self._files = files
        self._write = files.write
        self.path = path
        self.open: dict[str, bytes] = {}
        self.needed_until = 0
        self.size = 0
        self.synced = 0
        self.is_broken = False
        self._descriptor = files.create(path)
        try:
            self.append(names_frame() + start_frame(start))
        except OSError:
            self.close()
            with suppress(OSError):
                files.remove(path)
            raise

    def append(self, data: bytes) -> None:
        """Hand `data` to the kernel. Raises OSError: then it does not count, whatever part of it is there."""
        size = len(data)
        try:
            if self._write(self._descriptor, data) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.is_broken = True
            raise
        self.size += size

    def sync(self) -> None:
        """Put what was written so far onto the disk. Raises OSError. May run on another thread."""
        size = self.size
        if size != self.synced:
            self._files.sync(self._descriptor)
            self.synced = size

    def close(self) -> None:
        self._files.close(self._descriptor)
