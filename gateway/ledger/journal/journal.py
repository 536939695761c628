"""The journal of one living worker: what it is about to send, and how that ended.

Rules:
- An intent is with the kernel before its request is sent, a final record before its client can know.
- A segment goes once every intent in it has a final record and every final record in it is committed. What is
  still under way in an old segment is copied ahead when the journal has grown large.
- A final record has its intent before it in its own segment, since neither says anything without the other.
- A write that fails changes nothing: an intent is refused with its request, a final record is written later.

Everything runs on the event loop's thread, but for `sync`.
"""

import errno
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from gateway.core.errors import Unavailable
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim
from gateway.ledger.journal.frames import final_frame, intent_frame, names_frame, pad_frame

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


_log = structlog.get_logger("tollway.journal")

MIB = 1024 * 1024
REFUSED_RETRY_SECONDS = 1.0


class JournalLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a worker's journal. An attempt takes about 1 KB until it is committed."""

    segment_bytes: int = 8 * MIB
    total_bytes: int = 256 * MIB  # then admission slows; what was admitted may still exceed it


class _Unwritten(msgspec.Struct, frozen=True):
    """A final record that no segment has taken yet."""

    number: int
    attempt_id: str
    frame: bytes


class Journal:
    """Made on the worker's `claim`, which it gives up when it is closed. Raises OSError when made."""

    def __init__(self, claim: Claim, files: Files | None = None, limits: JournalLimits | None = None) -> None:
        self._claim = claim
        self._files = files or Files()
        self._limits = limits or JournalLimits()
        self._segment_bytes = self._limits.segment_bytes
        self._segments: deque[Segment] = deque()
        self._created = 0
        self._created_synced = 0
        self._unwritten: deque[_Unwritten] = deque()
        self._failure: str | None = None
        self._has_room = True
        self._current = self._add_segment()

    def intend(self, attempt_id: str, half: bytes) -> None:
        """Write that an attempt is about to be sent. Raises Unavailable: then it must not be."""
        frame = intent_frame(half)
        try:
            segment = self._put(frame)
        except OSError as exc:
            self._note_failure(exc)
            raise Unavailable(
                "The usage journal cannot be written. Retry shortly.",
                retry_after_seconds=REFUSED_RETRY_SECONDS,
            ) from exc
        segment.open[attempt_id] = frame

    def append(self, ended: Sequence[tuple[str, bytes, int]]) -> None:
        """Write how attempts ended (id, half, number), in one write. `release` speaks of these numbers."""
        frames = {attempt_id: final_frame(half) for attempt_id, half, _ in ended}
        try:
            segment = self._put_ends(frames)
        except OSError as exc:
            self._note_failure(exc)
            for attempt_id, _, number in ended:
                self._unwritten.append(_Unwritten(number, attempt_id, frames[attempt_id]))
            return
        for attempt_id, _, number in ended:
            segment.last_final = number
            if segment.open.pop(attempt_id, None) is None:
                self._close_elsewhere(attempt_id)

    def release(self, committed: int) -> None:
        """Final records up to number `committed` are in the ledger: try what failed, remove what is done."""
        self._write_unwritten(committed)
        if self._failure is not None:
            self._probe()
        if self._is_large():
            self._carry(committed)
        for segment in [segment for segment in self._segments if segment is not self._current]:
            if not segment.open and segment.last_final <= committed:
                self._remove(segment)
        self._measure()

    def has_room(self) -> bool:
        """False while it stands at its bound or cannot be written."""
        return self._has_room

    def problem(self) -> str | None:
        """Why there is no room, None while there is."""
        if self._failure is not None:
            return self._failure
        if not self._has_room:
            return f"journal: {self.total_bytes() // MIB} MiB wait to be committed to the ledger"
        return None

    def total_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.size for segment in self._segments)

    def segment_count(self) -> int:
        return len(self._segments)

    def sync(self) -> None:
        """Put what is written onto the disk. Blocks; may run on another thread. Raises OSError."""
        created = self._created
        for segment in list(self._segments):
            segment.sync()
        if created != self._created_synced:
            self._files.sync_folder(self._claim.folder)
            self._created_synced = created

    def close(self, committed: int) -> int:
        """Leave what is not committed, or has no end, to be replayed by somebody else; remove the rest.

        The number of attempts that have no end in it.
        """
        self._write_unwritten(committed)
        if self._unwritten:  # their intents stay
            _log.critical(
                "journal.ends_lost",
                attempts=len(self._unwritten),
                booked="as presumed",
                problem=self._failure,
            )
        under_way = sum(len(segment.open) for segment in self._segments)
        for segment in list(self._segments):
            if segment.open or segment.last_final > committed:
                segment.close()
            else:
                self._remove(segment)
        self._claim.give_up()
        return under_way

    def _put(self, data: bytes) -> Segment:
        """The segment that took `data`. Raises OSError."""
        segment = self._segment_for(len(data))
        segment.append(data)
        return segment

    def _put_ends(self, frames: Mapping[str, bytes]) -> Segment:
        """The segment that took how attempts ended. Raises OSError.

        An end is a half that says nothing without its intent. Where that stands in another segment, which may
        be removed before this one, it is written once more.
        """
        segment = self._segment_for(sum(map(len, frames.values())))
        intents = [self._intent_elsewhere(name) for name in frames if name not in segment.open]
        segment.append(b"".join((*intents, *frames.values())))
        return segment

    def _segment_for(self, size: int) -> Segment:
        """The segment that the next `size` bytes go to. Raises OSError."""
        segment = self._current
        if segment.size + size > self._segment_bytes:
            segment = self._current = self._add_segment()
            self._measure()
        return segment

    def _intent_elsewhere(self, attempt_id: str) -> bytes:
        """The frame of an intent that has no end yet, most likely in one of the youngest segments."""
        for segment in reversed(self._segments):
            if (frame := segment.open.get(attempt_id)) is not None:
                return frame
        return b""

    def _add_segment(self) -> Segment:
        self._created += 1
        segment = Segment(self._files, self._claim.segment_path(self._created))
        self._segments.append(segment)
        return segment

    def _close_elsewhere(self, attempt_id: str) -> None:
        """The intent stands in an earlier segment."""
        for segment in reversed(self._segments):
            if segment.open.pop(attempt_id, None) is not None:
                return

    def _write_unwritten(self, committed: int) -> None:
        """Write the final records that found no place, but for those that the ledger has by now."""
        while self._unwritten:
            late = self._unwritten[0]
            if late.number > committed:
                try:
                    segment = self._put_ends({late.attempt_id: late.frame})
                except OSError as exc:
                    self._note_failure(exc)
                    return
                segment.last_final = max(segment.last_final, late.number)
            self._unwritten.popleft()
            self._close_elsewhere(late.attempt_id)

    def _probe(self) -> None:
        try:
            self._current.probe()
        except OSError as exc:
            self._note_failure(exc)
            return
        _log.info("journal.recovered", path=str(self._current.path))
        self._failure = None

    def _carry(self, committed: int) -> None:
        """Copy the intents that alone keep an old segment: a few long answers must not keep everything."""
        for segment in list(self._segments):
            if segment is self._current or not segment.open or segment.last_final > committed:
                continue
            try:
                current = self._put(b"".join(segment.open.values()))
            except OSError as exc:
                self._note_failure(exc)
                return
            current.open.update(segment.open)
            segment.open.clear()

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        segment.close()
        with suppress(OSError):  # the claim stays with the file, and replaying it changes nothing
            self._files.remove(segment.path)

    def _is_large(self) -> bool:
        return 2 * self.total_bytes() > self._limits.total_bytes

    def _measure(self) -> None:
        self._has_room = self._failure is None and self.total_bytes() < self._limits.total_bytes

    def _note_failure(self, error: OSError) -> None:
        if self._failure is None:  # one line for each change of state
            _log.error("journal.write_failed", path=str(self._claim.folder), problem=error.strerror)
        self._failure = f"journal: cannot write in {self._claim.folder}: {error.strerror}"
        self._has_room = False
