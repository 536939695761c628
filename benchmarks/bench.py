"""What every scenario works with: running subjects, their upstream, turns, the check of their records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks.processes import Child, CpuMeter, Skipped
from benchmarks.subjects import Room, Running, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIRECT = "direct"
ROWS_WITHIN_SECONDS = 20.0
QUIET_SECONDS = 1.0  # a ledger may be written some time after the answers


class Bench(msgspec.Struct, frozen=True):
    """The subjects that run now, and why others do not."""

    room: Room
    subjects: list[Running]
    upstream: Running
    skipped: dict[str, str]
    catalogue: dict[str, Subject]
    rounds: int
    seconds: int
    say: Callable[[str], None]

    def part(self, scenario: str) -> list[Running]:
        return [one for one in self.subjects if self.catalogue[one.name].takes_part(scenario)]

    def missing(self, scenario: str) -> dict[str, str]:
        """Who could not start and would have taken part, with the reason."""
        return {name: why for name, why in self.skipped.items() if self.catalogue[name].takes_part(scenario)}

    def warmed(
        self, subjects: list[Running], warm_up: Callable[[Running], object]
    ) -> tuple[list[Running], dict[str, str]]:
        """Those that could be warmed up, idle again; and why others could not."""
        fit, failed = [], {}
        for subject in subjects:
            try:
                warm_up(subject)
            except Skipped as exc:
                failed[subject.name] = str(exc)
                continue
            subject.child.wait_idle()
            fit.append(subject)
        return fit, failed

    def turns(self, scenario: str, subjects: list[Running], most: int) -> Iterator[tuple[int, Running]]:
        """The upstream without a proxy, then every subject, in each round, another subject first each time.

        What drifts during a round then hits all alike.
        """
        rounds = min(self.rounds, most)
        direct = msgspec.structs.replace(self.upstream, name=DIRECT)
        for number in range(1, rounds + 1 if subjects else 1):
            cut = (number - 1) % len(subjects)
            for subject in [direct, *subjects[cut:], *subjects[:cut]]:
                self.say(f"{scenario}: round {number} of {rounds}, {subject.name}")
                yield number, subject

    def meter(self, subject: Running) -> CpuMeter:
        others: list[Child] = [self.upstream.child]
        return CpuMeter(
            self.room.cores, subject.child, others, behind=subject.behind, workers=subject.workers
        )


class Records:
    """Whether a subject recorded what it answered: fast by not doing its work does not count."""

    def __init__(self, subject: Running) -> None:
        self._count = subject.count_rows
        self._before = self._settled()

    def problem(self, answers: int, *, cut_off: int = 0) -> str | None:
        """What is wrong with the rows added for `answers`, and up to `cut_off` more that the load left."""
        if self._count is None:
            return None
        added = self._wait_for(answers)
        if answers <= added <= answers + cut_off:
            return None
        return f"{added:,} rows were added for {answers:,} answers"

    def _wait_for(self, answers: int) -> int:
        """Rows may be written late, but they must come. Those of cut off requests come last."""
        deadline = time.monotonic() + ROWS_WITHIN_SECONDS
        while (added := self._added()) < answers and time.monotonic() < deadline:
            time.sleep(0.2)
        return added

    def _added(self) -> int:
        return self._rows() - self._before

    def _settled(self) -> int:
        """How many rows there are once those of earlier load have come."""
        deadline, rows, seen_at = time.monotonic() + ROWS_WITHIN_SECONDS, self._rows(), time.monotonic()
        while self._count is not None and time.monotonic() < min(deadline, seen_at + QUIET_SECONDS):
            time.sleep(0.1)
            if (now := self._rows()) != rows:
                rows, seen_at = now, time.monotonic()
        return rows

    def _rows(self) -> int:
        return (self._count() if self._count is not None else None) or 0
