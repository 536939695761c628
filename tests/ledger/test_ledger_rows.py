"""What becomes of a usage record on its way into a row."""

import json
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.record import Outcome, RecordedFacts, UsageRecord
from gateway.core.usage import usage_of
from gateway.ledger.row_usage import USAGE_COLUMNS, usage_of_row
from gateway.ledger.rows import (
    INTEGER_CEILING,
    TAG_NAME_CHARACTERS,
    TAGS,
    TEXT_CHARACTERS,
    careful_row_of,
    row_of,
)
from gateway.ledger.tables import COLUMNS, COSTS
from tests.core.builders import used
from tests.ledger.ledger_records import FULL, make

TEXT_FIELDS = [
    field.name
    for field in msgspec.structs.fields(UsageRecord)
    if field.type in (str, str | None) and field.name not in ("attempt_id", "request_id")
]

# Every code point, the lone surrogates that JSON escapes can smuggle in included.
texts = st.text(st.characters(codec=None, exclude_categories=[]), max_size=TEXT_CHARACTERS + 50)


def named(record: UsageRecord) -> dict[str, object]:
    return dict(zip(COLUMNS, row_of(record), strict=True))


def test_every_column_has_a_home_in_the_record_and_every_field_a_column() -> None:
    fields = {field.name for field in msgspec.structs.fields(UsageRecord)}
    derived = {*USAGE_COLUMNS, "input_tokens", "output_tokens", *COSTS, "unit_nano_usd"}
    assert set(COLUMNS) - derived == fields


def test_each_field_lands_in_its_column() -> None:
    row = named(FULL)
    assert tuple(row.pop(column) for column in USAGE_COLUMNS) == FULL.usage.columns()
    assert (row.pop("input_tokens"), row.pop("output_tokens")) == (321, 654_000)
    assert json.loads(str(row.pop("usage"))) == FULL.usage.units
    assert json.loads(str(row.pop("reported"))) == FULL.reported
    assert json.loads(str(row.pop("tags"))) == FULL.tags
    assert msgspec.json.decode(str(row.pop("facts")), type=RecordedFacts) == FULL.facts
    assert json.loads(str(row.pop("counterfactual_nano_usd"))) == FULL.counterfactual_nano_usd
    assert json.loads(str(row.pop("rates"))) == FULL.rates
    read, cached, written, thought = (int(str(row.pop(column))) for column in COSTS)
    assert read + written == FULL.cost_nano_usd
    by_unit = json.loads(str(row.pop("unit_nano_usd")))
    assert (cached, thought) == (by_unit["cached_text"], by_unit["output_reasoning"])
    assert sum(by_unit.values()) == FULL.cost_nano_usd
    assert row == {name: getattr(FULL, name) for name in row}


def test_a_row_without_rates_does_not_split_its_cost() -> None:
    row = named(make(rates={}))
    assert [row[name] for name in (*COSTS, "rates", "unit_nano_usd")] == [0, 0, 0, 0, "{}", "{}"]


def test_a_row_has_its_map_of_units_only_where_its_columns_do_not_tell_all() -> None:
    plain = used(input_text=9, input_cached=4, output_text=5, output_reasoning=2)
    assert named(make(usage=plain))["usage"] == "{}"
    for usage in (plain, FULL.usage, usage_of({"input_text": 1, "cache_write_1h": 2, "search_queries": 3})):
        assert usage_of_row(named(make(usage=usage))) == usage


def test_values_are_plain_so_that_the_driver_takes_no_detour() -> None:
    assert {type(value) for value in row_of(make(reported_model=None))} <= {str, int, float, type(None)}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_written_as_its_value(outcome: Outcome) -> None:
    assert named(make(outcome=outcome))["outcome"] == outcome.value


def test_the_careful_way_changes_nothing_of_a_good_record() -> None:
    assert careful_row_of(FULL) == row_of(FULL)


@given(st.sampled_from(TEXT_FIELDS), texts)
def test_any_text_becomes_one_that_a_strict_database_takes(field: str, text: str) -> None:
    value = named(make(**{field: text}))[field]
    assert isinstance(value, str)
    assert "\0" not in value
    assert value.encode().decode() == value
    assert len(value) <= TEXT_CHARACTERS


@given(
    st.sampled_from(TEXT_FIELDS),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=TEXT_CHARACTERS),
)
def test_good_text_stays_as_it_is(field: str, text: str) -> None:
    assert named(make(**{field: text}))[field] == text


@given(st.dictionaries(texts, texts, max_size=5))
def test_any_tags_become_json_without_nul_or_surrogates(tags: dict[str, str]) -> None:
    written = named(make(tags=tags))["tags"]
    assert isinstance(written, str)
    assert written.encode()
    for name, value in json.loads(written).items():
        assert "\0" not in name + value
        assert len(name) <= TAG_NAME_CHARACTERS
        assert len(value) <= TEXT_CHARACTERS


@given(st.dictionaries(st.text("ab\\u0", max_size=20), st.text('é"\\u0', max_size=300), max_size=5))
def test_good_tags_stay_as_they_are(tags: dict[str, str]) -> None:
    assert json.loads(str(named(make(tags=tags))["tags"])) == tags


def test_nul_goes_lone_surrogates_are_replaced_and_pairs_become_their_character() -> None:
    assert named(make(model="a\0b"))["model"] == "ab"
    assert named(make(model="a\ud800b"))["model"] == "a\ufffdb"
    assert named(make(model="\ud83d\ude00"))["model"] == "😀"
    assert json.loads(str(named(make(tags={"a\0": "\udfff"}))["tags"])) == {"a": "\ufffd"}


def test_more_tags_than_the_bound_are_cut() -> None:
    tags = {f"t{number}": "x" for number in range(TAGS + 5)}
    assert len(json.loads(str(named(make(tags=tags))["tags"]))) == TAGS


def test_an_identifier_that_had_to_change_is_still_unique() -> None:
    long = "x" * 5_000
    first, second = (named(make(attempt_id=f"{long}:{n}"))["attempt_id"] for n in (1, 2))
    assert first != second
    assert len(str(first)) <= TEXT_CHARACTERS
    assert named(make(attempt_id=f"{long}:1"))["attempt_id"] == first


def test_absurd_numbers_of_an_upstream_are_clamped() -> None:
    absurd = 10**30
    record = make(
        usage=used(input_text=absurd, input_cached=absurd, output_reasoning=absurd),
        cost_nano_usd=absurd,
        counterfactual_nano_usd={"gpt-4o": absurd},
    )
    row = named(record)
    for column in ("input_tokens", "cached_input_tokens", "reasoning_tokens", "cost_nano_usd"):
        assert row[column] == INTEGER_CEILING
    assert json.loads(str(row["counterfactual_nano_usd"])) == {"gpt-4o": INTEGER_CEILING}


def test_any_mapping_serves_for_tags_and_costs() -> None:
    record = make(tags=MappingProxyType({"a": "b"}), counterfactual_nano_usd=MappingProxyType({"gpt-4o": 5}))
    assert named(record)["tags"] == '{"a":"b"}'
    assert named(record)["counterfactual_nano_usd"] == '{"gpt-4o":5}'
