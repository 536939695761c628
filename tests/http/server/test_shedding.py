"""Requests that are refused in an overload: cheaply, in order, and none that has begun."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
import structlog.testing

from gateway.core.overload import Priority
from gateway.http.server.limits import ServerLimits
from gateway.http.server.shedding import UNASKED, LoadShedder
from tests.http.server.overload_clock import MovedClock, begin_overload, end_overload
from tests.http.server.server_stage import Answer, Stage, get, post

BATCH = "x-urgency: batch"


def priority_of(headers: Mapping[bytes, bytes]) -> Priority:
    return Priority.BATCH if headers.get(b"x-urgency") == b"batch" else Priority.INTERACTIVE


class ShedStage(Stage):
    """With a load shedder whose clock the test moves."""

    def __init__(self) -> None:
        self.clock = MovedClock()
        self.shedder = LoadShedder(0.25, priority_of, self.clock)
        super().__init__(ServerLimits(unread_seconds=2.0, check_seconds=0.02), shedder=self.shedder)

    @asynccontextmanager
    async def overload(self) -> AsyncIterator[None]:
        await begin_overload(self.shedder, self.clock)
        yield
        await end_overload(self.shedder, self.clock)


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner) -> Iterator[ShedStage]:
    async def make() -> ShedStage:
        stage = ShedStage()
        await stage.start()
        stage.shedder.start()
        return stage

    async def stop(stage: ShedStage) -> None:
        await stage.stop()
        await stage.shedder.close()

    stage = runner.run(make())
    yield stage
    runner.run(stop(stage))
    assert stage.complaints == []


def is_refusal(answer: Answer) -> bool:
    return answer.status == 503 and answer.error()["code"] == "overloaded"


async def test_a_refusal_says_when_to_come_back_and_keeps_the_connection(stage: ShedStage) -> None:
    async with stage.overload(), stage.client() as client:
        await client.send(post("/echo", b"hello", BATCH))
        answer = await client.answer()
        assert is_refusal(answer)
        assert answer.error()["type"] == "server_error"
        assert (answer.field("retry-after"), answer.field("retry-after-ms")) == ("1", "1000")
        assert answer.field("x-should-retry") == "true"
        assert not answer.closes
        await client.send(post("/echo", b"hello"))
        assert (await client.answer()).body == b"hello"
    assert stage.handlers.served == [("POST", "/echo")]


async def test_nobody_is_refused_without_an_overload(stage: ShedStage) -> None:
    async with stage.client() as client:
        for _ in range(3 * UNASKED):
            await client.send(post("/echo", b"hello", BATCH))
            assert (await client.answer()).status == 200


async def test_a_page_of_another_origin_may_read_a_refusal(stage: ShedStage) -> None:
    async with stage.overload():
        answer = await stage.exchange(get("/x", BATCH, "Origin: https://app.example"))
        assert answer.field("access-control-allow-origin") == "*"


async def test_a_refused_head_request_has_no_body(stage: ShedStage) -> None:
    async with stage.overload():
        answer = await stage.exchange(get("/x", BATCH, method="HEAD"), "HEAD")
        assert answer.status == 503


async def test_a_body_is_refused_before_it_has_come(stage: ShedStage) -> None:
    """And without `100 Continue`: the client need not send it at all."""
    async with stage.overload(), stage.client() as client:
        whole = post("/echo", b"x" * 1_000_000, BATCH, "Expect: 100-continue")
        await client.send(whole[:500])
        answer = await client.answer()
        assert is_refusal(answer)
        assert answer.closes
        await client.push(whole[500:], seconds=0.1)  # who sends on all the same has its answer already
    assert stage.handlers.served == []


async def test_pipelined_requests_are_answered_in_order(stage: ShedStage) -> None:
    async with stage.overload(), stage.client() as client:
        await client.send(get("/a") + get("/b", BATCH) + get("/c", BATCH) + get("/d"))
        answers = [await client.answer() for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 503, 503, 200]
        assert [answer.body for answer in answers if answer.status == 200] == [b"/a", b"/d"]


async def test_thousands_of_requests_in_one_segment(stage: ShedStage) -> None:
    count = 4000
    async with stage.overload(), stage.client() as client:
        sending = asyncio.create_task(client.send(get("/x", BATCH) * count))
        for _ in range(count):
            assert is_refusal(await client.answer())
        await sending
        await client.send(get("/after"))
        assert (await client.answer()).body == b"/after"


async def test_what_has_begun_goes_on(stage: ShedStage) -> None:
    async with stage.client() as client:
        await client.send(get("/slow-stream/5"))
        await stage.handlers.waiting.wait()
        async with stage.overload():
            await client.send(get("/x", BATCH))  # behind it
            assert is_refusal(await stage.exchange(get("/y", BATCH)))
            stage.handlers.go.set()
            assert (await client.answer()).body == b"0,1,2,3,4,"
            assert is_refusal(await client.answer())


async def test_a_client_that_asks_on_and_reads_no_refusal_is_closed(stage: ShedStage) -> None:
    async with stage.overload(), stage.client(receive_buffer_bytes=4096) as client:
        await client.push(get("/x", BATCH) * 200_000, seconds=0.5)
        await stage.until(lambda: not stage.state.connections)
    assert stage.handlers.served == []


async def test_it_ends_by_itself_and_the_log_has_two_lines(stage: ShedStage) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stage.overload():
            for _ in range(5):
                await stage.exchange(get("/x", BATCH))
    assert [line["event"] for line in lines] == ["overload.began", "overload.ended"]
    assert lines[1]["refused_batch"] == 5
    assert lines[1]["refused_interactive"] == 0
    assert (await stage.exchange(get("/x", BATCH))).status == 200


async def test_a_long_overload_is_told_again_each_minute(stage: ShedStage) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stage.overload():
            for _ in range(2):
                stage.clock.seconds += 61.0
                await stage.exchange(get("/x", BATCH))
                await stage.until(lambda: lines[-1]["event"] == "overload.lasts")
                assert lines[-1]["seconds"] > 60
    assert (lines[0]["event"], lines[-1]["event"]) == ("overload.began", "overload.ended")


async def test_many_that_begin_in_one_turn_are_noticed_within_it(stage: ShedStage) -> None:
    """The loop is late, and before its timer can tell more requests than a few begin."""
    assert not stage.shedder.is_shedding
    stage.clock.seconds += 5.0
    for _ in range(UNASKED):
        stage.shedder.unasked -= 1
    assert not stage.shedder.refuses({})  # it only looks at the time
    assert stage.shedder.is_shedding
    assert stage.shedder.refuses({b"x-urgency": b"batch"})
    await end_overload(stage.shedder, stage.clock)
