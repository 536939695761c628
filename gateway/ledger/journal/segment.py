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

    `take_until` is the size that it should not outgrow without a decision; below any size once it is broken.
    """

    __slots__ = (
        "_descriptor",
        "_files",
        "_write",
        "needed_until",
        "open",
        "path",
        "size",
        "synced",
        "take_until",
    )

    def __init__(self, files: Files, path: Path, room_bytes: int) -> None:
        """Create an empty file, with a promise of the disk for so many bytes.

        Raises OSError, and then leaves none behind.
        """
        self._files = files
        self._write = files.write
        self.path = path
        self.open: dict[str, bytes] = {}
        self.needed_until = 0
        self.size = 0
        self.synced = 0
        self.take_until = room_bytes
        self._descriptor = files.create(path)
        try:
            files.reserve(self._descriptor, room_bytes)
        except OSError:
            self.remove()
            raise

    @property
    def is_broken(self) -> bool:
        """Whether a write has failed."""
        return self.take_until < 0

    def begin(self, start: int) -> None:
        """Write what it begins with: so many ends and notes come before it. Raises OSError."""
        self.append(names_frame() + start_frame(start))

    def append(self, data: bytes) -> None:
        """Hand `data` to the kernel. Raises OSError: then it does not count, whatever part of it is there."""
        size = len(data)
        try:
            if self._write(self._descriptor, data) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.take_until = -1
            raise
        self.size += size

    def sync(self) -> None:
        """Put what was written so far onto the disk. Raises OSError. May run on another thread."""
        size = self.size
        if size != self.synced:
            self._files.sync(self._descriptor)
            self.synced = size

    @property
    def is_there(self) -> bool:
        """Whether whoever looks for its file finds it."""
        return self._files.is_at(self.path, self._descriptor)

    def restore(self) -> None:
        """Put the file back that somebody has removed. Raises OSError.

        Nothing may be appended any more: who reads it now has the other one open.
        """
        descriptor = self._files.copy(self._descriptor, self.path)
        self._files.close(self._descriptor)
        self._descriptor, self.synced = descriptor, 0

    def leave(self) -> None:
        """Nothing more will be written: give back the room that was kept for it."""
        with suppress(OSError):  # then it is given back with the file
            self._files.give_back(self._descriptor)

    def close(self) -> None:
        self._files.close(self._descriptor)

    def remove(self) -> None:
        """Close it, and remove the file."""
        self.close()
        with suppress(OSError):  # the claim stays with the file, and replaying it changes nothing
            self._files.remove(self.path)
