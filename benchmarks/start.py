"""Start and memory: from exec of `tollway serve` to the first 200 of `/healthz`, and what it holds idle."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.processes import Skipped, running, wait_for_200
from benchmarks.subjects import READY_SECONDS, Room, launch_tollway, start_static_upstream

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_SECONDS = 2.0


class StartRun(msgspec.Struct, frozen=True):
    """One start with warm byte code on one core; memory after two idle seconds."""

    round: int
    seconds: float
    rss_megabytes: float


class StartReport(msgspec.Struct, frozen=True):
    runs: list[StartRun]
    skipped: dict[str, str]


def _start_once(room: Room, upstream_port: int, number: int) -> StartRun:
    started = time.monotonic()
    subject, ports = launch_tollway(room, upstream_port)
    with running(subject.child):
        request = wire.http_get(ports.admin, "/healthz")
        wait_for_200(subject.child, ports.admin, request, timeout_seconds=READY_SECONDS, poll_seconds=0.005)
        seconds = time.monotonic() - started
        time.sleep(IDLE_SECONDS)
        return StartRun(number, round(seconds, 3), round(subject.child.rss_megabytes(), 1))


def run_start(room: Room, *, rounds: int, say: Callable[[str], None]) -> StartReport:
    """`rounds` starts after one that only compiles the byte code."""
    runs: list[StartRun] = []
    with contextlib.ExitStack() as stack:
        upstream = start_static_upstream(room)
        stack.enter_context(running(upstream.child))
        try:
            _start_once(room, upstream.port, 0)
            for number in range(1, rounds + 1):
                say(f"start: {number} of {rounds}")
                runs.append(_start_once(room, upstream.port, number))
        except Skipped as exc:
            return StartReport(runs, {"tollway": str(exc)})
    return StartReport(runs, {})
