"""What the journals of dead workers say, as records for the ledger."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from gateway.core.record import UsageRecord
from gateway.ledger.journal.folder import DAMAGED_SUFFIX, Claim
from gateway.ledger.journal.frames import (
    Damage,
    Frame,
    FrameKind,
    UnreadableRecord,
    names_frame,
    read_frames,
    read_names,
    read_record,
)

_log = structlog.get_logger("tollway.journal")


class Intent(msgspec.Struct, frozen=True):
    """An intent that no final record has followed yet. Kept encoded: thousands may be open."""

    payload: bytes
    names: tuple[str, ...]


class Replay:
    """Reads one dead worker's journal. `records` first, all of it, then `finish`."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._paths = claim.segments()
        self._open: dict[str, Intent] = {}
        self._damaged: set[Path] = set()
        self.final = 0
        self.presumed = 0

    def records(self) -> Iterator[UsageRecord]:
        """Every final record, then the intents without one, as they were presumed. Blocks on reading.

        An attempt may come twice, and may be in the ledger already. Raises OSError.
        """
        for path in self._paths:
            yield from self._finals(path)
        for intent in self._open.values():
            self.presumed += 1
            yield read_record(intent.payload, intent.names)

    def finish(self) -> None:
        """Everything is committed: remove the segments, but keep what was damaged for a person to read."""
        for path in self._paths:
            with suppress(FileNotFoundError):
                if path in self._damaged:
                    path.replace(path.with_suffix(DAMAGED_SUFFIX))
                else:
                    path.unlink()

    def _finals(self, path: Path) -> Iterator[UsageRecord]:
        names = tuple(field.name for field in msgspec.structs.fields(UsageRecord))
        for item in read_frames(path.read_bytes()):
            if isinstance(item, Damage):
                self._note_damage(path, item)
                continue
            try:
                if item.kind is FrameKind.NAMES:
                    names = tuple(read_names(item))
                elif (final := self._take(item, names)) is not None:
                    yield final
            except UnreadableRecord as exc:
                self._damaged.add(path)
                _log.error("journal.unreadable", path=str(path), problem=str(exc))

    def _take(self, frame: Frame, names: tuple[str, ...]) -> UsageRecord | None:
        """The record of a FINAL frame; an INTENT is remembered until its final record comes."""
        if frame.kind is FrameKind.PAD:
            return None
        record = read_record(frame.payload, names)
        if frame.kind is FrameKind.INTENT:
            self._open[record.attempt_id] = Intent(frame.payload, names)
            return None
        self._open.pop(record.attempt_id, None)
        self.final += 1
        return record

    def _note_damage(self, path: Path, damage: Damage) -> None:
        """A torn tail is what a kill in the middle of a write leaves, and its request was never sent.

        A segment without one whole frame is no tail: it is of a format that this version does not know.
        """
        is_foreign = damage.start == 0 and damage.end > len(names_frame())
        if damage.is_tail and not is_foreign:
            _log.info("journal.torn_tail", path=str(path), bytes=damage.end - damage.start)
            return
        self._damaged.add(path)
        _log.error("journal.damaged", path=str(path), start=damage.start, end=damage.end)
