"""Start and memory: from exec to the first answered chat request, and what a subject holds idle."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.probes import wait_for_200
from benchmarks.processes import Skipped
from benchmarks.subjects import READY_SECONDS, Room, Running, Subject, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scenarios import Start

IDLE_SECONDS = 2.0


class StartRun(msgspec.Struct, frozen=True):
    """One start on one core with warm files. `health_seconds` is to the first 200 of Tollway's /healthz."""

    round: int
    subject: str
    seconds: float
    health_seconds: float | None
    rss_megabytes: float


class StartReport(msgspec.Struct, frozen=True, tag="start"):
    scenario: str
    title: str
    runs: list[StartRun]
    skipped: dict[str, str]


def _answered(subject: Running, port: int, request: bytes) -> float:
    """Seconds since exec, when `request` has its 200."""
    wait_for_200(subject.child, port, request, timeout_seconds=READY_SECONDS, poll_seconds=0.005)
    return round(time.monotonic() - subject.child.started_at, 3)


def _start_once(room: Room, subject: Subject, upstream_port: int, number: int) -> StartRun:
    with contextlib.ExitStack() as stack:
        one = started(stack, subject.launch(room, upstream_port))
        health = None
        if one.health is not None:
            port, path = one.health
            health = _answered(one, port, wire.http_get(port, path))
        seconds = _answered(one, one.port, one.request(wire.short_request(one.model)))
        time.sleep(IDLE_SECONDS)
        return StartRun(number, one.name, seconds, health, round(one.child.rss_megabytes(), 1))


def run_start(
    room: Room,
    scenario: Start,
    subjects: list[Subject],
    upstream_port: int,
    rounds: int,
    say: Callable[[str], None],
) -> StartReport:
    """`rounds` starts in turns, after one of each that only compiles byte code and reads files."""
    runs: list[StartRun] = []
    skipped: dict[str, str] = {}
    for number in range(min(rounds, scenario.rounds) + 1):
        for subject in subjects:
            if subject.name in skipped or not subject.takes_part(scenario.name):
                continue
            say(f"{scenario.name}: {number} of {min(rounds, scenario.rounds)}, {subject.name}")
            try:
                runs.append(_start_once(room, subject, upstream_port, number))
            except (Skipped, OSError) as exc:
                skipped[subject.name] = str(exc)
    return StartReport(scenario.name, scenario.title, [run for run in runs if run.round > 0], skipped)
