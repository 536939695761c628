"""Frames become usage records: halves of today, whole records of before, and another version's names."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS, UsageRecord
from gateway.ledger.journal.frames import Frame, FrameKind, UnreadableRecord
from gateway.ledger.journal.reading import RecordReader
from tests.ledger.ledger_records import FULL, final, final_half, intent, intent_half

encode = msgspec.msgpack.encode
RECORD_FIELDS = UsageRecord.__struct_fields__


def read(frames: Iterable[Frame]) -> tuple[list[UsageRecord], list[UsageRecord]]:
    """The records of attempts that ended, and of those that are presumed."""
    reader = RecordReader()
    ended = [record for frame in frames if (record := reader.take(frame)) is not None]
    return ended, list(reader.presumed())


def names(*lists: Sequence[str]) -> Frame:
    return Frame(FrameKind.NAMES, encode(lists))


def sent(name: object) -> Frame:
    return Frame(FrameKind.INTENT, intent_half(name)[1])


def ended(name: object) -> Frame:
    return Frame(FrameKind.FINAL, final_half(name)[1])


def whole(kind: FrameKind, record: UsageRecord, fields: Sequence[str] = RECORD_FIELDS, **more: Any) -> Frame:
    """A frame as versions up to 0.1.0 wrote it."""
    values = msgspec.structs.asdict(record) | more
    return Frame(kind, encode([values[name] for name in fields]))


# --- halves ---


def test_an_end_makes_a_record_with_its_intent_and_what_has_no_end_is_presumed() -> None:
    frames = [names(ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS), sent(1), sent(2), ended(1)]
    assert read(frames) == ([final(1)], [intent(2)])


def test_an_intent_that_was_written_twice_counts_once() -> None:
    assert read([sent(1), sent(1)]) == ([], [intent(1)])
    assert read([sent(1), sent(1), ended(1)]) == ([final(1)], [])


def test_an_end_that_was_written_twice_counts_once() -> None:
    assert read([sent(1), ended(1), ended(1)]) == ([final(1)], [])


def test_halves_of_another_version_are_read_by_its_own_names() -> None:
    lists = [[*fields, f"colour-{number}"][::-1] for number, fields in enumerate(FIELDS)]
    (route, own), end = msgspec.msgpack.decode(sent(1).payload), msgspec.msgpack.decode(ended(1).payload)
    first, second, third = ([*values, "blue"][::-1] for values in (route, own, end))
    frames = [
        names(*lists),
        Frame(FrameKind.INTENT, encode((first, second))),
        Frame(FrameKind.FINAL, encode(third)),
    ]
    assert read(frames) == ([final(1)], [])


FIELDS = (ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)


def test_segments_of_two_versions_in_one_journal_are_each_read_by_their_names() -> None:
    """The names may change from one segment to the next, while an attempt is under way."""
    turned = [fields[::-1] for fields in FIELDS]
    end = msgspec.msgpack.decode(ended(1).payload)
    frames = [names(*FIELDS), sent(1), names(*turned), Frame(FrameKind.FINAL, encode(end[::-1]))]
    assert read(frames) == ([final(1)], [])


# --- whole records ---


def test_a_journal_of_whole_records_is_still_read_with_those_that_are_presumed() -> None:
    frames = [
        Frame(FrameKind.NAMES, encode(RECORD_FIELDS)),
        whole(FrameKind.INTENT, intent(1)),
        whole(FrameKind.INTENT, intent(2)),
        whole(FrameKind.FINAL, final(1)),
    ]
    assert read(frames) == ([final(1)], [intent(2)])


def test_a_whole_record_needs_no_intent() -> None:
    frames = [Frame(FrameKind.NAMES, encode(RECORD_FIELDS)), whole(FrameKind.FINAL, FULL)]
    assert read(frames) == ([FULL], [])


def test_whole_records_of_another_version_are_read_by_its_own_names() -> None:
    fields = [*RECORD_FIELDS, "colour"][::-1]
    frames = [
        Frame(FrameKind.NAMES, encode(fields)),
        whole(FrameKind.INTENT, intent(1), fields, colour="blue"),
        whole(FrameKind.INTENT, intent(2), fields, colour="red"),
        whole(FrameKind.FINAL, final(1), fields, colour="blue"),
    ]
    assert read(frames) == ([final(1)], [intent(2)])


def test_columns_that_came_later_have_their_defaults_in_old_records() -> None:
    fields = [name for name in RECORD_FIELDS if name not in ("facts", "address")]
    frames = [Frame(FrameKind.NAMES, encode(fields)), whole(FrameKind.FINAL, final(1), fields)]
    assert read(frames) == ([final(1)], [])


# --- what cannot be read ---


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(FrameKind.NAMES, b"\xc1")],
        [Frame(FrameKind.NAMES, encode([["attempt_id"], []]))],
        [Frame(FrameKind.INTENT, encode(["req_1:1", "too short"]))],
        [sent(1), Frame(FrameKind.FINAL, encode(["req_1:1", "too short"]))],
        [Frame(FrameKind.NAMES, encode(RECORD_FIELDS)), Frame(FrameKind.FINAL, encode(["req_1:1"]))],
        [
            Frame(FrameKind.NAMES, encode(RECORD_FIELDS)),
            whole(FrameKind.INTENT, intent(1)),
            names(*FIELDS),
            ended(1),
        ],
    ],
    ids=["names", "two-lists", "intent", "end", "whole", "mixed"],
)
def test_a_record_that_this_version_does_not_know_says_so(frames: list[Frame]) -> None:
    with pytest.raises(UnreadableRecord):
        read(frames)


def test_an_intent_that_cannot_be_read_costs_no_other_presumption() -> None:
    reader = RecordReader()
    route, own = msgspec.msgpack.decode(sent(1).payload)
    own[SENT_FIELDS.index("prompt_tokens")] = "many"
    for frame in (Frame(FrameKind.INTENT, encode((route, own))), sent(2)):
        reader.take(frame)
    assert list(reader.presumed()) == [intent(2)]
    assert reader.unreadable == 1
