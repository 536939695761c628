"""The watch over what is under way: who is gone, who is stuck, who only takes long, and who comes back."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
import structlog.testing

from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.catalog import Health
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.replica_state import ReplicaState
from gateway.ports import UpstreamRequest
from gateway.replicas.progress import ProgressWatch
from gateway.supervised import TaskRegistry
from tests.core.builders import ToldClock, local, run

HEALTH = Health(interval_seconds=0.001, silence_seconds=5, drain_seconds=60, stuck_seconds=30)
HANGS = UpstreamFailure(FailureKind.CONNECT, "no metrics")
PAGE = (
    b'# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{engine="0",model_name="m"} %d.0\n'
    b'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5\nvllm:request_success_total{engine="0"} 3.0\n'
)


class Flight:
    """An attempt under way."""

    def __init__(self, *, stream: bool = True) -> None:
        self.is_stream = stream
        self.is_waiting = True
        self.last_seen_at: float | None = None
        self.broken: tuple[FailureKind, str] | None = None

    def break_off(self, kind: FailureKind, detail: str) -> None:
        self.broken, self.is_waiting = (kind, detail), False


class Page:
    """An answer in one piece."""

    headers = ()
    peer = "127.0.0.1:9101"

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    async def read(self, limit_bytes: int) -> bytes:
        return self._body

    def abort(self) -> None:
        pass


class Stage:
    """Two replicas, a clock that is told, and servers that answer what `metrics` and `trial` say."""

    def __init__(self, **health: Any) -> None:
        self.clock = ToldClock()
        self.fleet = Fleet([local(replicas=2, health=msgspec.structs.replace(HEALTH, **health))])
        self.pool: ReplicaSet = self.fleet.replica_sets["llama"]
        self.metrics: Callable[[], Page | Exception] = lambda: HANGS
        self.trial: Page | Exception = Page(503, b"")
        self.trials: list[UpstreamRequest] = []
        self.tasks = TaskRegistry()
        self.watch = ProgressWatch(self, self.clock, self.tasks)  # type: ignore[arg-type]
        self.watch.watch(self.fleet)

    @property
    def first(self) -> ReplicaState:
        return self.pool.replicas[0]

    @property
    def other(self) -> ReplicaState:
        return self.pool.replicas[1]

    async def send(self, request: UpstreamRequest) -> Page:
        if request.head.method == b"POST":
            self.trials.append(request)
            found = self.trial
        else:
            assert request.head.block.startswith(b"GET /metrics ")
            found = self.metrics()
        if isinstance(found, Exception):
            raise found
        return found

    def flies(self, flight: Flight, state: ReplicaState | None = None) -> Flight:
        (state or self.first).under_way.add(flight)
        return flight

    async def passes(self, seconds: int, *, others: bool = True) -> None:
        """A look each second; the other replica answers all the time, unless `others` do not."""
        for _ in range(seconds):
            await self.watch.look()
            self.clock.forward(1)
            if others:
                self.other.answered_at = self.clock.monotonic()
        await self.watch.look()


def standing() -> Page:
    return Page(200, PAGE % 7)


def moving() -> Callable[[], Page]:
    count = iter(range(10**6))
    return lambda: Page(200, PAGE % next(count))


def staged(check: Callable[[Stage], Any], **health: Any) -> None:
    async def play() -> None:
        stage = Stage(**health)
        try:
            await check(stage)
        finally:
            await stage.watch.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(play())


# --- gone ---


def test_a_silent_stream_of_a_replica_where_nobody_listens_has_broken():
    async def check(stage: Stage) -> None:
        flight = stage.flies(Flight())
        await stage.passes(20)
        assert flight.broken is None
        stage.first.is_gone = True
        await stage.passes(4)
        assert flight.broken is None  # the silence before it was gone does not count
        await stage.passes(1)
        assert flight.broken == (FailureKind.SILENT, "connections are refused, and nothing came for 5 s")

    staged(check)


def test_a_stream_that_goes_on_is_that_of_a_graceful_stop():
    async def check(stage: Stage) -> None:
        flight = stage.flies(Flight())
        stage.first.is_gone = True
        for _ in range(10):
            await stage.passes(3)
            flight.last_seen_at = stage.clock.monotonic()
        assert flight.broken is None

    staged(check)


def test_an_answer_in_one_piece_may_come_as_long_as_a_graceful_stop_lasts():
    async def check(stage: Stage) -> None:
        flight = stage.flies(Flight(stream=False))
        stage.first.is_gone = True
        await stage.passes(59)
        assert flight.broken is None
        await stage.passes(1)
        assert flight.broken is not None

    staged(check)


def test_who_waits_for_a_slow_client_is_not_silent():
    async def check(stage: Stage) -> None:
        flight = stage.flies(Flight())
        stage.first.is_gone = True
        flight.is_waiting = False
        await stage.passes(60)
        flight.is_waiting = True
        await stage.passes(4)
        assert flight.broken is None
        await stage.passes(1)
        assert flight.broken is not None

    staged(check)


# --- stuck ---


def test_a_replica_whose_counters_stand_still_while_others_answer_is_stuck():
    async def check(stage: Stage) -> None:
        stage.metrics = standing
        flights = [stage.flies(Flight()), stage.flies(Flight(stream=False))]
        with structlog.testing.capture_logs() as logs:
            await stage.passes(29)
            assert stage.first.is_up
            await stage.passes(1)
        assert not stage.first.is_up
        assert stage.other.is_up
        assert [flight.broken is not None for flight in flights] == [True, True]
        assert [entry["event"] for entry in logs] == ["replica.stuck"]
        assert logs[0]["replica"] == "127.0.0.1:9101"

    staged(check)


def test_new_requests_do_not_hide_that_nothing_comes():
    async def check(stage: Stage) -> None:
        stage.metrics = standing
        for _ in range(31):
            stage.flies(Flight())
            await stage.passes(1)
        assert stage.first.is_stuck

    staged(check)


def test_a_replica_whose_counters_move_is_only_slow():
    async def check(stage: Stage) -> None:
        stage.metrics = moving()
        flight = stage.flies(Flight(stream=False))
        await stage.passes(300)
        assert stage.first.is_up
        assert flight.broken is None

    staged(check)


def test_a_replica_from_which_tokens_come_is_not_stuck_however_long_one_of_its_requests_waits():
    async def check(stage: Stage) -> None:
        stage.metrics = standing
        stage.flies(Flight())
        busy = stage.flies(Flight())
        for _ in range(20):
            busy.last_seen_at = stage.clock.monotonic()
            await stage.passes(10)
        assert stage.first.is_up

    staged(check)


def test_where_nobody_gets_an_answer_no_replica_is_to_blame():
    async def check(stage: Stage) -> None:
        stage.metrics = standing
        stage.flies(Flight())
        stage.flies(Flight(), stage.other)
        await stage.passes(120, others=False)
        assert stage.first.is_up
        assert stage.other.is_up

    staged(check)


def test_a_server_without_counters_is_stuck_when_a_stream_stops_in_the_middle():
    async def check(stage: Stage) -> None:
        long = stage.flies(Flight(stream=False))
        await stage.passes(120)
        assert stage.first.is_up  # it may be a long answer in one piece
        stage.flies(Flight()).last_seen_at = stage.clock.monotonic()
        await stage.passes(30)
        assert stage.first.is_stuck
        assert long.broken is not None

    staged(check)


def test_what_waits_for_a_frozen_server_ends_even_where_it_is_the_only_one():
    async def check(stage: Stage) -> None:
        flight = stage.flies(Flight(stream=False))
        stage.first.is_up = False  # its probes are not answered
        await stage.passes(30, others=False)
        assert flight.broken is not None

    staged(check)


def test_the_watch_can_be_switched_off():
    async def check(stage: Stage) -> None:
        stage.metrics = standing
        stage.flies(Flight())
        await stage.passes(300)
        assert stage.first.is_up

    staged(check, stuck_seconds=None)


# --- back again ---


async def stuck(stage: Stage) -> None:
    stage.metrics = standing
    stage.flies(Flight())
    await stage.passes(30)
    assert stage.first.is_stuck
    stage.first.under_way.clear()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("answer", [Page(200, b"{}"), Page(404, b"{}")], ids=["answered", "refused"])
def test_a_stuck_replica_comes_back_once_it_answers_a_request_of_one_token(answer: Page):
    async def check(stage: Stage) -> None:
        await stuck(stage)
        stage.first.breaker.failed(stage.clock.monotonic(), weight=3)
        await until(lambda: len(stage.trials) >= 2)
        assert not stage.first.is_up
        stage.trial = answer
        await until(lambda: stage.first.is_up)
        assert stage.first.available(stage.clock.monotonic())
        assert orjson.loads(stage.trials[0].body) == {
            "model": "llama-upstream",
            "prompt": "1",
            "max_tokens": 1,
        }
        await stage.watch.look()  # ends the trials

    staged(check)


@pytest.mark.parametrize(
    "answer", [Page(500, b""), Page(503, b""), Page(429, b""), HANGS], ids=["500", "503", "429", "none"]
)
def test_what_says_nothing_of_the_engine_brings_no_replica_back(answer: Page | Exception):
    async def check(stage: Stage) -> None:
        stage.trial = answer
        await stuck(stage)
        await until(lambda: len(stage.trials) >= 3)
        assert not stage.first.is_up

    staged(check)


def test_trials_end_with_the_replica():
    async def check(stage: Stage) -> None:
        await stuck(stage)
        stage.watch.watch(Fleet([]))
        await stage.watch.look()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    staged(check)
