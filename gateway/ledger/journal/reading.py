"""From the frames of one journal to usage records. The only place that knows how frames join to a record.

Two formats: in today's an intent and an end are the two halves of a row (`gateway/core/record.py`). Up to
0.1.0 each was a whole record. The first frame of a segment names the fields, and so tells which one it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS, UsageRecord, joined
from gateway.ledger.journal.frames import Frame, FrameKind, UnreadableRecord

_decode_values = msgspec.msgpack.Decoder(list[Any]).decode
_decode_halves = msgspec.msgpack.Decoder(tuple[list[Any], list[Any]]).decode
_decode_names = msgspec.msgpack.Decoder(list[str | list[str]]).decode


class HalfNames(msgspec.Struct, frozen=True):
    """The fields of both halves: `sent` are those of its route, then its own."""

    sent: tuple[str, ...]
    ended: tuple[str, ...]
    attempt_id: int

    @classmethod
    def of(cls, route: Sequence[str], sent: Sequence[str], ended: Sequence[str]) -> "HalfNames":
        """Raises ValueError where no field is the attempt's id."""
        return cls((*route, *sent), tuple(ended), [*route, *sent].index("attempt_id"))


class RecordNames(msgspec.Struct, frozen=True):
    """The fields of whole records."""

    fields: tuple[str, ...]


_Names = HalfNames | RecordNames
_OURS = HalfNames.of(ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)
_BROKEN = (msgspec.MsgspecError, LookupError, TypeError, ValueError)


class _Intent(msgspec.Struct, frozen=True, gc=False):
    """Kept encoded: thousands may be open."""

    payload: bytes
    names: _Names


class RecordReader:
    """Takes all frames of one journal in their order, and gives a record for each attempt that ended.

    It has to see every segment that is left, the oldest first: an end needs what its intent says.
    """

    def __init__(self) -> None:
        self._names: _Names = _OURS
        self._open: dict[str, _Intent] = {}
        self.unreadable = 0  # intents that `presumed` had to leave out

    def take(self, frame: Frame) -> UsageRecord | None:
        """The record of an attempt that ended; an intent is remembered. Raises UnreadableRecord."""
        try:
            match frame.kind:
                case FrameKind.NAMES:
                    self._names = _read_names(frame.payload)
                case FrameKind.INTENT:
                    self._open[_attempt_id(frame.payload, self._names)] = _Intent(frame.payload, self._names)
                case FrameKind.FINAL:
                    return self._ended(frame.payload, self._names)
                case _:
                    pass
        except _BROKEN as exc:
            raise UnreadableRecord(f"{frame.kind.name.lower()}: {exc}") from exc
        return None

    def presumed(self) -> Iterator[UsageRecord]:
        """What is to be booked for the attempts that have no end."""
        for intent in self._open.values():
            try:
                yield _presumed(intent)
            except _BROKEN:
                self.unreadable += 1

    def _ended(self, payload: bytes, names: _Names) -> UsageRecord | None:
        if isinstance(names, RecordNames):
            record = _whole_record(payload, names)
            self._open.pop(record.attempt_id, None)
            return record
        ended = dict(zip(names.ended, _decode_values(payload), strict=True))
        intent = self._open.get(ended["attempt_id"])
        if intent is None:
            raise LookupError("an end without its intent")
        record = joined(_sent(intent), ended)
        del self._open[record.attempt_id]
        return record


def _read_names(payload: bytes) -> _Names:
    names = _decode_names(payload)
    halves = [part for part in names if isinstance(part, list)]
    if not halves:
        return RecordNames(tuple(str(name) for name in names))
    route, sent, ended = halves
    return HalfNames.of(route, sent, ended)


def _attempt_id(payload: bytes, names: _Names) -> str:
    if isinstance(names, RecordNames):
        return str(_decode_values(payload)[names.fields.index("attempt_id")])
    route, sent = _decode_halves(payload)
    return str((route + sent)[names.attempt_id])


def _sent(intent: _Intent) -> Mapping[str, Any]:
    names = intent.names
    if isinstance(names, RecordNames):
        raise TypeError("its intent is a whole record, and its end is not")
    route, sent = _decode_halves(intent.payload)
    return dict(zip(names.sent, route + sent, strict=True))


def _presumed(intent: _Intent) -> UsageRecord:
    if isinstance(intent.names, RecordNames):
        return _whole_record(intent.payload, intent.names)
    return joined(_sent(intent), None)


def _whole_record(payload: bytes, names: RecordNames) -> UsageRecord:
    return msgspec.convert(dict(zip(names.fields, _decode_values(payload), strict=True)), UsageRecord)
