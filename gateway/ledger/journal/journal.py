"""The journal of one living worker: what it is about to send, and how that ended.

Rules:
- An intent is with the kernel before its request is sent, an end before its client can know.
- Ends and notes have numbers, which grow by one in the order in which they stand in the journal.
- A segment goes once every intent in it has an end, and all ends that it takes part in are committed. What is
  still under way in an old segment is copied ahead when the journal has grown large.
- A write that fails changes nothing: an intent is refused with its request, an end is written later. What was
  half written stays where it is, and the next write goes to a new segment.
- The disk has promised the room of a segment before anything is written there, and the next is ready.
  When the disk is full and none can be had, half of the last one is for new requests. The other half is kept
  for the ends of those that are under way.

Everything runs on the event loop's thread, but for `sync`.
"""

from collections import deque
from collections.abc import Sequence

import msgspec
import structlog

from gateway.core.errors import Unavailable
from gateway.ledger.errors import file_failure
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim
from gateway.ledger.journal.frames import (
    intent_frame,
    pad_frame,
    payload_of,
)
from gateway.ledger.journal.segment import Segment

_log = structlog.get_logger("tollway.journal")

MIB = 1024 * 1024
PROBE_BYTES = 16 * 1024
REFUSED_RETRY_SECONDS = 1.0


class JournalEntry(msgspec.Struct, frozen=True, gc=False):
    """An end or a note as it is written. `attempt_id` is that of an end, None of a note."""

    attempt_id: str | None
    frame: bytes


class JournalLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a worker's journal. An attempt takes about 1 KB until it is committed."""

    segment_bytes: int = 8 * MIB  # the disk gives twice that from the start: for this one and the next
    total_bytes: int = 256 * MIB  # then admission slows; what was admitted may still exceed it


