"""What is typical: never a guess, never above the cap, and soon another when answers change."""

from math import ceil
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Ask
from gateway.core.catalog import Api
from gateway.core.output_sizes import (
    GENERATION_ANSWERS,
    LEAST_ANSWERS,
    MOST_REMEMBERED,
    REFRESH_ANSWERS,
    OutputSizes,
    SizeQuantile,
    TypicalOutput,
)
from tests.core.builders import ask, chat, hold, parsed, principal, scope

PLAIN = parsed(chat())
WHOLE = hold()


def typical(*, tokens: int | None = None, per_minute: int = 400_000) -> TypicalOutput:
    """For a feature whose answers without a cap have had `tokens`."""
    found = TypicalOutput(OutputSizes().of("triage", "auto"), per_minute)
    for _ in range(0 if tokens is None else LEAST_ANSWERS):
        found.learn(PLAIN, WHOLE, tokens or 0, "stop")
    return found


def most(**changes: object) -> Ask:
    return ask(principal(), **{"output_tokens": 16_384, "output_is_explicit": False, **changes})


@given(st.lists(st.integers(1, 200_000), min_size=LEAST_ANSWERS, max_size=LEAST_ANSWERS + 150))
def test_99_of_100_answers_are_no_longer_and_no_more_than_a_fifth_is_held_beyond(sizes: list[int]):
    quantile = SizeQuantile()
    for size in sizes:
        quantile.observe(size)
    known = sorted(sizes[: len(sizes) - len(sizes) % REFRESH_ANSWERS])
    exact = known[ceil(len(known) * 0.99) - 1]
    assert quantile.tokens is not None
    assert exact <= quantile.tokens <= ceil(exact * 1.2)
    assert sum(size <= quantile.tokens for size in known) >= 0.99 * len(known)


def test_nothing_is_typical_before_a_hundred_answers():
    quantile = SizeQuantile()
    for _ in range(LEAST_ANSWERS - 1):
        quantile.observe(50)
        assert quantile.tokens is None
    quantile.observe(50)
    assert quantile.tokens == 54


def test_an_answer_of_more_than_a_million_tokens_is_never_called_typical():
    quantile = SizeQuantile()
    for _ in range(LEAST_ANSWERS):
        quantile.observe(2_000_000)
    assert quantile.tokens is None


def test_longer_answers_are_noticed_at_once_and_shorter_ones_within_two_generations():
    quantile, random = SizeQuantile(), Random(7)
    for _ in range(5 * GENERATION_ANSWERS):
        quantile.observe(random.randint(20, 60))
    assert quantile.tokens == 64
    for _ in range(2 * REFRESH_ANSWERS):
        quantile.observe(3_000)
    assert quantile.tokens is not None and quantile.tokens >= 3_000
    for _ in range(2 * GENERATION_ANSWERS):
        quantile.observe(random.randint(20, 60))
    assert quantile.tokens == 64


def test_the_typical_output_is_asked_for_where_it_is_known():
    wanted = most()
    assert typical().ask(PLAIN, wanted) is wanted
    assert typical(tokens=60).ask(PLAIN, wanted).typical_output == 64


@pytest.mark.parametrize("cap", [64, 10])
def test_a_cap_that_is_no_more_than_typical_is_held_as_it_is(cap: int):
    assert typical(tokens=60).ask(PLAIN, most(output_tokens=cap)).typical_output is None


@given(
    tokens=st.integers(1, 100_000),
    per_minute=st.integers(1, 500_000),
    prompt=st.integers(1, 400_000),
    choices=st.integers(1, 8),
    cap=st.integers(0, 100_000),
)
def test_typical_is_between_one_token_and_the_cap_and_no_limit_is_too_small_for_it(
    tokens: int, per_minute: int, prompt: int, choices: int, cap: int
):
    wanted = most(output_tokens=cap, prompt_tokens=prompt, choices=choices)
    found = typical(tokens=tokens, per_minute=per_minute).ask(PLAIN, wanted)
    assert (found.prompt_nano, found.output_tokens) == (wanted.prompt_nano, wanted.output_tokens)
    assert found.typical_tokens(cap) <= found.rate_tokens(cap)
    if found.typical_output is not None:
        assert 1 <= found.typical_output < cap
        assert prompt + choices > per_minute or found.typical_tokens(cap) <= per_minute


def test_answers_with_a_cap_of_the_clients_are_learned_by_themselves():
    found = typical(tokens=2_000)
    capped = parsed(chat(max_tokens=4_000))
    explicit = most(output_tokens=4_000, output_is_explicit=True)
    assert found.ask(capped, explicit).typical_output is None
    for _ in range(LEAST_ANSWERS):
        found.learn(capped, WHOLE, 16, "stop")
    assert found.ask(capped, explicit).typical_output == 16
    assert found.ask(PLAIN, most()).typical_output == 2_048


def test_an_answer_that_a_lowered_cap_has_cut_counts_as_the_longest_that_it_might_have_been():
    found, lowered = typical(), hold(most(), output_tokens=1_024)
    for _ in range(LEAST_ANSWERS):
        found.learn(PLAIN, lowered, 1_024, "length")
    assert found.ask(PLAIN, most(output_tokens=100_000)).typical_output == 16_384
    for _ in range(2 * GENERATION_ANSWERS):
        found.learn(PLAIN, lowered, 60, "stop")
        found.learn(PLAIN, hold(most(), output_tokens=16_384), 60, "length")
    assert found.ask(PLAIN, most()).typical_output == 64


def test_several_choices_are_learned_as_one():
    found, four = typical(), parsed(chat(n=4))
    for _ in range(LEAST_ANSWERS):
        found.learn(four, WHOLE, 4 * 60, "stop")
    assert found.ask(four, most(choices=4)).typical_tokens(16_384) == 100 + 4 * 64


def test_completions_have_a_cap_of_the_apis_own_and_embeddings_teach_nothing():
    found = typical()
    completion = parsed({"model": "auto", "prompt": "a"}, Api.COMPLETIONS)
    embedding = parsed({"model": "auto", "input": "a"}, Api.EMBEDDINGS)
    for _ in range(LEAST_ANSWERS):
        found.learn(completion, WHOLE, 16, "stop")
        found.learn(embedding, WHOLE, 0, "stop")
    assert found.ask(PLAIN, most()).typical_output is None
    assert found.sizes.capped.tokens == 16


def test_sizes_are_remembered_by_feature_and_model_to_a_bound():
    sizes = OutputSizes()
    first = sizes.of("triage", "auto")
    assert sizes.of("triage", "auto") is first is not sizes.of("triage", "other")
    for _ in range(LEAST_ANSWERS):
        first.uncapped.observe(60)
    assert list(sizes.learned()) == [("triage", "auto", False, 64)]
    for number in range(MOST_REMEMBERED):
        sizes.of("triage", f"model-{number}")
    assert sizes.of("triage", "auto") is not first


def test_the_tightest_limit_that_holds_typical_answers_counts():
    limits = [scope("key", tokens=5_000, typical=True), scope("org", tokens=9_000, typical=True)]
    assert principal(*limits, scope("team", tokens=100)).typical_per_minute == 5_000
    assert principal(scope("team", tokens=100)).typical_per_minute is None
    assert principal(scope("team", requests=5, typical=True)).typical_per_minute is None
