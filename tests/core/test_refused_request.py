"""What is written down of a refused request: short, clean, and nothing that an upstream said."""

import json
from typing import Any

import msgspec
import pytest

from gateway.core.catalog import Api
from gateway.core.errors import (
    GatewayError,
    InvalidRequest,
    LimitExceeded,
    ModelNotFound,
    NotFound,
    RefusedBy,
    UpstreamExhausted,
    UpstreamRejected,
)
from gateway.core.parse import parse_call
from gateway.core.refused_request import NOT_SHOWN, TEXT_CHARACTERS, KnownRequest, refused_request, shown
from tests.core.builders import chat, parsed

KNOWN = KnownRequest("req_1", 0.0)


def test_texts_are_cut_and_fit_for_every_database() -> None:
    error = InvalidRequest("\ud800\0" + "x" * 2 * TEXT_CHARACTERS, param="model\0")
    refused = refused_request(error, KNOWN, 1)
    assert refused.message == "?" + "x" * (TEXT_CHARACTERS - 2)
    assert refused.param == "model"
    assert msgspec.json.decode(msgspec.json.encode(refused), type=type(refused)) == refused


def test_nothing_that_an_upstream_said_is_kept_but_what_looks_like_a_code() -> None:
    said = UpstreamRejected("a piece of the prompt", status=400, type="x", param="a piece", code="bad_prompt")
    refused = refused_request(said, KNOWN, 1)
    assert (refused.code, refused.param, refused.message) == ("bad_prompt", "", "")
    talkative = UpstreamRejected("m", status=400, type="x", param="messages", code="a piece of the prompt")
    refused = refused_request(talkative, KNOWN, 1)
    assert (refused.code, refused.param) == ("upstream_rejected", "messages")


def test_a_limit_of_the_upstream_is_no_limit_of_ours() -> None:
    ours = LimitExceeded("m", scope="key:app", limit="tokens_per_minute", retry_after_seconds=1)
    theirs = LimitExceeded("m", scope="upstream", limit="upstream", retry_after_seconds=1)
    assert ours.refused_by is RefusedBy.LIMIT
    assert theirs.refused_by is RefusedBy.UPSTREAM
    assert refused_request(ours, KNOWN, 1).limit_name == "tokens_per_minute"
    assert InvalidRequest("m").refused_by is RefusedBy.REQUEST


def test_what_an_upstream_said_within_a_message_of_ours_is_left_out() -> None:
    error = UpstreamExhausted("The model's server failed (status 500): a piece of the prompt")
    assert refused_request(error, KNOWN, 1).message == ""


@pytest.mark.parametrize(
    "name",
    [
        *("4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "DE89370400440532013000"),
        *("taro.yamada@example.com", "a name of somebody", "it's Bluebird", "\u0661\u0662"),
    ],
)
def test_what_is_sent_in_place_of_a_name_is_not_written_down(name: str) -> None:
    call = parsed(chat(model=name))
    message = f"The model '{name}' does not exist or you do not have access to it. Did you mean 'gpt-4o'?"
    for known in (KnownRequest("req_1", 0.0, call=call), KNOWN):
        refused = refused_request(ModelNotFound(message, param="model"), known, 1)
        assert refused.model in {NOT_SHOWN, ""}
        assert name not in refused.message
    path = "/v1/" + name.replace(" ", "%20")
    lost = refused_request(NotFound(f"Unknown request URL: POST {path}. Check the URL."), KNOWN, 1)
    assert lost.message == f"Unknown request URL: POST {NOT_SHOWN} Check the URL."


@pytest.mark.parametrize(
    "name", ["gpt-4o-2024-08-06", "claude-3-5-sonnet-20241022", "meta-llama/Llama-4", "nope"]
)
def test_a_mistaken_name_of_a_model_is_told(name: str) -> None:
    assert shown(name) == name
    known = KnownRequest("req_1", 0.0, call=parsed(chat(model=name)))
    refused = refused_request(ModelNotFound(f"The model '{name}' does not exist.", param="model"), known, 1)
    assert (refused.model, refused.message) == (name, f"The model '{name}' does not exist.")
    lost = refused_request(NotFound("Unknown request URL: POST /v1/v1/chat. Check the URL."), KNOWN, 1)
    assert lost.message == "Unknown request URL: POST /v1/v1/chat. Check the URL."


@pytest.mark.parametrize(
    "name",
    [
        *("4111 1111 1111 1111", "\uff14111111111111111", "taro.yamada@example.com", "Bluebird's"),
        *("[4111]1111[1111]1111", "a" * 1000),
    ],
)
def test_a_member_that_is_no_parameter_is_not_written_down(name: str) -> None:
    refused = refused_request(refusal(chat(**{name: 10**25})), KNOWN, 1)
    assert refused.param == NOT_SHOWN
    assert refused.message == (
        f"Invalid '{NOT_SHOWN}': a number beyond 64 bits. Expected a value that is exact in JSON."
    )


def test_a_number_as_long_as_that_of_a_card_is_not_written_down() -> None:
    refused = refused_request(refusal(chat(max_tokens=-4111111111111111)), KNOWN, 1)
    assert refused.message == (
        "Invalid 'max_tokens': integer below minimum value. "
        f"Expected a value >= 1, but got -{NOT_SHOWN} instead."
    )
    refused = refused_request(refusal(chat(max_tokens=-20)), KNOWN, 1)
    assert refused.message.endswith("but got -20 instead.")


def test_the_place_of_a_mistake_in_a_message_is_told() -> None:
    refused = refused_request(refusal(chat(messages=[{"content": "x"}])), KNOWN, 1)
    assert refused.param == "messages[0].role"
    assert refused.message == "Missing required parameter: 'messages[0].role'."


def refusal(body: dict[str, Any]) -> GatewayError:
    """What the parser says to `body`."""
    with pytest.raises(GatewayError) as refused:
        parse_call(Api.CHAT, json.dumps(body).encode(), 100)
    return refused.value
