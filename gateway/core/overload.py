"""Overload: when requests wait too long for their turn, and which of them may then begin.

Rules:
- Time decides, never a number of requests or connections. What waits here waits for the event loop: until its
  turn is over (the loop is then late), and behind those that came before in its own turn.
- One long turn is a stall, and those who waited for its end are served. Two in a row are an overload, and so
  is one in which many requests have begun and that still goes on.
- In an overload requests begin in the first part of each turn, its room, and the others are refused. The room
  shrinks while turns are long, grows while they are short, and is never nothing.
- Within an overload time is the work of the loop's thread and not the clock's: where the machine gives it no
  processor, refusing more would help nobody.
- Batch gets half of the room at most. While interactive requests are refused it gets less, down to nothing.
- The overload is over when nothing had to be refused for `CALM_SECONDS`: short turns alone are no sign, since
  refusing makes them short.

No clock and no loop: times are monotonic seconds that the caller has read.
"""

import enum

TARGET_SECONDS = 0.02  # of work in one turn: who is refused has waited for two turns at most
LONG_TURNS = 2
ROUND_SECONDS = 0.05
CALM_SECONDS = 1.0
GROWTH = 1.25  # of a room in each round: from the least to all of it takes a second
LEAST_SECONDS = TARGET_SECONDS / 128  # a few requests in a turn, whatever they will cost later


class Priority(enum.StrEnum):
    """How urgent a request is. Batch is refused first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Overload:
    """Learns by `sample` how late the loop is, and says by `admits` who may begin.

    `is_on`: there is an overload, and `admits` has to be asked. `refused` counts whom it did not admit.
    """

    __slots__ = (
        "_batch_room",
        "_calm_since",
        "_long_turns",
        "_longest_wait",
        "_refused_before",
        "_room",
        "_round_ends",
        "_shortest_turn",
        "is_on",
        "refused",
    )

    def __init__(self, longest_wait_seconds: float) -> None:
        self.is_on = False
        self.refused = dict.fromkeys(Priority, 0)
        self._longest_wait = longest_wait_seconds
        self._long_turns = 0
        self._room = self._batch_room = 0.0
        self._calm_since = self._round_ends = self._shortest_turn = 0.0
        self._refused_before = dict(self.refused)  # as it was when the round began

    def sample(self, late_seconds: float, worked_seconds: float, now: float) -> None:
        """A turn is over: how late the loop was after it, and how much of that it has worked."""
        if self.is_on:
            self._steer(min(late_seconds, worked_seconds), now)
        elif late_seconds <= self._longest_wait:
            self._long_turns = 0
        else:
            self._long_turns += 1
            if self._long_turns >= LONG_TURNS:
                self._begin(now)

    def sample_within(self, late_seconds: float, now: float) -> None:
        """Many requests have begun in a turn that is not over, and the loop is late by so much already."""
        if not self.is_on and late_seconds > self._longest_wait:
            self._begin(now)

    def admits(self, worked_seconds: float, priority: Priority) -> bool:
        """Whether a request may begin when its turn has worked so long already. A refusal is counted."""
        room = self._batch_room if priority is Priority.BATCH else self._room
        if not self.is_on or worked_seconds < room:
            return True
        self.refuse(priority)
        return False

    def refuse(self, priority: Priority) -> None:
        """Count one more that may not begin: `admits` has said so of another in the same turn."""
        self.refused[priority] += 1

    def _begin(self, now: float) -> None:
        self.is_on = True
        self._long_turns = 0
        self._room, self._batch_room = LEAST_SECONDS, 0.0  # enough has begun that is still to be done
        self._calm_since = now
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self._round_ends = now + ROUND_SECONDS
        self._shortest_turn = float("inf")
        self._refused_before = dict(self.refused)

    def _steer(self, turn_seconds: float, now: float) -> None:
        self._shortest_turn = min(self._shortest_turn, turn_seconds)
        if now < self._round_ends:
            return
        is_long = self._shortest_turn > TARGET_SECONDS
        if is_long or self.refused != self._refused_before:
            self._calm_since = now
        elif now - self._calm_since >= CALM_SECONDS:
            self.is_on = False
            return
        interactive = self.refused[Priority.INTERACTIVE] > self._refused_before[Priority.INTERACTIVE]
        self._room = max(_next(self._room, shrinks=is_long), LEAST_SECONDS)
        self._batch_room = min(_next(self._batch_room, shrinks=interactive), self._room / 2)
        self._begin_round(now)


def _next(room: float, *, shrinks: bool) -> float:
    """The room of the next round."""
    if shrinks:
        return room / 2 if room > LEAST_SECONDS else 0.0
    return min(max(room * GROWTH, LEAST_SECONDS), TARGET_SECONDS)
