"""What the process of the ledger's writer counts, and the sums over one process after another."""

from collections.abc import Mapping

import msgspec

from gateway.core.histogram import Histogram

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class WriterTelemetry(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Since this process began: its background loops by name, and how many commits took how long.

    `up`: whether the loops work. `failures`: their failed turns. `commits` are counts by COMMIT_SECONDS.
    """

    up: dict[str, bool]
    failures: dict[str, int]
    commits: tuple[int, ...]
    commit_seconds: float


NOTHING_TOLD = WriterTelemetry({}, {}, (0,) * (len(COMMIT_SECONDS) + 1), 0.0)


class WriterCounts:
    """The sums over all processes that an owner has run, so that no counter goes back."""

    def __init__(self) -> None:
        self._latest = NOTHING_TOLD
        self._failures: dict[str, int] = {}  # of the processes before
        self._commits = Histogram(COMMIT_SECONDS)

    def take(self, told: WriterTelemetry) -> None:
        """The process that runs has counted so far."""
        self._latest = told

    def end(self) -> None:
        """It runs no more: none of its loops works until the next one says so."""
        told = self._latest
        self._failures = self.failures
        self._commits.add(told.commits, told.commit_seconds)
        down = dict.fromkeys(told.up, False)
        self._latest = msgspec.structs.replace(NOTHING_TOLD, up=down)

    @property
    def up(self) -> Mapping[str, bool]:
        """Whether each loop works; empty before the first process has told."""
        return self._latest.up

    @property
    def failures(self) -> dict[str, int]:
        """Failed turns of each loop."""
        told, before = self._latest.failures, self._failures
        return {name: told.get(name, 0) + before.get(name, 0) for name in {**before, **told}}

    @property
    def commits(self) -> Histogram:
        """How long commits took."""
        found = Histogram(COMMIT_SECONDS)
        found.add(self._commits.counts, self._commits.total)
        found.add(self._latest.commits, self._latest.commit_seconds)
        return found
