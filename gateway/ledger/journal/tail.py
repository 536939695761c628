"""Reading one worker's journal from its first segment on, while it is written or after its worker has died.

A living worker only ever appends, and begins a new segment when a write has failed. So what is incomplete at
the end of the newest segment is still being written. In an older one a kill or a full disk has torn it.
One without a byte is not begun: its worker keeps it ready.
Reading blocks, for some milliseconds at most where the pages are in memory.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import structlog

from gateway.ledger.journal.folder import DAMAGED_SUFFIX, OLD_SEGMENT_SUFFIX, segments_of
from gateway.ledger.journal.frames import (
    Damage,
    Frame,
    FrameKind,
    Told,
    UnreadableRecord,
    is_torn,
    names_frame,
    read_frames,
    read_note,
    read_start,
)
from gateway.ledger.journal.reading import RowReader
from gateway.ledger.rows import Row
from gateway.private_files import write_private

_log = structlog.get_logger("tollway.journal")
_FINAL, _NOTE, _START = FrameKind.FINAL, FrameKind.NOTE, FrameKind.START
READ_BYTES = 256 * 1024  # together: what the processor's cache holds until it is a row


class LedgerEntry(NamedTuple):
    """What goes into the ledger: `row` or `told`; neither, where only the number moves on.

    What is `told` is an entry of the audit log, or a refused request.

    `number` is None where the journal does not tell it.
    """

    row: Row | None
    told: Told | None
    number: int | None


_Part: TypeAlias = Frame | Damage


class JournalTail:
    """The journal of `worker` in `folder`. `read` it, and when it is dead also `presumed` and `finish`."""

    def __init__(self, folder: Path, worker: str, committed: int = 0) -> None:
        """Entries up to the number `committed` are in the ledger."""
        self.worker = worker
        self.final = 0
        self._folder = folder
        self._reader = RowReader()
        self._segments: list[Path] = []
        self._damaged: set[Path] = set()
        self._descriptor: int | None = None
        self._offset = 0
        self._parts: deque[_Part] = deque()  # of the segment that is being read, not taken yet
        # The number of the last end or note that was read; None behind damage, and in segments of 0.1.0.
        self._number: int | None = None
        self._given = committed  # entries up to this number are in the ledger or on their way

    def read(self, limit: int, until: int | None = None) -> list[LedgerEntry]:
        """The next entries, at most `limit`, and none beyond the number `until`. Raises OSError."""
        found: list[LedgerEntry] = []
        while len(found) < limit and (self._parts or self._fill()):
            part = self._parts[0]
            if self._is_beyond(part, until):
                break
            self._parts.popleft()
            if (entry := self._take(part)) is not None:
                found.append(entry)
        return found

    def presumed(self) -> list[LedgerEntry]:
        """What to book for attempts without an end, once `read` has nothing more of a dead worker."""
        self._leave_tail()
        found = [LedgerEntry(row, None, None) for row in self._reader.presumed()]
        if self._reader.unreadable and self._segments:
            self._note_unreadable(f"{self._reader.unreadable} intents")
        return found

    def finish(self) -> None:
        """Everything is committed: remove the segments, but keep what was damaged for a person to read."""
        self.close()
        for path in segments_of(self._folder, self.worker):
            with suppress(FileNotFoundError):
                if path in self._damaged:
                    _keep(path)  # with what was written since
                path.unlink()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    # --- frames ---

    def _is_beyond(self, part: _Part, until: int | None) -> bool:
        if until is None or self._number is None or self._number < until:
            return False
        return isinstance(part, Frame) and _is_numbered(part)

    def _take(self, part: _Part) -> LedgerEntry | None:
        if isinstance(part, Damage):
            self._note_damage(part)
            return None
        try:
            if part.kind is _START:
                self._number = read_start(part)
                return None
            if not _is_numbered(part):
                self._reader.take(part)
                return None
        except UnreadableRecord as exc:
            self._note_unreadable(str(exc))
            return None
        return self._take_numbered(part)

    def _take_numbered(self, frame: Frame) -> LedgerEntry | None:
        number = self._number = None if self._number is None else self._number + 1
        is_given = number is not None and number <= self._given
        try:
            told = read_note(frame) if frame.kind is _NOTE else None
            row = self._reader.take(frame) if told is None else None
        except UnreadableRecord as exc:
            if is_given:  # what is committed may have lost its intent with a segment that is gone
                return None
            self._note_unreadable(str(exc))
            told = row = None
        if is_given or (told is None and row is None and number is None):
            return None
        if number is not None:
            self._given = number
        self.final += row is not None
        return LedgerEntry(row, told, number)

    # --- segments ---

    def _fill(self) -> bool:
        """Read what has come since. False when there is nothing new."""
        while True:
            if self._descriptor is not None and self._read_on():
                return True
            successor = self._successor()
            if successor is None:
                return False
            if self._descriptor is not None and self._read_on():
                return True  # written before its worker went on to the next segment
            self._leave_tail()
            self._open(successor)
            if self._parts:
                return True

    def _read_on(self) -> bool:
        """Whether there are whole frames, or damage, behind what was read before."""
        descriptor = self._descriptor
        if descriptor is None:
            return False
        new = os.fstat(descriptor).st_size - self._offset
        # A part of it, unless one frame is longer than that.
        return (new > READ_BYTES and self._read_bytes(descriptor, READ_BYTES)) or (
            new > 0 and self._read_bytes(descriptor, new)
        )

    def _read_bytes(self, descriptor: int, count: int) -> bool:
        """Whether there are whole frames, or damage, in the next `count` bytes."""
        content, offset = os.pread(descriptor, count, self._offset), self._offset
        self._offset += len(content)
        for part in read_frames(content):
            if isinstance(part, Frame):
                self._parts.append(part)
            elif part.is_tail:
                self._offset = offset + part.start
            else:
                self._parts.append(Damage(offset + part.start, offset + part.end, is_tail=False))
        return bool(self._parts)

    def _successor(self) -> Path | None:
        after = self._segments[-1].name if self._segments else ""
        later = (path for path in segments_of(self._folder, self.worker) if path.name > after)
        return next((path for path in later if _is_begun(path)), None)

    def _open(self, path: Path) -> None:
        self.close()
        self._segments.append(path)
        self._offset = 0
        if path.suffix == OLD_SEGMENT_SUFFIX:
            self._number = None
        with suppress(FileNotFoundError):  # its worker has removed it: everything in it is committed
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _leave_tail(self) -> None:
        """Nothing will follow what is incomplete at the end of this segment."""
        if self._descriptor is None:
            return
        size = os.fstat(self._descriptor).st_size
        if size > self._offset:
            rest = os.pread(self._descriptor, size - self._offset, self._offset)
            self._note_damage(Damage(self._offset, size, is_tail=is_torn(rest)))
            self._offset = size

    def _note_damage(self, damage: Damage) -> None:
        """A torn tail is what a kill in the middle of a write leaves, and its request was never sent.

        A segment without one whole frame is no tail: it is of a format that this version does not know.
        """
        path = self._segments[-1]
        is_foreign = damage.start == 0 and damage.end > len(names_frame())
        if damage.is_tail and not is_foreign:
            _log.info("journal.torn_tail", path=str(path), bytes=damage.end - damage.start)
            return
        self._number = None
        self._keep_damaged(path)
        _log.error("journal.damaged", path=str(path), start=damage.start, end=damage.end)

    def _note_unreadable(self, problem: str) -> None:
        path = self._segments[-1]
        self._keep_damaged(path)
        _log.error("journal.unreadable", path=str(path), problem=problem)

    def _keep_damaged(self, path: Path) -> None:
        """At once: its worker, if it lives, removes a segment that is committed, and knows of no damage."""
        self._damaged.add(path)
        with suppress(FileNotFoundError):
            _keep(path)


def _keep(path: Path) -> None:
    """Keep the segment at `path` for a person to read, under a name of its own. Raises OSError."""
    kept = path.with_suffix(DAMAGED_SUFFIX)
    if not kept.exists():
        try:
            kept.hardlink_to(path)
        except FileExistsError:
            return
        except PermissionError:  # a file system without links
            write_private(kept, path.read_bytes())


def _is_begun(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # its worker has removed it: everything in it is committed
        return False


def _is_numbered(frame: Frame) -> bool:
    return frame.kind is _FINAL or frame.kind is _NOTE
