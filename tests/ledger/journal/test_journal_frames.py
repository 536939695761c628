"""What stands in a segment can be read again, whatever happened to the bytes around it."""

import pytest

from gateway.ledger.journal.frames import (
    Damage,
    Frame,
    FrameKind,
    final_frame,
    intent_frame,
    names_frame,
    pad_frame,
    read_frames,
)
from gateway.ledger.journal.reading import RowReader
from gateway.ledger.tables import COLUMNS
from tests.core.halves import halves_of
from tests.ledger.ledger_records import final, final_half, intent_half

INTENTS = [half for _, half in map(intent_half, (1, 2))]
ENDED = final_half(1)[1]
FRAMES = [names_frame(), *map(intent_frame, INTENTS), final_frame(ENDED)]
SEGMENT = b"".join(FRAMES)


def whole(content: bytes) -> list[Frame]:
    return [item for item in read_frames(content) if isinstance(item, Frame)]


def damages(content: bytes) -> list[Damage]:
    return [item for item in read_frames(content) if isinstance(item, Damage)]


def ends() -> list[int]:
    return [sum(map(len, FRAMES[: count + 1])) for count in range(len(FRAMES))]


def test_a_half_comes_back_as_it_was() -> None:
    names, intended, _, ended = whole(SEGMENT)
    assert (names.kind, intended.kind, ended.kind) == (FrameKind.NAMES, FrameKind.INTENT, FrameKind.FINAL)
    assert (intended.payload, ended.payload) == (INTENTS[0], ENDED)


def test_a_segment_cut_at_any_byte_keeps_every_frame_that_was_whole() -> None:
    for cut in range(len(SEGMENT) + 1):
        content = SEGMENT[:cut]
        complete = sum(end <= cut for end in ends())
        assert whole(content) == whole(SEGMENT)[:complete], cut
        torn = cut - ([0, *ends()][complete])
        assert [(item.end - item.start, item.is_tail) for item in damages(content)] == (
            [(torn, True)] if torn else []
        )


def test_frames_after_a_torn_write_are_found_again() -> None:
    """The disk was full, the rest could not be cut off, and then there was room again."""
    for kept in range(1, len(FRAMES[1])):
        content = FRAMES[0] + FRAMES[1][:kept] + FRAMES[2] + FRAMES[3]
        assert whole(content) == [whole(SEGMENT)[index] for index in (0, 2, 3)], kept
        [damage] = damages(content)
        assert (damage.start, damage.end, damage.is_tail) == (len(FRAMES[0]), len(FRAMES[0]) + kept, False)


def test_one_wrong_byte_anywhere_costs_at_most_the_frame_around_it() -> None:
    for position in range(len(SEGMENT)):
        content = bytearray(SEGMENT)
        content[position] ^= 0x40
        hit = sum(end <= position for end in ends())
        expected = [frame for index, frame in enumerate(whole(SEGMENT)) if index != hit]
        assert whole(bytes(content)) == expected, position
        assert len(damages(bytes(content))) == 1


def test_rubbish_alone_is_one_torn_tail() -> None:
    assert damages(bytes(1000)) == [Damage(0, 1000, is_tail=True)]
    assert damages(b"") == []
    assert whole(b"\xd5TJ" * 300) == []


def test_text_of_a_client_cannot_look_like_a_frame() -> None:
    forged = final_frame(final_half(666)[1]).decode("latin-1")
    sent, ended = halves_of(final(1, tags={"note": forged[:500]}, reported_model=forged[:500]))
    for frame in (intent_frame(sent), final_frame(ended)):
        content = bytearray(names_frame() + frame)
        content[len(names_frame()) + 4] ^= 0xFF  # its length is damaged, so the reader looks inside
        assert [found.kind for found in whole(bytes(content))] == [FrameKind.NAMES]


@pytest.mark.parametrize(
    "changes",
    [
        {"reported_model": "m" * 1_000_000},
        {"tags": {f"name-{number}": "v" * 5000 for number in range(500)}},
        {"finish_reason": "lone \ud800 surrogate"},
        {"tags": {"\udfff": "\ud800"}},
        {"held_nano_usd": 10**30},
    ],
    ids=["long", "many-tags", "surrogate", "surrogate-tag", "huge"],
)
def test_what_does_not_fit_is_cut_and_still_written(changes: dict[str, object]) -> None:
    sent, ended = halves_of(final(1, **changes))
    frames = intent_frame(sent), final_frame(ended)
    assert all(len(frame) < 64 * 1024 for frame in frames)
    reader = RowReader()
    [_, row] = [reader.take(frame) for frame in whole(b"".join(frames))]
    assert row is not None
    columns = dict(zip(COLUMNS, row, strict=True))
    assert columns["attempt_id"] == "req_1:1"
    assert columns["cost_nano_usd"] == final(1).cost_nano_usd


def test_a_pad_has_the_size_that_was_asked_for_and_says_nothing() -> None:
    assert len(pad_frame(4096)) == 4096
    assert [frame.kind for frame in whole(pad_frame(4096) + FRAMES[3])] == [FrameKind.PAD, FrameKind.FINAL]
