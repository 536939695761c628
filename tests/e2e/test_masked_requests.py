"""Masked values never reach the outside, and the client gets them back as if they had."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulators.running import Simulator
from tests.e2e.harness import (
    CARD,
    STANDARD,
    Harness,
    Json,
    Streamed,
    chat,
    escaped,
    full_width,
    gateway_over,
    image_parts,
    nothing_left_over,
    running,
    simulators,
)
from tests.e2e.test_privacy_property import FAULTS, HARMLESS, PIECES, PLACES

MAIL = "ada.lovelace@analytical-engines.example"
EVERYTHING = STANDARD["privacy"]["detect"][0]["find"]
MASKING: Json = {"features": {"search": {"mask": EVERYTHING}}}
MASKED = "x-tollway-masked"


@pytest.fixture(scope="module")
def harness(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    context = running(tmp_path_factory.mktemp("gateway"), MASKING)
    harness = runner.run(context.__aenter__())
    yield harness
    runner.run(context.__aexit__(None, None, None))


def sent(harness: Harness, text: str) -> int:
    return len(harness.external.attempts(contains=text))


# One request


async def test_a_value_leaves_as_a_placeholder_and_comes_back(harness: Harness) -> None:
    response = await harness.post(chat(f"Write to {MAIL} about {CARD}"))
    assert response.status_code == 200
    assert f"Write to {MAIL} about {CARD}" in response.json()["choices"][0]["message"]["content"]
    assert response.headers["x-tollway-zone"] == "external"
    assert response.headers[MASKED] == "2"
    assert sent(harness, MAIL) == sent(harness, CARD) == 0
    assert sent(harness, "Write to [EMAIL_1] about [CREDIT_CARD_1]") == 1


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_stream_has_it_back_as_well(harness: Harness, include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    whole = await harness.post(chat(f"Write: {MAIL}"))
    response = await harness.post(chat(f"Write: {MAIL}", stream=True, **options))
    streamed = Streamed(response.content)
    assert streamed.is_done
    assert streamed.text == whole.json()["choices"][0]["message"]["content"]
    assert MAIL in streamed.text
    assert any("usage" in chunk for chunk in streamed.chunks) == include_usage
    assert sent(harness, MAIL) == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_the_arguments_of_a_tool_call_have_it_back(harness: Harness, stream: bool) -> None:
    parameters = {"type": "object", "properties": {"to": {"enum": [MAIL]}}, "required": ["to"]}
    tool = {"type": "function", "function": {"name": "send_letter", "parameters": parameters}}
    body = chat("Please send the letter", tools=[tool], tool_choice="required", stream=stream)
    response = await harness.post(body)
    if stream:
        pieces = [
            call["function"].get("arguments") or ""
            for chunk in Streamed(response.content).chunks
            for choice in chunk["choices"]
            for call in choice["delta"].get("tool_calls", ())
        ]
        written = "".join(pieces)
    else:
        [call] = response.json()["choices"][0]["message"]["tool_calls"]
        written = call["function"]["arguments"]
    assert json.loads(written) == {"to": MAIL}
    assert sent(harness, MAIL) == 0


async def test_the_official_client_sees_nothing_of_it(harness: Harness) -> None:
    client = harness.client()
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": f"Write: {MAIL}"}], stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert MAIL in text
    assert sent(harness, MAIL) == 0


async def test_an_idempotency_key_does_not_carry_it_out(harness: Harness) -> None:
    await harness.post(chat(f"Write: {MAIL}"), idempotency_key=MAIL)
    assert MAIL not in str(harness.external.attempts()[-1].headers)


async def test_a_request_without_such_values_leaves_as_it_is(harness: Harness) -> None:
    response = await harness.post(chat("Tell me about harbours."))
    assert MASKED not in response.headers
    assert sent(harness, "harbours") == 1


# Where it does not leave


async def test_our_own_models_get_the_request_as_it_is(harness: Harness) -> None:
    response = await harness.post(chat(f"Local letter to {MAIL}", model="scout"))
    assert MASKED not in response.headers
    assert MAIL in response.json()["choices"][0]["message"]["content"]
    assert any(replica.attempts(contains=f"Local letter to {MAIL}") for replica in harness.replicas)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": MAIL[:20]}, {"type": "text", "text": MAIL[20:]}],
        escaped(MAIL),
    ],
    ids=["over two parts", "in escapes"],
)
async def test_what_cannot_be_replaced_stays_at_home(harness: Harness, content: Any) -> None:
    refused = await harness.post({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "privacy_policy_violation"
    at_home = await harness.post({"model": "auto", "messages": [{"role": "user", "content": content}]})
    assert at_home.headers["x-tollway-zone"] == "local"


async def test_another_feature_is_not_masked(harness: Harness) -> None:
    refused = await harness.post(chat(f"Write: {MAIL}"), x_tollway_feature="triage")
    assert refused.status_code == 403


async def test_a_failover_from_home_goes_out_masked_and_is_booked_by_what_it_was(tmp_path: Path) -> None:
    async with running(tmp_path, MASKING) as harness:
        for replica in harness.replicas:
            replica.set_knobs(error_rate=1.0)
        response = await harness.post(chat(f"Write: {MAIL}", model="auto"))
        assert response.headers["x-tollway-zone"] == "external"
        assert MAIL in response.json()["choices"][0]["message"]["content"]
        assert sent(harness, MAIL) == 0
        rows = await harness.rows()
        assert [(row["zone"], row["privacy"]) for row in rows] == [
            ("local", "confidential"),
            ("local", "confidential"),
            ("external", "internal"),
        ]


async def test_the_explanation_says_what_is_masked_and_where_it_is_not(harness: Harness) -> None:
    question = {"request": chat(f"Write: {MAIL}", model="auto"), "key": "app"}
    found = (await harness.admin("POST", "/admin/v1/policy/explain", question)).json()
    assert found["privacy"]["class"] == "internal"
    assert "1 value masked; as it is, of class confidential, only to local" in found["privacy"]["raised_by"]
    assert found["order"] == ["scout", "gpt-4o"]


async def test_an_image_counts_beside_the_masked_text(tmp_path: Path) -> None:
    async with running(tmp_path, MASKING | {"privacy": {"media": None}}) as harness:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": image_parts(MAIL)}]}
        assert (await harness.post(body)).status_code == 403


# The property


class Stage:
    """Simulators and a masking gateway that outlast the examples."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness

    async def play(self, faults: list[Json], bodies: list[Json]) -> None:
        for simulator, fault in zip(self.harness.replicas, faults, strict=True):
            simulator.set_knobs(**(HARMLESS | fault))
        await asyncio.gather(*(self.harness.post(body) for body in bodies))
        for value in PIECES.values():
            for written in (value, full_width(value), "\u200b".join(value)):
                assert self.harness.external.attempts(contains=written) == []


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stack = AsyncExitStack()
    bounds = {"first_byte_seconds": 0.15, "between_bytes_seconds": 0.15, "total_seconds": 0.5}
    short = {"timeouts": bounds}
    changes = MASKING | {"deployments": {"scout": short | {"health": {"interval_seconds": 3600}}}}

    async def build() -> Stage:
        await stack.enter_async_context(nothing_left_over())
        external: Simulator
        external, replicas = await stack.enter_async_context(simulators())
        folder = tmp_path_factory.mktemp("stage")
        return Stage(await stack.enter_async_context(gateway_over(external, replicas, folder, changes)))

    stage = runner.run(build())
    yield stage
    assert stage.harness.external.attempts(contains="_1]") != []  # some did leave, and so could have shown it
    runner.run(stack.aclose())


