"""Runs the chosen scenarios: those that share an upstream share their running subjects too."""

from __future__ import annotations

import contextlib
import time
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench import Bench
from benchmarks.calls import run_calls
from benchmarks.catalogue import BY_NAME
from benchmarks.idle import run_idle
from benchmarks.nginx_servers import start_static_upstream
from benchmarks.overload import run_overload
from benchmarks.report import Parameters, Part, Report
from benchmarks.scenarios import Calls, Idle, Overload, Scenario, Slow, Start, Streams, Unary
from benchmarks.slow import run_slow
from benchmarks.start import run_start
from benchmarks.streams import run_streams, start_stream_upstream
from benchmarks.subjects import Room, Running, Subject, start_all, started
from benchmarks.unary import run_unary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.environment import Environment


READING = "reading"


class Choice(msgspec.Struct, frozen=True):
    """What to measure, how often and how long."""

    scenarios: list[Scenario]
    subjects: list[Subject]
    rounds: int
    seconds: int


def measure(
    room: Room,
    choice: Choice,
    environment: Environment,
    say: Callable[[str], None],
    keep: Callable[[Report], None],
) -> Report:
    """Every scenario; `keep` gets the report so far after each, since a whole run takes an hour."""
    started_at, parts = time.monotonic(), list[Part]()
    parameters = Parameters(choice.seconds, choice.rounds)

    def report() -> Report:
        return Report(environment, parameters, parts, round(time.monotonic() - started_at, 1))

    for upstream, scenarios in groupby(choice.scenarios, key=_upstream_of):
        for part in _group(room, choice, upstream, list(scenarios), say):
            parts.append(part)
            keep(report())
    return report()


def _upstream_of(scenario: Scenario) -> str | float:
    """What stands behind the subjects: a pace, or a word."""
    match scenario:
        case Streams() | Idle():
            return scenario.interval_ms
        case Overload(interval_ms=float() | int() as interval_ms):
            return interval_ms
        case Overload() | Slow():
            return "static"
        case Unary():
            return READING if scenario.long_bodies else "static"
        case Start() | Calls():
            return scenario.name


def _group(
    room: Room, choice: Choice, upstream: str | float, scenarios: list[Scenario], say: Callable[[str], None]
) -> Iterator[Part]:
    match scenarios[0]:
        case Calls() as calls:
            say(calls.name)
            yield run_calls(room, calls)
        case Start() as start:
            with contextlib.ExitStack() as stack:
                port = started(stack, start_static_upstream(room)).port
                yield run_start(room, start, choice.subjects, port, choice.rounds, say)
        case _:
            with contextlib.ExitStack() as stack:
                bench = _bench(stack, room, choice, upstream, scenarios, say)
                for scenario in scenarios:
                    yield _run(bench, scenario)


def _bench(
    stack: contextlib.ExitStack,
    room: Room,
    choice: Choice,
    upstream: str | float,
    scenarios: list[Scenario],
    say: Callable[[str], None],
) -> Bench:
    """The upstream and the subjects that take part in one of `scenarios`, running."""
    server = _start_upstream(room, upstream)
    started(stack, server)
    wanted = [one for one in choice.subjects if any(one.takes_part(scenario.name) for scenario in scenarios)]
    say(f"starting {', '.join(subject.name for subject in wanted)}")
    running, skipped = start_all(stack, room, server.port, wanted)
    return Bench(room, running, server, skipped, BY_NAME, choice.rounds, choice.seconds, say)


def _start_upstream(room: Room, upstream: str | float) -> Running:
    if isinstance(upstream, float | int):
        return start_stream_upstream(room, upstream)
    return start_static_upstream(room, reads_bodies=upstream == READING)


def _run(bench: Bench, scenario: Scenario) -> Part:
    match scenario:
        case Unary():
            return run_unary(bench, scenario)
        case Streams():
            return run_streams(bench, scenario)
        case Idle():
            return run_idle(bench, scenario)
        case Overload():
            return run_overload(bench, scenario)
        case Slow():
            return run_slow(bench, scenario)
    raise TypeError(f"{scenario.name} needs no running subjects")
