"""What an upstream's verdict ends, an attempt, a candidate or the request, and what the client is told."""

from typing import Any

import orjson
import pytest

from gateway.core.catalog import StopsWhenLeft
from gateway.core.envelope import retry_headers
from gateway.core.errors import (
    FailureKind,
    GatewayError,
    LimitExceeded,
    Unavailable,
    UpstreamAccountRejected,
    UpstreamBusy,
    UpstreamExhausted,
    UpstreamFailure,
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.core.record import Outcome
from tests.core.builders import deployment, local
from tests.proxy.test_failover import ANSWER, DONE, STALE, STOP, TEXT, Answered, Reply, Scene, done

SECRET = b"sk-proj-abcdefghijklmnop1234"
IMAGES = {"message": "At most 5 image(s) may be provided in one prompt.", "param": "image", "code": 400}
MALFORMED = {"message": "'messages' is empty", "type": "invalid_request_error", "param": "messages"}
QUOTA = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
LONG = {"message": "too long", "code": "context_length_exceeded"}
NO_MODEL = {"message": "The model `x` does not exist", "code": "model_not_found"}
BOTH = (local(replicas=2), deployment())


def refusal(status: int, error: Any = None, **headers: str) -> Answered:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Answered(status=status, body=orjson.dumps({"error": error or {"message": "no"}}), headers=named)


def within(error: Any) -> Answered:
    """An error in place of an answer, under 200."""
    return Answered(body=orjson.dumps({"error": error}))


def told(scene: Scene) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        done(scene)
    return caught.value


def headers(error: GatewayError) -> dict[bytes, bytes]:
    return dict(retry_headers(error))


def deployments(scene: Scene) -> list[str]:
    return [record.deployment for record in scene.records]


# --- whose turn it is ---


@pytest.mark.parametrize(
    ("answered", "outcome"),
    [
        (refusal(400, IMAGES), Outcome.CLIENT_ERROR),
        (refusal(400, LONG), Outcome.CLIENT_ERROR),
        (refusal(413), Outcome.CLIENT_ERROR),
        (within(LONG), Outcome.CLIENT_ERROR),
        (refusal(401), Outcome.ACCOUNT_REJECTED),
        (refusal(402), Outcome.ACCOUNT_REJECTED),
        (refusal(403), Outcome.ACCOUNT_REJECTED),
        (refusal(404, NO_MODEL), Outcome.ACCOUNT_REJECTED),
        (refusal(429, QUOTA), Outcome.ACCOUNT_REJECTED),
        (within(QUOTA), Outcome.ACCOUNT_REJECTED),
    ],
)
def test_what_a_candidate_cannot_do_is_the_next_candidate_s_turn(
    answered: Answered, outcome: Outcome
) -> None:
    scene = done(Scene(answered, Answered(), candidates=BOTH))
    assert deployments(scene) == ["llama", "gpt-4o"]  # its other replica would say the same
    assert scene.outcomes == [outcome, Outcome.SUCCESS]
    assert scene.records[0].cost_nano_usd == scene.records[0].unseen_nano_usd == 0
    assert scene.log[-1] == ANSWER


@pytest.mark.parametrize(
    ("answered", "outcome"),
    [
        (refusal(429), Outcome.RATE_LIMITED),
        (refusal(503), Outcome.BUSY),
        (refusal(529), Outcome.BUSY),
        (within({"message": "x", "code": 429}), Outcome.RATE_LIMITED),
        (within({"message": "x", "type": "overloaded_error"}), Outcome.BUSY),
        (refusal(500), Outcome.UPSTREAM_ERROR),
        (within({"message": "x", "type": "server_error"}), Outcome.UPSTREAM_ERROR),
        (within("x"), Outcome.UPSTREAM_ERROR),
    ],
)
def test_what_a_replica_cannot_do_now_is_another_replica_s_turn(answered: Answered, outcome: Outcome) -> None:
    scene = done(Scene(answered, Answered(), candidates=BOTH))
    assert deployments(scene) == ["llama", "llama"]
    assert scene.outcomes == [outcome, Outcome.SUCCESS]
    assert scene.records[0].cost_nano_usd == scene.records[0].unseen_nano_usd == 0


@pytest.mark.parametrize("answered", [refusal(400, MALFORMED), within(MALFORMED)])
def test_what_is_wrong_with_the_request_ends_it(answered: Answered) -> None:
    scene = Scene(answered, candidates=BOTH)
    error = told(scene)
    assert isinstance(error, UpstreamRejected)
    assert (error.status, error.message, error.param) == (400, "'messages' is empty", "messages")
    assert scene.outcomes == [Outcome.CLIENT_ERROR]
    assert headers(error) == {b"x-should-retry": b"false"}


def breakers(scene: Scene) -> list[int]:
    states = [state for replicas in scene.fleet.replica_sets.values() for state in replicas.replicas]
    return sorted(state.breaker.failures for state in states)


@pytest.mark.parametrize(
    ("answered", "failures"),
    [
        (refusal(400, IMAGES), 0),
        (refusal(400, MALFORMED), 0),
        (refusal(429), 0),
        (refusal(503), 0),
        (within({"message": "x", "code": 429}), 0),
        (within("x"), 1),
        (refusal(500), 1),
        (refusal(401), 1),
    ],
)
def test_a_breaker_counts_what_is_the_replica_s_own_and_nothing_else(
    answered: Answered, failures: int
) -> None:
    scene = Scene(answered, candidates=(deployment(),))
    told(scene)
    assert breakers(scene) == [failures]


@pytest.mark.parametrize(
    "chunks",
    [
        (orjson.dumps({"error": MALFORMED}), UpstreamFailure(FailureKind.RESET, "reset")),
        (orjson.dumps({"error": MALFORMED})[:20], orjson.dumps({"error": MALFORMED})[20:]),
        (b"'messages' is empty" + b"." * 5_000_000,),
    ],
)
def test_what_came_of_an_error_s_body_will_do(chunks: tuple[bytes | BaseException, ...]) -> None:
    error = told(Scene(Answered(status=400, chunks=chunks), candidates=BOTH))
    assert isinstance(error, UpstreamRejected)
    assert "'messages' is empty" in error.message


# --- streams ---


def event(error: Any) -> bytes:
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def test_an_error_as_the_first_event_has_its_own_meaning() -> None:
    busy = Answered(chunks=(event({"message": "full", "code": 503}),))
    scene = done(Scene(busy, Answered(chunks=(TEXT, STOP, DONE)), candidates=BOTH, stream=True))
    assert scene.outcomes == [Outcome.BUSY, Outcome.SUCCESS]
    assert scene.records[0].cost_nano_usd == scene.records[0].unseen_nano_usd == 0
    assert TEXT in scene.log


@pytest.mark.parametrize(
    "first",
    [
        event(MALFORMED),
        b"event: error\n" + event(MALFORMED),
        b'data: {"object":"error","message":"\'messages\' is empty","param":"messages","code":400}\n\n',
    ],
)
def test_an_error_as_the_first_event_that_blames_the_request_ends_it(first: bytes) -> None:
    scene = Scene(Answered(chunks=(first,)), candidates=BOTH, stream=True)
    error = told(scene)
    assert isinstance(error, UpstreamRejected)
    assert (error.status, error.message, error.param) == (400, "'messages' is empty", "messages")
    assert scene.outcomes == [Outcome.CLIENT_ERROR]


def test_an_error_in_place_of_a_stream_has_its_own_meaning() -> None:
    scene = Scene(within(MALFORMED), candidates=BOTH, stream=True)
    assert isinstance(told(scene), UpstreamRejected)
    assert scene.outcomes == [Outcome.CLIENT_ERROR]


def test_an_error_within_a_stream_tells_its_reason_and_what_was_seen_is_booked() -> None:
    broken = Answered(chunks=(TEXT, event({"message": "CUDA is out of memory", "code": 500})))
    scene = done(Scene(broken, stream=True))
    assert b"CUDA is out of memory" in scene.log[-2]
    assert scene.outcomes == [Outcome.UPSTREAM_ERROR]
    assert scene.records[0].cost_nano_usd > 0


@pytest.mark.parametrize("most", [len(TEXT) - 2, len(TEXT) - 1])
def test_an_event_that_is_too_large_breaks_the_stream(most: int) -> None:
    halves = Answered(chunks=(TEXT[:-1], TEXT[-1:], STOP, DONE))
    scene = Scene(halves, candidates=(deployment(),), stream=True, max_event_bytes=most)
    if most < len(TEXT) - 1:
        assert isinstance(told(scene), UpstreamExhausted)
    else:
        assert done(scene).outcomes == [Outcome.SUCCESS]


# --- time-outs ---

LATE = [
    UpstreamFailure(FailureKind.FIRST_BYTE_TIMEOUT, "late"),
    UpstreamFailure(FailureKind.BETWEEN_BYTES_TIMEOUT, "late"),
    UpstreamFailure(FailureKind.TOTAL_TIMEOUT, "late"),
    refusal(504),
    refusal(524),
    within({"message": "x", "code": 504}),
]


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("stops", [StopsWhenLeft.NEVER, StopsWhenLeft.STREAMS])
def test_after_a_time_out_nothing_is_paid_twice(late: Reply, stops: StopsWhenLeft) -> None:
    scene = Scene(late, candidates=(deployment(replicas=2, stops_when_left=stops), local()))
    error = told(scene)
    assert isinstance(error, UpstreamTimeout)
    assert (error.status, headers(error)) == (504, {b"x-should-retry": b"false"})
    assert scene.outcomes == [Outcome.TIMEOUT]
    assert scene.settled[0].spent_nano + scene.settled[0].unseen_nano > 0


@pytest.mark.parametrize("late", LATE)
def test_where_leaving_stopped_the_work_the_next_one_is_tried(late: Reply) -> None:
    scene = done(
        Scene(late, Answered(), candidates=(local(stops_when_left=StopsWhenLeft.ALWAYS), deployment()))
    )
    assert scene.outcomes == [Outcome.TIMEOUT, Outcome.SUCCESS]


def test_a_stream_that_stops_when_left_is_tried_elsewhere() -> None:
    streams = deployment(stops_when_left=StopsWhenLeft.STREAMS)
    late = UpstreamFailure(FailureKind.FIRST_BYTE_TIMEOUT, "late")
    answered = Answered(chunks=(TEXT, STOP, DONE))
    scene = done(Scene(late, answered, candidates=(streams, local()), stream=True))
    assert scene.outcomes == [Outcome.TIMEOUT, Outcome.SUCCESS]


def test_a_connection_that_took_too_long_was_never_sent_and_is_tried_elsewhere() -> None:
    late = UpstreamFailure(FailureKind.CONNECT_TIMEOUT, "late")
    scene = done(Scene(late, Answered(), candidates=(deployment(), local())))
    assert scene.outcomes == [Outcome.CONNECT_ERROR, Outcome.SUCCESS]


# --- what the client is told when all have failed ---


def test_the_shortest_wait_of_all_candidates_is_passed_on() -> None:
    busy = [refusal(429, retry_after="37"), refusal(429, retry_after="90"), refusal(429)]
    error = told(Scene(*busy, candidates=BOTH))
    assert isinstance(error, LimitExceeded)
    assert headers(error) == {b"retry-after": b"37", b"retry-after-ms": b"37000", b"x-should-retry": b"true"}


def test_a_wait_that_clients_do_not_keep_is_told_and_not_to_be_retried() -> None:
    error = told(Scene(refusal(429, retry_after="3600"), candidates=(deployment(),)))
    assert headers(error)[b"retry-after"] == b"3600"
    assert headers(error)[b"x-should-retry"] == b"false"


def test_where_all_are_busy_the_client_is_told_when_to_come_back() -> None:
    busy = [refusal(503), refusal(503, retry_after_ms="2500"), refusal(429, retry_after="9")]
    error = told(Scene(*busy, candidates=BOTH))
    assert isinstance(error, UpstreamBusy)
    assert (error.status, error.retry_after_seconds) == (503, 2.5)


def test_a_busy_upstream_that_tells_no_time_is_asked_again_soon() -> None:
    error = told(Scene(refusal(503), candidates=(deployment(),)))
    assert headers(error) == {b"retry-after": b"1", b"retry-after-ms": b"1000", b"x-should-retry": b"true"}


def test_busy_is_told_before_broken() -> None:
    error = told(Scene(refusal(503, retry_after="5"), refusal(500), refusal(500), candidates=BOTH))
    assert isinstance(error, UpstreamBusy)
    assert error.retry_after_seconds == 5


def test_a_failing_upstream_s_wait_and_reason_are_passed_on() -> None:
    broken = refusal(500, {"message": "cannot fetch https://x/y.png"}, retry_after="4")
    error = told(Scene(broken, candidates=(deployment(),)))
    assert isinstance(error, UpstreamExhausted)
    assert "cannot fetch https://x/y.png" in error.message
    assert "Nothing is wrong with the request" not in error.message
    assert headers(error) == {b"retry-after": b"4", b"retry-after-ms": b"4000", b"x-should-retry": b"true"}


def test_only_where_no_byte_was_sent_it_is_known_that_nothing_is_wrong_with_the_request() -> None:
    failed = [UpstreamFailure(kind, "x") for kind in FailureKind if kind is not FailureKind.ZONE]
    for failure in failed:
        error = told(Scene(failure, candidates=(deployment(),)))
        said = "Nothing is wrong with the request" in error.message
        assert said is failure.never_sent, failure.kind


def test_where_all_refuse_the_last_refusal_is_told() -> None:
    error = told(Scene(refusal(400, IMAGES), refusal(422, LONG), candidates=BOTH))
    assert isinstance(error, UpstreamRejected)
    assert (error.status, error.message, error.code) == (422, "too long", "context_length_exceeded")
    assert headers(error) == {b"x-should-retry": b"false"}


@pytest.mark.parametrize(
    "replies", [(refusal(400, IMAGES), refusal(401)), (refusal(401), refusal(400, IMAGES))]
)
def test_a_refusal_says_more_than_our_own_account_s_trouble(replies: tuple[Reply, ...]) -> None:
    error = told(Scene(*replies, candidates=BOTH))
    assert isinstance(error, UpstreamRejected)
    assert (error.status, error.param) == (400, "image")


def test_a_refusal_is_not_told_while_another_could_still_answer() -> None:
    error = told(Scene(refusal(400, IMAGES), refusal(503, retry_after="5"), candidates=BOTH))
    assert isinstance(error, UpstreamBusy)
    error = told(Scene(refusal(400, IMAGES), refusal(500), candidates=BOTH))
    assert isinstance(error, UpstreamExhausted)


def test_a_refusal_is_not_told_while_another_is_down() -> None:
    scene = Scene(refusal(400, IMAGES), candidates=BOTH)
    for state in scene.fleet.replica_sets["gpt-4o"].replicas:
        state.is_up = False
    error = told(scene)
    assert isinstance(error, Unavailable)
    assert headers(error)[b"x-should-retry"] == b"true"


@pytest.mark.parametrize("first", [STALE, UpstreamFailure(FailureKind.CONNECT, "refused"), refusal(500)])
def test_what_went_wrong_before_at_the_same_candidate_makes_no_difference(first: Reply) -> None:
    error = told(Scene(first, refusal(400, LONG), candidates=(local(replicas=2),)))
    assert isinstance(error, UpstreamRejected)
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_our_own_account_s_trouble_is_not_the_client_s_and_not_to_be_retried(status: int) -> None:
    scene = Scene(refusal(status, {"message": f"Incorrect API key provided: {SECRET.decode()}"}))
    error = told(scene)
    assert isinstance(error, UpstreamAccountRejected)
    assert (error.status, headers(error)) == (502, {b"x-should-retry": b"false"})
    assert "Incorrect" not in error.message


# --- what never reaches the client ---


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_an_upstream_that_echoes_our_key_does_not_tell_it_to_the_client(status: int) -> None:
    given = ((b"authorization", b"Bearer " + SECRET),)
    echo = {"message": f"You sent {SECRET.decode()}", "code": SECRET.decode(), "more": [SECRET.decode()]}
    for replies, stream in (
        ([refusal(status, echo)], False),
        ([within(echo | {"code": status})], False),
        ([Answered(chunks=(event(echo | {"code": status}),))], True),
    ):
        error = told(Scene(*replies, candidates=(deployment(headers=given),), stream=stream))
        assert "You sent [hidden]" in error.message
        assert SECRET.decode() not in str(vars(error))


def test_within_a_stream_our_key_is_not_told_either() -> None:
    given = ((b"api-key", SECRET),)
    broken = Answered(chunks=(TEXT, event({"message": f"You sent {SECRET.decode()}"})))
    scene = done(Scene(broken, candidates=(deployment(headers=given),), stream=True))
    assert b"You sent [hidden]" in scene.log[-2]
    assert SECRET not in b"".join(item for item in scene.log if isinstance(item, bytes))
