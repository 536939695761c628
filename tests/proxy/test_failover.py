"""A request along its plan: where its attempts go, how each ends, and that its hold is settled once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import orjson
import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.balancing import Fleet
from gateway.core.catalog import Deployment
from gateway.core.ended import Ended
from gateway.core.errors import (
    BudgetExceeded,
    FailureKind,
    LimitExceeded,
    Unavailable,
    UpstreamExhausted,
    UpstreamFailure,
    UpstreamRejected,
)
from gateway.core.record import Outcome, UsageRecord
from gateway.core.sent import Sent
from gateway.core.sse import MAX_EVENT_BYTES
from gateway.ports import Headers, UpstreamRequest
from gateway.proxy.attempt import Services
from gateway.proxy.failover import Relay
from tests.core.builders import ToldClock, chat, decided, deployment, hold, local, model, parsed, routes
from tests.core.builders import run as run_to_end
from tests.core.halves import record_of

USAGE = {"prompt_tokens": 5, "completion_tokens": 7}
ANSWER = orjson.dumps({"model": "m", "choices": [{"index": 0, "finish_reason": "stop"}], "usage": USAGE})
TEXT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
STOP = b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STALE = UpstreamFailure(FailureKind.RESET, "closed while idle", stale=True)
RESET = UpstreamFailure(FailureKind.RESET, "reset")
REFUSED = UpstreamFailure(FailureKind.CONNECT, "refused")


Waits = Callable[["Scene"], Awaitable[None]]
Chunk = bytes | BaseException | Waits


class Answered(msgspec.Struct):
    """What an upstream says: a body, or chunks, in their turn. An exception is raised, a wait waited for."""

    status: int = 200
    body: bytes | tuple[Chunk, ...] = ANSWER
    chunks: tuple[Chunk, ...] = ()
    content_type: bytes | None = None
    headers: Headers = ()


Reply = Answered | BaseException


class Response:
    """A scripted UpstreamResponse."""

    peer = "127.0.0.1:9101"

    def __init__(self, answered: Answered, scene: "Scene") -> None:
        self.status = answered.status
        kind = b"text/event-stream" if answered.chunks else b"application/json"
        self.headers: Headers = [(b"content-type", answered.content_type or kind), *answered.headers]
        body = answered.body if isinstance(answered.body, tuple) else (answered.body,)
        self._chunks: Iterator[Chunk] = iter(answered.chunks or body)
        self._scene = scene

    async def read(self, limit_bytes: int) -> bytes:
        return await self.next_chunk()

    async def next_chunk(self) -> bytes:
        for chunk in self._chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            if isinstance(chunk, bytes):
                return chunk
            await chunk(self._scene)
        return b""

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Nothing is pushed here: every chunk is asked for."""

    def abort(self) -> None:
        self._scene.log.append("abort")


class Scene:
    """Everything around a relay. `log` is what happened, in order; `records` what the ledger got."""

    disconnected = False
    started = False

    def __init__(
        self,
        *replies: Reply,
        candidates: tuple[Deployment, ...] = (),
        stream: bool = False,
        max_event_bytes: int = MAX_EVENT_BYTES,
        **members: Any,
    ) -> None:
        self.max_event_bytes = max_event_bytes
        self.log: list[Any] = []
        self.settled: list[Settlement] = []
        self.renewed: list[Settlement] = []
        self.sent: list[UpstreamRequest] = []
        self.records: list[UsageRecord] = []
        self.intended: dict[str, bytes] = {}
        self.headers: dict[bytes, bytes] = {}
        self.refuses_renewal = False
        self._replies = list(replies)
        asked = model(*(candidates or (deployment(replicas=2),)))
        by = routes(asked)
        self.request = decided(asked, parsed(chat(stream=stream, **members)), by=by)
        self.fleet: Fleet = by.fleet
        self.clock = ToldClock()
        self.hold = hold()

    async def forward(self) -> None:
        stage: Any = self  # it stands for every port
        services = Services(stage, stage, stage, stage, self.clock, max_event_bytes=self.max_event_bytes)
        await Relay(services).forward(self.request, self.hold, stage, stage)

    @property
    def places(self) -> list[str]:
        return [record.replica for record in self.records]

    @property
    def outcomes(self) -> list[Outcome]:
        return [record.outcome for record in self.records]

    # Upstream
    async def send(self, given: Any) -> Any:
        if isinstance(given, bytes):
            self.log.append(given)
            return None
        self.sent.append(given)
        assert self.in_flight() == 1
        reply = self._replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        response = Response(reply, self)
        given.goes_out(response)
        return response

    def in_flight(self) -> int:
        return sum(replicas.in_flight for replicas in self.fleet.replica_sets.values())

    # Admission
    def settle(self, hold: Hold, settlement: Settlement) -> None:
        self.log.append("settle")
        self.settled.append(settlement)

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        if self.refuses_renewal:
            raise BudgetExceeded("no", scope="org", window="day", resets_at=None, only_held=False)
        self.renewed.append(settlement)
        return hold

    # Ledger
    def intend(self, attempt_id: str, half: bytes) -> None:
        presumed = record_of(half, None)
        assert (presumed.attempt_id, presumed.outcome) == (attempt_id, Outcome.PRESUMED)
        self.intended[attempt_id] = half
        self.log.append("intend")

    def append(self, attempt_id: str, half: bytes) -> None:
        record = record_of(self.intended.pop(attempt_id), half)
        assert record.attempt_id == attempt_id
        self.records.append(record)

    # Telemetry
    def attempted(self, sent: Sent, ended: Ended) -> None:
        assert sent.attempt_id == ended.attempt_id == self.records[-1].attempt_id

    def answered(self, sent: Sent, ended: Ended, seconds: float) -> None:
        self.log.append("answered")

    # Inbound and sink
    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.log.append(body)

    async def start(self, status: int, headers: Headers, trailer: bytes = b"") -> None:
        self.started = True
        self.log.append("start")

    def start_now(self, status: int, headers: Headers, data: bytes, trailer: bytes = b"") -> None:
        self.started = True
        self.log += ["start now", data]

    async def end(self, trailers: bytes = b"") -> None:
        self.log.append("end")


