"""Allowances by name, in tables that cannot grow, and which events of a flood are told.

A flood under many names, such as a scan of addresses, pushes out the names that were used longest ago. It
takes no more memory.
"""

from collections.abc import Hashable

from gateway.core.admission import GcraLimit

MOST_NAMES = 10_000


class Allowances:
    """`per_minute` for each name, all at once or evenly. Times are monotonic seconds."""

    __slots__ = ("_drained_at", "_limit", "_most_names")

    def __init__(self, per_minute: int, most_names: int = MOST_NAMES) -> None:
        self._limit = GcraLimit(per_minute)
        self._most_names = most_names
        self._drained_at: dict[Hashable, float] = {}  # the one used longest ago comes first

    def __len__(self) -> int:
        return len(self._drained_at)

    def wait_seconds(self, name: Hashable, now: float) -> float:
        """How long until one more of `name` fits; 0: now."""
        return self._limit.wait_seconds(self._drained_at.get(name, 0.0), 1, now)

    def take(self, name: Hashable, now: float) -> None:
        """Count one more of `name`, whether it fits or not."""
        drained_at = self._drained_at.pop(name, 0.0)
        if len(self._drained_at) >= self._most_names:
            del self._drained_at[next(iter(self._drained_at))]
        self._drained_at[name] = self._limit.take(drained_at, 1, now)


class BoundedEvents:
    """Tells so many events a minute of each kind, and so many of all; the others are counted."""

    __slots__ = ("_all", "_each", "_left_out", "_most_kinds")

    def __init__(self, *, of_each: int, of_all: int, most_kinds: int = MOST_NAMES) -> None:
        self._each = Allowances(of_each, most_kinds)
        self._all = Allowances(of_all, 1)
        self._most_kinds = most_kinds
        self._left_out: dict[Hashable, int] = {}  # by kind, since its last that was told

    def admit(self, kind: Hashable, now: float) -> int | None:
        """How many events of `kind` were left out since the last one; None: leave this one out as well."""
        if self._each.wait_seconds(kind, now) or self._all.wait_seconds(None, now):
            count = self._left_out.pop(kind, 0) + 1
            if len(self._left_out) >= self._most_kinds:
                del self._left_out[next(iter(self._left_out))]
            self._left_out[kind] = count
            return None
        self._each.take(kind, now)
        self._all.take(None, now)
        return self._left_out.pop(kind, 0)
