"""What a run found: JSON with every raw round, which can be read again for tables and plots."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from benchmarks.calls import CallReport
from benchmarks.environment import Environment
from benchmarks.idle import IdleReport
from benchmarks.overload import OverloadReport
from benchmarks.slow import SlowReport
from benchmarks.start import StartReport
from benchmarks.streams import StreamReport
from benchmarks.unary import UnaryReport, UnaryRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Part = UnaryReport | StreamReport | IdleReport | StartReport | CallReport | OverloadReport | SlowReport
P = TypeVar("P", UnaryReport, StreamReport, IdleReport, StartReport, CallReport, OverloadReport, SlowReport)


class Parameters(msgspec.Struct, frozen=True):
    seconds: int
    rounds: int


class Report(msgspec.Struct, frozen=True):
    """One run of the benchmarks: a part for each scenario that ran."""

    environment: Environment
    parameters: Parameters
    parts: list[Part]
    took_seconds: float

    def part(self, kind: type[P], scenario: str) -> P | None:
        found = (part for part in self.parts if isinstance(part, kind) and part.scenario == scenario)
        return next(found, None)

    def parts_of(self, kind: type[P]) -> list[P]:
        return [part for part in self.parts if isinstance(part, kind)]


def median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def runs_of(part: UnaryReport, subject: str) -> list[UnaryRun]:
    return [run for run in part.runs if run.subject == subject]


def of_base(
    part: UnaryReport, subject: str, base: str, value: Callable[[UnaryRun], float]
) -> list[tuple[float, float]]:
    """`value` of `subject` and of `base` in the same round, for each round that has both."""
    bases = {run.round: value(run) for run in runs_of(part, base)}
    return [(value(run), bases[run.round]) for run in runs_of(part, subject) if run.round in bases]


def ratios(
    part: UnaryReport,
    subject: str,
    base: str,
    value: Callable[[UnaryRun], float] = lambda run: run.requests_per_second,
) -> list[float]:
    """Requests a second, or another `value`, divided by that of `base` in the same round."""
    return [mine / other for mine, other in of_base(part, subject, base, value) if other]


def added(part: UnaryReport, subject: str, base: str, value: Callable[[UnaryRun], float]) -> list[float]:
    """What `subject` adds to `value` of `base` in the same round."""
    return [mine - other for mine, other in of_base(part, subject, base, value)]


def chunk_cpu(part: StreamReport, subject: str) -> list[float]:
    """Microseconds a chunk of all the subject's processes."""
    found = (run.whole_cpu_us for run in part.pace if run.subject == subject)
    return [value for value in found if value is not None]


def first_token_delays(part: StreamReport, subject: str) -> list[float]:
    runs = [run for run in part.first_token if run.subject == subject]
    return [run.delay_ms for run in runs if run.delay_ms is not None]


def write_json(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def read_json(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)