def done(scene: Scene) -> Scene:
    """Run `scene` to its end; whatever that is, one settlement, and no replica counts on."""
    try:
        run_to_end(scene.forward())
    finally:
        assert scene.in_flight() == 0
        assert len(scene.settled) == 1
    return scene


def test_the_hold_is_settled_before_the_answer_is_sent() -> None:
    scene = done(Scene(Answered()))
    assert scene.log == ["intend", "settle", "answered", ANSWER]
    assert scene.settled[0].spent_nano == scene.records[0].cost_nano_usd > 0


def test_the_hold_is_settled_before_the_client_reads_the_last_event() -> None:
    scene = done(Scene(Answered(chunks=(TEXT, STOP, DONE)), stream=True))
    assert scene.log == ["intend", "start", TEXT, STOP, "settle", "answered", DONE, "end", "abort"]
    assert scene.outcomes == [Outcome.SUCCESS]


def test_a_stream_that_is_finished_may_end_without_done() -> None:
    scene = done(Scene(Answered(chunks=(TEXT, STOP)), stream=True))
    assert scene.log == ["intend", "start", TEXT, STOP, "settle", "answered", "end", "abort"]
    assert scene.outcomes == [Outcome.SUCCESS]


def test_a_stream_that_breaks_is_settled_before_its_error_event_and_not_tried_again() -> None:
    scene = done(Scene(Answered(chunks=(TEXT, RESET)), Answered(), stream=True))
    assert scene.log[:6] == ["intend", "start", TEXT, "abort", "settle", "answered"]
    assert b'"upstream_error"' in scene.log[6]
    assert scene.log[7:] == ["end"]
    assert scene.settled[0].rate_tokens is None


def test_another_replica_is_tried_and_then_the_next_candidate() -> None:
    scene = done(Scene(REFUSED, RESET, Answered(), candidates=(local(replicas=3), deployment())))
    assert [record.deployment for record in scene.records] == ["llama", "llama", "gpt-4o"]
    assert scene.places[0] != scene.places[1]
    assert [record.decision for record in scene.records] == ["order", "order", "failover"]
    assert [record.attempt_id for record in scene.records] == ["r:1", "r:2", "r:3"]
    assert len(scene.renewed) == 1  # the connection that was refused had used nothing


def test_a_stale_connection_is_tried_again_at_the_same_replica_on_a_fresh_one() -> None:
    scene = done(Scene(STALE, Answered()))
    assert scene.places[0] == scene.places[1]
    assert [sent.fresh for sent in scene.sent] == [False, True]
    assert scene.outcomes == [Outcome.STALE_CONNECTION, Outcome.SUCCESS]
    assert [record.attempt_id for record in scene.records] == ["r:1", "r:2"]


def test_a_stale_connection_says_nothing_of_its_replica() -> None:
    scene = Scene(*[STALE, Answered()] * 10)
    for _ in range(10):
        run_to_end(scene.forward())
    assert all(state.available(1000.0) for state in scene.fleet.replica_sets["gpt-4o"].replicas)


def test_an_upstream_at_its_rate_limit_is_one_whose_status_says_so() -> None:
    busy = Answered(status=429, body=b"{}")
    scene = Scene(busy, busy)
    with pytest.raises(LimitExceeded):
        done(scene)
    assert scene.outcomes == [Outcome.RATE_LIMITED] * 2
    assert scene.log == ["intend", "abort", "intend", "abort", "settle"]


