"""Usage as upstreams report it: disjoint units that add up to the totals, whatever was reported."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.usage import MAX_TOKENS, NO_USAGE, Usage, usage_of, usage_of_columns
from gateway.core.wire_usage import MOST_REPORTED, Reading, WireUsage, usage_from_wire
from tests.core.builders import used
from tests.core.wire_shapes import CONTRADICTORY, EXACT, Shape


def reading(usage: dict[str, Any]) -> Reading:
    return usage_from_wire(msgspec.json.decode(orjson.dumps(usage), type=WireUsage))


def read(usage: dict[str, Any]) -> Usage:
    return reading(usage).usage


@pytest.mark.parametrize("shape", EXACT, ids=lambda shape: shape.name)
def test_every_spelling_is_read_exactly(shape: Shape):
    found = reading(shape.usage)
    assert found.usage.units == shape.units
    assert found.reported == ()


@pytest.mark.parametrize("shape", CONTRADICTORY, ids=lambda shape: shape.name)
def test_a_contradiction_gives_the_dearer_reading_and_keeps_what_was_reported(shape: Shape):
    found = reading(shape.usage)
    assert found.usage.units == shape.units
    assert dict(found.reported)["prompt_tokens"] == shape.usage["prompt_tokens"]


def test_reported_counts_name_nested_ones_by_their_path_and_are_bounded():
    usage: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 9}
    found = reading(usage | {"completion_tokens_details": {"reasoning_tokens": 3}})
    assert dict(found.reported)["completion_tokens_details.reasoning_tokens"] == 3
    assert len(reading(usage | {f"a{n}": 1 for n in range(99)}).reported) == MOST_REPORTED


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens_details": None, "completion_tokens_details": None},
        {"prompt_tokens_details": {"cached_tokens": None, "audio_tokens": None, "multimodal_tokens": None}},
        {"prompt_tokens": -5, "completion_tokens": -1},
        {"prompt_tokens": True, "completion_tokens": "12", "total_tokens": [], "prompt_tokens_details": 5},
    ],
)
def test_nothing_usable_is_no_usage(usage: dict[str, Any]):
    assert read(usage) == NO_USAGE


def test_a_member_of_another_type_costs_only_itself():
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": "8", "prompt_tokens_details": "none"}
    assert read(usage) == Usage(input_text=5, output_text=3)


def test_the_tier_inside_the_usage_is_told():
    assert reading({"input_tokens": 1, "output_tokens": 1, "service_tier": "batch"}).service_tier == "batch"


def test_a_total_alone_is_told_as_that():
    assert reading({"total_tokens": 10}).is_total_only
    assert reading({"total_tokens": 10, "prompt_tokens": 0}).is_total_only
    assert not reading({"total_tokens": 10, "prompt_tokens": 10}).is_total_only


@pytest.mark.parametrize("digits", [12, 30, 300])
def test_a_huge_number_does_not_end_up_in_a_budget(digits: int):
    wire = msgspec.json.decode(b'{"prompt_tokens":%b}' % (b"9" * digits), type=WireUsage)
    assert usage_from_wire(wire).usage.input_tokens == MAX_TOKENS


def test_units_are_a_map_without_zeros_in_one_order():
    usage = usage_of({"output_text": 2, "cached_text": 3, "input_text": 0, "a": 0, "cache_write_1h": 4})
    assert usage.units == {"output_text": 2, "cache_write_1h": 4, "cached_text": 3}
    assert usage_of(usage.units) == usage
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (7, 3, 2)


def test_columns_tell_all_of_a_plain_usage_and_a_map_is_needed_for_the_rest():
    plain = used(input_text=9, input_cached=4, output_text=5, output_reasoning=2)
    assert usage_of_columns(*plain.columns()) == plain
    assert not plain.needs_map
    for unit in ("input_image", "input_audio", "cache_write", "output_audio", "search_queries", "input_x"):
        assert usage_of({"input_text": 1, unit: 1}).needs_map


def test_columns_add_up_to_all_tokens_whatever_the_units():
    usage = usage_of(
        {
            "input_video": 1,
            "cache_write_5m": 2,
            "cached_image": 4,
            "input_audio": 8,
            "output_image": 16,
            "x": 32,
        }
    )
    text, image, audio, cached, written, spoken, thought = usage.columns()
    assert (text, image, audio, cached) == (3, 4, 8, 4)
    assert (written, spoken, thought) == (16, 0, 0)
    assert text + image + audio == usage.input_tokens


def test_cached_columns_are_text_first_then_image_then_audio():
    assert used(input_text=10, input_image=20, input_audio=30, input_cached=35).units == {
        "cached_text": 10,
        "cached_image": 20,
        "cached_audio": 5,
        "input_audio": 25,
    }


NAMES = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "prompt_cache_miss_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "citation_tokens",
    "num_search_queries",
    "dream_tokens",
)
DETAILS = (
    "cached_tokens",
    "cache_write_tokens",
    "audio_tokens",
    "text_tokens",
    "image_tokens",
    "reasoning_tokens",
    "rejected_prediction_tokens",
    "hologram_tokens",
)
counts = st.none() | st.integers(-10, 2000) | st.integers(0, 20) | st.integers() | st.floats() | st.text()
details = st.none() | st.dictionaries(
    st.sampled_from(DETAILS),
    counts | st.dictionaries(st.sampled_from(DETAILS), counts, max_size=2),
    max_size=4,
)
objects = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, counts)
    | {
        "prompt_tokens_details": details,
        "completion_tokens_details": details,
        "cache_creation": st.none() | st.dictionaries(st.sampled_from(["ephemeral_1h_input_tokens"]), counts),
    },
)


@given(objects)
def test_no_object_fails_units_are_never_negative_and_nothing_reported_is_free(usage: dict[str, Any]):
    found = usage_from_wire(usage)
    units = found.usage.units
    assert min(units.values(), default=0) >= 0
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        value = usage.get(name)
        if isinstance(value, int):
            assert sum(units.values()) >= min(max(value, 0), MAX_TOKENS)
    assert usage_of(units) == found.usage


@given(prompt=st.integers(0, 5000), completion=st.integers(0, 5000), data=st.data())
def test_consistent_details_add_up_to_the_totals(prompt: int, completion: int, data: st.DataObject):
    cached = data.draw(st.integers(0, prompt))
    write = data.draw(st.integers(0, prompt - cached))
    image = data.draw(st.integers(0, prompt))
    audio = data.draw(st.integers(0, prompt - image))
    reasoning = data.draw(st.integers(0, completion))
    found = reading(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": write,
                "image_tokens": image,
                "audio_tokens": audio,
            },
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    usage, units = found.usage, found.usage.units
    assert found.reported == ()
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (prompt, completion, cached)
    assert (units.get("cache_write", 0), units.get("output_reasoning", 0)) == (write, reasoning)


@given(prompt=st.integers(0, 50), completion=st.integers(0, 50), data=st.data())
def test_the_usual_spelling_is_read_as_any_other(prompt: int, completion: int, data: st.DataObject):
    """A member that says nothing makes the object an unusual one."""
    amounts = st.sampled_from([0, 0, 1, prompt, completion, prompt + 1, completion + 1, -1]) | counts
    drawn = st.none() | st.dictionaries(st.sampled_from(DETAILS), amounts, max_size=3)
    usual = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": data.draw(drawn),
        "completion_tokens_details": data.draw(drawn),
    }
    assert usage_from_wire(usual) == usage_from_wire({**usual, "note": None})
