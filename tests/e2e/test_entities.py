"""The second stage of detection through the whole gateway, with a real process behind it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Harness, Json, chat, running, until
from tests.privacy.test_entity_stage import PROGRAM

ENTITIES: Json = {
    "find": ["PERSON"],
    "raise_to": "confidential",
    "deadline_ms": 10_000,
    "command": list(PROGRAM),
}
ASKING: Json = {
    "privacy": {"entities": ENTITIES},
    "features": {"search": {"entities": True, "mask": ["email"]}},
}


@pytest.fixture(scope="module")
def harness(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    context = running(tmp_path_factory.mktemp("gateway"), ASKING)

    async def enter() -> Harness:
        harness = await context.__aenter__()
        await ready(harness)
        return harness

    harness = runner.run(enter())
    yield harness
    runner.run(context.__aexit__(None, None, None))


async def ready(harness: Harness) -> None:
    await until(lambda: harness.gateway.parts.entities.is_ready)


async def looks(harness: Harness) -> int:
    return int((await harness.metrics()).sum("entity_looks_total"))


async def test_a_request_that_names_someone_stays_at_home(harness: Harness) -> None:
    refused = await harness.post(chat("Zelda has signed the contract"))
    assert refused.status_code == 403
    assert "named entities (found)" in refused.json()["error"]["message"]
    at_home = await harness.post(chat("Zelda has signed the contract", model="auto"))
    assert at_home.headers["x-tollway-zone"] == "local"
    assert (await harness.post(chat("nobody has signed the contract"))).status_code == 200


async def test_it_is_not_asked_where_it_could_not_change_the_class(harness: Harness) -> None:
    before = await looks(harness)
    headers = {"x_tollway_privacy": "confidential"}
    assert (await harness.post(chat("nobody", model="auto"), **headers)).status_code == 200
    assert (await harness.post(chat("card 4111 1111 1111 1111", model="auto"))).status_code == 200
    assert await looks(harness) == before


async def test_it_is_not_asked_for_other_features(harness: Harness) -> None:
    before = await looks(harness)
    assert (await harness.post(chat("Zelda signed"), x_tollway_feature="triage")).status_code == 200
    assert await looks(harness) == before


async def test_it_reads_what_would_leave_and_masking_is_no_way_round_it(harness: Harness) -> None:
    assert (await harness.post(chat("write to zoe@example.com"))).status_code == 200
    refused = await harness.post(chat("write to Zoe, zoe@example.com"))
    assert refused.status_code == 403
    at_home = await harness.post(chat("write to Zoe, zoe@example.com", model="auto"))
    assert at_home.headers["x-tollway-zone"] == "local"
    assert "zoe@example.com" in at_home.text


async def test_after_a_crash_requests_stay_at_home_until_it_is_back(harness: Harness) -> None:
    assert (await harness.post(chat("crash: now"))).status_code == 403
    await ready(harness)
    assert (await harness.post(chat("nobody"))).status_code == 200


async def test_no_answer_in_time_counts_as_found(tmp_path: Path) -> None:
    hasty = {"privacy": {"entities": ENTITIES | {"deadline_ms": 50, "by_default": True}}}
    async with running(tmp_path, hasty) as harness:
        await ready(harness)
        refused = await harness.post(chat("slow: nobody"))
        assert refused.status_code == 403
        assert "named entities (late)" in refused.json()["error"]["message"]


async def test_one_that_never_gets_ready_keeps_requests_at_home(tmp_path: Path) -> None:
    absent = {"privacy": {"entities": ENTITIES | {"command": ["/no/such/program"], "by_default": True}}}
    async with running(tmp_path, absent) as harness:
        assert (await harness.post(chat("nobody"))).status_code == 403
        response = await harness.post(chat("nobody", model="auto"))
        assert response.headers["x-tollway-zone"] == "local"
