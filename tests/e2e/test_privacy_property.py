"""Whatever the configuration, the request and the breakage: what is sensitive never leaves the local zone."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulators.knobs import ErrorKind
from gateway.simulators.running import Simulator
from tests.e2e.harness import (
    CARD,
    STANDARD,
    Harness,
    Json,
    escaped,
    full_width,
    gateway_over,
    nothing_left_over,
    running,
    simulators,
    unused_url,
)

MARK = "zebra-crossing"  # stands in every sensitive request, as it is
PIECES = {
    "card": CARD,
    "email": "ada.lovelace@analytical-engines.co.uk",
    "iban": "DE89 3704 0044 0532 0130 00",
    "my number": "個人番号 1234 5678 9018",
    "ssn": "SSN 536-22-8726",
    "secret": "AKIAQ3EGRL5XZ7TUV2WS",
}
CLASSES = ["public", "internal", "confidential", "restricted"]
FAULTS: list[Json] = [
    {},
    {"healthy": False},
    *(
        {"error_rate": rate, "error_kind": kind, "tokens_per_second": pace}
        for kind in ErrorKind
        for rate, pace in ((1.0, 0), (1.0, 3000), (0.5, 0))
    ),
]


# Requests


def said(text: str) -> Json:
    return {"messages": [{"role": "user", "content": f"{MARK} {text}"}]}


def said_in_two_parts(text: str) -> Json:
    middle = len(text) // 2
    parts = [{"type": "text", "text": piece} for piece in (MARK + " " + text[:middle], text[middle:])]
    return {"messages": [{"role": "user", "content": parts}]}


def said_in_two_messages(text: str) -> Json:
    middle = len(text) // 2
    pieces = (MARK + " " + text[:middle], text[middle:])
    return {"messages": [{"role": "user", "content": piece} for piece in pieces]}


def said_by_the_system(text: str) -> Json:
    return {"messages": [{"role": "system", "content": text}, {"role": "user", "content": MARK}]}


def said_to_a_tool(text: str) -> Json:
    arguments = json.dumps({"note": text})
    function = {"name": "keep", "arguments": arguments}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    answered = {"role": "tool", "tool_call_id": "1", "content": "kept"}
    return {"messages": [{"role": "user", "content": MARK}, called, answered]}


def said_in_a_tool_s_description(text: str) -> Json:
    function = {"name": "keep", "description": text, "parameters": {"type": "object", "properties": {}}}
    return said("") | {"tools": [{"type": "function", "function": function}]}


def said_as_the_user_s_name(text: str) -> Json:
    return said("") | {"user": text}


def said_in_the_metadata(text: str) -> Json:
    return said("") | {"metadata": {"note": text}, "store": True}  # without `store` it is not sent on


PLACES: list[Callable[[str], Json]] = [
    said,
    said_in_two_parts,
    said_in_two_messages,
    said_by_the_system,
    said_to_a_tool,
    said_in_a_tool_s_description,
    said_as_the_user_s_name,
    said_in_the_metadata,
]
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "full width": full_width,
    "zero width": "\u200b".join,
}


def encoded(body: Json, piece: str, is_escaped: bool) -> bytes:
    """`body` as JSON, with `piece`, where it stands whole, written in escapes."""
    text = json.dumps(body, ensure_ascii=False)
    return (text.replace(piece, escaped(piece)) if is_escaped else text).encode()


@st.composite
def sensitive_requests(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A body and headers: sensitive by its label or by its content."""
    body = {"model": "auto", "stream": draw(st.booleans())}
    if draw(st.integers(0, 3)) == 0:
        label = draw(st.sampled_from(["confidential", "restricted"]))
        return json.dumps(body | said("Hello.")).encode(), {"x_tollway_privacy": label}
    piece = draw(st.sampled_from(list(SPELLINGS.values())))(draw(st.sampled_from(list(PIECES.values()))))
    place = draw(st.sampled_from(PLACES))
    label = draw(st.sampled_from([None, "public"]))  # a caller cannot lower what was found
    headers = {"x_tollway_privacy": label} if label else {}
    return encoded(body | place(piece), piece, draw(st.booleans())), headers


# Configurations

DETECTORS = STANDARD["privacy"]["detect"][0]["find"]
DEAD_URL = unused_url()
SHORT = {"first_byte_seconds": 0.15, "between_bytes_seconds": 0.15, "total_seconds": 0.5}
CHEAP, DEAR = ({"input": price, "output": price * 4} for price in (0.1, 5))
CONDITIONS = [
    "true",
    'privacy == "confidential"',
    'privacy != "public"',
    "stream",
    "tools",
    "prompt_tokens > 20",
    "budget.used >= 0.0",
    'pool["scout"].available < 2',
]


def hosted(**more: Any) -> Json:
    return STANDARD["deployments"]["gpt-4o"] | {"timeouts": SHORT} | more


def local(*urls: str, **more: Any) -> Json:
    health = {"interval_seconds": 3600}
    return STANDARD["deployments"]["scout"] | {
        "replicas": {"urls": [f"{url}/v1" for url in urls]},
        "timeouts": SHORT,
        "health": health,
        **more,
    }


