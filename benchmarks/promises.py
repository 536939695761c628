"""What the project promises about speed, held against a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench import DIRECT
from benchmarks.calls import CallReport
from benchmarks.catalogue import LIMIT, TOLLWAY
from benchmarks.idle import IdleReport
from benchmarks.report import Report, added, chunk_cpu, first_token_delays, median, ratios, runs_of
from benchmarks.start import StartReport
from benchmarks.streams import StreamReport
from benchmarks.unary import UnaryReport

if TYPE_CHECKING:
    from collections.abc import Callable

LEASED = "tollway-leased"
TWO = "tollway-two"


class Promise(msgspec.Struct, frozen=True):
    """A bound on a measured value, which is None when it was not measured, or not validly."""

    text: str
    measure: Callable[[Report], float | None]
    most: float | None = None
    least: float | None = None

    def holds(self, value: float) -> bool:
        above = self.least is None or value >= self.least
        return above and (self.most is None or value <= self.most)


class Verdict(msgspec.Struct, frozen=True):
    promise: str
    value: float | None
    holds: bool | None

    def word(self) -> str:
        return {None: "not measured", True: "holds", False: "MISSED"}[self.holds]


def _unary(report: Report, scenario: str, *subjects: str) -> UnaryReport | None:
    """None also when one of `subjects` is invalid there."""
    part = report.part(UnaryReport, scenario)
    return None if part is None or any(name in part.invalid for name in subjects) else part


def _request_cpu(report: Report) -> float | None:
    part = _unary(report, "unary-32", TOLLWAY)
    return median(run.request_cpu_us for run in runs_of(part, TOLLWAY)) if part else None


def _whole_cpu(report: Report) -> float | None:
    part = _unary(report, "unary-32", TOLLWAY)
    return median(run.whole_cpu_us for run in runs_of(part, TOLLWAY)) if part else None


def _against(subject: str, base: str) -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        part = _unary(report, "unary-32", subject, base)
        return median(ratios(part, subject, base)) if part else None

    return measure


def _two_workers(report: Report) -> float | None:
    """With the same stores behind both: CPU of all processes a request."""
    part = _unary(report, "unary-32", LEASED, TWO)
    return median(ratios(part, TWO, LEASED, lambda run: run.whole_cpu_us)) if part else None


def _added_p50(report: Report) -> float | None:
    part = _unary(report, "unary-1", TOLLWAY)
    return median(added(part, TOLLWAY, DIRECT, lambda run: run.p50_ms * 1000)) if part else None


def _added_p99(report: Report) -> float | None:
    part = _unary(report, "unary-1", TOLLWAY)
    return median(added(part, TOLLWAY, DIRECT, lambda run: run.p99_ms)) if part else None


def _chunk(report: Report) -> float | None:
    part = report.part(StreamReport, "streams-400")
    return None if part is None or TOLLWAY in part.invalid else median(chunk_cpu(part, TOLLWAY))


def _first_token(report: Report) -> float | None:
    part = report.part(StreamReport, "streams-100")
    return None if part is None or TOLLWAY in part.invalid else median(first_token_delays(part, TOLLWAY))


def _idle(report: Report) -> float | None:
    part = report.part(IdleReport, "idle-5000")
    return median(run.kilobytes_a_stream for run in part.runs if run.subject == TOLLWAY) if part else None


def _memory(report: Report) -> float | None:
    part = report.part(StartReport, "start")
    return median(run.rss_megabytes for run in part.runs if run.subject == TOLLWAY) if part else None


def _started(report: Report) -> float | None:
    part = report.part(StartReport, "start")
    return median(run.health_seconds for run in part.runs if run.subject == TOLLWAY) if part else None


def _calls(report: Report) -> float | None:
    part = report.part(CallReport, "calls")
    return part.python_calls if part else None


def _files(report: Report) -> float | None:
    part = report.part(CallReport, "calls")
    return float(part.files) if part else None


PROMISES = [
    Promise("CPU us a request, request process, at most 75", _request_cpu, most=75),
    Promise("CPU us a request, all processes, at most 95", _whole_cpu, most=95),
    Promise("requests/s to nginx at least 0.24", _against(TOLLWAY, LIMIT), least=0.24),
    Promise("requests/s to SMG at least 2", _against(TOLLWAY, "smg"), least=2),
    Promise("requests/s to vllm-router: level (at least 0.95)", _against(TOLLWAY, "vllm-router"), least=0.95),
    Promise(
        "Redis leased + PostgreSQL to memory + SQLite at least 0.85", _against(LEASED, TOLLWAY), least=0.85
    ),
    Promise("two workers: CPU a request at most 1.11 of one", _two_workers, most=1.11),
    Promise("added latency us, 1 connection, p50 under 200", _added_p50, most=200),
    Promise("added latency ms, 1 connection, p99 under 0.6", _added_p99, most=0.6),
    Promise("CPU us a chunk at 400 streams at most 24", _chunk, most=24),
    Promise("first token delay ms at 100 streams under 6", _first_token, most=6),
    Promise("memory KB an idle stream under 15", _idle, most=15),
    Promise("idle memory MB at most 120", _memory, most=120),
    Promise("start s under 1.2", _started, most=1.2),
    Promise("Python calls a request at most 150", _calls, most=150),
    Promise("files of a request at most 30", _files, most=30),
]


def verdicts(report: Report) -> list[Verdict]:
    found = [(promise, promise.measure(report)) for promise in PROMISES]
    return [
        Verdict(promise.text, value, None if value is None else promise.holds(value))
        for promise, value in found
    ]
