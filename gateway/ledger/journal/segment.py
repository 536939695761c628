"""One file of a living worker's journal, and which of its attempts are still under way."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from gateway.ledger.journal.files import Files
from gateway.ledger.journal.frames import names_frame, pad_frame

PROBE_BYTES = 16 * 1024


class Segment:
    """Append-only. `open` are the intents in it that have no final record in any segment yet, with their
    frames; `last_final` the number of its youngest final record, counted over the whole journal.

    It is of no more use once nothing is open and everything up to `last_final` is committed.
    """

    __slots__ = ("_descriptor", "_files", "_write", "last_final", "open", "path", "size", "synced")

    def __init__(self, files: Files, path: Path) -> None:
        """Create the file. Raises OSError, and then leaves none behind."""
        self._files = files
        self._write = files.write
        self.path = path
        self.open: dict[str, bytes] = {}
        self.last_final = 0
        self.size = 0
        self.synced = 0
        self._descriptor = files.create(path)
        try:
            self.append(names_frame())
        except OSError:
            self.close()
            with suppress(OSError):
                files.remove(path)
            raise

    def append(self, data: bytes) -> None:
        """Hand `data` to the kernel, all of it or none. Raises OSError."""
        size = len(data)
        try:
            if self._write(self._descriptor, data) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._roll_back()
            raise
        self.size += size

    def probe(self) -> None:
        """See whether the disk takes some dozens of records. Raises OSError when it does not."""
        size = self.size
        self.append(pad_frame(PROBE_BYTES))
        self.size = size
        self._roll_back()

    def sync(self) -> None:
        """Put what was written so far onto the disk. Raises OSError. May run on another thread."""
        size = self.size
        if size != self.synced:
            self._files.sync(self._descriptor)
            self.synced = size

    def close(self) -> None:
        self._files.close(self._descriptor)

    def _roll_back(self) -> None:
        # What cannot be cut off stays as damage between whole frames, which reading skips.
        with suppress(OSError):
            self._files.truncate(self._descriptor, self.size)
