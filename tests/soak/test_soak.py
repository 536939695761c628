"""A soak in small, and how growth is told from noise."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.report import text
from tests.soak.run import Options, run
from tests.soak.slopes import Verdict, growth_verdict, level_verdict, slope

HOUR = 3600


def samples(value: Callable[[float], float], seconds: int = HOUR) -> tuple[list[float], list[float]]:
    chance = random.Random(1)
    times = [float(at) for at in range(0, seconds, 10)]
    return times, [value(at) + chance.gauss(0, 0.5) for at in times]


def test_a_line_through_exact_values_is_that_line() -> None:
    found = slope([0, HOUR, 2 * HOUR], [5, 7, 9])
    assert (found.per_hour, found.error, found.samples) == (2, 0, 3)


def test_a_leak_is_broken_noise_holds_and_a_short_run_says_so() -> None:
    assert growth_verdict(slope(*samples(lambda at: 100 + at / HOUR * 2)), 1.0) is Verdict.BROKEN
    assert growth_verdict(slope(*samples(lambda _: 100)), 1.0) is Verdict.HOLDS
    assert growth_verdict(slope(*samples(lambda at: 100 + at / HOUR * 50, 1200)), 1.0) is Verdict.TOO_SHORT
    wild = samples(lambda at: 100 + 300 * (at % 600 > 300))
    assert growth_verdict(slope(*wild), 1.0) is Verdict.TOO_SHORT


def test_a_count_may_come_and_go_and_may_not_climb() -> None:
    assert level_verdict([20, 80, 20, 75, 20, 80, 21, 79, 20], 16) is Verdict.HOLDS
    assert level_verdict([float(at) for at in range(0, 900, 10)], 16) is Verdict.BROKEN
    assert level_verdict([1, 2, 3], 16) is Verdict.TOO_SHORT


def test_no_line_without_three_moments() -> None:
    with pytest.raises(ValueError, match="three samples"):
        slope([0, 1], [1, 2])
    with pytest.raises(ValueError, match="one moment"):
        slope([1, 1, 1], [1, 2, 3])


@pytest.mark.slow
def test_a_soak_of_seconds_books_every_attempt_once_and_says_that_it_was_too_short(tmp_path: Path) -> None:
    report = run(Options(folder=tmp_path, minutes=0.25, rate=30, fault_seconds=2, seed=1))
    print(text(report))
    assert report.disagreements == []
    assert report.rows >= report.attempts > 0
    assert report.statuses[200] > 0
    assert report.faults["reload"] > 0
    assert report.lines[0].verdict is Verdict.TOO_SHORT
    assert "too short to tell" in text(report)
