"""Several workers on one data port: one gateway for clients, for Prometheus and for whoever runs it."""

import asyncio
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from gateway.ledger.audit.verify import verify
from gateway.simulators.knobs import Knobs
from tests.chaos.gateways import writers_of
from tests.e2e.harness import APP_KEY, chat, simulators
from tests.quota.valkey_server import valkey_server
from tests.workers.worker_stage import PATIENCE_SECONDS, Served, children, is_alive, kill, until, urls_of

SLOW_STREAM = Knobs(ttft_ms=20, output_tokens=60, tokens_per_second=30)
QUICK = Knobs(ttft_ms=5, output_tokens=20, tokens_per_second=2000)
NOWHERE = {
    name: f"http://127.0.0.1:{port}" for port, name in enumerate(("EXTERNAL", "REPLICA_1", "REPLICA_2"), 1)
}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if (given := os.environ.get("TOLLWAY_TEST_REDIS_URL")) is not None:
        yield given
        return
    with valkey_server() as server:
        yield server.url


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def send(url: str, body: dict[str, Any]) -> httpx.Response:
    """One request on a connection of its own, so that any worker may get it."""
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, verify=False) as http:
        headers = {"authorization": f"Bearer {APP_KEY}"}
        return await http.post(f"{url}/v1/chat/completions", json=body, headers=headers)


def test_workers_share_the_port_and_look_like_one_gateway(redis_url: str, tmp_path: Path) -> None:
    changes = {
        "state": redis_url,
        "org": {"name": "one-gateway", "budgets": [{"usd": 50, "per": "lifetime"}]},
    }

    async def scenario() -> None:
        async with simulators(QUICK) as (hosted, pool):
            async with Served(tmp_path, urls_of(hosted, pool), changes, 3).running() as served:
                for _ in range(6):
                    answers = await asyncio.gather(*(send(served.data_url, chat()) for _ in range(10)))
                    assert {answer.status_code for answer in answers} == {200}
                await send(served.data_url, chat(model="unknown"))
                metrics = await served.metrics()
                unlocked = await served.admin("/metrics", authorization="Bearer wrong")
                ready = await served.admin("/readyz")
                schema = await served.admin("/openapi.json")
                unknown = await served.admin("/admin/v1/nothing?x=%41")
            rows = served.rows()
            # An id begins with a part that is the worker's own.
            by_worker = Counter(row["request_id"][:-8] for row in rows)
        assert len(rows) == 60
        assert len(by_worker) == 3
        assert metrics.sum("requests_total", outcome="success") == 60
        assert metrics.sum("refusals_total", code="model_not_found") == 1
        assert metrics.sum("request_duration_seconds_count") == 60
        assert metrics.sum("request_duration_seconds_bucket", le="+Inf") == 60
        cost = sum(row["cost_nano_usd"] for row in rows)
        assert metrics.nano("cost_usd_total") == cost
        # Shared numbers are shown once.
        assert metrics.nano("budget_limit_usd") == 50 * 10**9
        assert metrics.sum("build_info") == 1
        assert metrics.sum("replica_up", deployment="gpt-4o") == 1
        assert metrics.sum("worker_up") == 3
        assert metrics.sum("worker_restarts_total") == 0
        assert unlocked.status_code == 401
        assert ready.json() == {"status": "ready"}
        assert "/readyz" in schema.json()["paths"]
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
        assert {line["worker"] for line in served.lines("gateway.started")} == {1, 2, 3}
        assert served.process.returncode == 0

    run(scenario())


def test_a_killed_worker_comes_back_and_no_attempt_is_lost(redis_url: str, tmp_path: Path) -> None:
    limit_nano = 40_000_000
    changes = {
        "state": redis_url,
        "org": {"name": "killed-workers", "budgets": [{"usd": limit_nano / 10**9, "per": "lifetime"}]},
    }

    async def scenario() -> None:
        async with simulators(QUICK, [QUICK, QUICK]) as (hosted, pool):
            async with Served(tmp_path, urls_of(hosted, pool), changes, 3).running() as served:
                first = served.pids()
                async with asyncio.TaskGroup() as group:
                    over = asyncio.Event()
                    load = [group.create_task(keep_sending(served.data_url, over)) for _ in range(12)]
                    await until(lambda: len(hosted.attempts()) > 30)
                    before = await served.metrics()
                    kill(first[1])
                    kill(first[3])
                    await until(lambda: served.pids()[1] != first[1] and served.pids()[3] != first[3])
                    kill(served.pids()[1])
                    await until(lambda: len(served.lines("supervisor.worker_started")) == 6)
                    over.set()
                answered = [request_id for task in load for request_id in task.result()]
                metrics = await served.metrics()
            seen = [attempt.attempt_id for simulator in (hosted, *pool) for attempt in simulator.attempts()]
            rows = {row["attempt_id"]: row for row in served.rows()}
        assert metrics.sum("worker_restarts_total", worker="1") == 2
        assert metrics.sum("worker_restarts_total", worker="2") == 0
        assert [line["how"] for line in served.lines("supervisor.worker_died")] == ["SIGKILL"] * 3
        # What the killed ones had counted is still in the sums.
        assert metrics.sum("attempts_total") >= before.sum("attempts_total") > 0
        assert metrics.sum("attempts_total", outcome="success") <= len(rows)
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(rows)
        assert {rows[name]["outcome"] for name in set(rows) - set(seen)} <= {"presumed"}
        assert set(answered) <= {row["request_id"] for row in rows.values() if row["outcome"] == "success"}
        assert sum(row["cost_nano_usd"] for row in rows.values()) <= limit_nano
        assert not list(tmp_path.glob("*.journal/*.journal2"))

    run(scenario())


