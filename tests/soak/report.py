"""What a soak has shown, as a table and as JSON."""

from collections.abc import Mapping, Sequence

import msgspec

from tests.soak.sampling import Sample
from tests.soak.slopes import Slope, Verdict, growth_verdict, level_verdict, slope

WARM_UP_SHARE, WARM_UP_SECONDS = 0.25, 300.0
MOST_MIB_PER_HOUR = 1.0


class Line(msgspec.Struct, frozen=True):
    """One value, how it went, what it may do, and whether it did. A slope is left out of too few samples."""

    what: str
    first: float
    last: float
    highest: float
    slope: Slope | None
    bound: str
    verdict: Verdict


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run. `disagreements` are those of ledger, upstreams and counters."""

    seconds: float
    warm_up_seconds: float
    requests: int
    statuses: Mapping[int, int]
    disconnects: int
    broken_connections: int
    faults: Mapping[str, int]
    attempts: int
    rows: int
    disagreements: list[str]
    logged_errors: Mapping[str, int]
    lines: list[Line]
    samples: list[Sample]

    @property
    def is_broken(self) -> bool:
        return bool(self.disagreements) or any(line.verdict is Verdict.BROKEN for line in self.lines)


def warm_up_seconds(seconds: float) -> float:
    return min(seconds * WARM_UP_SHARE, WARM_UP_SECONDS)


def lines_of(samples: Sequence[Sample], seconds: float) -> list[Line]:
    """One line for each value. What came in warm-up counts for none of them."""
    warm = [sample for sample in samples if sample.seconds >= warm_up_seconds(seconds)]
    memory = _slope(warm, "resident_mib")
    verdict = Verdict.TOO_SHORT if memory is None else growth_verdict(memory, MOST_MIB_PER_HOUR)
    return [
        _line(warm, "resident_mib", f"< {MOST_MIB_PER_HOUR:g} MiB/h", verdict),
        _level(warm, "descriptors", 16),
        _level(warm, "series", 16),
        _level(warm, "tasks", 16),
        _line(warm, "writer_mib", "none: killed and started anew", Verdict.HOLDS),
    ]


def _values(samples: Sequence[Sample], field: str) -> list[float]:
    return [float(getattr(sample, field)) for sample in samples]


def _slope(samples: Sequence[Sample], field: str) -> Slope | None:
    if len(samples) < 3:
        return None
    return slope([sample.seconds for sample in samples], _values(samples, field))


def _level(samples: Sequence[Sample], field: str, allowance: float) -> Line:
    bound = f"last third <= first + 20% + {allowance:g}"
    return _line(samples, field, bound, level_verdict(_values(samples, field), allowance))


def _line(samples: Sequence[Sample], field: str, bound: str, verdict: Verdict) -> Line:
    values = _values(samples, field) or [0.0]
    return Line(field, values[0], values[-1], max(values), _slope(samples, field), bound, verdict)


def text(report: Report) -> str:
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(report.statuses.items()))
    head = [
        f"{report.seconds / 60:.1f} minutes, the first {report.warm_up_seconds / 60:.1f} of them warm-up",
        f"{report.requests:,} requests: {statuses}; {report.disconnects:,} clients left, "
        f"{report.broken_connections:,} lost their connection",
        "faults: " + (", ".join(f"{count} x {what}" for what, count in report.faults.items()) or "none"),
        f"ledger: {report.attempts:,} attempts seen by upstreams, {report.rows:,} rows, "
        f"{len(report.disagreements)} disagreements",
        "",
        f"{'value':<14}{'first':>9}{'last':>9}{'highest':>9}{'an hour':>18}  {'bound':<34}verdict",
    ]
    errors = [f"logged as an error: {count} x {event}" for event, count in report.logged_errors.items()]
    return "\n".join([*head, *map(_row, report.lines), *errors, *report.disagreements])


def _row(line: Line) -> str:
    growth = "" if line.slope is None else f"{line.slope.per_hour:+.2f} +- {line.slope.error:.2f}"
    return (
        f"{line.what:<14}{line.first:>9.1f}{line.last:>9.1f}{line.highest:>9.1f}{growth:>18}  "
        f"{line.bound:<34}{line.verdict}"
    )
