"""Estimates: the bound is never below what any tokenizer counts, and a hold never below what it can cost."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.admission import hold_nano
from gateway.core.call import Call
from gateway.core.catalog import Api, Deployment, ImageRule, Modality
from gateway.core.estimate import (
    AUDIO_BYTES_PER_TOKEN,
    COUNTED_MARGIN_TOKENS,
    TEMPLATE_TOKENS,
    TOOLS_TEMPLATE_TOKENS,
    Estimate,
    ask_for,
    estimate,
)
from gateway.core.pricing import cost
from gateway.core.rates import Rates
from gateway.dialects.table import TABLE
from gateway.simulators.tokens import SimulatorTokenizer, load_tokenizer
from tests.core.builders import (
    candidates_of,
    chat,
    deployment,
    local,
    parsed,
    pool,
    price,
    principal,
    rates,
    used,
)

PAYER = principal()
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
LOW = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000, "detail": "low"}}


def estimated(body: Any = None, item: Deployment | None = None, bytes_per_token: float = 4.0) -> Estimate:
    call = body if isinstance(body, Call) else parsed(body or chat())
    return estimate(call, pool(item, bytes_per_token=bytes_per_token), 0.0)


@pytest.fixture(scope="module")
def tokenizer() -> SimulatorTokenizer:
    return load_tokenizer()


# --- prompts ---


def test_the_likely_prompt_follows_the_learned_bytes_per_token():
    call = parsed(chat("x" * 4000))
    assert estimated(call, bytes_per_token=4.0).prompt == call.text_bytes // 4 + 1
    assert estimated(call, bytes_per_token=2.0).prompt == call.text_bytes // 2 + 1


def test_the_bound_counts_each_byte_and_the_template():
    call = parsed(chat("x" * 4000))
    assert estimated(call).prompt_bound == call.text_bytes + TEMPLATE_TOKENS


def test_tools_add_a_preamble_to_the_bound():
    call = parsed(chat(tools=[{"type": "function"}]))
    assert estimated(call).prompt_bound == call.text_bytes + TEMPLATE_TOKENS + TOOLS_TEMPLATE_TOKENS


def test_the_bound_is_no_more_than_the_context_holds():
    assert estimated(chat("word " * 800), deployment(context_tokens=2000)).prompt_bound == 2000


def test_the_bound_of_a_list_is_what_the_context_holds_for_each_of_its_prompts():
    batch = parsed({"model": "m", "input": ["word " * 200] * 10}, Api.EMBEDDINGS)
    assert estimated(batch, deployment(context_tokens=500)).prompt_bound == 5000


def test_images_count_by_the_deployments_rule():
    item = deployment(image_rule=ImageRule(low=85, high=1445))
    plain = estimated(chat([{"type": "text", "text": "a"}]), item)
    found = estimated(chat([{"type": "text", "text": "a"}, IMAGE, IMAGE, LOW]), item)
    assert 2 * 1445 + 85 <= found.prompt - plain.prompt < 2 * 1445 + 85 + 100
    assert found.prompt_bound >= plain.prompt_bound + 2 * 1445 + 85


def test_audio_is_bounded_by_the_thinnest_codec():
    speech = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "mp3"}}
    found = estimated(chat([speech]))
    assert found.prompt_bound >= 100_000 // AUDIO_BYTES_PER_TOKEN
    assert found.prompt < found.prompt_bound


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "input_video", "input_video": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/a.wav"}},
    ],
)
def test_what_may_unfold_to_any_length_is_bounded_by_the_context_alone(part: dict[str, Any]):
    assert estimated(chat([part]), deployment(context_tokens=50_000)).prompt_bound == 50_000


# --- outputs ---


def test_an_explicit_cap_is_the_output():
    assert estimated(chat(max_tokens=70)).output == 70


def test_without_a_cap_it_is_the_deployments_own_if_the_prompt_leaves_room():
    assert estimated(item=deployment(max_output_tokens=500)).output == 500
    tight = estimated(chat("word " * 800), deployment(context_tokens=1500, max_output_tokens=1000))
    assert 1 <= tight.output < 1500 - tight.prompt


def test_a_guess_leaves_an_eighth_of_the_context_to_the_answer():
    """A prompt that is taken for longer than it is must not get an answer of one token."""
    tight = deployment(context_tokens=1010, max_output_tokens=1000)
    assert estimated(chat("word " * 1200), tight).output == 1010 // 8
    assert estimated(chat("word " * 1200), deployment(context_tokens=4)).output == 1


def test_a_counted_prompt_gets_exactly_what_the_context_leaves():
    tight = pool(deployment(context_tokens=1010, max_output_tokens=1000))
    call = parsed(chat("word " * 1200))
    found = estimate(call, tight, 0.0, counted=900)
    assert (found.prompt, found.output, found.is_counted) == (900, 1010 - 900 - COUNTED_MARGIN_TOKENS, True)
    assert estimate(call, tight, 0.0, counted=1010).output == 1


def test_where_no_cap_is_honoured_the_output_is_all_that_the_server_writes():
    none = msgspec.structs.replace(TABLE["vllm"], caps=dict.fromkeys(TABLE["vllm"].caps, ()))
    found = estimated(chat(max_tokens=5), local(dialect=none, max_output_tokens=900))
    assert (found.output, found.uncapped) == (900, True)
    ask = ask_for(parsed(chat(max_tokens=5, n=2)), PAYER, candidates_of(local()), [found])
    assert (ask.output_tokens, ask.output_is_explicit, ask.choices) == (900, True, 2)


def test_a_prediction_is_held_for_as_output_because_what_is_rejected_of_it_is_billed():
    plain, predicted = (
        parsed(chat(max_tokens=10, **more))
        for more in ({}, {"prediction": {"type": "content", "content": "word " * 1000}})
    )
    (candidate,) = candidates_of(deployment())
    asks = [ask_for(call, PAYER, [candidate], [estimate(call, pool(), 0.0)]) for call in (plain, predicted)]
    assert asks[1].prompt_nano - asks[0].prompt_nano >= 5000 * candidate.dearest[1] // 1_000_000


def test_a_completion_without_a_cap_gets_the_sixteen_tokens_of_the_api():
    call = parsed({"model": "m", "prompt": "Once"}, Api.COMPLETIONS)
    assert estimated(call).output == 16
    assert estimated(call, deployment(max_output_tokens=9)).output == 9
    assert estimated(parsed({"model": "m", "prompt": "a", "max_tokens": 40}, Api.COMPLETIONS)).output == 40


def test_embeddings_have_no_output():
    assert estimated(parsed({"model": "m", "input": "a"}, Api.EMBEDDINGS)).output == 0


# --- what is asked of the budgets ---


def asked(body: Any, *candidates: Deployment) -> Any:
    call = body if isinstance(body, Call) else parsed(body)
    estimates = [estimate(call, pool(item), 0.0) for item in candidates]
    return ask_for(call, PAYER, candidates_of(*candidates), estimates)


def test_each_part_is_priced_at_the_dearest_candidate():
    reads_dear = deployment("a", price=price(rates("50", "1")))
    writes_dear = deployment("b", price=price(rates("1", "100")))
    wanting = asked(chat(max_tokens=100), reads_dear, writes_dear)
    bound = estimated(chat(max_tokens=100)).prompt_bound
    assert bound * 50_000 <= wanting.prompt_nano <= bound * 50_000 + 10
    assert wanting.output_nano_per_million == 100 * 10**9


def test_choices_multiply_the_output_and_not_the_prompt():
    one, three = asked(chat(n=1), deployment()), asked(chat(n=3), deployment())
    assert three.prompt_nano == one.prompt_nano
    assert three.output_nano_per_million == 3 * one.output_nano_per_million
    assert three.choices == 3


def test_a_service_tier_that_may_be_dearer_is_held_for():
    tiered = deployment(price=price(rates("2.5", "10"), priority=rates("4.25", "17")))
    assert asked(chat(), tiered).output_nano_per_million == 17 * 10**9
    assert asked(chat(service_tier="default"), tiered).output_nano_per_million == 10 * 10**9


def test_tokens_per_minute_count_the_likely_prompt_and_the_bound_of_every_choice():
    two = asked(chat(n=2), deployment())
    assert two.rate_tokens(500) == estimated(chat(n=2)).prompt + 2 * 500
    capped = asked(chat(max_tokens=1000), deployment())
    assert capped.output_is_explicit
    assert capped.rate_tokens(capped.output_tokens) == estimated(chat(max_tokens=1000)).prompt + 1000


def test_litellm_25874_own_gpus_are_not_free():
    wanting = asked(chat(max_tokens=100), local(price=price(rates("0.26", "1.05"))))
    assert hold_nano(wanting, wanting.output_tokens) > 100 * 1050


def test_a_free_deployment_holds_nothing():
    wanting = asked(chat(), deployment(price=price(rates("0", "0"))))
    assert hold_nano(wanting, wanting.output_tokens) == 0


# --- the bound is a bound ---

scripts = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"])
    | st.sampled_from("こんにちは漢字かな交じり文한국어ไทยعربيहिन्दी")
    | st.sampled_from("🙂🎉👩🏽👨🏿🇯🇵🧑🏼🚀" + "\u200d\ufe0f\u20e3"),
    max_size=60,
)
said = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": scripts}),
    min_size=1,
    max_size=4,
)


def counted(tokenizer: SimulatorTokenizer, messages: list[dict[str, str]]) -> int:
    """Tokens as OpenAI counts them: three a message, its role and content, and three for the answer."""
    inside = (tokenizer.count(item["role"]) + tokenizer.count(item["content"]) for item in messages)
    return sum(3 + tokens for tokens in inside) + 3


@settings(max_examples=200)
@given(messages=said)
def test_the_bound_is_never_below_what_the_tokenizer_counts(
    tokenizer: SimulatorTokenizer, messages: list[dict[str, str]]
):
    found = estimated({"model": "m", "messages": messages})
    assert found.prompt_bound >= counted(tokenizer, messages)


@given(prompt=scripts.filter(bool), ids=st.lists(st.integers(0, 200_000), min_size=1, max_size=50))
def test_the_bound_of_a_bare_prompt_holds_for_text_and_for_token_ids(
    tokenizer: SimulatorTokenizer, prompt: str, ids: list[int]
):
    text = parsed({"model": "m", "prompt": prompt}, Api.COMPLETIONS)
    tokens = parsed({"model": "m", "prompt": ids}, Api.COMPLETIONS)
    assert estimated(text).prompt_bound >= tokenizer.count(prompt) + 2
    assert estimated(tokens).prompt_bound >= len(ids) + 2


@given(prompts=st.lists(scripts.filter(bool), min_size=1, max_size=30))
def test_the_bound_of_a_list_holds_for_all_its_prompts_together(
    tokenizer: SimulatorTokenizer, prompts: list[str]
):
    batch = parsed({"model": "m", "input": prompts}, Api.EMBEDDINGS)
    small = deployment(context_tokens=max(tokenizer.count(prompt) + 2 for prompt in prompts))
    assert estimated(batch, small).prompt_bound >= sum(tokenizer.count(prompt) + 2 for prompt in prompts)


@given(messages=said)
def test_bytes_that_json_escapes_only_make_the_bound_larger(
    tokenizer: SimulatorTokenizer, messages: list[dict[str, str]]
):
    raw = orjson.dumps({"model": "m", "messages": messages})
    assert len(raw) >= sum(len(item["content"].encode()) for item in messages)
    text = "".join(item["content"] for item in messages)
    assert tokenizer.count(text) <= len(text.encode())


# --- a hold is never below the cost ---

rate = st.integers(0, 10**11)
all_rates = st.builds(Rates, input=rate, cached_input=rate, output=rate, input_audio=rate, output_audio=rate)
bodies = st.builds(
    lambda words, images, members: chat(
        [{"type": "text", "text": "w" * words}, *[IMAGE] * images], **members
    ),
    st.integers(1, 300),
    st.integers(0, 2),
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.integers(1, 4),
            "max_tokens": st.integers(1, 500),
            "service_tier": st.sampled_from(["auto", "default", "priority"]),
        },
    ),
)


@given(body=bodies, standard=all_rates, dearer=all_rates, tiered=st.booleans(), shares=st.data())
def test_a_hold_covers_any_usage_within_its_bounds_at_any_rate_that_may_apply(
    body: dict[str, Any], standard: Rates, dearer: Rates, tiered: bool, shares: st.DataObject
):
    priced = price(standard, priority=dearer) if tiered else price(standard)
    item = deployment(price=priced, accepts=frozenset(Modality), max_output_tokens=500)
    call = parsed(body)
    expected = estimate(call, pool(item), 0.0)
    free = deployment("other", price=price(rates("0", "0")))
    wanting = ask_for(call, PAYER, candidates_of(item, free), (expected,) * 2)
    prompt = shares.draw(st.integers(0, expected.prompt_bound), "prompt")
    output = shares.draw(st.integers(0, wanting.output_tokens * call.choices), "output")
    image = shares.draw(st.integers(0, prompt), "image")
    audio = shares.draw(st.integers(0, prompt - image), "audio")
    spoken = shares.draw(st.integers(0, output), "spoken")
    usage = used(
        input_text=prompt - image - audio,
        input_image=image,
        input_audio=audio,
        input_cached=shares.draw(st.integers(0, prompt), "cached"),
        output_text=output - spoken,
        output_audio=spoken,
    )
    held = hold_nano(wanting, wanting.output_tokens)
    assert held >= cost(standard, usage)
    if tiered and call.service_tier != "default":
        assert held >= cost(dearer, usage)


def test_a_hold_covers_a_cost_that_is_rounded_up():
    least = Rates(input=1, cached_input=1, output=1, input_audio=1, output_audio=1)
    wanting = asked(chat(max_tokens=2), deployment(price=price(least)))
    usage = used(input_text=2, input_audio=1, input_cached=1, output_text=1, output_audio=1)
    assert hold_nano(wanting, wanting.output_tokens) >= cost(least, usage) == 1
