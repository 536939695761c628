"""A row of the ledger is the join of two halves: what was sent and how it ended, whatever they hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answer import Contradictory, Exact, Metered, UnderEstimate
from gateway.core.ended import Ended, Progress
from gateway.core.pricing import rates_used
from gateway.core.record import (
    DIGITS,
    ENDED_FIELDS,
    HALF_BYTES,
    MOST,
    ROUTE_FIELDS,
    SENT_FIELDS,
    Outcome,
    RecordedFacts,
    UsageRecord,
    joined,
)
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
    principal,
    rates,
    route_to,
    used,
)
from tests.core.halves import ended_by_name, record_of, sent_by_name

PRICED = price(rates(), priority=rates("4.25", "17"))
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LONG = st.builds(str.__mul__, st.sampled_from("x語"), st.sampled_from([0, 30_000, 100_000]))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HOSTILE_TEXTS = (
    st.text(max_size=20) | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=5) | LONG
)
COUNTS = st.integers(0, 10**9)
SECONDS = st.floats(0, 10**6)

usages = st.builds(
    used,
    input_text=COUNTS,
    input_image=COUNTS,
    input_audio=COUNTS,
    input_cached=COUNTS,
    output_text=COUNTS,
    output_audio=COUNTS,
    output_reasoning=COUNTS,
) | st.dictionaries(st.sampled_from(["input_text", "cache_write_1h", "input_x", "searches"]), COUNTS).map(
    usage_of
)
reports = st.dictionaries(st.sampled_from(["prompt_tokens", "a.b"]), COUNTS, min_size=1).map(
    lambda counts: tuple(counts.items())
)
bodies = st.builds(
    lambda words, images, members: chat(
        [{"type": "text", "text": "w " * words}, *[IMAGE] * images], **members
    ),
    st.integers(0, 200),
    st.integers(0, 2),
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.integers(1, 4),
            "max_tokens": st.integers(1, 500),
            "stream": st.booleans(),
            "tools": st.just([{"type": "function"}]),
            "user": TEXTS.filter(bool),
            "metadata": st.dictionaries(TEXTS, TEXTS, max_size=3),
        },
    ),
)


# What a header can carry; `,` and `=` part tags, and spaces around them are not kept.
TAG_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters=",="), max_size=10).map(str.strip)
TAGS = st.dictionaries(TAG_TEXTS.filter(bool), TAG_TEXTS, max_size=3)


def tags_header(tags: dict[str, str]) -> dict[bytes, bytes]:
    return {b"x-tollway-tags": ",".join(f"{name}={value}" for name, value in tags.items()).encode()}


@st.composite
def attempts(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> Sent:
    """One attempt at one of three deployments, whoever asks for whatever."""
    item = model(
        local(price=PRICED, replicas=2), deployment(price=PRICED, model=draw(texts)), deployment("other")
    )
    who = principal(key=draw(texts), feature=draw(texts), team=draw(texts), org=draw(texts))
    at = moment(
        random=draw(st.floats(0, 1, exclude_max=True)),
        budget_used=draw(st.floats(0, 2)),
        headers=draw(
            st.dictionaries(
                st.sampled_from([b"x-tollway-privacy", b"x-tollway-session"]), st.binary(max_size=30)
            )
        )
        | draw(st.just({}) | st.builds(tags_header, TAGS)),
    )
    route = route_to(item, payer=who, now=at.now)
    route.fleet.replica_sets["llama"].replicas[0].in_flight = draw(st.integers(0, 3))
    sent = route.begin("r", parsed(draw(bodies)), Classified("internal"), at)
    number, index = draw(st.integers(1, 9)), draw(st.integers(0, 2))
    return held(sent.again(number=number, index=index), hold(sent.ask, nano=draw(st.integers(0, 10**15))))


@st.composite
def ends(draw: st.DrawFn, sent: Sent, texts: st.SearchStrategy[str] = TEXTS) -> Ended:
    """How `sent` ended: any way that there is."""
    usage = draw(usages)
    tiers = st.none() | st.just("priority") | texts
    metered: Metered = UnderEstimate(usage, draw(st.just(()) | reports))
    if draw(st.booleans()):
        metered = Contradictory(usage, draw(tiers), draw(reports))
    if draw(st.booleans()):
        metered = Exact(usage, draw(tiers))
    progress = Progress(
        sent_at=draw(SECONDS),
        last_seen_at=draw(SECONDS),
        quiet_until=draw(SECONDS),
        address=draw(texts),
        status=draw(st.integers(0, 599)),
        first_token_at=draw(st.none() | SECONDS),
        text_chunks=draw(COUNTS),
        text_bytes=draw(COUNTS),
        finish_reason=draw(st.none() | texts),
        reported_model=draw(st.none() | texts),
        upstream_request_id=draw(st.none() | texts),
    )
    return sent.end(progress, draw(st.sampled_from(Outcome)), metered, draw(SECONDS))


def expected(sent: Sent, ended: Ended) -> UsageRecord:
    """The row, from what both say."""
    call, candidate, payer, progress = sent.call, sent.candidate, sent.principal, ended.progress
    return UsageRecord(
        attempt_id=sent.attempt_id,
        request_id=sent.request_id,
        at=sent.at,
        org=payer.org,
        team=payer.team,
        feature=payer.feature,
        key=payer.key,
        model=sent.model.name,
        dispatched_model=candidate.deployment.model,
        reported_model=progress.reported_model,
        endpoint=call.api,
        deployment=candidate.name,
        replica=sent.replica.replica.name,
        zone=candidate.deployment.zone,
        privacy=sent.sent_privacy,
        modalities=",".join(sorted(call.modalities)),
        decision=sent.decision,
        stream=call.stream,
        status=progress.status,
        outcome=ended.outcome,
        finish_reason=progress.finish_reason,
        usage=ended.usage,
        estimated=ended.estimated,
        service_tier=ended.service_tier,
        price_version=candidate.price.version_of(ended.service_tier),
        cost_nano_usd=ended.cost_nano,
        counterfactual_nano_usd=dict(zip(candidate.others, ended.other_costs, strict=True)),
        held_nano_usd=sent.held_nano,
        unseen_nano_usd=ended.unseen_nano,
        flags=ended.flags,
        reported=dict(ended.reported),
        rates=booked_at(sent, ended),
        ttft_ms=ended.ttft_ms,
        duration_ms=ended.duration_ms,
        upstream_request_id=progress.upstream_request_id,
        tags=sent.tags,
        policy_version="v1",
        facts=RecordedFacts(
            text_bytes=call.text_bytes,
            max_output=call.max_output,
            choices=call.choices,
            prompts=call.prompts,
            needs=",".join(sorted(call.needs)),
            media=call.media,
            named=sent.named,
            finds=sent.finds,
            unit=sent.unit,
            draw=round(sent.draw, DIGITS),
            budget=round(sent.budget, DIGITS),
            pools=sent.pools,
        ),
        address=progress.address,
    )


def booked_at(sent: Sent, ended: Ended) -> dict[str, int]:
    """What each unit costs at the tier of the answer; of a row of text what the candidate lists for text."""
    if ended.rates is None:
        standard = sent.candidate.price.standard
        return {"input_text": standard.input, "output_text": standard.output}
    return rates_used(sent.candidate.price.rates(ended.service_tier), ended.usage)


@given(st.data())
def test_the_rates_of_a_row_make_its_cost(data: st.DataObject) -> None:
    sent = data.draw(attempts(), "sent")
    record = record_of(sent.half(), data.draw(ends(sent), "ended").half())
    millionths = sum(amount * record.rates[unit] for unit, amount in record.usage.units.items())
    made = -(-millionths // 1_000_000)
    assert record.cost_nano_usd == min(made, record.held_nano_usd)


@given(st.data())
def test_a_row_says_what_was_sent_and_how_it_ended(data: st.DataObject) -> None:
    sent = data.draw(attempts(), "sent")
    ended = data.draw(ends(sent), "ended")
    assert record_of(sent.half(), ended.half()) == expected(sent, ended)


@given(st.data())
def test_what_is_too_large_or_no_text_is_cut_and_the_row_reads_back(data: st.DataObject) -> None:
    sent = data.draw(attempts(HOSTILE_TEXTS), "sent")
    ended = data.draw(ends(sent, HOSTILE_TEXTS), "ended")
    record, whole = record_of(sent.half(), ended.half()), expected(sent, ended)
    for name in UsageRecord.__struct_fields__:
        value, full = getattr(record, name), getattr(whole, name)
        if isinstance(full, str):
            assert value in (full, full[:512].encode("utf-8", "replace").decode()), name
        else:
            assert value == full, name


def test_a_value_that_is_cut_costs_no_other_value_of_its_half() -> None:
    """However many deployments the model has: each has its cost."""
    sent = held(
        route_to(model(*(deployment(f"d{number}") for number in range(200)))).begin(
            "r", parsed(chat()), Classified("internal"), moment()
        )
    )
    progress = Progress(0.0, 0.0, 0.0, upstream_request_id="x" * HALF_BYTES)
    ended = sent.end(progress, Outcome.SUCCESS, Exact(Usage(input_text=10)), 1.0)
    record = record_of(sent.half(), ended.half())
    assert record.upstream_request_id == "x" * 512
    assert record.counterfactual_nano_usd == expected(sent, ended).counterfactual_nano_usd
    assert len(record.counterfactual_nano_usd) == 199


def test_a_number_that_no_column_holds_is_cut() -> None:
    sent = held(
        route_to(model(deployment(max_output_tokens=2**70))).begin(
            "r", parsed(chat(max_tokens=2**63)), Classified("internal"), moment()
        ),
        hold(nano=10**30),
    )
    record = record_of(sent.half(), None)
    assert (record.held_nano_usd, record.facts.max_output) == (2**53, MOST)
    assert record.attempt_id == "r:1"


# --- what each half names ---


def test_a_half_has_exactly_the_names_that_a_journal_announces() -> None:
    sent = held(
        route_to(model(local(), deployment())).begin("r", parsed(chat()), Classified("internal"), moment())
    )
    ended = sent.end(Progress(0.0, 0.0, 0.0), Outcome.SUCCESS, Exact(Usage()), 1.0)
    route, own = msgspec.msgpack.decode(sent.half())
    assert len(route) == len(ROUTE_FIELDS)
    assert len(own) == len(SENT_FIELDS)
    assert len(msgspec.msgpack.decode(ended.half())) == len(ENDED_FIELDS)
    assert len({*ROUTE_FIELDS, *SENT_FIELDS}) == len(ROUTE_FIELDS) + len(SENT_FIELDS)


def test_both_halves_together_name_every_column_and_every_fact() -> None:
    derived = {"counterfactual_nano_usd", "usage", "facts"}
    columns = {*UsageRecord.__struct_fields__, *RecordedFacts.__struct_fields__} - derived
    named = {*ROUTE_FIELDS, *SENT_FIELDS, *ENDED_FIELDS}
    assert columns <= named
    assert named - columns == {
        "input_rate",
        "output_rate",
        "others",
        "other_costs",
        "prompt_tokens",
        "units",
    }


@pytest.mark.parametrize("name", [*ROUTE_FIELDS, *SENT_FIELDS, *ENDED_FIELDS])
def test_no_name_of_a_half_is_there_for_nothing(name: str) -> None:
    sent = held(
        route_to(model(local(), deployment())).begin("r", parsed(chat()), Classified("internal"), moment())
    )
    ended = sent.end(Progress(0.0, 0.0, 0.0), Outcome.SUCCESS, Exact(Usage()), 1.0)
    first, second = sent_by_name(sent.half()), ended_by_name(ended.half())
    for half in (first, second):
        half.pop(name, None)
    with pytest.raises(KeyError, match=name):
        joined(first, second)
        joined(first, None)