async def keep_sending(url: str, over: asyncio.Event) -> list[str]:
    """Ids of the requests that were answered. A worker that dies takes its connections with it."""
    answered = []
    while not over.is_set():
        await asyncio.sleep(0.02)
        try:
            answer = await send(url, chat(max_tokens=20))
        except (httpx.TransportError, AttributeError):
            continue  # AttributeError: the client's own, of a connection that was reset as soon as it stood
        if answer.status_code == 200:
            answered.append(answer.headers["x-request-id"])
        else:
            assert answer.json()["error"]["code"] == "insufficient_quota", answer.text
    return answered


def test_sigterm_lets_every_stream_end_also_when_it_comes_twice(redis_url: str, tmp_path: Path) -> None:
    changes = {"state": redis_url, "org": {"name": "streams"}, "server": {"drain_seconds": 20}}

    async def scenario() -> None:
        async with simulators(SLOW_STREAM) as (hosted, pool):
            async with Served(tmp_path, urls_of(hosted, pool), changes, 2).running() as served:
                streams = [asyncio.create_task(send(served.data_url, chat(stream=True))) for _ in range(12)]
                await until(lambda: len(hosted.attempts()) == 12)
                served.process.terminate()
                await until(lambda: bool(served.lines("gateway.stopping")))
                served.process.terminate()
                with suppress(httpx.TransportError):  # a worker that has nothing to end may be there still
                    while (await send(served.data_url, chat())).status_code != 503:
                        await asyncio.sleep(0.02)
                texts = [(await stream).text for stream in streams]
                await served.process.wait()
            assert [text.rstrip().endswith("data: [DONE]") for text in texts] == [True] * 12
            assert served.process.returncode == 0
            rows = [row for row in served.rows() if row["stream"]]
        assert [row["outcome"] for row in rows] == ["success"] * 12
        assert not any(is_alive(pid) for pid in served.pids().values())

    run(scenario())


