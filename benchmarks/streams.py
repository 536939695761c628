"""Streaming: CPU a chunk at 400 paced streams, and what each subject adds to the first token of 100."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.processes import Child, CpuMeter, Skipped, free_ports, running, wait_for_200
from benchmarks.stream_load import Wave
from benchmarks.subjects import Room, Running, start_all

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_MS = 20  # 50 tokens a second and stream: 20,000 chunks a second, what 40 us a chunk can carry
PACE_STREAMS = 400
PACE_CHUNKS = 100
PACE_WAVES = 2
FIRST_TOKEN_STREAMS = 100
FIRST_TOKEN_CHUNKS = 5
FIRST_TOKEN_WAVES = 5
DIRECT = "direct"


class FirstTokenRun(msgspec.Struct, frozen=True):
    """The waves of one subject in one round; `ttft_ms` is the median of their medians."""

    round: int
    subject: str
    ttft_ms: float
    delay_ms: float | None  # against `direct` in the same round
    waves: list[Wave]


class PaceRun(msgspec.Struct, frozen=True):
    """The waves of 400 streams in one round. For `direct` there is no subject, so no CPU time."""

    round: int
    subject: str
    cpu_us_per_chunk: float | None
    core_share: float | None
    others_core_share: float | None
    waves: list[Wave]


class StreamReport(msgspec.Struct, frozen=True):
    first_token: list[FirstTokenRun]
    pace: list[PaceRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def start_stream_upstream(room: Room) -> Running:
    """The pacing server, on the load core."""
    port = free_ports(1)[0]
    folder = room.new_folder("stream-upstream")
    command = [sys.executable, "-m", "benchmarks.stream_upstream", "--port", str(port)]
    command += ["--interval-ms", str(INTERVAL_MS)]
    child = Child(command, core=room.cores.load, log=folder / "output.log")
    try:
        wait_for_200(child, port, wire.http_get(port, "/health"), timeout_seconds=10, poll_seconds=0.05)
    except BaseException:
        child.stop()
        raise
    return Running("stream-upstream", child, port, folder)


def run_load(
    room: Room, port: int, *, streams: int, chunks: int, waves: int = 1, warm_up: bool = False
) -> list[Wave]:
    """The waves that one load process measured. Raises Skipped when it fails."""
    folder = room.new_folder("stream-load")
    command = [sys.executable, "-m", "benchmarks.stream_load", "--port", str(port)]
    command += ["--streams", str(streams), "--chunks", str(chunks), "--waves", str(waves)]
    command += ["--warm-up"] if warm_up else []
    with running(Child(command, core=room.cores.load, log=folder / "output.log")) as load:
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(90)
        printed = [line for line in load.output().splitlines() if line.startswith("[")]
        if not printed:
            raise Skipped(f"the stream load printed no result: {load.last_words()}")
        return msgspec.json.decode(printed[-1], type=list[Wave])


def _first_token(
    room: Room, name: str, port: int, round_number: int, direct_ms: float | None
) -> FirstTokenRun:
    waves = run_load(
        room,
        port,
        streams=FIRST_TOKEN_STREAMS,
        chunks=FIRST_TOKEN_CHUNKS,
        waves=FIRST_TOKEN_WAVES,
        warm_up=True,
    )
    ttft_ms = statistics.median(wave.ttft_p50_ms for wave in waves)
    delay_ms = None if direct_ms is None else round(ttft_ms - direct_ms, 3)
    return FirstTokenRun(round_number, name, round(ttft_ms, 3), delay_ms, waves)


def _pace_direct(room: Room, port: int, round_number: int) -> PaceRun:
    """What load generator and upstream make of the pace by themselves."""
    waves = run_load(room, port, streams=PACE_STREAMS, chunks=PACE_CHUNKS, waves=PACE_WAVES)
    return PaceRun(round_number, DIRECT, None, None, None, waves)


def _pace(room: Room, subject: Running, upstream: Running, round_number: int) -> PaceRun:
    """CPU from before the connections open until the subject is idle again."""
    meter = CpuMeter(room.cores, subject.child, upstream.child)
    waves = run_load(room, subject.port, streams=PACE_STREAMS, chunks=PACE_CHUNKS, waves=PACE_WAVES)
    loaded_cpu, others = meter.subject_seconds(), meter.others_seconds()
    subject.child.wait_idle()
    whole_cpu = meter.subject_seconds()
    seconds, chunks = sum(wave.seconds for wave in waves), sum(wave.chunks for wave in waves)
    return PaceRun(
        round=round_number,
        subject=subject.name,
        cpu_us_per_chunk=round(whole_cpu * 1e6 / max(chunks, 1), 2),
        core_share=round(loaded_cpu / seconds, 3),
        others_core_share=round(others / seconds, 3),
        waves=waves,
    )


def _invalid(first_token: list[FirstTokenRun], pace: list[PaceRun]) -> dict[str, str]:
    """Subjects whose numbers must not be compared, with the first error."""
    waves = [(run.subject, wave) for run in first_token for wave in run.waves]
    waves += [(run.subject, wave) for run in pace for wave in run.waves]
    reasons: dict[str, str] = {}
    for subject, wave in waves:
        if wave.errors:
            failed = len(wave.errors)
            reasons.setdefault(subject, f"{failed} of {wave.streams} streams failed: {wave.errors[0]}")
    return reasons


def run_streams(room: Room, *, names: list[str], rounds: int, say: Callable[[str], None]) -> StreamReport:
    """Every subject once a round, after a direct run that it is compared with."""
    first_token: list[FirstTokenRun] = []
    pace: list[PaceRun] = []
    with contextlib.ExitStack() as stack:
        upstream = start_stream_upstream(room)
        stack.enter_context(running(upstream.child))
        subjects, skipped = start_all(stack, room, upstream.port, names)
        for subject in subjects:
            run_load(room, subject.port, streams=PACE_STREAMS, chunks=5)
            subject.child.wait_idle()
        for number in range(1, rounds + 1):
            say(f"stream: round {number} of {rounds}, {DIRECT}")
            direct = _first_token(room, DIRECT, upstream.port, number, None)
            first_token.append(direct)
            pace.append(_pace_direct(room, upstream.port, number))
            turn = (number - 1) % max(len(subjects), 1)
            for subject in subjects[turn:] + subjects[:turn]:
                say(f"stream: round {number} of {rounds}, {subject.name}")
                first_token.append(_first_token(room, subject.name, subject.port, number, direct.ttft_ms))
                pace.append(_pace(room, subject, upstream, number))
    return StreamReport(first_token, pace, skipped, _invalid(first_token, pace))
