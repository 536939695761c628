"""What is booked for what an upstream reports: exactly, as the dearer reading, or as an estimate."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import hold_nano
from gateway.core.answer import Metered
from gateway.core.catalog import Api
from gateway.core.ended import Ended, Progress
from gateway.core.metering import BEYOND_HOLD, CONTRADICTION, UNKNOWN_TIER, UNPRICED, writes_text
from gateway.core.pricing import cost
from gateway.core.rates import Price
from gateway.core.record import Outcome
from gateway.core.screening import Classified
from gateway.core.sent import Sent
from gateway.core.usage import Usage, usage_of
from tests.core.builders import (
    chat,
    deployment,
    held,
    hold,
    local,
    model,
    moment,
    parsed,
    price,
    rates,
    route_to,
)
from tests.core.halves import record_of
from tests.core.wire_shapes import CONTRADICTORY, Shape

GPT_4O = rates("2.50", "10", cached="1.25")
PLENTY = 10**12
TEXT = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}'


def sent(
    body: dict[str, Any] | None = None, nano: int | None = PLENTY, at: Price | None = None, **changes: Any
) -> Sent:
    """An attempt at a deployment with that price and `changes`, held for `nano`; None: what it asks for."""
    given = deployment(price=at or price(GPT_4O, priority=rates("5", "20")), **changes)
    begun = route_to(model(local(), given)).begin(
        "r", parsed(body or chat()), Classified("internal"), moment()
    )
    index = [one.deployment.name for one in begun.candidates].index(given.name)
    ask = begun.ask
    nano = hold_nano(ask, ask.output_tokens) if nano is None else nano
    return held(begun.again(number=1, index=index), hold(ask, nano=nano, output_tokens=ask.output_tokens))


def ended(
    attempt: Sent,
    usage: dict[str, Any],
    *,
    tier: str | None = None,
    body: bytes | None = TEXT,
    chunks: int = 0,
) -> Ended:
    progress = Progress(0.0, 1.0, 0.5, text_chunks=chunks, text_bytes=5 * chunks)
    metered = attempt.metered(progress, usage, tier, progress.last_seen_at, body)
    return attempt.end(progress, Outcome.SUCCESS, metered, 2.0)


def test_reasoning_beside_the_completion_is_booked_in_full() -> None:
    """The report that this is from was booked at a 21st of its price."""
    usage = {
        "prompt_tokens": 400,
        "completion_tokens": 60,
        "total_tokens": 2460,
        "completion_tokens_details": {"reasoning_tokens": 2000},
    }
    found = ended(sent(), usage)
    assert found.cost_nano == 400 * 2500 + 2060 * 10_000
    assert (found.estimated, found.flags, found.reported) == (False, "", ())


@pytest.mark.parametrize("shape", CONTRADICTORY, ids=lambda shape: shape.name)
@pytest.mark.parametrize("nano", [10, PLENTY])
def test_a_contradiction_costs_its_dearer_reading_and_never_more_than_was_held(
    shape: Shape, nano: int
) -> None:
    found = ended(sent(nano=nano), shape.usage)
    assert found.cost_nano == min(nano, cost(GPT_4O, usage_of(shape.units)))
    if nano == PLENTY:
        assert found.usage.units == shape.units
    flags = CONTRADICTION if nano == PLENTY else f"{CONTRADICTION},{BEYOND_HOLD}"
    assert (found.estimated, found.flags, found.unseen_nano) == (True, flags, 0)
    assert dict(found.reported)["prompt_tokens"] == shape.usage["prompt_tokens"]
    settlement = found.settlement
    assert settlement.rate_tokens is None
    assert settlement.least_rate_tokens == found.usage.input_tokens + found.usage.output_tokens


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12},
    ],
)
def test_zeros_beside_text_are_an_estimate_that_keeps_what_may_be_missing(usage: dict[str, Any]) -> None:
    whole, streamed = ended(sent(), usage), ended(sent(), usage, body=None, chunks=7)
    for found in (whole, streamed):
        assert (found.estimated, found.flags) == (True, CONTRADICTION)
        assert found.unseen_nano > 0
        assert found.usage.input_text > 0
        assert found.reported
    assert streamed.usage.output_text == 7


def test_an_answer_without_text_may_have_written_nothing() -> None:
    empty = b'{"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]}'
    usage = {"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12}
    for found in (ended(sent(), usage, body=empty), ended(sent(), usage, body=None)):
        assert (found.estimated, found.flags, found.cost_nano) == (False, "", 12 * 2500)


@pytest.mark.parametrize(
    ("body", "wrote"),
    [
        (TEXT, True),
        (b'{"choices":[{"text":"x"}]}', True),
        (b'{"choices":[{"message":{"tool_calls":[{}]}}]}', True),
        (b'{"choices":[{"message":{"reasoning_content":"hm"}}]}', True),
        (b'{"choices":[{"message":{"content":null}}]}', False),
        (b'{"choices":null}', False),
        (b'{"choices":[5, {"message":"x"}]}', False),
        (b"[]", False),
        (b"{", True),
    ],
)
def test_whether_a_whole_answer_has_text(body: bytes, wrote: bool) -> None:
    assert writes_text(body) is wrote


def test_a_total_alone_is_all_written_but_for_an_embedding() -> None:
    found = ended(sent(), {"total_tokens": 10})
    assert (found.usage, found.flags) == (Usage(output_text=10), CONTRADICTION)
    attempt = sent()
    attempt = msgspec.structs.replace(attempt, call=msgspec.structs.replace(attempt.call, api=Api.EMBEDDINGS))
    embedded = ended(attempt, {"total_tokens": 10})
    assert (embedded.usage, embedded.flags, embedded.estimated) == (Usage(input_text=10), "", False)


PLAIN = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


@pytest.mark.parametrize("name", [None, "default", "auto", "on_demand", "standard"])
def test_the_standard_tier_has_several_names(name: str | None) -> None:
    found = ended(sent(), PLAIN, tier=name)
    assert (found.cost_nano, found.flags) == (100 * 2500 + 10 * 10_000, "")


def test_a_tier_inside_the_usage_counts_where_none_stands_beside_it() -> None:
    found = ended(sent(), PLAIN | {"service_tier": "priority"})
    assert (found.service_tier, found.cost_nano) == ("priority", 100 * 5000 + 10 * 20_000)
    assert ended(sent(), PLAIN | {"service_tier": "priority"}, tier="default").service_tier == "default"


def test_an_unknown_tier_costs_the_dearest_and_is_flagged() -> None:
    found = ended(sent(), PLAIN, tier="hyper")
    assert (found.cost_nano, found.flags) == (100 * 5000 + 10 * 20_000, UNKNOWN_TIER)
    assert not found.estimated
    assert ended(sent(nano=7), PLAIN, tier="hyper").cost_nano == 7


def test_a_unit_that_nobody_prices_costs_the_dearest_and_is_flagged() -> None:
    found = ended(sent(), PLAIN | {"prompt_tokens_details": {"hologram_tokens": 40}})
    assert (found.cost_nano, found.flags) == (100 * 2500 + 10 * 10_000, UNPRICED)
    beside = ended(sent(), PLAIN | {"dream_tokens": 3})
    assert (beside.cost_nano, beside.flags) == (100 * 2500 + 13 * 10_000, UNPRICED)


def test_more_than_was_held_costs_what_was_held_and_is_flagged() -> None:
    found = ended(sent(nano=5), PLAIN)
    assert (found.cost_nano, found.flags, found.estimated) == (5, BEYOND_HOLD, True)
    assert dict(found.reported) == PLAIN


@pytest.mark.parametrize("body", [chat(max_tokens=50), chat(max_tokens=50, n=3)], ids=["one", "three"])
@pytest.mark.parametrize("at", [None, price(rates("0", "0"))], ids=["priced", "free"])
@pytest.mark.parametrize("name", ["completion_tokens", "prompt_tokens"])
def test_a_usage_beyond_every_cap_is_cut_to_what_was_held(
    body: dict[str, Any], at: Price | None, name: str
) -> None:
    """It was booked as an exact thousand dollars."""
    lie = 100_000_000
    usage = {"prompt_tokens": 12, "completion_tokens": 5, name: lie}
    usage["total_tokens"] = sum(usage.values())
    attempt = sent(body, nano=None, at=at)
    found = ended(attempt, usage)
    assert found.cost_nano <= attempt.held_nano
    assert found.usage.output_tokens <= 50 * attempt.call.choices
    assert found.usage.input_tokens <= attempt.candidate.deployment.context_tokens
    assert (found.flags, found.estimated) == (BEYOND_HOLD, True)
    assert dict(found.reported) == usage
    assert found.settlement.least_rate_tokens == found.usage.input_tokens + found.usage.output_tokens


def test_text_without_usage_beyond_the_cap_is_cut_to_what_was_held() -> None:
    attempt = sent(chat(max_tokens=50, stream=True), nano=None)
    progress = Progress(0.0, 1.0, 0.5, text_chunks=10_000, text_bytes=50_000)
    found = attempt.end(progress, Outcome.SUCCESS, attempt.under_estimate(progress, 1.0), 2.0)
    assert (found.usage.output_tokens, found.flags) == (50, BEYOND_HOLD)
    assert found.cost_nano + found.unseen_nano <= attempt.held_nano


def test_an_answer_that_rejects_a_prediction_may_have_more_tokens_than_its_cap() -> None:
    predicts = {"prediction": {"type": "content", "content": "x" * 400}}
    usage = {"prompt_tokens": 12, "completion_tokens": 120, "total_tokens": 132}
    usage |= {"completion_tokens_details": {"rejected_prediction_tokens": 80}}
    assert not ended(sent(chat(max_tokens=50, **predicts), nano=None), usage).flags
    assert ended(sent(chat(max_tokens=50), nano=None), usage).flags == BEYOND_HOLD


MISSING = [
    {},
    {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    {"prompt_tokens": -7, "completion_tokens": -9, "total_tokens": -16},
    {"prompt_tokens": 12, "completion_tokens": -3, "total_tokens": 9},
    {"prompt_tokens": -12, "completion_tokens": 5, "total_tokens": -7},
    {"prompt_tokens": "12", "completion_tokens": [5]},
]


@pytest.mark.parametrize("usage", MISSING, ids=str)
@pytest.mark.parametrize("chunks", [None, 0, 7])
def test_a_count_that_is_no_number_above_zero_is_missing_beside_text(
    usage: dict[str, Any], chunks: int | None
) -> None:
    attempt = sent(chat(max_tokens=50, stream=chunks is not None), nano=None)
    # Without a piece of text: a tool call, or speech.
    progress = Progress(0.0, 1.0, 0.5, text_chunks=chunks or 0, first_token_at=0.7)
    metered = attempt.metered(progress, usage, None, 1.0, TEXT if chunks is None else None)
    found = attempt.end(progress, Outcome.SUCCESS, metered, 2.0)
    assert found.estimated
    assert found.usage.input_tokens > 0
    assert found.usage.output_tokens > 0 or chunks == 0
    assert found.unseen_nano > 0
    assert found.cost_nano + found.unseen_nano <= attempt.held_nano


@pytest.mark.parametrize("usage", [*MISSING[:3], {"prompt_tokens": 0, "total_tokens": 0}, None], ids=str)
def test_an_embedding_without_usage_is_booked_at_its_prompt(usage: dict[str, Any] | None) -> None:
    attempt = sent(nano=None)
    attempt = msgspec.structs.replace(attempt, call=msgspec.structs.replace(attempt.call, api=Api.EMBEDDINGS))
    body = b'{"object":"list","data":[{"embedding":[%b]}]}' % b",".join([b"0.25"] * 1000)
    progress = Progress(0.0, 1.0, 0.5)
    if usage is None:
        progress.size_of_whole(body)
        metered: Metered = attempt.under_estimate(progress, 1.0)
    else:
        metered = attempt.metered(progress, usage, None, 1.0, body)
    found = attempt.end(progress, Outcome.SUCCESS, metered, 2.0)
    assert found.usage == Usage(input_text=attempt.estimate.prompt)
    assert found.estimated


COUNTS = st.one_of(
    st.integers(-(10**12), 10**12),
    st.sampled_from([0, 1, 12, 50, 10**30, -(10**30)]),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
)
NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "citation_tokens",
        "cached_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "num_search_queries",
        "dream_tokens",
        "audio_tokens",
        "image_tokens",
        "rejected_prediction_tokens",
    ]
)
OBJECTS = st.sampled_from(["prompt_tokens_details", "completion_tokens_details", "cache_creation"])
STATED = st.dictionaries(NAMES, COUNTS) | st.builds(
    lambda flat, name, inner: flat | {name: inner},
    st.dictionaries(NAMES, COUNTS),
    OBJECTS,
    st.dictionaries(NAMES | st.just("ephemeral_1h_input_tokens"), COUNTS),
)
ASKED = st.sampled_from(
    [
        chat(),
        chat(max_tokens=50),
        chat(max_tokens=50, n=4),
        chat(max_tokens=1, stream=True),
        chat(web_search_options={}),
        chat(service_tier="priority"),
        chat(prediction={"type": "content", "content": "abc"}),
    ]
)
PRICED = st.sampled_from(
    [
        None,
        price(rates("0", "0")),
        price(msgspec.structs.replace(GPT_4O, units={"requests": 5 * 10**12, "search_queries": 10**13})),
    ]
)


@given(STATED, ASKED, PRICED, st.sampled_from([None, "priority", "hyper"]), st.integers(0, 10_000))
def test_whatever_an_upstream_states_row_budget_and_metrics_agree_within_the_hold(
    usage: dict[str, Any], body: dict[str, Any], at: Price | None, tier: str | None, chunks: int
) -> None:
    attempt = sent(body, nano=None, at=at)
    whole = None if attempt.call.stream else TEXT
    found = ended(attempt, usage, tier=tier, body=whole, chunks=chunks if whole is None else 0)
    row = record_of(attempt.half(), found.half())
    settlement = found.settlement
    assert 0 <= row.cost_nano_usd <= row.cost_nano_usd + row.unseen_nano_usd <= row.held_nano_usd
    assert (settlement.spent_nano, settlement.unseen_nano) == (row.cost_nano_usd, row.unseen_nano_usd)
    tokens = row.usage.input_tokens + row.usage.output_tokens
    assert tokens == (settlement.least_rate_tokens if row.estimated else settlement.rate_tokens)
    assert row.usage == found.usage  # what metrics count
    most = attempt.output_cap * attempt.call.choices + attempt.call.text_bytes + 64
    assert row.usage.output_tokens <= most
    assert all(amount > 0 for amount in row.usage.units.values())
    if BEYOND_HOLD in row.flags and not chunks:
        assert row.reported


def test_a_price_for_each_request_is_a_unit_of_the_usage() -> None:
    at = price(msgspec.structs.replace(GPT_4O, units={"requests": 5_000_000 * 1_000_000}))
    attempt = sent(at=at)
    assert attempt.ask.prompt_nano >= 5_000_000
    found = ended(attempt, PLAIN)
    assert found.usage.units["requests"] == 1
    assert found.cost_nano == 5_000_000 + 100 * 2500 + 10 * 10_000


def test_what_a_request_would_have_cost_elsewhere_has_its_price_for_each_request() -> None:
    at = price(msgspec.structs.replace(GPT_4O, units={"requests": 5_000_000 * 1_000_000}))
    elsewhere = deployment(price=at)
    begun = route_to(model(local(), elsewhere)).begin("r", parsed(chat()), Classified("internal"), moment())
    index = [one.deployment.name != elsewhere.name for one in begun.candidates].index(True)
    ask = begun.ask
    here = held(begun.again(number=1, index=index), hold(ask, nano=PLENTY, output_tokens=ask.output_tokens))
    assert ended(here, PLAIN).other_costs == (5_000_000 + 100 * 2500 + 10 * 10_000,)


def test_a_hold_covers_searches_where_some_are_asked_for() -> None:
    at = price(msgspec.structs.replace(GPT_4O, units={"search_queries": 10_000_000 * 1_000_000}))
    plain = sent(chat(), at=at).ask.prompt_nano
    assert sent(chat(web_search_options={}), at=at).ask.prompt_nano >= plain + 10 * 10_000_000
    tools = [{"type": "web_search", "web_search": {"enable": True}}]
    for asked in ({"tools": tools}, {"enable_search": True}, {"search_parameters": {"mode": "on"}}):
        assert sent(chat(**asked), at=at).ask.prompt_nano >= plain + 10 * 10_000_000


@given(st.integers(1, 40), st.integers(0, 40), st.booleans())
def test_a_hold_covers_the_searches_of_a_deployment_at_its_own_bound(
    most: int, made: int, unasked: bool
) -> None:
    at = price(msgspec.structs.replace(GPT_4O, units={"search_queries": 10_000_000 * 1_000_000}))
    bounds = {"most_searches": most, "searches_unasked": unasked}
    attempt = sent(chat(**({} if unasked else {"web_search_options": {}})), at=at, nano=None, **bounds)
    found = ended(attempt, PLAIN | {"num_search_queries": made})
    assert found.cost_nano == 100 * 2500 + 10 * 10_000 + min(made, most) * 10_000_000
    assert attempt.held_nano >= found.cost_nano
    assert found.flags == ("" if made <= most else BEYOND_HOLD)
    if unasked and made:
        plain = sent(chat(), at=at, nano=None, most_searches=most)
        assert attempt.held_nano == plain.held_nano + most * 10_000_000


def test_a_search_that_no_list_has_is_held_and_booked_at_the_dearest_there_is() -> None:
    attempt = sent(chat(web_search_options={}), nano=None)
    found = ended(attempt, PLAIN | {"num_search_queries": 10})
    assert found.flags == "unpriced"
    assert 10 * 50_000_000 < found.cost_nano <= attempt.held_nano
