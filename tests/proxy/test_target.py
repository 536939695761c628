"""The header lines of one attempt: what goes out with it, and what the client is told of it."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Hold, RateView
from gateway.core.masking import Masked
from gateway.proxy.target import Target, answer_lines, target_at, upstream_request
from tests.core.builders import deployment
from tests.proxy.test_failover import Scene

LAST = b"x-tollway-cost-usd: 0.1\r\n"
HOSTILE = st.text(alphabet="\r\n\0: ab", max_size=8)
BREAKS = re.compile(r"[\r\n\0]").search


def attempt(**changes: Any) -> tuple[Target, Hold]:
    scene = Scene(candidates=(deployment(headers=((b"authorization", b"Bearer x"),)),))
    replica_set = scene.fleet.replica_sets["gpt-4o"]
    target = target_at(replica_set.replicas[0], replica_set, scene.request, 0, 1, 0)
    return msgspec.structs.replace(target, **changes), scene.hold


def own_lines(key: str | None, **changes: Any) -> list[bytes]:
    return upstream_request(*attempt(**changes), key, str).own.split(b"\r\n")


def told(content_type: bytes, processing_ms: bytes | None = None, **changes: Any) -> list[bytes]:
    target, hold = attempt()
    hold = msgspec.structs.replace(hold, **changes)
    return answer_lines(target, hold, content_type, processing_ms, LAST).split(b"\r\n")


def test_a_request_adds_its_ids_to_the_ready_block_of_its_replica() -> None:
    target, hold = attempt()
    sent = upstream_request(target, hold, None, str)
    assert sent.head is target.replica_set.heads[target.replica][target.request.call.api]
    assert sent.head.block.split(b"\r\n") == [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: 127.0.0.1:9101",
        b"accept-encoding: identity",
        b"authorization: Bearer x",
        b"",
    ]
    assert sent.own == b"x-request-id: r\r\nx-tollway-attempt: r:1\r\n"


def test_the_key_of_the_client_goes_on() -> None:
    ids = [b"x-request-id: r", b"x-tollway-attempt: r:1"]
    assert own_lines("k \xfc") == [*ids, b"idempotency-key: k \xfc", b""]


def test_a_key_that_may_hold_what_was_masked_goes_on_as_its_digest() -> None:
    masked = Masked(body={}, rest=b"{}", originals={}, nested=False)
    assert re.fullmatch(rb"idempotency-key: [0-9a-f]{64}", own_lines("a\r\nb", masked=masked)[2])


@given(HOSTILE)
def test_a_key_is_one_line_or_an_error(key: str) -> None:
    try:
        lines = own_lines(key)
    except ValueError:
        assert BREAKS(key)
        return
    assert lines[2:] == [b"idempotency-key: " + key.encode(), b""]


def test_lines_of_an_answer_in_order() -> None:
    rate = RateView(limit=600, remaining=599, reset_seconds=0.1)
    changes: dict[str, Any] = {"output_tokens": 49, "requests": rate, "tokens": rate}
    expected = [
        b"content-type: application/json",
        b"x-request-id: r",
        b"x-tollway-deployment: gpt-4o",
        b"x-tollway-zone: external",
        b"x-tollway-decision: only",
        b"x-tollway-policy: v1",
        b"openai-processing-ms: 7",
        b"x-tollway-output-cap: 49",
        b"x-ratelimit-limit-requests: 600",
        b"x-ratelimit-remaining-requests: 599",
        b"x-ratelimit-reset-requests: 0.100s",
        b"x-ratelimit-limit-tokens: 600",
        b"x-ratelimit-remaining-tokens: 599",
        b"x-ratelimit-reset-tokens: 0.100s",
        b"x-tollway-cost-usd: 0.1",
        b"",
    ]
    assert told(b"application/json", b"7", **changes) == expected
    without = [line for line in expected if not re.match(rb"openai|x-ratelimit|x-tollway-output", line)]
    assert told(b"application/json") == without


@given(HOSTILE, st.none() | HOSTILE)
def test_what_the_upstream_says_of_its_answer_is_one_line_or_an_error(kind: str, spent: str | None) -> None:
    try:
        lines = told(kind.encode(), None if spent is None else spent.encode())
    except ValueError:
        assert BREAKS(kind + (spent or ""))
        return
    assert lines[0] == b"content-type: " + kind.encode()
    assert len(lines) == (8 if spent is None else 9)


@pytest.mark.parametrize("name", ["a\r\nb", "a\n", "\0"])
def test_a_deployment_whose_name_is_no_line_answers_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Scene(candidates=(deployment(name),))
