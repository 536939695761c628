"""Segments of a journal, as a disk gives them back."""

from collections.abc import Sequence
from contextlib import suppress

from gateway.ledger.journal.frames import (
    Damage,
    Frame,
    FrameKind,
    UnreadableRecord,
    _frame,
    final_frame,
    intent_frame,
    names_frame,
    read_frames,
    read_note,
    read_start,
    start_frame,
)
from gateway.ledger.journal.reading import RowReader
from gateway.ledger.tables import COLUMNS
from tests.fuzz.target import Target
from tests.ledger.ledger_records import final_half, intent_half

TOKENS = (
    *(
        b"\xd5TJ",
        b"\xd5TJI",
        b"\xd5TJF",
        b"\xd5TJN",
        b"\xd5TJS",
        b"\xd5TJA",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
    ),
    *(names_frame(), start_frame(3), intent_frame(intent_half(1)[1]), final_frame(final_half(1)[1])),
    # Whole frames whose payload is not what it should be.
    *(
        _frame(kind, payload)
        for kind in FrameKind
        for payload in (b"", b"\xc0", b"\x93\x90\x90\x90", b"\x92\x90\x90")
    ),
    *(_frame(FrameKind.FINAL, b"\xdc\xff\xff"), _frame(FrameKind.INTENT, b"\x81\xa1a\x01")),
)


def check(data: bytes, cuts: Sequence[int]) -> None:
    """Frames and damage cover each byte once; a cut file keeps frames before it. Only UnreadableRecord."""
    found = list(read_frames(data))
    assert b"".join(_bytes_of(data, item) for item in found) == data
    _take(found)
    for at in cuts:
        kept = data[: at % (len(data) + 1)]
        whole = _frames_within(found, len(kept))
        assert [item for item in read_frames(kept) if isinstance(item, Frame)][: len(whole)] == whole


def _bytes_of(data: bytes, item: Frame | Damage) -> bytes:
    return data[item.start : item.end] if isinstance(item, Damage) else _frame(item.kind, item.payload)


def _frames_within(found: Sequence[Frame | Damage], size: int) -> list[Frame]:
    position, whole = 0, []
    for item in found:
        position = item.end if isinstance(item, Damage) else position + len(_frame(item.kind, item.payload))
        if position > size:
            break
        if isinstance(item, Frame):
            whole.append(item)
    return whole


def _take(found: Sequence[Frame | Damage]) -> None:
    reader = RowReader()
    for frame in (item for item in found if isinstance(item, Frame)):
        with suppress(UnreadableRecord):
            if frame.kind is FrameKind.START:
                read_start(frame)
            elif frame.kind is FrameKind.NOTE:
                read_note(frame)
            elif (row := reader.take(frame)) is not None:
                assert len(row) == len(COLUMNS)
    assert all(len(row) == len(COLUMNS) for row in reader.presumed())


JOURNAL_FRAMES = Target("journal_frames", check, TOKENS, (20_000, 60, 2_000))
