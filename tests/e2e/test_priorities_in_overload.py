"""A whole gateway in an overload: who is refused first, what remains of a refusal, and what operators see."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.e2e.harness import APP_KEY, Harness, chat, running, until
from tests.http.server.overload_clock import MovedClock, begin_overload, end_overload

NIGHTLY_KEY = "key-of-the-nightly-job-0123456789"
CHANGES = {
    "features": {"search": {"priority": "batch"}, "nightly": {"team": "product"}},
    "keys": {
        "app": {"priority": "interactive"},
        "nightly": {"secret": NIGHTLY_KEY, "feature": "nightly", "features": ["search"]},
    },
}


@asynccontextmanager
async def overload(harness: Harness) -> AsyncIterator[None]:
    """While it lasts, batch is refused, and an interactive request that comes alone is not."""
    shedder, clock = harness.gateway.parts.shedder, MovedClock()
    shedder._clock = clock
    await begin_overload(shedder, clock)
    yield
    await end_overload(shedder, clock)


async def status(harness: Harness, key: str, **headers: str) -> int:
    return (await harness.post(chat(), authorization=f"Bearer {key}", **headers)).status_code


async def test_batch_is_refused_first_by_feature_key_and_header(tmp_path: Path) -> None:
    async with running(tmp_path, CHANGES) as harness:
        assert await status(harness, APP_KEY) == await status(harness, NIGHTLY_KEY) == 200
        async with overload(harness):
            assert await status(harness, APP_KEY) == 200  # the key's own word counts
            assert await status(harness, APP_KEY, x_tollway_priority="batch") == 503
            assert await status(harness, NIGHTLY_KEY) == 200
            assert await status(harness, NIGHTLY_KEY, x_tollway_feature="search") == 503
        assert await status(harness, NIGHTLY_KEY, x_tollway_feature="search") == 200


async def test_a_new_priority_holds_after_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path, CHANGES) as harness:
        changed = {
            **CHANGES,
            "features": {**CHANGES["features"], "nightly": {"team": "product", "priority": "batch"}},
        }
        assert (await harness.reload(changed)).status_code == 200
        assert await status(harness, NIGHTLY_KEY) == 200
        async with overload(harness):
            assert await status(harness, NIGHTLY_KEY) == 503


async def test_a_refusal_leaves_a_count_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, CHANGES) as harness:
        async with overload(harness):
            for _ in range(3):
                response = await harness.post(chat(), x_tollway_priority="batch")
                assert response.json()["error"]["code"] == "overloaded"
            metrics = await harness.metrics()
            assert metrics.sum("overloaded") == 1
            health = (await harness.admin("GET", "/readyz")).json()
            assert health["status"] == "ready"
            assert health["degraded"] == ["overloaded: requests that would wait too long are refused"]
        metrics = await harness.metrics()
        assert metrics.sum("shed_requests_total", priority="batch") == 3
        assert metrics.sum("refusals_total", code="overloaded") == 3
        assert metrics.sum("requests_total", outcome="refused") == 3
        assert metrics.sum("overloaded") == metrics.sum("refusals_not_kept_total") == 0
        assert await harness.rows() == harness.attempts() == []


async def test_a_stream_that_has_begun_is_not_touched(tmp_path: Path) -> None:
    async with running(tmp_path, CHANGES) as harness:
        async with (
            harness.http.stream(
                "POST",
                "/v1/chat/completions",
                json=chat(stream=True),
                headers={"x-tollway-priority": "batch"},
            ) as response,
            overload(harness),
        ):
            assert await status(harness, APP_KEY, x_tollway_priority="batch") == 503
            assert "data: [DONE]" in (await response.aread()).decode()
        await until(lambda: not harness.in_flight())


async def test_a_word_that_is_no_priority_is_told_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.post(chat(), x_tollway_priority="urgent")
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "invalid_header"
        assert error["message"] == "The header x-tollway-priority can be interactive or batch."
        assert (await harness.post(chat(), x_tollway_priority="Interactive")).status_code == 200