@st.composite
def configurations(draw: st.DrawFn) -> Json:
    """Two to four deployments, half of them outside, and a model with any objective and rules over them."""
    prices = st.sampled_from([CHEAP, DEAR])
    both = draw(st.permutations(["${REPLICA_1}", "${REPLICA_2}"]))
    available = {
        "gpt-4o": hosted(price=draw(prices)),
        "scout": local(
            *draw(st.sampled_from([both, both[:1], [DEAD_URL, both[0]], [DEAD_URL]])), price=draw(prices)
        ),
        "gpt-4o-again": hosted(price=draw(prices)),
        "scout-again": local(both[1], price=draw(prices)),
    }
    deployments = dict(list(available.items())[: draw(st.integers(2, 4))])
    if draw(st.integers(0, 3)) == 0:  # the local one has retired, and names one outside in its place
        deployments["scout"] |= {"retires_on": "2026-01-31", "successor": "gpt-4o"}
    use = draw(st.permutations(list(deployments)))
    some = st.lists(st.sampled_from(use), min_size=1, unique=True)
    rules = st.fixed_dictionaries(
        {
            "when": st.sampled_from(CONDITIONS),
            "use": some,
            "prefer": st.sampled_from(["order", "cost", "latency"]),
        }
    )
    model = {"use": use, "prefer": draw(st.sampled_from(["order", "cost", "latency", "weights"]))}
    if model["prefer"] == "weights":
        model["weights"] = {name: draw(st.sampled_from([0.1, 1, 100])) for name in use}
    home = draw(st.sampled_from([["local"], []]))
    return {
        "deployments": {"embedder": None, "scout": None, "gpt-4o": None} | deployments,
        "models": dict.fromkeys(STANDARD["models"])
        | {"auto": model | {"rules": draw(st.lists(rules, max_size=3))}},
        "privacy": {
            "default": draw(st.sampled_from(CLASSES[:2])),
            "zones": {"restricted": home},
            "detect": [{"find": DETECTORS, "raise_to": draw(st.sampled_from(CLASSES[2:]))}],
        },
        "keys": {"narrow": None},
        "features": {"search": {"privacy": draw(st.sampled_from(CLASSES[:2]))}},
    }


# The property

HARMLESS: Json = {"healthy": True, "error_rate": 0, "tokens_per_second": 0}


class Stage:
    """Simulators that outlast the examples, and a new gateway in front of them for each."""

    def __init__(self, external: Simulator, replicas: list[Simulator], folder: Path) -> None:
        self.external = external
        self.replicas = replicas
        self._folder = folder
        self._closing: list[asyncio.Task[None]] = []

    async def play(
        self, changes: Json, faults: list[Json], requests: list[tuple[bytes, dict[str, str]]]
    ) -> None:
        for simulator, fault in zip(self.replicas, faults, strict=True):
            simulator.set_knobs(**(HARMLESS | fault))
        stack = AsyncExitStack()
        context = gateway_over(self.external, self.replicas, self._folder, changes)
        harness = await stack.enter_async_context(context)
        try:
            responses = await asyncio.gather(*(harness.post(body, **headers) for body, headers in requests))
            await self.leave(harness, *requests[0])
        finally:
            # A server takes some tenths of a second to stop; the next example need not wait for it.
            self._closing.append(asyncio.create_task(stack.aclose()))
        for response in responses:
            assert_stayed_home(response)
        self.assert_saw_nothing()

    async def leave(self, harness: Harness, body: bytes, headers: dict[str, str]) -> None:
        """The same request again, from a client that does not wait for its answer."""
        with suppress(httpx.ReadTimeout):
            await harness.http.post(
                "/v1/chat/completions",
                content=body,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
                timeout=httpx.Timeout(5, read=0.0001),
            )

    def assert_saw_nothing(self) -> None:
        assert [attempt.n for attempt in self.external.attempts(contains=MARK)] == []

    async def close(self) -> None:
        await asyncio.gather(*self._closing)
        self.assert_saw_nothing()


def assert_stayed_home(response: httpx.Response) -> None:
    assert response.status_code in {200, 400, 403, 429, 502, 503, 504}, response.text
    assert response.headers.get("x-tollway-zone") in {None, "local"}


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stack = AsyncExitStack()

    async def build() -> Stage:
        await stack.enter_async_context(nothing_left_over())
        external, replicas = await stack.enter_async_context(simulators())
        return Stage(external, replicas, tmp_path_factory.mktemp("stage"))

    async def tear_down() -> None:
        await stage.close()
        await stack.aclose()

    stage = runner.run(build())
    yield stage
    runner.run(tear_down())


@settings(max_examples=100, deadline=None)
@given(
    changes=configurations(),
    faults=st.lists(st.sampled_from(FAULTS), min_size=2, max_size=2),
    requests=st.lists(sensitive_requests(), min_size=2, max_size=6),
)
def test_what_is_sensitive_never_reaches_the_external_simulator(
    runner: asyncio.Runner,
    stage: Stage,
    changes: Json,
    faults: list[Json],
    requests: list[tuple[bytes, dict[str, str]]],
) -> None:
    runner.run(stage.play(changes, faults, requests))


# That the property could fail: the same requests do go out where nothing keeps them in.


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_without_privacy_rules_the_same_requests_do_reach_it(
    place: Callable[[str], Json], tmp_path: Path
) -> None:
    open_door = {"privacy": {"zones": {"confidential": ["local", "external"]}}}
    async with running(tmp_path, open_door) as harness:
        response = await harness.post({"model": "gpt-4o"} | place(CARD))
        assert response.status_code == 200
        assert len(harness.external.attempts(contains=MARK)) == 1
