"""A row straight from its halves is the row of the record that they join to, whatever stands in them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS, joined
from gateway.ledger import half_rows
from gateway.ledger.half_rows import RouteHalf, row_of_halves
from gateway.ledger.rows import INTEGER_CEILING, TAGS, TEXT_CHARACTERS, Row, row_of
from tests.core.halves import halves_of
from tests.ledger.ledger_records import FULL, final, make

Halves = tuple[list[Any], list[Any], list[Any]]

NAMES = (ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)
FIELDS = [(half, number) for half, names in enumerate(NAMES) for number in range(len(names))]

texts = st.one_of(
    st.sampled_from(["", "\0", "a\0b", "é", "x" * TEXT_CHARACTERS, "x" * (TEXT_CHARACTERS + 1)]),
    st.text(max_size=20),
)
numbers = st.one_of(
    st.sampled_from([0, -1, INTEGER_CEILING - 1, INTEGER_CEILING, 2**63]),
    st.floats(allow_nan=False, allow_infinity=False),
)
plain = st.one_of(st.none(), st.booleans(), texts, numbers)
values = st.one_of(
    plain,
    st.lists(plain, max_size=8),
    st.dictionaries(texts, plain, max_size=4),
    st.dictionaries(st.text(max_size=3), texts, max_size=TAGS + 1),
    st.lists(st.tuples(texts, numbers), max_size=3),
)
MADE = [FULL, make(2), final("3"), final("4", tags={}, counterfactual_nano_usd={})]


def decoded(halves: tuple[bytes, bytes]) -> Halves:
    (route, sent), ended = map(msgspec.msgpack.decode, halves)
    return route, sent, ended


def directly(halves: Halves) -> Row:
    route, sent, ended = halves
    return row_of_halves(RouteHalf.of(route), sent, ended)


def by_way_of_a_record(halves: Halves) -> Row:
    route, sent, ended = (
        dict(zip(names, half, strict=True)) for names, half in zip(NAMES, halves, strict=True)
    )
    return row_of(joined(route | sent, ended))


def outcome(way: Any, halves: Halves) -> str:
    """The row with the types of its values, or that there is none."""
    try:
        return repr(way(halves))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, msgspec.MsgspecError):
        return "none"


@given(st.sampled_from(MADE), st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=3))
def test_both_ways_give_the_same_row(record: Any, changes: list[tuple[tuple[int, int], Any]]) -> None:
    halves = decoded(halves_of(record))
    for (half, number), value in changes:
        halves[half][number] = value
    halves = msgspec.msgpack.decode(msgspec.msgpack.encode(halves))
    assert outcome(directly, halves) == outcome(by_way_of_a_record, halves)


@pytest.mark.parametrize("record", MADE, ids=lambda record: record.attempt_id)
def test_an_ordinary_attempt_needs_no_record(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_way_of_a_record(decoded(halves_of(record)))
    monkeypatch.delattr(half_rows, "joined")
    assert directly(decoded(halves_of(record))) == expected


@pytest.mark.parametrize("half", range(3))
def test_a_half_with_a_value_too_few_is_none(half: int) -> None:
    halves = decoded(halves_of(FULL))
    halves[half].pop()
    assert outcome(directly, halves) == outcome(by_way_of_a_record, halves) == "none"