requests = st.builds(
    lambda place, spelling, value, model, stream: {"model": model, "stream": stream} | place(spelling(value)),
    st.sampled_from(PLACES),
    st.sampled_from([str, full_width, "\u200b".join]),
    st.sampled_from(list(PIECES.values())),
    st.sampled_from(["auto", "gpt-4o"]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(st.sampled_from(FAULTS), min_size=2, max_size=2),
    bodies=st.lists(requests, min_size=2, max_size=6),
)
def test_no_masked_value_ever_reaches_the_external_simulator(
    runner: asyncio.Runner, stage: Stage, faults: list[Json], bodies: list[Json]
) -> None:
    runner.run(stage.play(faults, bodies))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_where_nothing_is_masked_or_detected_the_same_requests_do_show_it(
    place: Callable[[str], Json], tmp_path: Path
) -> None:
    async with running(tmp_path, {"privacy": {"detect": None}}) as harness:
        response = await harness.post({"model": "gpt-4o"} | place(MAIL))
        assert response.status_code == 200
        assert sent(harness, MAIL[len(MAIL) // 2 :]) == 1


async def test_streams_of_requests_without_masking_run_no_code_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("not for this request")

    monkeypatch.setattr("gateway.proxy.attempt.Restorer", forbidden)
    monkeypatch.setattr("gateway.proxy.attempt.RestoringReader", forbidden)
    async with running(tmp_path, MASKING) as harness:
        nothing_to_mask = await harness.post(chat("Tell me about ships.", stream=True))
        at_home = await harness.post(chat(f"Write: {MAIL}", model="scout", stream=True))
        other_feature = await harness.post(chat("Hello", stream=True), x_tollway_feature="triage")
    for response in (nothing_to_mask, at_home, other_feature):
        assert Streamed(response.content).is_done