@pytest.mark.parametrize("status", [429, 503])
def test_replicas_that_are_full_are_passed_over_until_one_has_room(status: int) -> None:
    busy = Answered(status=status, body=b"{}")
    scene = done(Scene(busy, busy, busy, Answered(), candidates=(local(replicas=4),)))
    assert len(set(scene.places)) == 4
    assert scene.outcomes[-1] is Outcome.SUCCESS
    replicas = scene.fleet.replica_sets["llama"].replicas
    assert all(state.available(1000.0) for state in replicas)
    assert sum(state.busy_until > 1000.0 for state in replicas) == 3


def test_the_next_request_goes_to_the_replica_with_room_first() -> None:
    busy = Answered(status=503, body=b"{}")
    scene = Scene(busy, busy, Answered(), *[Answered()] * 20, candidates=(local(replicas=3),))
    for _ in range(21):
        run_to_end(scene.forward())
    assert len(scene.records) == 23
    assert set(scene.places[2:]) == {scene.places[2]}


def test_a_pool_that_is_known_to_be_full_is_asked_twice_and_then_the_next_candidate() -> None:
    busy = Answered(status=503, body=b"{}")
    candidates = local(replicas=8), deployment()
    scene = Scene(*[busy] * 8, Answered(), busy, busy, Answered(), candidates=candidates)
    run_to_end(scene.forward())
    run_to_end(scene.forward())
    assert [record.deployment for record in scene.records[9:]] == ["llama", "llama", "gpt-4o"]
    scene.clock.forward(60)
    scene._replies = [busy, Answered()]
    run_to_end(scene.forward())
    assert scene.places[-2] != scene.places[-1]


def test_a_replica_that_fails_between_full_ones_still_counts_as_one_of_two_tries() -> None:
    busy = Answered(status=503, body=b"{}")
    candidates = local(replicas=5), deployment()
    scene = done(Scene(busy, RESET, busy, RESET, Answered(), candidates=candidates))
    assert [record.deployment for record in scene.records] == ["llama"] * 4 + ["gpt-4o"]


def test_a_server_that_fails_is_no_rate_limit_whatever_its_words() -> None:
    broken = Answered(status=500, body=b'{"error":"status 429"}')
    scene = Scene(broken, broken)
    with pytest.raises(UpstreamExhausted):
        done(scene)
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR] * 2


def test_a_request_that_is_wrong_is_told_so_and_costs_nothing() -> None:
    scene = Scene(Answered(status=400, body=b'{"error":{"message":"no"}}'), Answered())
    with pytest.raises(UpstreamRejected, match="no"):
        done(scene)
    assert scene.outcomes == [Outcome.CLIENT_ERROR]
    assert scene.settled == [Settlement(spent_nano=0, rate_tokens=0)]


def test_where_no_replica_is_left_nothing_was_used() -> None:
    scene = Scene()
    for state in scene.fleet.replica_sets["gpt-4o"].replicas:
        state.is_up = False
    with pytest.raises(Unavailable):
        done(scene)
    assert scene.settled == [Settlement(spent_nano=0)]


def test_a_budget_that_has_no_room_for_another_attempt_ends_the_request() -> None:
    scene = Scene(RESET, Answered())
    scene.refuses_renewal = True
    with pytest.raises(BudgetExceeded):
        done(scene)
    assert len(scene.records) == 1
    assert scene.settled == [Settlement(spent_nano=0)]


@pytest.mark.parametrize("gone", [True, False])
def test_a_request_that_is_cancelled_is_recorded_and_settled(gone: bool) -> None:
    scene = Scene(Answered(chunks=(TEXT, asyncio.CancelledError())), stream=True)
    scene.disconnected = gone
    with pytest.raises(asyncio.CancelledError):
        done(scene)
    assert scene.outcomes == [Outcome.CLIENT_DISCONNECT if gone else Outcome.SHUTDOWN]
    assert scene.settled[0].spent_nano == scene.records[0].cost_nano_usd > 0
    assert scene.log[:5] == ["intend", "start", TEXT, "answered", "abort"]
    if gone:
        assert scene.log[5:] == ["settle"]
    else:  # the server stops: its client is told
        event, *rest = scene.log[5:]
        assert orjson.loads(event.removeprefix(b"data: "))["error"]["code"] == "service_unavailable"
        assert rest == ["end", "abort", "settle"]


def test_a_defect_of_ours_is_recorded_and_settled_too() -> None:
    scene = Scene(Answered(chunks=(TEXT, RuntimeError("ours"))), stream=True)
    with pytest.raises(RuntimeError, match="ours"):
        done(scene)
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR]
    assert scene.settled[0].spent_nano == scene.records[0].cost_nano_usd > 0
    assert "abort" in scene.log
