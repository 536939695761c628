"""What is written down of a refused request: short, clean, and nothing that an upstream said."""

import msgspec

from gateway.core.errors import InvalidRequest, LimitExceeded, ModelNotFound, RefusedBy, UpstreamRejected
from gateway.core.refused_request import TEXT_CHARACTERS, KnownRequest, refused_request

KNOWN = KnownRequest("req_1", 0.0)


def test_texts_are_cut_and_fit_for_every_database() -> None:
    error = ModelNotFound("\ud800\0" + "x" * 2 * TEXT_CHARACTERS, param="model\0")
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
