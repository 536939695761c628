"""One attempt: the lines and the body that go out, what the client is told, how it ends, and its row."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import RateView
from gateway.core.answer import Exact
from gateway.core.catalog import Deployment
from gateway.core.ended import Ended, Progress
from gateway.core.masking import Masked
from gateway.core.money import nano_from_usd
from gateway.core.pricing import PriceBook, PriceVersion
from gateway.core.record import Outcome
from gateway.core.sent import Sent
from gateway.core.usage import Usage
from tests.core.builders import (
    NOVEMBER,
    decided,
    deployment,
    held,
    hold,
    local,
    model,
    price,
    principal,
    rates,
    routes,
)
from tests.core.halves import record_of

LAST = b"x-tollway-cost-usd: 0.1\r\n"
HOSTILE = st.text(alphabet="\r\n\0: ab", max_size=8)
BREAKS = re.compile(r"[\r\n\0]").search
AT = int(NOVEMBER * 1_000_000)


def attempt(*use: Deployment, masked: Masked | None = None, **changes: Any) -> Sent:
    """The first attempt at a deployment with a header of its own; `changes` are those of its hold."""
    item = model(*(use or (deployment(headers=((b"authorization", b"Bearer x"),)),)))
    sent = decided(item)
    held(sent, hold(sent.ask, **({"output_tokens": sent.ask.output_tokens} | changes)))
    sent.masked = masked
    return sent


def own_lines(key: bytes) -> list[bytes]:
    return attempt().head_lines({b"idempotency-key": key}).split(b"\r\n")


def told(content_type: bytes, processing_ms: bytes | None = None, **changes: Any) -> list[bytes]:
    return attempt(**changes).answer_lines(content_type, processing_ms, LAST).split(b"\r\n")


# --- the lines ---


def test_a_request_adds_its_ids_to_the_ready_block_of_its_replica() -> None:
    sent = attempt()
    assert sent.candidate.replica_set.heads[sent.replica][sent.call.api].block.split(b"\r\n") == [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: 127.0.0.1:9101",
        b"accept-encoding: identity",
        b"authorization: Bearer x",
        b"",
    ]
    assert sent.head_lines({}) == b"x-request-id: r\r\nx-tollway-attempt: r:1\r\n"


def test_two_keys_of_a_client_go_on_as_two_digests_that_stay() -> None:
    assert own_lines(b"k \xfc") == own_lines(b"k \xfc") != own_lines(b"k")
    assert own_lines(b"k")[:2] == [b"x-request-id: r", b"x-tollway-attempt: r:1"]


def test_a_digest_is_that_of_one_payer() -> None:
    first, second = (decided(model(deployment()), payer=principal(digest_key=key)) for key in (b"a", b"b"))
    lines = []
    for sent in (first, second):
        held(sent, hold(sent.ask))
        lines.append(sent.head_lines({b"idempotency-key": b"k"}))
    assert lines[0] != lines[1]


@given(st.binary(max_size=80))
def test_a_key_is_one_line_whatever_it_is(key: bytes) -> None:
    [_, _, line, end] = own_lines(key)
    assert re.fullmatch(rb"idempotency-key: [0-9a-f]{64}", line)
    assert end == b""


def test_lines_of_an_answer_in_order() -> None:
    rate = RateView(limit=600, remaining=599, reset_seconds=0.1)
    changes: dict[str, Any] = {"output_tokens": 49, "requests": rate, "tokens": rate}
    expected = [
        b"content-type: application/json",
        b"x-request-id: r",
        b"x-tollway-deployment: gpt-4o",
        b"x-tollway-zone: external",
        b"x-tollway-policy: v1",
        b"x-tollway-decision: only",
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


@pytest.mark.parametrize("name", ["a\r\nb", "a\n", "\0"])
def test_a_deployment_whose_name_is_no_line_answers_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        attempt(deployment(name))


# --- how it ends ---


def ended(sent: Sent, usage: Usage, tier: str | None = None) -> Ended:
    """The attempt was answered with `usage`."""
    return sent.end(Progress(1000.0, 1001.0, 1000.5), Outcome.SUCCESS, Exact(usage, tier), 1002.0)


def test_each_other_deployment_of_the_model_prices_the_same_tokens() -> None:
    dear = deployment("dear", price=price(rates("2.50", "10", cached="1.25")))
    cheap = deployment("cheap", price=price(rates("1", "2")))
    usage = Usage(input_text=100_000, output_text=10_000)

    def elsewhere(*use: Deployment) -> dict[str, int]:
        sent = attempt(*use)
        held(sent, hold(sent.ask, output_tokens=10_000))
        return dict(record_of(sent.half(), ended(sent, usage).half()).counterfactual_nano_usd)

    assert elsewhere(dear, cheap) == {"cheap": nano_from_usd("0.12")}
    assert elsewhere(cheap, dear) == {"dear": nano_from_usd("0.35")}
    assert elsewhere(dear) == {}


def test_a_candidate_that_is_not_the_first_is_a_failover_and_has_its_own_estimate() -> None:
    sent = decided(model(local(max_output_tokens=70), deployment(max_output_tokens=80)))
    second = held(sent.again(number=3, index=1))
    assert (second.attempt_id, second.decision, second.candidate.name) == ("r:3", "failover", "gpt-4o")
    assert (sent.estimate.output, second.estimate.output) == (70, 80)
    same = held(sent.again(number=2, index=0, fresh=True))
    assert (same.attempt_id, same.decision, same.fresh) == ("r:2", "order", True)


def test_nobody_who_saw_the_end_books_the_prompt_and_keeps_what_was_held() -> None:
    sent = attempt()
    record = record_of(sent.half(), None)
    seen = sent.end(
        Progress(0.0, 0.0, 0.0), Outcome.PRESUMED, sent.under_estimate(Progress(0.0, 0.0, 0.0), 0.0), 0.0
    )
    assert (record.outcome, record.estimated, record.status) == (Outcome.PRESUMED, True, 0)
    assert record.usage == seen.usage == Usage(input_text=sent.estimate.prompt)
    assert record.cost_nano_usd == seen.cost_nano > 0
    assert record.cost_nano_usd + record.unseen_nano_usd == sent.held_nano


# --- the price is that of the moment at which it was sent ---

CHANGE = AT + 60_000_000


def version(item: Deployment, name: str, at: int, **changes: Any) -> PriceVersion:
    given: dict[str, Any] = {
        "provider": item.provider,
        "model": item.model,
        "tier": "standard",
        "effective_from": at,
        "version": name,
        "rates": rates("5", "20"),
        "entered_at": 1,
    }
    return PriceVersion(**(given | changes))


def test_a_price_that_begins_in_the_middle_of_a_request_is_booked_with_its_version() -> None:
    first, second = deployment("a"), deployment("b")
    item = model(first, second)
    book = PriceBook([version(first, "new-a", CHANGE), version(second, "new-b", CHANGE)])
    sent = decided(item, by=routes(item, prices=book))
    usage = Usage(input_text=100_000)

    def booked(one: Sent, at: int) -> tuple[str, int, dict[str, int]]:
        held(one, at=at)
        record = record_of(one.half(), ended(one, usage).half())
        return record.price_version, record.cost_nano_usd, dict(record.counterfactual_nano_usd)

    old, new = nano_from_usd("0.25"), nano_from_usd("0.5")
    assert booked(sent, CHANGE - 1) == ("test-1", old, {"b": old})
    assert booked(sent.again(number=2, index=0), CHANGE) == ("new-a", new, {"b": new})
    assert booked(sent.again(number=3, index=1), CHANGE) == ("new-b", new, {"a": new})


def test_a_hold_taken_before_the_change_covers_the_price_after_it() -> None:
    item = model(deployment())
    book = PriceBook([version(item.use[0], "dear", CHANGE, rates=rates("50", "200"))])
    sent = decided(item, by=routes(item, prices=book))
    assert sent.ask.output_nano_per_million == nano_from_usd("200")


def test_a_tier_that_the_answer_names_is_booked_with_the_version_of_its_own() -> None:
    item = model(deployment())
    book = PriceBook(
        [
            version(item.use[0], "all", AT - 1),
            version(item.use[0], "half", AT - 1, tier="batch", rates=rates("1", "1")),
        ]
    )
    sent = held(decided(item, by=routes(item, prices=book)))
    found = {
        tier: record_of(sent.half(), ended(sent, Usage(input_text=10**5), tier).half())
        for tier in (None, "batch", "default")
    }
    assert {tier: (one.price_version, one.cost_nano_usd) for tier, one in found.items()} == {
        None: ("all", nano_from_usd("0.5")),
        "batch": ("half", nano_from_usd("0.1")),
        "default": ("all", nano_from_usd("0.5")),
    }
