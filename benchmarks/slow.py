"""Slow connections: what thousands of them do to the latency of others, and what memory each holds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench import DIRECT, Bench
from benchmarks.interpreter import ROOT
from benchmarks.overload import run_load
from benchmarks.processes import Child, Skipped, most_files, running

if TYPE_CHECKING:
    from benchmarks.scenarios import Slow
    from benchmarks.subjects import Running

OTHERS = 16  # connections of the requests that are timed
LOAD_SHARE = 0.3  # of what those sustain: latency is not that of a full queue
SPARE_FILES = 500
OPEN_WITHIN_SECONDS = 60.0


class SlowRun(msgspec.Struct, frozen=True):
    """One round: latency of the others alone and beside the slow ones, just after."""

    round: int
    subject: str
    connections: int
    alone_p50_ms: float
    alone_p99_ms: float
    beside_p50_ms: float
    beside_p99_ms: float
    kilobytes_a_connection: float
    others_core_share: float


class SlowReport(msgspec.Struct, frozen=True, tag="slow"):
    scenario: str
    title: str
    runs: list[SlowRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def _wait_until_open(load: Child) -> None:
    deadline = time.monotonic() + OPEN_WITHIN_SECONDS
    while "open " not in load.output():
        if time.monotonic() > deadline or load.exit_code() is not None:
            raise Skipped(f"the slow connections did not open: {load.last_words()}")
        time.sleep(0.1)


def _measure(bench: Bench, scenario: Slow, subject: Running, number: int) -> SlowRun:
    """As many connections as files may be open here, up to those of the scenario."""
    connections = min(scenario.connections, most_files() - SPARE_FILES)
    seconds = bench.seconds
    peak = run_load(bench, subject, connections=OTHERS, seconds=1)
    rate = peak.good / peak.seconds * LOAD_SHARE
    subject.child.wait_idle()
    meter, began_at = bench.meter(subject), time.monotonic()
    alone = run_load(bench, subject, connections=OTHERS, seconds=seconds, rate=rate)
    before = subject.child.rss_megabytes()
    folder = bench.room.new_folder("slow-load")
    command = [sys.executable, "-m", "benchmarks.slow_load", "--port", str(subject.port)]
    command += ["--connections", str(connections)]
    with running(Child(command, core=bench.room.cores.load, log=folder / "output.log", folder=ROOT)) as slow:
        _wait_until_open(slow)
        after = subject.child.rss_megabytes()
        beside = run_load(bench, subject, connections=OTHERS, seconds=seconds, rate=rate)
    others = meter.others_seconds() / (time.monotonic() - began_at)
    return SlowRun(
        round=number,
        subject=subject.name,
        connections=connections,
        alone_p50_ms=alone.good_p50_ms,
        alone_p99_ms=alone.good_p99_ms,
        beside_p50_ms=beside.good_p50_ms,
        beside_p99_ms=beside.good_p99_ms,
        kilobytes_a_connection=round((after - before) * 1000 / connections, 1),
        others_core_share=round(others, 3),
    )


def run_slow(bench: Bench, scenario: Slow) -> SlowReport:
    """Every subject once a round. Memory is that of the first round: it is not given back."""
    runs: list[SlowRun] = []
    invalid: dict[str, str] = {}
    for number, subject in bench.turns(scenario.name, bench.part(scenario.name), scenario.rounds):
        if subject.name == DIRECT or subject.name in invalid:
            continue
        try:
            runs.append(_measure(bench, scenario, subject, number))
            subject.child.wait_idle()
        except Skipped as exc:
            invalid[subject.name] = str(exc)
    return SlowReport(scenario.name, scenario.title, runs, bench.missing(scenario.name), invalid)
