"""Whether a measured value grows: a line by least squares through what came after warm-up, and its bound."""

import enum
import math
import statistics
from collections.abc import Sequence

import msgspec

SECONDS_PER_HOUR = 3600.0
# Memory comes and goes by megabytes in minutes: less than this tells nothing about an hour.
LEAST_SECONDS = 1500.0
DEVIATIONS = 2.0  # about 95%


class Verdict(enum.StrEnum):
    """What a bound says of a value."""

    HOLDS = "holds"
    BROKEN = "broken"
    TOO_SHORT = "too short to tell"


class Slope(msgspec.Struct, frozen=True):
    """Growth an hour, and the error of that (one standard deviation)."""

    per_hour: float
    error: float
    seconds: float
    samples: int


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The line through `values` at `times` in seconds. Raises ValueError for fewer than three."""
    if len(times) < 3 or len(times) != len(values):
        raise ValueError("a line with an error needs three samples or more")
    mean_time, mean_value = statistics.fmean(times), statistics.fmean(values)
    spread = math.fsum((time - mean_time) ** 2 for time in times)
    if not spread:
        raise ValueError("all samples are of one moment")
    growth = (
        math.fsum((t - mean_time) * (v - mean_value) for t, v in zip(times, values, strict=True)) / spread
    )
    left = math.fsum(
        (v - mean_value - growth * (t - mean_time)) ** 2 for t, v in zip(times, values, strict=True)
    )
    error = math.sqrt(left / (len(times) - 2) / spread)
    return Slope(growth * SECONDS_PER_HOUR, error * SECONDS_PER_HOUR, times[-1] - times[0], len(times))


def growth_verdict(found: Slope, most_per_hour: float) -> Verdict:
    """Broken where even the least that fits is above the bound; too short where chance alone could be."""
    uncertain = DEVIATIONS * found.error
    if found.seconds < LEAST_SECONDS or uncertain > most_per_hour:
        return Verdict.TOO_SHORT
    return Verdict.BROKEN if found.per_hour - uncertain > most_per_hour else Verdict.HOLDS


def level_verdict(values: Sequence[float], allowance: float) -> Verdict:
    """Of a count that comes and goes with load: its highest in the last third against that in the first."""
    third = len(values) // 3
    if third < 3:
        return Verdict.TOO_SHORT
    return Verdict.BROKEN if max(values[-third:]) > max(values[:third]) * 1.2 + allowance else Verdict.HOLDS
