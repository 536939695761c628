"""Health probes: what takes a replica out at once, what needs a second opinion, and what brings it back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog.testing

from gateway.core.balancing import Fleet
from gateway.core.catalog import Health
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.replica_state import ReplicaState
from gateway.ports import Headers, UpstreamRequest, UpstreamResponse
from gateway.replicas.health import MAX_HEALTH_BYTES, HealthProber
from gateway.supervised import TaskRegistry
from tests.core.builders import deployment, local, run

QUICK = Health(path="/health", interval_seconds=0.0001, timeout_seconds=0.02)
SLOW = "slow"  # an answer that does not come in time
REFUSED = UpstreamFailure(FailureKind.CONNECT, "refused")
TOO_LARGE = UpstreamFailure(FailureKind.BODY, "larger than the limit")

DEFECT = RuntimeError("a defect of the client")

Step = int | str | Exception | tuple[int, UpstreamFailure]


class Answer:
    """Status, and perhaps a failure while the body is read."""

    headers: Headers = ()
    peer = "127.0.0.1:9101"

    def __init__(self, upstream: "ScriptedUpstream", status: int, failure: UpstreamFailure | None) -> None:
        self.status = status
        self._upstream = upstream
        self._failure = failure

    async def read(self, limit_bytes: int) -> bytes:
        assert limit_bytes == MAX_HEALTH_BYTES
        if self._failure is not None:
            raise self._failure
        return b""

    async def next_chunk(self) -> bytes:
        raise AssertionError

    def tap(self, take: Callable[[bytes], bool]) -> None:
        raise AssertionError

    def abort(self) -> None:
        self._upstream.aborted += 1


class ScriptedUpstream:
    """Plays `steps`, one for each probe, then waits for ever. `before` is whether the replica was up then."""

    def __init__(self, steps: list[Step], is_up: Callable[[], bool]) -> None:
        self._steps = steps
        self._is_up = is_up
        self.requests: list[UpstreamRequest] = []
        self.before: list[bool] = []
        self.aborted = 0
        self.cancelled = 0
        self.played = asyncio.Event()

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.requests.append(request)
        self.before.append(self._is_up())
        if len(self.before) > len(self._steps):
            self.played.set()
            await self._for_ever()
        step = self._steps[len(self.before) - 1]
        if step == SLOW:
            await self._for_ever()
        if isinstance(step, Exception):
            raise step
        status, failure = step if isinstance(step, tuple) else (int(step), None)
        return Answer(self, status, failure)

    async def _for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def close(self) -> None:
        raise AssertionError("probes do not own the client")


class Stage:
    def __init__(self, steps: list[Step], *, up: bool = True, health: Health = QUICK) -> None:
        self.fleet = Fleet([local(health=health)])
        self.state: ReplicaState = self.fleet.replica_sets["llama"].replicas[0]
        self.state.is_up = up
        self.upstream = ScriptedUpstream(steps, lambda: self.state.is_up)
        self.tasks = TaskRegistry()
        self.prober = HealthProber(self.upstream, self.tasks)

    async def play(self) -> list[bool]:
        """Whether the replica was up after each step."""
        await self.prober.watch(self.fleet)
        await self.upstream.played.wait()
        after = self.upstream.before[1:]
        await self.prober.close()
        return after


def after_each(steps: list[Step], *, up: bool = True) -> list[bool]:
    async def play() -> list[bool]:
        return await Stage(steps, up=up).play()

    return run(play())


def with_stage(steps: list[Step], check: Callable[[Stage], Awaitable[None]], **changes: Any) -> None:
    async def play() -> None:
        stage = Stage(steps, **changes)
        try:
            await check(stage)
        finally:
            await stage.prober.close()

    run(play())


# --- what a probe decides ---


def test_a_replica_that_answers_200_stays_up():
    assert after_each([200, 200]) == [True, True]


@pytest.mark.parametrize(
    "step",
    [503, 500, 404, 204, 302, REFUSED, UpstreamFailure(FailureKind.ZONE, "outside"), (200, TOO_LARGE)],
    ids=str,
)
def test_a_refusal_a_wrong_status_or_a_broken_answer_takes_it_out_at_once(step: Step):
    assert after_each([200, step]) == [True, False]


def test_one_late_answer_can_be_a_long_batch_and_two_in_a_row_are_not():
    assert after_each([SLOW, SLOW]) == [True, False]


def test_an_answer_between_two_late_ones_starts_the_count_over():
    assert after_each([SLOW, 200, SLOW, 200, SLOW, SLOW]) == [True, True, True, True, True, False]


def test_a_refusal_between_two_late_answers_starts_the_count_over():
    assert after_each([SLOW, REFUSED, 200, SLOW]) == [True, False, True, True]


def test_a_replica_that_is_down_comes_back_with_one_good_answer():
    assert after_each([503, REFUSED, SLOW, 200]) == [False, False, False, True]
    assert after_each([200], up=False) == [True]


def test_one_late_answer_leaves_a_replica_that_is_down_as_it_is():
    assert after_each([SLOW, 200], up=False) == [False, True]


def test_who_refuses_connections_is_gone_until_somebody_answers_there():
    async def check(stage: Stage) -> None:
        gone: list[bool] = []
        sends = stage.upstream.send

        async def send(request: UpstreamRequest) -> UpstreamResponse:
            gone.append(stage.state.is_gone)
            return await sends(request)

        stage.upstream.send = send  # type: ignore[method-assign]
        await stage.play()
        assert gone == [False, False, True, True, False, False]

    nobody = UpstreamFailure(FailureKind.CONNECT, "refused", refused=True)
    with_stage([REFUSED, nobody, SLOW, 503, 200], check)


def test_a_stuck_replica_is_not_up_because_it_answers_probes():
    async def check(stage: Stage) -> None:
        stage.state.is_stuck = True
        assert await stage.play() == [False, False, False, True]
        assert not stage.state.is_stuck

    nobody = UpstreamFailure(FailureKind.CONNECT, "refused", refused=True)
    with_stage([200, 503, nobody, 200], check, up=False)


def test_coming_back_closes_the_breaker_and_staying_up_does_not():
    async def comes_back(stage: Stage) -> None:
        stage.state.breaker.failed(1000.0, weight=3)
        await stage.play()
        assert stage.state.breaker.allows(1000.0)

    async def stays_up(stage: Stage) -> None:
        stage.state.breaker.failed(1000.0, weight=3)
        await stage.play()
        assert not stage.state.breaker.allows(1000.0)

    with_stage([503, 200], comes_back)
    with_stage([200, 200], stays_up)


def test_only_changes_are_logged():
    with structlog.testing.capture_logs() as logs:
        after_each([200, 503, 503, 200, 200])
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("replica.down", "warning"),
        ("replica.up", "info"),
    ]
    assert logs[0]["problem"] == "status 503"
    assert logs[0]["replica"] == "127.0.0.1:9101"


# --- what is sent ---


def test_a_probe_is_a_get_of_the_health_path_on_the_servers_root():
    async def check(stage: Stage) -> None:
        await stage.play()
        request = stage.upstream.requests[0]
        start, *lines = request.head.block.split(b"\r\n")
        assert (request.head.method, start, request.body) == (b"GET", b"GET /ready?deep=1 HTTP/1.1", b"")
        assert request.head.endpoint == stage.state.replica.endpoint
        assert lines == [b"host: 127.0.0.1:9101", b"accept-encoding: identity", b""]
        assert request.own == b""

    slow = Health(path="/ready?deep=1", interval_seconds=0.0001, timeout_seconds=5)
    with_stage([200], check, health=slow)


def test_every_answer_is_let_go_of():
    async def check(stage: Stage) -> None:
        await stage.play()
        assert stage.upstream.aborted == 3

    with_stage([200, 503, (200, TOO_LARGE), REFUSED], check)


def test_a_late_probe_is_cancelled_so_that_its_connection_closes():
    async def check(stage: Stage) -> None:
        await stage.play()
        assert stage.upstream.cancelled == 3  # two late ones, and the one that closing interrupted

    with_stage([SLOW, SLOW], check)


# --- who is watched ---


def test_hosted_deployments_are_not_probed():
    async def check(stage: Stage) -> None:
        await stage.prober.watch(Fleet([deployment(health=None, replicas=3)]))
        await asyncio.sleep(0)
        assert stage.upstream.requests == []

    with_stage([], check)


def test_each_replica_is_probed_by_itself():
    async def check(stage: Stage) -> None:
        fleet = Fleet([local("a", replicas=2, health=QUICK), local("b", replicas=1, health=QUICK)])
        await stage.prober.watch(fleet)
        await stage.upstream.played.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        ports = sorted(request.head.endpoint.port for request in stage.upstream.requests)
        assert ports == [9101, 9101, 9102]

    with_stage([], check)


def test_another_fleet_takes_the_place_of_the_first():
    async def check(stage: Stage) -> None:
        await stage.prober.watch(stage.fleet)
        await stage.upstream.played.wait()
        await stage.prober.watch(Fleet([]))
        assert stage.upstream.cancelled == 1
        probed = len(stage.upstream.requests)
        await asyncio.sleep(0.005)
        assert len(stage.upstream.requests) == probed

    with_stage([], check)


def test_a_replica_that_stays_is_not_disturbed_when_the_fleet_changes_around_it():
    async def check(stage: Stage) -> None:
        await stage.prober.watch(stage.fleet)
        await stage.upstream.played.wait()
        stays = stage.fleet.replica_sets["llama"].deployment
        changed = Fleet([stays, local("other", health=QUICK)], stage.fleet)
        await stage.prober.watch(changed)
        await asyncio.sleep(0)
        assert stage.upstream.cancelled == 0
        assert len(stage.upstream.requests) == 2

    with_stage([], check)


def test_a_replica_that_is_no_longer_probed_is_not_down_for_ever():
    async def check(stage: Stage) -> None:
        await stage.prober.watch(stage.fleet)
        await stage.prober.watch(Fleet([local(health=None)], stage.fleet))
        assert stage.state.is_up

    with_stage([], check, up=False)


def test_closing_ends_every_task_and_may_be_done_twice_or_before_anything_began():
    async def check(stage: Stage) -> None:
        await stage.prober.close()
        await stage.prober.watch(stage.fleet)
        await stage.upstream.played.wait()
        await stage.prober.close()
        await stage.prober.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others == set()

    with_stage([], check)


def test_a_defect_is_logged_once_said_to_whoever_asks_and_does_not_end_the_watch():
    async def check(stage: Stage) -> None:
        problems: list[list[str]] = []
        sends = stage.upstream.send

        async def send(request: UpstreamRequest) -> UpstreamResponse:
            problems.append(stage.tasks.problems())
            return await sends(request)

        stage.upstream.send = send  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            assert await stage.play() == [True, True, False, True]
        assert [entry["event"] for entry in logs].count("task.failed") == 1
        said = [
            "background task replica-probe fails for 127.0.0.1:9101: RuntimeError; the log says why, "
            "it is tried again"
        ]
        assert problems == [[], said, said, [], []]
        assert stage.tasks.problems() == []
        assert stage.tasks.failures == {"replica-probe": 2}

    with_stage([DEFECT, DEFECT, 503, 200], check)
