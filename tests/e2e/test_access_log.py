"""One line of the log for each request, as `server.access_log` says."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.metrics.access_log import RequestLines
from gateway.metrics.log_output import LogOutput
from gateway.proxy.unanswered import OF_EACH_KIND
from gateway.simulators.knobs import Knobs
from tests.docs.blocks import blocks
from tests.e2e.harness import APP_KEY, CARD, Harness, chat, running, until

SECRET_TEXT = "the quarterly plan of Project Heron"
Line = dict[str, Any]


class WrittenLog:
    """The log of a gateway, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.output = LogOutput(self._file.fileno())
        self.lines = RequestLines(self.output, {"worker": 3}, None)

    def read(self) -> list[Line]:
        """All that was written, once it is closed."""
        self.output.close()
        self._file.close()
        content = self._path.read_text()
        assert SECRET_TEXT not in content
        assert APP_KEY not in content
        assert CARD not in content
        return [json.loads(line) for line in content.splitlines()]


@asynccontextmanager
async def logging(folder: Path, log: WrittenLog, **settings: Any) -> AsyncIterator[Harness]:
    knobs = settings.pop("replicas", (Knobs(), Knobs()))
    changes = {"server": settings}
    async with running(folder, changes, replicas=knobs, request_lines=log.lines) as harness:
        yield harness


async def test_a_line_says_who_asked_where_it_went_and_what_it_cost(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    async with logging(tmp_path, log, access_log="all") as harness:
        answer = await harness.post(chat(SECRET_TEXT, model="auto", max_tokens=5))
        streamed = await harness.post(chat(SECRET_TEXT, model="gpt-4o", max_tokens=5, stream=True))
        first, second = await harness.rows()
    line, stream = log.read()
    for row, said, got in ((first, line, answer), (second, stream, streamed)):
        assert (said["event"], said["level"], said["worker"]) == ("request.answered", "info", 3)
        assert said["request_id"] == got.headers["x-request-id"]
        for name in (
            *("key", "feature", "team", "model", "endpoint", "deployment", "zone", "replica", "privacy"),
            *("decision", "status", "outcome", "input_tokens", "output_tokens"),
        ):
            assert said[name] == row[name]
        assert said["cached_tokens"] == row["cached_input_tokens"]
        assert said["cost_usd"] == row["cost_nano_usd"] / 10**9
        assert said["upstream_ms"] == pytest.approx(row["duration_ms"], abs=0.001)
        assert said["ttft_ms"] == pytest.approx(row["ttft_ms"], abs=0.001)
        assert said["duration_ms"] >= said["upstream_ms"] > 0
        assert said["before_upstream_ms"] > 0
        assert said["attempts"] == 1
        assert said["peer"].startswith("127.0.0.1:")
        assert said["timestamp"].endswith("Z")
    assert (line["stream"], stream["stream"]) == (False, True)
    (shown,) = (json.loads(block.text) for block in blocks("docs/logs.md", "json"))
    # It is of a process that is no worker.
    assert {*shown, "worker"} == line.keys()


async def test_refusals_have_their_reason(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    async with logging(tmp_path, log) as harness:
        refused = await harness.post(chat(f"{SECRET_TEXT} {CARD}", model="gpt-4o"))
        nobody = await harness.post(chat(SECRET_TEXT), authorization="Bearer nobody")
        nowhere = await harness.http.get("/v1/nowhere")
        await harness.post(chat(SECRET_TEXT))
    privacy, key, request = log.read()
    assert {one["event"] for one in (privacy, key, request)} == {"request.refused"}
    for line, answer in ((privacy, refused), (key, nobody), (request, nowhere)):
        error = answer.json()["error"]
        assert line["request_id"] == answer.headers["x-request-id"]
        assert (line["status"], line["code"]) == (answer.status_code, error["code"])
        assert line["reason"] == error["message"]
    assert (privacy["refused_by"], privacy["privacy"], privacy["key"]) == ("privacy", "confidential", "app")
    assert (key["refused_by"], key["key"]) == ("key", "")
    assert request["refused_by"] == "request"


async def test_off_writes_nothing(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    async with logging(tmp_path, log, access_log="off") as harness:
        await harness.post(chat())
        await harness.post(chat(model="gpt-9"))
    assert log.read() == []


async def test_errors_are_never_sampled_away(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    settings = {"access_log": "all", "access_log_sample": 0.000001}
    async with logging(tmp_path, log, **settings) as harness:
        for _ in range(20):
            await harness.post(chat())
            await harness.post(chat(model="gpt-9"))
    events = [line["event"] for line in log.read()]
    assert events.count("request.refused") == 20
    assert len(events) <= 21


async def test_a_client_that_leaves_is_told_with_what_it_had_used(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    slow = Knobs(output_tokens=100_000, tokens_per_second=100)
    async with logging(tmp_path, log, replicas=(slow, slow)) as harness:
        raw = await harness.raw()
        await raw.request(chat(model="scout", stream=True))
        await raw.read_until(b"data:", 3)
        raw.hang_up()
        await harness.settled()
        [row] = await harness.rows()
    [line] = log.read()
    assert (line["event"], line["outcome"]) == ("request.answered", "client_disconnect")
    assert (line["output_tokens"], line["cost_usd"]) == (row["output_tokens"], row["cost_nano_usd"] / 10**9)
    assert line["peer"].startswith("127.0.0.1:")


async def test_a_client_that_leaves_before_its_body_is_whole_is_told_too(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    async with logging(tmp_path, log) as harness:
        raw = await harness.raw()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {APP_KEY}\r\n"
        await raw.send(f"{head}content-length: 100\r\n\r\n{{".encode())
        await until(lambda: bool(asyncio.all_tasks() - harness._at_rest - {asyncio.current_task()}))
        raw.hang_up()
        await harness.settled()
    [line] = log.read()
    assert (line["event"], line["key"], line["endpoint"]) == ("request.abandoned", "app", "chat")


def full_pipe() -> tuple[int, int]:
    """One that takes no byte more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n")
    os.set_blocking(writing, True)
    return reading, writing


async def test_a_log_that_nobody_reads_holds_up_no_request(tmp_path: Path) -> None:
    reading, writing = full_pipe()
    output = LogOutput(writing, most_bytes=20_000)
    lines = RequestLines(output, {}, None)
    try:
        async with running(tmp_path, {"server": {"access_log": "all"}}, request_lines=lines) as harness:
            while not output.lost:
                answers = await asyncio.gather(*(harness.post(chat(max_tokens=1)) for _ in range(20)))
                assert {answer.status_code for answer in answers} == {200}
            at_least = output.lost
            metrics = await harness.metrics()
            assert 0 < at_least <= metrics.sum("log_lines_lost_total") <= output.lost
    finally:
        os.close(reading)
        output.close()
        os.close(writing)


async def test_a_flood_of_refusals_is_in_the_log_as_a_whole(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    count = OF_EACH_KIND + 5
    async with logging(tmp_path, log) as harness:
        for _ in range(count):
            await harness.post(chat(model="gpt-9"))
    assert len(log.read()) == count
