"""Log lines through a bounded queue: whole, in order, and nobody waits for whoever reads them."""

import json
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.metrics.access_log import RequestLines
from gateway.metrics.log_output import LogOutput


class Pipe:
    """A pipe to a reader that reads when it is told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def read(self, count: int = 1 << 20) -> bytes:
        return os.read(self.reading, count)

    def read_lines(self, count: int) -> list[bytes]:
        content = b""
        while content.count(b"\n") < count:
            content += self.read()
        return content.splitlines()

    def is_empty(self) -> bool:
        return not select.select([self.reading], [], [], 0)[0]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reading, pipe.writing):
        os.close(descriptor)


def test_lines_come_whole_and_in_order(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing)
    lines = [b"%d %b" % (number, b"x" * (number % 900)) for number in range(500)]
    for line in lines:
        output.put(line + b"\n")
    assert pipe.read_lines(500) == lines
    output.close()
    assert output.lost == 0


def test_no_write_to_a_pipe_is_longer_than_what_the_kernel_keeps_together(pipe: Pipe) -> None:
    """Two processes write to it, and each line comes out as it was."""
    outputs = [LogOutput(pipe.writing), LogOutput(pipe.writing)]
    lines = [[bytes([65 + which]) * 700 for _ in range(400)] for which in range(2)]

    def write(which: int) -> None:
        for line in lines[which]:
            outputs[which].put(line + b"\n")

    writers = [threading.Thread(target=write, args=[which]) for which in range(2)]
    for writer in writers:
        writer.start()
    assert sorted(pipe.read_lines(800)) == sorted(lines[0] + lines[1])
    for writer in writers:
        writer.join()
    for output in outputs:
        output.close()


def test_who_does_not_read_holds_nobody_up_and_what_finds_no_room_is_counted(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing, most_bytes=100_000)
    line = b"x" * 999 + b"\n"
    for _ in range(1_000):  # far more than the pipe and the queue take
        output.put(line)
    lost = output.lost
    assert 1_000 - lost >= 100
    assert lost >= 1_000 - 100 - 65  # of 64 KB in the pipe
    read = pipe.read_lines(1_000 - lost)
    assert {len(one) for one in read} == {999}
    output.close()


def lost_in(line: bytes) -> int:
    told = json.loads(line)
    assert told["event"] == "log.lines_lost"
    count: int = told["lines"]
    return count


def test_lost_lines_are_told_when_there_is_room_again(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing, most_bytes=100_000)
    config = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file=output),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    try:
        for _ in range(1_000):
            output.put(b"x" * 999 + b"\n")
        content, found = b"", 0
        while found < 1_000:  # written, or told as lost
            content += pipe.read()
            *whole, content = content.split(b"\n")
            for line in whole:
                found += 1 if line.startswith(b"x") else lost_in(line)
        assert output.lost > 0
    finally:
        output.close()
        structlog.configure(**config)


def test_a_reader_that_has_gone_is_no_failure(pipe: Pipe) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    output = LogOutput(writing)
    output.write("a\n")
    output.close()
    assert output.lost == 1
    output.write("b\n")
    assert output.lost == 2
    os.close(writing)


def test_what_was_put_is_written_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        output = LogOutput(file.fileno())
        output.write("first \ud800\n")
        output.put(b"second\n")
        output.close()
    assert path.read_text() == "first \\ud800\nsecond\n"


def test_lines_for_people_tell_the_time_as_all_others_do(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing)
    for renderer in (None, structlog.processors.JSONRenderer()):
        RequestLines(output, {}, renderer).info("request.answered", {})
    times = [json.loads(line)["timestamp"] for line in pipe.read_lines(2)]
    output.close()
    assert [time[-1] for time in times] == ["Z", "Z"]
    assert [time.count("+") for time in times] == [0, 0]