class Journal:
    """Made on the worker's `claim`, which it gives up when it is closed. Raises OSError when made.

    `written` is the number of the last end or note in it, `unwritten` are those that the disk did not take.
    `has_space` is False while it stands at its bound or cannot be written.

    Many attributes: its segments, what the disk did not take, and why.
    """

    def __init__(self, claim: Claim, files: Files | None = None, limits: JournalLimits | None = None) -> None:
        self._claim = claim
        self._files = files or Files()
        self._limits = limits or JournalLimits()
        self._segment_bytes = self._limits.segment_bytes
        self._kept_for_ends = self._segment_bytes // 2
        self._segments: deque[Segment] = deque()
        self._created = 0
        self._created_synced = 0
        self.written = 0
        self.unwritten: deque[JournalEntry] = deque()
        self._failure: str | None = None
        self._shortage: str | None = None  # why no next segment can be had
        self.has_space = True
        self._current = self._new_segment()
        self._segments.append(self._current)
        self._next: Segment | None = None
        try:
            self._current.begin(0)
        except OSError:
            self._current.remove()
            raise
        self._prepare_next()

    @property
    def worker(self) -> str:
        """The name under which it is found in its folder."""
        return self._claim.worker

    @property
    def is_blocked(self) -> bool:
        """Whether the disk takes no new request. Nobody but its owner can change that."""
        return self._failure is not None or self._is_at_its_end()

    @property
    def taken(self) -> int:
        """The number of the last end or note that was appended, whether it is written yet or not."""
        return self.written + len(self.unwritten)

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

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Write how attempts ended, and notes, in one write."""
        if self.unwritten:  # in the order of their numbers
            self.unwritten.extend(entries)
            return
        try:
            segment = self._put(b"".join([entry.frame for entry in entries]))
        except OSError as exc:
            self._note_failure(exc)
            self.unwritten.extend(entries)
            return
        self._count(segment, entries)

    def release(self, committed: int) -> None:
        """What has a number up to `committed` is in the ledger: try what failed, remove what is done."""
        if self._look_after_files() and self._failure is not None:
            self._probe()
        self._prepare_next()
        self._write_unwritten()
        if self._is_large():
            self._carry(committed)
        for segment in [segment for segment in self._segments if segment is not self._current]:
            if not segment.open and segment.needed_until <= committed:
                self._remove(segment)
        self._measure()

    def problem(self) -> str | None:
        """Why there is no room, None while there is."""
        if self._failure is not None or self._shortage is not None:
            return self._failure or self._shortage
        if not self.has_space:
            return f"journal: {self.total_bytes() // MIB} MiB wait to be committed to the ledger"
        return None

    def total_bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.size for segment in self._segments)

    def segment_count(self) -> int:
        return len(self._segments)

    def intents(self) -> dict[str, bytes]:
        """The halves of the attempts that have no end yet, by their ids."""
        return {
            attempt_id: payload_of(frame)
            for segment in self._segments
            for attempt_id, frame in segment.open.items()
        }

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
        self._write_unwritten()
        if self.unwritten:  # their intents stay
            _log.critical(
                "journal.ends_lost",
                attempts=len(self.unwritten),
                booked="as presumed",
                problem=self._failure,
            )
        if self._next is not None:
            self._next.remove()
        self._current.leave()
        under_way = sum(len(segment.open) for segment in self._segments)
        for segment in list(self._segments):
            if segment.open or segment.needed_until > committed:
                segment.close()
            else:
                self._remove(segment)
        self._claim.give_up()
        return under_way

    def _put(self, data: bytes) -> Segment:
        """The segment that took `data`. Raises OSError."""
        segment = self._current
        if segment.size + len(data) > segment.take_until:
            segment = self._decide(segment, len(data))
        segment.append(data)
        return segment

    def _decide(self, current: Segment, size: int) -> Segment:
        """Where `size` bytes go that `current` does not simply take. Raises OSError."""
        if not current.is_broken and current.size + size <= self._segment_bytes:
            current.take_until = self._segment_bytes  # only ends, and what has been admitted, from here on
        else:
            self._turn_over()
        self._measure()
        return self._current

    def _turn_over(self) -> None:
        """Go on in the next segment. Raises OSError when none can be had."""
        segment = self._next or self._new_segment()
        self._next = None
        before, self._current = self._current, segment
        before.leave()
        if before.is_broken and not before.needed_until and not before.open:
            self._remove(before)  # a disk that stays full must not leave one behind for each try
        self._segments.append(segment)
        segment.begin(self.written)
        self._prepare_next()

    def _new_segment(self) -> Segment:
        segment = Segment(self._files, self._claim.segment_path(self._created + 1), self._segment_bytes)
        self._created += 1
        return segment

    def _prepare_next(self) -> None:
        """Have the disk keep the room of the segment after the current one, if it has as much."""
        if self._next is not None:
            return
        current = self._current
        try:
            self._next = self._new_segment()
        except OSError as exc:
            self._note_shortage(exc)
            return
        if not current.is_broken:
            current.take_until = self._segment_bytes
        if self._shortage is not None:
            _log.info("journal.disk_has_room", path=str(self._claim.folder))
        self._shortage = None

    def _count(self, segment: Segment, entries: Sequence[JournalEntry]) -> None:
        """`entries` stand in `segment`."""
        for entry in entries:
            self.written += 1
            segment.needed_until = self.written
            attempt_id = entry.attempt_id
            if attempt_id is not None and segment.open.pop(attempt_id, None) is None:
                self._close_elsewhere(attempt_id)

    def _close_elsewhere(self, attempt_id: str) -> None:
        """The intent stands in an earlier segment, most likely in one of the youngest.

        That stays until the end is committed: who reads the end again needs the intent.
        """
        for segment in reversed(self._segments):
            if segment.open.pop(attempt_id, None) is not None:
                segment.needed_until = self.written
                return

    def _look_after_files(self) -> bool:
        """Put back what somebody has removed: a kill would lose what stands in files that nobody finds.

        False where that cannot be done now.
        """
        try:
            self._claim = self._claim.renewed()
            if self._next is not None and not self._next.is_there:
                self._next.close()
                self._next = None
            for segment in [segment for segment in self._segments if not segment.is_there]:
                segment.restore()
                _log.error("journal.file_was_removed", path=str(segment.path))
                if segment is self._current:
                    segment.take_until = -1  # its reader goes on in the next one
        except OSError as exc:
            self._note_failure(exc)
            return False
        return True

    def _write_unwritten(self) -> None:
        """Write the ends and notes that found no place."""
        while self.unwritten:
            try:
                segment = self._put(self.unwritten[0].frame)
            except OSError as exc:
                self._note_failure(exc)
                return
            self._count(segment, [self.unwritten.popleft()])

    def _probe(self) -> None:
        """See whether the disk takes some dozens of records, in a new segment."""
        try:
            self._turn_over()
            self._current.append(pad_frame(PROBE_BYTES))
        except OSError as exc:
            self._note_failure(exc)
            return
        _log.info("journal.recovered", path=str(self._current.path))
        self._failure = None

    def _carry(self, committed: int) -> None:
        """Copy the intents that alone keep an old segment: a few long answers must not keep everything."""
        for segment in list(self._segments):
            if segment is self._current or not segment.open or segment.needed_until > committed:
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
        segment.remove()

    def _is_large(self) -> bool:
        return 2 * self.total_bytes() > self._limits.total_bytes

    def _measure(self) -> None:
        self.has_space = not self.is_blocked and self.total_bytes() < self._limits.total_bytes

    def _is_at_its_end(self) -> bool:
        """Whether the rest of the last segment is kept for ends."""
        return self._shortage is not None and self._current.take_until == self._segment_bytes

    def _note_shortage(self, error: OSError) -> None:
        if self._shortage is None:  # one line for each change of state
            _log.error("journal.disk_full", path=str(self._claim.folder), problem=error.strerror)
        current, for_requests = self._current, self._segment_bytes - self._kept_for_ends
        if not current.is_broken and current.size <= for_requests:
            current.take_until = for_requests
        self._shortage = str(file_failure("journal", self._claim.folder, error))

    def _note_failure(self, error: OSError) -> None:
        if self._failure is None:  # one line for each change of state
            _log.error("journal.write_failed", path=str(self._claim.folder), problem=error.strerror)
        self._failure = f"journal: cannot write in {self._claim.folder}: {error.strerror}"
        self.has_space = False
