"""What stands in a journal: frames, and the records inside them. Pure; the files are opened elsewhere.

A frame is a marker (3 bytes and the kind), the payload's length and the CRC32 of kind and payload, then the
payload: a half of a ledger row, as `gateway/core/record.py` writes it. Each segment begins with a frame that
names their fields, so that another version of Tollway can read it, and one that says how many ends and notes
came before it in this journal: they have numbers. The marker's first bytes cannot occur in UTF-8, so behind
damage the next whole frame is found again, and no text of a client can look like one.
"""

import enum
import struct
import zlib
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from gateway.core.audit import json_text
from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS
from gateway.core.refused_request import RefusedRequest

MARKER = b"\xd5TJ"
_HEAD = struct.Struct("<4sII")

_encode = msgspec.msgpack.Encoder().encode
_decode_number = msgspec.msgpack.Decoder(int).decode
_pack, _unpack_from = _HEAD.pack, _HEAD.unpack_from
HEAD_BYTES = _HEAD.size
_crc = zlib.crc32


class FrameKind(enum.Enum):
    """What a frame says. The value is the last byte of its marker."""

    NAMES = b"N"  # the fields of the halves that follow
    INTENT = b"I"  # this attempt is about to be sent
    FINAL = b"F"  # this attempt has ended so
    PAD = b"P"  # nothing; written to see whether the disk takes it
    START = b"S"  # how many FINAL and NOTE frames came before this segment
    NOTE = b"A"  # an entry of the audit log that is about no attempt, or a refused request

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


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One whole frame of a segment."""

    kind: FrameKind
    payload: bytes


class UnreadableRecord(Exception):
    """A frame is whole, and its payload is no record that this version knows."""


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the ledger has to take that is about no attempt. `at` in UTC microseconds, `payload` JSON.

    `kind` is that of an entry of the audit log, or REFUSED_REQUEST.
    """

    kind: str
    at: int
    payload: str


Told: TypeAlias = Note | RefusedRequest

# Not a kind of frame: a version that does not know it enters it into the audit log, and loses nothing else.
REFUSED_REQUEST = "refused_request"

_decode_note = msgspec.msgpack.Decoder(Note).decode
_decode_refused = msgspec.json.Decoder(RefusedRequest).decode
_INTENT_MARKER, _INTENT_SEED = FrameKind.INTENT.marker, FrameKind.INTENT.seed
_FINAL_MARKER, _FINAL_SEED = FrameKind.FINAL.marker, FrameKind.FINAL.seed
_KINDS = {kind.marker: (kind, kind.seed) for kind in FrameKind}


def intent_frame(half: bytes) -> bytes:
    """The frame that says that an attempt is about to be sent; `half` is `Sent.half`."""
    return _pack(_INTENT_MARKER, len(half), _crc(half, _INTENT_SEED)) + half


def final_frame(half: bytes) -> bytes:
    """The frame that says how an attempt ended; `half` is `Ended.half`."""
    return _pack(_FINAL_MARKER, len(half), _crc(half, _FINAL_SEED)) + half


def names_frame() -> bytes:
    """The first frame of a segment."""
    return _frame(FrameKind.NAMES, _encode((ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)))


def start_frame(number: int) -> bytes:
    """The second frame of a segment: so many ends and notes came before it."""
    return _frame(FrameKind.START, _encode(number))


def note_frame(note: Note) -> bytes:
    """The frame of a note."""
    return _frame(FrameKind.NOTE, _encode(note))


def refused_frame(refused: RefusedRequest) -> bytes:
    """The frame of a refused request."""
    return note_frame(Note(REFUSED_REQUEST, refused.at, json_text(refused)))


def payload_of(frame: bytes) -> bytes:
    """What is in a frame that this process has made."""
    return frame[_HEAD.size :]


def pad_frame(size: int) -> bytes:
    """A frame of `size` bytes that says nothing."""
    return _frame(FrameKind.PAD, bytes(size - _HEAD.size))


def read_frames(content: bytes) -> Iterator[Frame | Damage]:
    """The frames of a segment in order, and the stretches between them that are damaged or torn off."""
    position = 0
    while position < len(content):
        frame, end = _frame_at(content, position)
        if frame is None:
            end = _next_whole(content, position + 1)
            yield Damage(position, end, is_tail=end == len(content))
        else:
            yield frame
        position = end


def is_torn(rest: bytes) -> bool:
    """Whether `rest`, which ends a segment, begins one frame, as a write that was cut off leaves it.

    A frame that is there in full and says something else than it did when it was written is damage.
    """
    if len(rest) < HEAD_BYTES:
        return rest[: len(MARKER)] == MARKER[: len(rest)]
    marker, length, _ = _unpack_from(rest, 0)
    return marker in _KINDS and HEAD_BYTES + length > len(rest)


def read_start(frame: Frame) -> int:
    """What a START frame says. Raises UnreadableRecord."""
    try:
        return _decode_number(frame.payload)
    except msgspec.MsgspecError as exc:
        raise UnreadableRecord("its start is no number") from exc


def read_note(frame: Frame) -> Told:
    """The entry of the audit log, or the refused request, in a NOTE frame. Raises UnreadableRecord."""
    try:
        note = _decode_note(frame.payload)
        return _decode_refused(note.payload) if note.kind == REFUSED_REQUEST else note
    except msgspec.MsgspecError as exc:
        raise UnreadableRecord(f"a note: {exc}") from exc


def _frame(kind: FrameKind, payload: bytes) -> bytes:
    return _pack(kind.marker, len(payload), _crc(payload, kind.seed)) + payload


def _next_whole(content: bytes, position: int) -> int:
    """Where the next whole frame begins, or else where `content` ends."""
    while (found := content.find(MARKER, position)) >= 0:
        if _frame_at(content, found)[0] is not None:
            return found
        position = found + 1
    return len(content)


def _frame_at(content: bytes, position: int) -> tuple[Frame | None, int]:
    """The whole frame that begins at `position` and where it ends; None when there is none."""
    start = position + HEAD_BYTES
    if start > len(content):
        return None, position
    marker, length, checksum = _unpack_from(content, position)
    known = _KINDS.get(marker)
    end = start + length
    if known is None or end > len(content):
        return None, position
    kind, seed = known
    payload = content[start:end]
    if _crc(payload, seed) != checksum:
        return None, position
    return Frame(kind, payload), end
