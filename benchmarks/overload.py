"""Overload: how much is still answered in time when one, two and five times as much comes as can be done."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench import DIRECT, Bench
from benchmarks.interpreter import ROOT
from benchmarks.overload_load import Found
from benchmarks.processes import Child, Skipped, running

if TYPE_CHECKING:
    from benchmarks.scenarios import Overload
    from benchmarks.subjects import Running

WARM_UP_SECONDS = 1
MOST_CONNECTIONS = 3000  # of the arrivals; each waits for its answer on one
PATIENCE_SECONDS = 60


class OverloadRun(msgspec.Struct, frozen=True):
    """Arrivals at `factor` times what was sustained just before, in one round.

    `of_peak` is goodput by what was sustained. Refusals are timed from when their request was written.
    """

    round: int
    subject: str
    factor: float
    arrivals_per_second: float
    good_per_second: float
    of_peak: float
    refused_share: float
    lost_share: float
    good_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    rss_megabytes: float
    others_core_share: float


class OverloadReport(msgspec.Struct, frozen=True, tag="overload"):
    scenario: str
    title: str
    runs: list[OverloadRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def run_load(
    bench: Bench,
    subject: Running,
    *,
    connections: int,
    seconds: float,
    rate: float | None = None,
    chunks: int | None = None,
) -> Found:
    """What one load process found. Raises Skipped when it fails."""
    folder = bench.room.new_folder("overload-load")
    command = [sys.executable, "-m", "benchmarks.overload_load", "--port", str(subject.port)]
    command += ["--path", subject.path, "--model", subject.model]
    command += ["--headers", msgspec.json.encode(subject.headers).decode()]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += [] if rate is None else ["--rate", str(rate)]
    command += [] if chunks is None else ["--chunks", str(chunks)]
    with running(Child(command, core=bench.room.cores.load, log=folder / "output.log", folder=ROOT)) as load:
        try:
            load.wait(seconds + PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Skipped("the load did not end") from None
        printed = [line for line in load.output().splitlines() if line.startswith("{")]
        if not printed:
            raise Skipped(f"the load printed no result: {load.last_words()}")
        return msgspec.json.decode(printed[-1], type=Found)


def _sustained(bench: Bench, scenario: Overload, subject: Running, seconds: float) -> float:
    """Good answers a second when each connection asks again once it has its answer."""
    found = run_load(
        bench, subject, connections=scenario.connections, seconds=seconds, chunks=scenario.chunks
    )
    if not found.good:
        raise Skipped(f"no good answer; its log ends: {subject.child.last_words()}")
    return found.good / found.seconds


def _run(
    bench: Bench, scenario: Overload, subject: Running, number: int, factor: float, sustained: float
) -> OverloadRun:
    meter = bench.meter(subject)
    found = run_load(
        bench,
        subject,
        connections=MOST_CONNECTIONS,
        seconds=bench.seconds,
        rate=sustained * factor,
        chunks=scenario.chunks,
    )
    others = meter.others_seconds() / found.seconds
    subject.child.wait_idle()
    return OverloadRun(
        round=number,
        subject=subject.name,
        factor=factor,
        arrivals_per_second=round(found.arrived / found.seconds, 1),
        good_per_second=round(found.good / found.seconds, 1),
        of_peak=round(found.good / found.seconds / sustained, 3),
        refused_share=round(found.refused / found.arrived, 3),
        lost_share=round((found.late + found.failed) / found.arrived, 3),
        good_p99_ms=found.good_p99_ms,
        refused_p50_ms=found.refused_p50_ms,
        refused_p99_ms=found.refused_p99_ms,
        rss_megabytes=round(subject.child.rss_megabytes(), 1),
        others_core_share=round(others, 3),
    )


def run_overload(bench: Bench, scenario: Overload) -> OverloadReport:
    """In each round and for every subject: what it sustains, then each factor of that."""
    runs: list[OverloadRun] = []
    invalid: dict[str, str] = {}
    subjects, failed = bench.warmed(
        bench.part(scenario.name), lambda subject: _sustained(bench, scenario, subject, WARM_UP_SECONDS)
    )
    for number, subject in bench.turns(scenario.name, subjects, scenario.rounds):
        if subject.name == DIRECT or subject.name in invalid:
            continue
        try:
            sustained = _sustained(bench, scenario, subject, bench.seconds)
            subject.child.wait_idle()
            runs += [_run(bench, scenario, subject, number, factor, sustained) for factor in scenario.factors]
        except Skipped as exc:
            invalid[subject.name] = str(exc)
    skipped = bench.missing(scenario.name) | failed
    return OverloadReport(scenario.name, scenario.title, runs, skipped, invalid)
