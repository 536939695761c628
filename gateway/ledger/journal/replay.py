"""What the journals of dead workers say, as records for the ledger."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from gateway.core.record import UsageRecord
from gateway.ledger.journal.folder import DAMAGED_SUFFIX, Claim
from gateway.ledger.journal.frames import Damage, UnreadableRecord, names_frame, read_frames
from gateway.ledger.journal.reading import RecordReader

_log = structlog.get_logger("tollway.journal")


class Replay:
    """Reads one dead worker's journal. `records` first, all of it, then `finish`."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._paths = claim.segments()
        self._reader = RecordReader()
        self._damaged: set[Path] = set()
        self.final = 0
        self.presumed = 0

    def records(self) -> Iterator[UsageRecord]:
        """Every final record, then the intents without one, as they were presumed. Blocks on reading.

        An attempt may come twice, and may be in the ledger already. Raises OSError.
        """
        for path in self._paths:
            yield from self._finals(path)
        for record in self._reader.presumed():
            self.presumed += 1
            yield record

    def finish(self) -> None:
        """Everything is committed: remove the segments, but keep what was damaged for a person to read."""
        for path in self._paths:
            with suppress(FileNotFoundError):
                if path in self._damaged:
                    path.replace(path.with_suffix(DAMAGED_SUFFIX))
                else:
                    path.unlink()

    def _finals(self, path: Path) -> Iterator[UsageRecord]:
        for item in read_frames(path.read_bytes()):
            if isinstance(item, Damage):
                self._note_damage(path, item)
                continue
            try:
                record = self._reader.take(item)
            except UnreadableRecord as exc:
                self._damaged.add(path)
                _log.error("journal.unreadable", path=str(path), problem=str(exc))
                continue
            if record is not None:
                self.final += 1
                yield record

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
