"""Usage as upstreams report it: disjoint parts that add up to the totals, whatever was reported."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answer import MAX_TOKENS, NO_USAGE, Usage, WireUsage, usage_as_dict, usage_from_wire


def read(usage: dict[str, Any]) -> Usage:
    return usage_from_wire(msgspec.json.decode(orjson.dumps(usage), type=WireUsage))


def test_openai_usage_is_split_into_text_audio_cached_and_reasoning():
    usage = read(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "total_tokens": 1500,
            "prompt_tokens_details": {"cached_tokens": 640, "audio_tokens": 100, "text_tokens": 900},
            "completion_tokens_details": {
                "reasoning_tokens": 200,
                "audio_tokens": 50,
                "accepted_prediction_tokens": 10,
                "rejected_prediction_tokens": 20,
            },
        }
    )
    assert usage == Usage(
        input_text=900,
        input_audio=100,
        input_cached=640,
        output_text=250,
        output_audio=50,
        output_reasoning=200,
    )
    assert (usage.input_tokens, usage.output_tokens) == (1000, 500)


def test_image_tokens_are_read_as_openai_and_as_vllm_spell_them():
    openai = read({"prompt_tokens": 900, "prompt_tokens_details": {"image_tokens": 765}})
    vllm = read({"prompt_tokens": 900, "prompt_tokens_details": {"multimodal_tokens": {"image": 765}}})
    assert openai == vllm == Usage(input_text=135, input_image=765)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens_details": None, "completion_tokens_details": None},
        {"prompt_tokens_details": {"cached_tokens": None, "audio_tokens": None, "multimodal_tokens": None}},
        {"prompt_tokens": -5, "completion_tokens": -1},
        {"prompt_tokens_details": {"cached_tokens": 10}},
    ],
)
def test_nothing_usable_is_no_usage(usage: dict[str, Any]):
    assert read(usage) == NO_USAGE


def test_embeddings_have_a_prompt_only():
    assert read({"prompt_tokens": 8, "total_tokens": 8}) == Usage(input_text=8)


def test_members_that_are_not_known_are_ignored():
    assert read({"prompt_tokens": 1, "cost": 0.5, "queue_time": {"a": []}}) == Usage(input_text=1)


def test_more_cached_than_prompt_tokens_are_clamped_to_the_prompt():
    assert read({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}}).input_cached == 10


def test_details_beyond_the_total_are_clamped_so_that_the_total_holds():
    usage = read(
        {
            "prompt_tokens": 10,
            "completion_tokens": 10,
            "prompt_tokens_details": {"image_tokens": 8, "audio_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 8},
        }
    )
    assert usage == Usage(input_image=8, input_audio=2, output_reasoning=8, output_audio=2)


@pytest.mark.parametrize("digits", [12, 30, 300])
def test_a_huge_number_does_not_end_up_in_a_budget(digits: int):
    wire = msgspec.json.decode(b'{"prompt_tokens":%b}' % (b"9" * digits), type=WireUsage)
    assert usage_from_wire(wire).input_tokens == MAX_TOKENS


def test_usage_as_plain_values_names_every_part():
    assert usage_as_dict(Usage(input_text=1, output_audio=2)) == {
        "input_text": 1,
        "input_image": 0,
        "input_audio": 0,
        "input_cached": 0,
        "output_text": 0,
        "output_audio": 2,
        "output_reasoning": 0,
    }


counts = st.none() | st.integers(-10, 2000) | st.integers()
details = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens", "reasoning_tokens"]), counts
)


@given(
    prompt=counts, completion=counts, prompt_details=details, completion_details=details, vllm_image=counts
)
def test_parts_are_never_negative_and_add_up_to_the_clamped_totals(
    prompt: int | None,
    completion: int | None,
    prompt_details: dict[str, int | None] | None,
    completion_details: dict[str, int | None] | None,
    vllm_image: int | None,
):
    if prompt_details is not None:
        prompt_details = prompt_details | {"multimodal_tokens": {"image": vllm_image}}
    usage = usage_from_wire(
        msgspec.convert(
            {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "prompt_tokens_details": prompt_details,
                "completion_tokens_details": completion_details,
            },
            WireUsage,
        )
    )
    assert min(usage_as_dict(usage).values()) >= 0
    assert usage.input_tokens == min(max(prompt or 0, 0), MAX_TOKENS)
    assert usage.output_tokens == min(max(completion or 0, 0), MAX_TOKENS)
    assert usage.input_cached <= usage.input_tokens
