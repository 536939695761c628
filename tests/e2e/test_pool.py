"""A pool of replicas that are full, err, fall silent or stand still: what the clients get meanwhile."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from gateway.replicas import progress
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import Harness, Json, chat, running, until

WELL = Knobs(output_tokens=4)
ERRS = Knobs(error_rate=1.0, error_kind=ErrorKind.SERVER_ERROR)
FULL = Knobs(error_rate=1.0, error_kind=ErrorKind.UNAVAILABLE)
SLOW = Knobs(output_tokens=100_000, tokens_per_second=200)
HEALTH: Json = {"interval_seconds": 0.05, "timeout_seconds": 5, "silence_seconds": 0.2, "stuck_seconds": 0.4}


def of_scout(replicas: int = 3, **health: object) -> Json:
    urls = [f"${{REPLICA_{number}}}/v1" for number in range(1, replicas + 1)]
    return {"deployments": {"scout": {"replicas": {"urls": urls}, "health": HEALTH | health}}}


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.02)


async def statuses(harness: Harness, count: int) -> list[int]:
    """The answers to so many requests, one after the other."""
    return [(await harness.post(chat(f"Ship {n}", "scout"))).status_code for n in range(count)]


async def test_two_full_replicas_hide_no_idle_third(tmp_path: Path) -> None:
    async with running(tmp_path, of_scout(), replicas=(FULL, FULL, WELL)) as harness:
        assert await statuses(harness, 55) == [200] * 55
        metrics = await harness.metrics()
        assert metrics.sum("replica_up", deployment="scout") == 3
        # Full is remembered: that costs a few attempts a second, and not two for each request.
        seen = [len(replica.attempts()) for replica in harness.replicas]
        assert seen[2] == 55
        for replica in harness.replicas:
            replica.set_knobs(error_rate=0)
        assert await statuses(harness, 6) == [200] * 6


async def test_a_full_replica_is_up_and_shown_as_busy(tmp_path: Path) -> None:
    async with running(tmp_path, of_scout(1), replicas=(FULL,)) as harness:
        await statuses(harness, 10)
        metrics = await harness.metrics()
        assert metrics.sum("replica_up", deployment="scout") == 1
        assert metrics.sum("replica_busy", deployment="scout") == 1


async def test_two_erring_replicas_are_out_after_their_third_failure(tmp_path: Path) -> None:
    async with running(tmp_path, of_scout(), replicas=(ERRS, ERRS, WELL)) as harness:
        found = Counter(await statuses(harness, 60))
        assert found[200] >= 54
        assert found[200] + found[502] == 60


async def test_a_poisonous_request_takes_no_server_away(tmp_path: Path) -> None:
    """All fail it alike, again and again; whoever asks for something else is answered."""
    async with running(tmp_path, of_scout(), replicas=(ERRS, ERRS, ERRS)) as harness:
        assert set(await statuses(harness, 12)) == {502}
        for replica in harness.replicas:
            replica.set_knobs(error_rate=0)
        assert await statuses(harness, 12) == [200] * 12


@pytest.mark.usefixtures("quick_looks")
async def test_a_stream_ends_when_its_server_is_gone_and_silent(tmp_path: Path) -> None:
    async with running(tmp_path, of_scout(1), replicas=(SLOW,)) as harness:
        async with await harness.raw() as client:
            await client.request(chat(model="scout", stream=True))
            await client.read_until(b'"content":"', count=3)
            harness.replicas[0].fall_silent()
            received = await client.read_until(b'data: {"error"')
        assert b"[DONE]" not in received
        await harness.settled()
        [row] = await harness.rows()
        assert row["outcome"] == "upstream_error"
        assert row["output_tokens"] >= 2  # the first of the three is the role's, without text
        assert await harness.held_nano() == 0


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("stream", [True, False])
async def test_what_has_not_begun_goes_to_another_replica_when_its_server_is_gone(
    tmp_path: Path, stream: bool
) -> None:
    waits = Knobs(ttft_ms=600_000)
    async with running(tmp_path, of_scout(2, drain_seconds=0.3), replicas=(waits, WELL)) as harness:
        tasks = []
        while not harness.replicas[0].attempts():
            tasks.append(asyncio.create_task(harness.post(chat(model="scout", stream=stream))))
            await harness.arrived(len(tasks))
        harness.replicas[0].fall_silent()
        answers = await asyncio.gather(*tasks)
        assert {answer.status_code for answer in answers} == {200}
        outcomes = Counter(row["outcome"] for row in await harness.rows())
        assert outcomes == {"success": len(tasks), "upstream_error": 1}


@pytest.mark.usefixtures("quick_looks")
async def test_a_frozen_engine_is_taken_out_and_comes_back_when_it_thaws(tmp_path: Path) -> None:
    async with running(tmp_path, of_scout(2), replicas=(SLOW, SLOW)) as harness:
        states = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"].replicas
        async with await harness.raw() as one, await harness.raw() as other:
            for client in (one, other):
                await client.request(chat(model="scout", stream=True))
                await client.read_until(b'"content":"', count=3)
            assert [state.in_flight for state in states] == [1, 1]
            harness.replicas[0].set_knobs(frozen=True)
            await until(lambda: states[0].is_stuck and not states[0].in_flight)
            assert [state.is_up for state in states] == [False, True]
            metrics = await harness.metrics()
            assert metrics.sum("replica_up", deployment="scout") == 1
            harness.replicas[0].set_knobs(frozen=False)
            await until(lambda: states[0].is_up)
        await harness.settled()
        outcomes = Counter(row["outcome"] for row in await harness.rows())
        assert outcomes == {"upstream_error": 1, "client_disconnect": 1}


@pytest.mark.usefixtures("quick_looks")
async def test_a_long_answer_in_one_piece_is_no_frozen_engine(tmp_path: Path) -> None:
    """Nothing of it is seen for long, and its engine's counters move."""
    long = Knobs(output_tokens=300, tokens_per_second=150)
    async with running(tmp_path, of_scout(2, stuck_seconds=0.2), replicas=(long, WELL)) as harness:
        answers = await statuses(harness, 4)
        assert answers == [200] * 4
        assert {row["outcome"] for row in await harness.rows()} == {"success"}
