"""Streaming: CPU a chunk at a pace, and the delay of the first token when streams begin together."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.bench import DIRECT, Bench, Records
from benchmarks.interpreter import ROOT
from benchmarks.probes import free_ports, wait_for_200
from benchmarks.processes import Child, CpuTime, Skipped, running
from benchmarks.stream_load import Wave
from benchmarks.subjects import Room, Running, stopped_on_error

if TYPE_CHECKING:
    from benchmarks.scenarios import Streams

FIRST_TOKEN_CHUNKS = 5


class FirstTokenRun(msgspec.Struct, frozen=True):
    """The waves of one subject in one round; `ttft_ms` is the median of their medians."""

    round: int
    subject: str
    ttft_ms: float
    delay_ms: float | None  # against `direct` in the same round
    waves: list[Wave]


class PaceRun(msgspec.Struct, frozen=True):
    """The paced waves of one subject in one round, CPU in microseconds a chunk. `direct` has no CPU time."""

    round: int
    subject: str
    streams: int
    request_cpu_us: float | None
    whole_cpu_us: float | None
    core_share: float | None
    others_core_share: float | None
    waves: list[Wave]


class StreamReport(msgspec.Struct, frozen=True, tag="streams"):
    scenario: str
    title: str
    streams: int
    interval_ms: float
    first_token: list[FirstTokenRun]
    pace: list[PaceRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def start_stream_upstream(room: Room, interval_ms: float) -> Running:
    """The pacing server, on the load core."""
    port = free_ports(1)[0]
    folder = room.new_folder("stream-upstream")
    command = [sys.executable, "-m", "benchmarks.stream_upstream", "--port", str(port)]
    command += ["--interval-ms", str(interval_ms)]
    child = Child(command, core=room.cores.load, log=folder / "output.log", folder=ROOT)
    with stopped_on_error(child):
        wait_for_200(child, port, wire.http_get(port, "/health"), timeout_seconds=30, poll_seconds=0.05)
    return Running("stream-upstream", child, port, folder)


def load_command(bench: Bench, module: str, subject: Running, streams: int) -> list[str]:
    """A load generator of `streams` streams, told how the subject wants to be asked and what it adds."""
    headers = msgspec.json.encode(subject.headers).decode()
    command = [sys.executable, "-m", module, "--port", str(subject.port), "--streams", str(streams)]
    if subject.name in bench.catalogue and bench.catalogue[subject.name].usage_unasked:
        command += ["--extra-events", "1"]
    return [*command, "--path", subject.path, "--model", subject.model, "--headers", headers]


def run_load(
    bench: Bench, subject: Running, streams: int, chunks: int, *, waves: int = 1, warm_up: bool = False
) -> list[Wave]:
    """The waves that one load process measured. Raises Skipped when it fails."""
    folder = bench.room.new_folder("stream-load")
    command = load_command(bench, "benchmarks.stream_load", subject, streams)
    command += ["--chunks", str(chunks), "--waves", str(waves), *(["--warm-up"] if warm_up else [])]
    with running(Child(command, core=bench.room.cores.load, log=folder / "output.log", folder=ROOT)) as load:
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(300)
        printed = [line for line in load.output().splitlines() if line.startswith("[")]
        if not printed:
            raise Skipped(f"the stream load printed no result: {load.last_words()}")
        return msgspec.json.decode(printed[-1], type=list[Wave])


def _first_token(
    bench: Bench, scenario: Streams, number: int, subject: Running, direct_ms: float | None
) -> FirstTokenRun:
    waves = run_load(
        bench,
        subject,
        scenario.streams,
        FIRST_TOKEN_CHUNKS,
        waves=scenario.first_token_waves,
        warm_up=True,
    )
    ttft_ms = statistics.median(wave.ttft_p50_ms for wave in waves)
    delay_ms = None if direct_ms is None else round(ttft_ms - direct_ms, 3)
    return FirstTokenRun(number, subject.name, round(ttft_ms, 3), delay_ms, waves)


def _pace_direct(bench: Bench, scenario: Streams, number: int, upstream: Running) -> PaceRun:
    """What load generator and upstream make of the pace by themselves."""
    waves = run_load(bench, upstream, scenario.streams, scenario.chunks, waves=scenario.waves)
    return PaceRun(number, DIRECT, scenario.streams, None, None, None, None, waves)


def _pace(bench: Bench, scenario: Streams, number: int, subject: Running) -> tuple[PaceRun, str | None]:
    """CPU from before the connections open until the subject is idle again; and what its records lack."""
    streams = min(scenario.streams, bench.catalogue[subject.name].most_streams)
    records, meter = Records(subject), bench.meter(subject)
    waves = run_load(bench, subject, streams, scenario.chunks, waves=scenario.waves)
    loaded, others = meter.subject_time(), meter.others_seconds()
    subject.child.wait_idle()
    problem = records.problem(streams * len(waves))
    return _pace_run(
        number, subject.name, streams, waves, meter.subject_time(), loaded.whole, others
    ), problem


def _pace_run(
    number: int, name: str, streams: int, waves: list[Wave], cpu: CpuTime, core_seconds: float, others: float
) -> PaceRun:
    seconds, chunks = sum(wave.seconds for wave in waves), max(sum(wave.chunks for wave in waves), 1)
    return PaceRun(
        round=number,
        subject=name,
        streams=streams,
        request_cpu_us=round(cpu.request * 1e6 / chunks, 2),
        whole_cpu_us=round(cpu.whole * 1e6 / chunks, 2),
        core_share=round(core_seconds / seconds, 3),
        others_core_share=round(others / seconds, 3),
        waves=waves,
    )


def _failed(first_token: list[FirstTokenRun], pace: list[PaceRun]) -> dict[str, str]:
    """Subjects whose numbers must not be compared, with the first error."""
    waves = [(run.subject, wave) for run in first_token for wave in run.waves]
    waves += [(run.subject, wave) for run in pace for wave in run.waves]
    reasons: dict[str, str] = {}
    for subject, wave in waves:
        if wave.errors:
            failed = len(wave.errors)
            reasons.setdefault(subject, f"{failed} of {wave.streams} streams failed: {wave.errors[0]}")
    return reasons


def run_streams(bench: Bench, scenario: Streams) -> StreamReport:
    """Every subject once a round, after a direct run that its first token is compared with."""
    first_token: list[FirstTokenRun] = []
    pace: list[PaceRun] = []
    wrong: dict[str, str] = {}
    fit, failed = bench.warmed(bench.part(scenario.name), lambda subject: _warm_up(bench, scenario, subject))
    direct_ms = None
    for number, subject in bench.turns(scenario.name, fit, scenario.rounds):
        try:
            first, run, problem = _turn(bench, scenario, number, subject, direct_ms)
        except Skipped as exc:
            wrong.setdefault(subject.name, str(exc))
            continue
        first_token += [first] if first is not None else []
        pace.append(run)
        if first is not None and subject.name == DIRECT:
            direct_ms = first.ttft_ms
        if problem is not None:
            wrong.setdefault(subject.name, problem)
    return StreamReport(
        scenario.name,
        scenario.title,
        scenario.streams,
        scenario.interval_ms,
        first_token,
        pace,
        bench.missing(scenario.name) | failed,
        wrong | _failed(first_token, pace),
    )


def _warm_up(bench: Bench, scenario: Streams, subject: Running) -> None:
    run_load(bench, subject, min(scenario.streams, bench.catalogue[subject.name].most_streams), 5)


def _turn(
    bench: Bench, scenario: Streams, number: int, subject: Running, direct_ms: float | None
) -> tuple[FirstTokenRun | None, PaceRun, str | None]:
    """Both measurements of one subject in one round, and what its records lack. One that cannot take so many
    streams is not asked for their first tokens."""
    if subject.name == DIRECT:
        first = _first_token(bench, scenario, number, subject, None)
        return first, _pace_direct(bench, scenario, number, subject), None
    first_token = None
    if scenario.streams <= bench.catalogue[subject.name].most_streams:
        first_token = _first_token(bench, scenario, number, subject, direct_ms)
    return first_token, *_pace(bench, scenario, number, subject)
