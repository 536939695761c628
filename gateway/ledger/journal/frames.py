"""What stands in a journal: frames, and the records inside them. Pure; the files are opened elsewhere.

A frame is a marker (3 bytes and the kind), the payload's length and the CRC32 of kind and payload, then the
payload: a msgpack array of the fields of a `UsageRecord`. Each segment begins with a frame that names those
fields, so that another version of Tollway can read it, and one that says how many ends and notes came before
it in this journal: they have numbers. The marker's first bytes cannot occur in UTF-8, so
behind damage the next whole frame is found again, and no text of a client can look like one.
"""

import enum
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.core.record import UsageRecord

MARKER = b"\xd5TJ"
FRAME_BYTES_CEILING = 64 * 1024  # a record is about 500 bytes; longer ones are cut to fit
TEXT_CHARACTERS = 512  # of a field that had to be cut, as in the ledger
_INTEGER_CEILING = 2**53

_HEAD = struct.Struct("<4sII")
_FIELDS = tuple(field.name for field in msgspec.structs.fields(UsageRecord))

_encode = msgspec.msgpack.Encoder().encode
_decode_values = msgspec.msgpack.Decoder(list[Any]).decode
_decode_names = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_decode_number = msgspec.msgpack.Decoder(int).decode
_astuple = msgspec.structs.astuple
_pack = _HEAD.pack
_crc = zlib.crc32


class FrameKind(enum.Enum):
    """What a frame says. The value is the last byte of its marker."""

    NAMES = b"N"  # the fields of the records that follow
    INTENT = b"I"  # this attempt is about to be sent
    FINAL = b"F"  # this attempt has ended so
    PAD = b"P"  # nothing; written to see whether the disk takes it
    START = b"S"  # how many FINAL and NOTE frames came before this segment
    NOTE = b"A"  # an entry of the audit log that is about no attempt

    @property
    def marker(self) -> bytes:
        return MARKER + self.value

    @property
    def seed(self) -> int:
        """Where the payload's checksum starts, so that it covers the kind too."""
        return _crc(self.marker)


class Damage(msgspec.Struct, frozen=True):
    """Bytes from `start` to before `end` that are no frame. `is_tail`: nothing whole comes after them."""

    start: int
    end: int
    is_tail: bool


class Frame(msgspec.Struct, frozen=True):
    """One whole frame of a segment."""

    kind: FrameKind
    payload: bytes


class UnreadableRecord(Exception):
    """A frame is whole, and its payload is no record that this version knows."""


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the audit log has to say that is about no attempt. `at` in UTC microseconds, `payload` JSON."""

    kind: str
    at: int
    payload: str


_decode_note = msgspec.msgpack.Decoder(Note).decode
_INTENT_MARKER, _INTENT_SEED = FrameKind.INTENT.marker, FrameKind.INTENT.seed
_FINAL_MARKER, _FINAL_SEED = FrameKind.FINAL.marker, FrameKind.FINAL.seed
_KINDS = {kind.marker: (kind, kind.seed) for kind in FrameKind}


def intent_frame(record: UsageRecord) -> bytes:
    """The frame that says that `record`'s attempt is about to be sent."""
    payload = _payload(record)
    return _pack(_INTENT_MARKER, len(payload), _crc(payload, _INTENT_SEED)) + payload


def final_frame(record: UsageRecord) -> bytes:
    """The frame that says how `record`'s attempt ended."""
    payload = _payload(record)
    return _pack(_FINAL_MARKER, len(payload), _crc(payload, _FINAL_SEED)) + payload


def names_frame() -> bytes:
    """The first frame of a segment."""
    return _frame(FrameKind.NAMES, _encode(_FIELDS))


def start_frame(number: int) -> bytes:
    """The second frame of a segment: so many ends and notes came before it."""
    return _frame(FrameKind.START, _encode(number))


def note_frame(note: Note) -> bytes:
    """The frame of an entry of the audit log."""
    return _frame(FrameKind.NOTE, _encode(note))