def test_workers_end_when_their_supervisor_was_killed(redis_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with simulators(SLOW_STREAM) as (hosted, pool):
            changes = {"state": redis_url, "server": {"drain_seconds": 20}}
            served = Served(tmp_path, urls_of(hosted, pool), changes, 2)
            async with served.running():
                stream = asyncio.create_task(send(served.data_url, chat(stream=True)))
                await until(lambda: len(hosted.attempts()) == 1)
                [writer] = writers_of(served.process.pid)
                kill(served.process.pid)
                await until(lambda: not any(is_alive(pid) for pid in served.pids().values()))
                await stream
                await until(lambda: not is_alive(writer))  # it has entered what they left
            rows = served.rows()
        assert len(rows) == 1
        assert {line["worker"] for line in served.lines("worker.supervisor_gone")} == {1, 2}

    run(scenario())


def test_workers_share_one_writer_of_the_ledger_which_is_killed_and_comes_back(
    redis_url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with simulators(QUICK) as (hosted, pool):
            changes = {"state": redis_url, "org": {"name": "one-writer"}}
            async with Served(tmp_path, urls_of(hosted, pool), changes, 2).running() as served:
                [writer] = writers_of(served.process.pid)
                answers = []
                for number in range(6):
                    answers += await asyncio.gather(*(send(served.data_url, chat()) for _ in range(10)))
                    if number == 2:
                        kill(writer)
                await until(lambda: writers_of(served.process.pid) not in ([], [writer]))
                [successor] = writers_of(served.process.pid)
                os.kill(successor, signal.SIGTERM)
                os.kill(successor, signal.SIGINT)
                metrics = await served.metrics()
                [last] = writers_of(served.process.pid)
            rows = served.rows()
        assert {answer.status_code for answer in answers} == {200}
        assert len(rows) == len({row["attempt_id"] for row in rows}) == 60
        assert len({row["request_id"][:-8] for row in rows}) == 2  # of both workers
        assert metrics.sum("ledger_writer_up") == 1
        assert metrics.sum("ledger_writer_restarts_total") == 1
        assert not is_alive(last)
        assert not list(tmp_path.glob("*.journal/*.journal2"))
        assert len(served.lines("ledger.writer_died")) == 1
        found = verify(f"sqlite:///{served.ledger}")
        assert (found.findings, found.rows, found.receipts) == ([], 60, 60)

    run(scenario())


def test_a_worker_that_dies_again_and_again_ends_the_supervisor(redis_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with simulators() as (hosted, pool):
            async with Served(tmp_path, urls_of(hosted, pool), {"state": redis_url}, 2).running() as served:
                (lasting, doomed) = served.pids()[1], served.pids()[2]
                [writer] = writers_of(served.process.pid)
                while served.process.returncode is None:
                    if doomed is not None:
                        kill(doomed)
                    await asyncio.sleep(0.02)
                    with suppress(FileNotFoundError, ProcessLookupError):
                        doomed = next(
                            (pid for pid in children(served.process.pid) if pid not in {lasting, writer}),
                            None,
                        )
            assert served.process.returncode == 3
            assert "worker 2 died 5 times within 30 s (the last time: SIGKILL)" in served.log.splitlines()[-1]
            assert not is_alive(lasting)

    run(scenario())


def test_a_reload_reaches_every_worker_and_whoever_starts_later(redis_url: str, tmp_path: Path) -> None:
    changes = {"state": redis_url, "server": {"watch": False}}

    async def versions(served: Served) -> set[str]:
        """Those that clients see; enough requests that each worker gets one."""
        answers = await asyncio.gather(*(send(served.data_url, chat()) for _ in range(24)))
        return {answer.headers["x-tollway-policy"] for answer in answers}

    async def scenario() -> None:
        async with simulators(QUICK) as (hosted, pool):
            served = Served(tmp_path, urls_of(hosted, pool), changes, 2)
            async with served.running():
                (old,) = await versions(served)
                served.config.write_text(served.config.read_text() + "# changed\n")
                answer = await served.admin("/admin/v1/reload", "POST")
                (new,) = await versions(served)
                assert (answer.status_code, answer.json()["version"]) == (200, new)
                assert new != old

                served.config.write_text(served.config.read_text() + "models: []\n")
                assert (await served.admin("/admin/v1/reload", "POST")).status_code == 422
                served.process.send_signal(signal.SIGHUP)
                await until(lambda: len(served.lines("config.reload_refused")) == 4)
                kill(served.pids()[2])
                await until(lambda: len(served.lines("supervisor.worker_started")) == 3)
                assert await versions(served) == {new}
                metrics = await served.metrics()
        assert metrics.sum("config_last_reload_successful") == 0
        assert metrics.sum("policy_info", version=new) == metrics.sum("policy_info") == 1

    run(scenario())


def refused(served: Served) -> list[str]:
    """What it says before it ends with exit code 1."""

    async def scenario() -> None:
        await served.spawn()
        await served.process.wait()

    run(scenario())
    assert served.process.returncode == 1
    return [line for line in served.log.splitlines() if not line.startswith("{")]


def test_a_wrong_configuration_is_refused_once(redis_url: str, tmp_path: Path) -> None:
    changes = {"state": redis_url, "models": {"auto": {"use": ["no-such-deployment"]}}}
    lines = refused(Served(tmp_path, NOWHERE, changes, 2))
    assert len([line for line in lines if "no-such-deployment" in line]) == 1
    assert lines[-1].endswith("cannot be served as it is.")


def test_several_workers_without_shared_state_are_refused(tmp_path: Path) -> None:
    (line,) = refused(Served(tmp_path, NOWHERE, {}, 2))
    assert re.search(r"2 workers need a state that they share: set `state: redis://\.\.\.` \(.+:\d+\)", line)


def test_a_port_in_use_is_said_once(redis_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        changes = {"state": redis_url, "server": {"data": {"port": port}}}
        (line,) = refused(Served(tmp_path, NOWHERE, changes, 2))
    assert line == (
        f"tollway serve: cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Choose another port or stop what uses it."
    )


def test_a_ledger_that_cannot_be_opened_is_said_once(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    (line,) = refused(Served(tmp_path, NOWHERE, {"state": redis_url}, 2))
    assert line.startswith(f"tollway serve: ledger {tmp_path}/ledger.db: ")
