"""Frames become rows: halves of today, whole records of before, and another version's names."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS, RecordedFacts, UsageRecord
from gateway.ledger.journal import reading
from gateway.ledger.journal.frames import Frame, FrameKind, UnreadableRecord
from gateway.ledger.journal.reading import RowReader
from gateway.ledger.rows import Row, row_of
from gateway.ledger.tables import COLUMNS
from tests.core.halves import halves_of
from tests.ledger.ledger_records import FULL, final, final_half, intent, intent_half

Columns = dict[str, Any]

encode = msgspec.msgpack.encode
PARTS = (
    "input_text",
    "input_image",
    "input_audio",
    "input_cached",
    "output_text",
    "output_audio",
    "output_reasoning",
)
RECORD_FIELDS = UsageRecord.__struct_fields__


def read(frames: Iterable[Frame]) -> tuple[list[Columns], list[Columns]]:
    """The rows of attempts that ended, and of those that are presumed."""
    reader = RowReader()
    ended = [columns(row) for frame in frames if (row := reader.take(frame)) is not None]
    return ended, [columns(row) for row in reader.presumed()]


def columns(row: Row) -> Columns:
    """By name. Facts are compared by what they say: a number that is a default may be left out or not."""
    by_name = dict(zip(COLUMNS, row, strict=True))
    return by_name | {"facts": msgspec.json.decode(str(by_name["facts"]), type=RecordedFacts)}


def rows(*records: UsageRecord) -> list[Columns]:
    return [columns(row_of(record)) for record in records]


def names(*lists: Sequence[str]) -> Frame:
    return Frame(FrameKind.NAMES, encode(lists))


def sent(name: object) -> Frame:
    return Frame(FrameKind.INTENT, intent_half(name)[1])


def ended(name: object) -> Frame:
    return Frame(FrameKind.FINAL, final_half(name)[1])


def whole(kind: FrameKind, record: UsageRecord, fields: Sequence[str] = RECORD_FIELDS, **more: Any) -> Frame:
    """A frame as versions up to 0.1.0 wrote it: usage in parts."""
    usage = dict(zip(PARTS, record.usage.columns(), strict=True))
    values = msgspec.structs.asdict(record) | {"usage": usage} | more
    return Frame(kind, encode([values[name] for name in fields]))


# --- halves ---


def test_an_end_makes_a_record_with_its_intent_and_what_has_no_end_is_presumed() -> None:
    frames = [names(ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS), sent(1), sent(2), ended(1)]
    assert read(frames) == (rows(final(1)), rows(intent(2)))


def test_an_intent_that_was_written_twice_counts_once() -> None:
    assert read([sent(1), sent(1)]) == ([], rows(intent(1)))
    assert read([sent(1), sent(1), ended(1)]) == (rows(final(1)), [])


def test_an_end_without_its_intent_says_nothing() -> None:
    """One that a full disk left behind, and that was written again, is known by its number before."""
    with pytest.raises(UnreadableRecord, match="without its intent"):
        read([sent(1), ended(1), ended(1)])


def test_halves_of_another_version_are_read_by_its_own_names() -> None:
    lists = [[*fields, f"colour-{number}"][::-1] for number, fields in enumerate(FIELDS)]
    (route, own), end = msgspec.msgpack.decode(sent(1).payload), msgspec.msgpack.decode(ended(1).payload)
    first, second, third = ([*values, "blue"][::-1] for values in (route, own, end))
    frames = [
        names(*lists),
        Frame(FrameKind.INTENT, encode((first, second))),
        Frame(FrameKind.FINAL, encode(third)),
    ]
    assert read(frames) == (rows(final(1)), [])


FIELDS = (ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)


def test_ends_from_before_usage_was_a_map_are_still_read() -> None:
    """Usage in seven parts, and neither flags, nor reported counts, nor rates."""
    record = msgspec.structs.replace(final(1), flags="", reported={}, rates={})
    end = dict(zip(ENDED_FIELDS, msgspec.msgpack.decode(ended(1).payload), strict=True))
    before = ["usage" if name == "units" else name for name in ENDED_FIELDS[:-3]]
    values = [end["units" if name == "usage" else name] for name in before]
    values[before.index("usage")] = list(record.usage.columns())
    assert "units" not in before
    frames = [names(ROUTE_FIELDS, SENT_FIELDS, before), sent(1), Frame(FrameKind.FINAL, encode(values))]
    assert read(frames) == (rows(record), [])


def test_a_field_may_have_moved_from_what_a_route_shares_to_what_each_attempt_has() -> None:
    route, own = msgspec.msgpack.decode(sent(1).payload)
    frames = [
        names(ROUTE_FIELDS[1:], [*SENT_FIELDS, ROUTE_FIELDS[0]], ENDED_FIELDS),
        Frame(FrameKind.INTENT, encode((route[1:], [*own, route[0]]))),
        ended(1),
    ]
    assert read(frames) == (rows(final(1)), [])


@pytest.mark.parametrize("half", range(3))
def test_halves_that_lack_a_field_say_which(half: int) -> None:
    """And they are not read by the names of another segment."""
    lists = [list(fields) for fields in FIELDS]
    place = lists[half].index("address") if half == 2 else -1  # what came later has a default
    missing = lists[half].pop(place)
    (route, own), end = msgspec.msgpack.decode(sent(1).payload), msgspec.msgpack.decode(ended(1).payload)
    (route, own, end)[half].pop(place)
    reader, said = RowReader(), []
    reader.take(names(*lists))
    for frame in (Frame(FrameKind.INTENT, encode((route, own))), Frame(FrameKind.FINAL, encode(end))):
        try:
            assert reader.take(frame) is None
        except UnreadableRecord as exc:
            said.append(str(exc))
    assert missing in "".join(said)


def test_more_routes_than_are_kept_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROUTES", 2)
    records = [final(number, feature=f"feature-{number % 3}") for number in range(9)]
    halves = [halves_of(record) for record in records]
    frames = [Frame(FrameKind.INTENT, first) for first, _ in halves]
    frames += [Frame(FrameKind.FINAL, second) for _, second in halves]
    assert read(frames) == (rows(*records), [])


def test_segments_of_two_versions_in_one_journal_are_each_read_by_their_names() -> None:
    """The names may change from one segment to the next, while an attempt is under way."""
    turned = [fields[::-1] for fields in FIELDS]
    end = msgspec.msgpack.decode(ended(1).payload)
    frames = [names(*FIELDS), sent(1), names(*turned), Frame(FrameKind.FINAL, encode(end[::-1]))]
    assert read(frames) == (rows(final(1)), [])


# --- whole records ---


def test_a_journal_of_whole_records_is_still_read_with_those_that_are_presumed() -> None:
    frames = [
        Frame(FrameKind.NAMES, encode(RECORD_FIELDS)),
        whole(FrameKind.INTENT, intent(1)),
        whole(FrameKind.INTENT, intent(2)),
        whole(FrameKind.FINAL, final(1)),
    ]
    assert read(frames) == (rows(final(1)), rows(intent(2)))


def test_a_whole_record_needs_no_intent() -> None:
    frames = [Frame(FrameKind.NAMES, encode(RECORD_FIELDS)), whole(FrameKind.FINAL, FULL)]
    assert read(frames) == (rows(FULL), [])


def test_whole_records_of_another_version_are_read_by_its_own_names() -> None:
    fields = [*RECORD_FIELDS, "colour"][::-1]
    frames = [
        Frame(FrameKind.NAMES, encode(fields)),
        whole(FrameKind.INTENT, intent(1), fields, colour="blue"),
        whole(FrameKind.INTENT, intent(2), fields, colour="red"),
        whole(FrameKind.FINAL, final(1), fields, colour="blue"),
    ]
    assert read(frames) == (rows(final(1)), rows(intent(2)))


def test_columns_that_came_later_have_their_defaults_in_old_records() -> None:
    fields = [name for name in RECORD_FIELDS if name not in ("facts", "address")]
    frames = [Frame(FrameKind.NAMES, encode(fields)), whole(FrameKind.FINAL, final(1), fields)]
    assert read(frames) == (rows(final(1)), [])


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
    reader = RowReader()
    route, own = msgspec.msgpack.decode(sent(1).payload)
    own[SENT_FIELDS.index("prompt_tokens")] = "many"
    for frame in (Frame(FrameKind.INTENT, encode((route, own))), sent(2)):
        reader.take(frame)
    assert [columns(row) for row in reader.presumed()] == rows(intent(2))
    assert reader.unreadable == 1