def pad_frame(size: int) -> bytes:
    """A frame of `size` bytes that says nothing."""
    return _frame(FrameKind.PAD, bytes(size - _HEAD.size))


def read_frames(content: bytes) -> Iterator[Frame | Damage]:
    """The frames of a segment in order, and the stretches between them that are damaged or torn off."""
    position, broken_since = 0, None
    while (found := _next_marker(content, position, broken_since)) >= 0:
        if found > position and broken_since is None:
            broken_since = position
        frame, end = _frame_at(content, found)
        if frame is None:
            broken_since = found if broken_since is None else broken_since
            position = found + 1
            continue
        if broken_since is not None:
            yield Damage(broken_since, found, is_tail=False)
            broken_since = None
        yield frame
        position = end
    if broken_since is None and position < len(content):
        broken_since = position
    if broken_since is not None:
        yield Damage(broken_since, len(content), is_tail=True)


def read_names(frame: Frame) -> Sequence[str]:
    """The fields that a NAMES frame announces. Raises UnreadableRecord."""
    try:
        return _decode_names(frame.payload)
    except msgspec.MsgspecError as exc:
        raise UnreadableRecord("its fields are not named") from exc


def read_start(frame: Frame) -> int:
    """What a START frame says. Raises UnreadableRecord."""
    try:
        return _decode_number(frame.payload)
    except msgspec.MsgspecError as exc:
        raise UnreadableRecord("its start is no number") from exc


def read_note(frame: Frame) -> Note:
    """The entry in a NOTE frame. Raises UnreadableRecord."""
    try:
        return _decode_note(frame.payload)
    except msgspec.MsgspecError as exc:
        raise UnreadableRecord(f"an entry of the audit log: {exc}") from exc


def read_record(payload: bytes, names: Sequence[str] = _FIELDS) -> UsageRecord:
    """The record of an INTENT or FINAL frame. Raises UnreadableRecord."""
    try:
        named = dict(zip(names, _decode_values(payload), strict=True))
        return msgspec.convert(named, UsageRecord)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise UnreadableRecord(str(exc)) from exc


def _frame(kind: FrameKind, payload: bytes) -> bytes:
    return _pack(kind.marker, len(payload), _crc(payload, kind.seed)) + payload


def _next_marker(content: bytes, position: int, broken_since: int | None) -> int:
    """Where the next frame may begin: right here, unless the frame before it was broken."""
    if broken_since is None and content.startswith(MARKER, position):
        return position
    return content.find(MARKER, position)


def _frame_at(content: bytes, position: int) -> tuple[Frame | None, int]:
    """The whole frame that begins at `position` and where it ends; None when there is none."""
    start = position + _HEAD.size
    if start > len(content):
        return None, position
    marker, length, checksum = _HEAD.unpack_from(content, position)
    known = _KINDS.get(marker)
    end = start + length
    if known is None or end > len(content):
        return None, position
    kind, seed = known
    payload = content[start:end]
    if _crc(payload, seed) != checksum:
        return None, position
    return Frame(kind, payload), end


def _payload(record: UsageRecord) -> bytes:
    try:
        payload = _encode(_astuple(record))
    except (UnicodeError, OverflowError, TypeError, msgspec.MsgspecError):
        return _encode(_astuple(_cut(record)))
    return payload if len(payload) <= FRAME_BYTES_CEILING else _encode(_astuple(_cut(record)))


def _cut(record: UsageRecord) -> UsageRecord:
    """`record` with texts and integers that fit, as the ledger would cut them too."""
    fields = {name: _cut_value(value) for name, value in msgspec.structs.asdict(record).items()}
    return UsageRecord(**fields)


def _cut_value(value: Any) -> Any:
    if type(value) is str:
        return value[:TEXT_CHARACTERS].encode("utf-8", "replace").decode()
    if type(value) is int:
        return max(-_INTEGER_CEILING, min(value, _INTEGER_CEILING))
    if isinstance(value, dict):
        return {_cut_value(key): _cut_value(item) for key, item in list(value.items())[:64]}
    return value
