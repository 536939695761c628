"""From the frames of one journal to usage records. The only place that knows how frames join to a record."""

from collections.abc import Iterator

import msgspec

from gateway.core.record import UsageRecord
from gateway.ledger.journal.frames import Frame, FrameKind, UnreadableRecord, read_names, read_record

_NAMES = tuple(field.name for field in msgspec.structs.fields(UsageRecord))
_decode_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.msgpack.Decoder(str).decode


class _Intent(msgspec.Struct, frozen=True):
    """Kept encoded: thousands may be open."""

    payload: bytes
    names: tuple[str, ...]


class RecordReader:
    """Takes all frames of one journal in their order, and gives a record for each attempt that ended.

    It has to see every segment that is left, the oldest first: an end may need what its intent says.
    """

    def __init__(self) -> None:
        self._names = _NAMES
        self._open: dict[str, _Intent] = {}
        self.unreadable = 0  # intents that `presumed` had to leave out

    def take(self, frame: Frame) -> UsageRecord | None:
        """The record of an attempt that ended; an intent is remembered. Raises UnreadableRecord."""
        match frame.kind:
            case FrameKind.NAMES:
                self._names = tuple(read_names(frame))
            case FrameKind.INTENT:
                self._open[self._attempt_id(frame)] = _Intent(frame.payload, self._names)
            case FrameKind.FINAL:
                record = read_record(frame.payload, self._names)
                self._open.pop(record.attempt_id, None)
                return record
            case _:
                pass
        return None

    def presumed(self) -> Iterator[UsageRecord]:
        """What is to be booked for the attempts that have no end."""
        for intent in self._open.values():
            try:
                yield read_record(intent.payload, intent.names)
            except UnreadableRecord:
                self.unreadable += 1

    def _attempt_id(self, frame: Frame) -> str:
        try:
            return _decode_text(_decode_parts(frame.payload)[self._names.index("attempt_id")])
        except (msgspec.MsgspecError, LookupError, ValueError) as exc:
            raise UnreadableRecord(f"an intent: {exc}") from exc
