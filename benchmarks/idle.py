"""Idle streams: what a stream that waits for its next chunk holds in the memory of each subject."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.idle_load import Opened
from benchmarks.interpreter import ROOT
from benchmarks.probes import wait_for_200
from benchmarks.processes import Child, Skipped, most_files, running
from benchmarks.streams import load_command

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.scenarios import Idle
    from benchmarks.subjects import Running

WARM_UP_STREAMS = 50
OPEN_WITHIN_SECONDS = 180.0
SETTLE_SECONDS = 2.0
SPARE_FILES = 500  # what a subject opens beside the two descriptors of each stream


class IdleRun(msgspec.Struct, frozen=True):
    """Resident memory of all processes in 10^6 bytes, before and with the streams.

    Buffers of sockets are the kernel's and are not in it.
    """

    subject: str
    streams: int
    before_megabytes: float
    with_megabytes: float
    kilobytes_a_stream: float


class IdleReport(msgspec.Struct, frozen=True, tag="idle"):
    scenario: str
    title: str
    runs: list[IdleRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def _memory_with(bench: Bench, subject: Running, streams: int) -> float:
    """Megabytes while `streams` are open and idle. Raises Skipped when they cannot be opened."""
    folder = bench.room.new_folder("idle-load")
    command = load_command(bench, "benchmarks.idle_load", subject, streams)
    with running(Child(command, core=bench.room.cores.load, log=folder / "output.log", folder=ROOT)) as load:
        opened = _opened(load)
        if opened.errors or opened.streams < streams:
            raise Skipped(f"{opened.streams} of {streams} streams opened: {', '.join(opened.errors)}")
        time.sleep(SETTLE_SECONDS)
        return subject.child.rss_megabytes()


def _opened(load: Child) -> Opened:
    deadline = time.monotonic() + OPEN_WITHIN_SECONDS
    while time.monotonic() < deadline and load.exit_code() is None:
        printed = [line for line in load.output().splitlines() if line.startswith("{")]
        if printed:
            return msgspec.json.decode(printed[-1], type=Opened)
        time.sleep(0.1)
    raise Skipped(f"the streams did not open: {load.last_words()}")


def _measure(bench: Bench, scenario: Idle, subject: Running) -> IdleRun:
    """The warm-up makes what the first streams make; afterwards the subject must still answer."""
    most = min(bench.catalogue[subject.name].most_streams, (most_files() - SPARE_FILES) // 2)
    streams = min(scenario.streams, most)
    _memory_with(bench, subject, min(WARM_UP_STREAMS, streams))
    subject.child.wait_idle()
    before = subject.child.rss_megabytes()
    after = _memory_with(bench, subject, streams)
    subject.child.wait_idle()
    request = subject.request(wire.short_request(subject.model))
    wait_for_200(subject.child, subject.port, request, timeout_seconds=30, poll_seconds=0.1)
    held = round((after - before) * 1000 / streams, 1)
    return IdleRun(subject.name, streams, round(before, 1), round(after, 1), held)


def run_idle(bench: Bench, scenario: Idle) -> IdleReport:
    """Every subject once: memory that was used before is not given back, so a second round says less."""
    runs: list[IdleRun] = []
    invalid: dict[str, str] = {}
    for subject in bench.part(scenario.name):
        bench.say(f"{scenario.name}: {subject.name}")
        try:
            runs.append(_measure(bench, scenario, subject))
        except Skipped as exc:
            invalid[subject.name] = str(exc)
    return IdleReport(scenario.name, scenario.title, runs, bench.missing(scenario.name), invalid)
