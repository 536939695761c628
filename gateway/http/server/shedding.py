"""Load shedding: watches the event loop, and refuses requests before anything is done for them.

Rules:
- While all is well a request only counts down `unasked`, and a timer looks a few times a second.
- A refusal is ready bytes. It leaves no record, no line of the log and no span; it is counted.
- What has begun is never refused: neither a stream nor a body that somebody reads.
- The log has one line when an overload begins, one each minute, and one with its counts at the end.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import Overloaded
from gateway.core.heads import header_lines
from gateway.core.overload import Overload, Priority

LOOK_SECONDS = 0.1
CLOSE_LOOK_SECONDS = 0.005  # in an overload: the loop is then late by the length of a turn
UNASKED = 64  # requests that begin before somebody looks at the time within a turn
TOLD_SECONDS = 60.0

_log = structlog.get_logger("tollway.http")

_ERROR = Overloaded(
    "The gateway has more to do than it can do in time. Send the request again.", retry_after_seconds=1.0
)
STATUS = _ERROR.status
LINES = header_lines([(b"content-type", b"application/json"), *retry_headers(_ERROR)])
BODY = envelope(_ERROR)


class WorkClock(Protocol):
    """`monotonic` is the time, `worked` how long the calling thread has run on a processor. In seconds."""

    def monotonic(self) -> float: ...

    def worked(self) -> float: ...


class LoadShedder:
    """One for each data port. `start` and `close` on its loop.

    `unasked` is how many requests may begin before `refuses` has to be asked: whoever begins one counts down.
    """

    def __init__(
        self,
        longest_wait_seconds: float,
        priority_of: Callable[[Mapping[bytes, bytes]], Priority],
        clock: WorkClock,
    ) -> None:
        """`priority_of` gives that of a request by its headers, cheaply and without a failure."""
        self._overload = Overload(longest_wait_seconds)
        self._priority_of = priority_of
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._turn_began_at: float | None = None  # in seconds of work, as `_worked`
        self._worked = 0.0
        self._is_full = False  # nobody else begins in this turn
        self._since = self._told_at = 0.0
        self._refused_before: dict[Priority, int] = {}
        self.unasked = UNASKED

    @property
    def refused(self) -> Mapping[Priority, int]:
        """How many requests were refused so far."""
        return self._overload.refused

    @property
    def is_shedding(self) -> bool:
        return self._overload.is_on

    def problems(self) -> list[str]:
        """What `readyz` shows beside its answer: requests are refused, and many are still answered."""
        return ["overloaded: requests that would wait too long are refused"] if self.is_shedding else []

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._look_again(self._clock.monotonic())

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def refuses(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the request with these headers must not begin, and is to be answered by `BODY`."""
        if not self._overload.is_on:
            self._look_within()
            return False
        priority = self._priority_of(headers)
        if self._is_full:
            self._overload.refuse(priority)
            return True
        worked = self._clock.worked()
        if self._turn_began_at is None:
            # The first of this turn. All that are read in one turn had arrived before it.
            self._turn_began_at = worked
            self._loop.call_soon(self._turn_over)
        is_refused = not self._overload.admits(worked - self._turn_began_at, priority)
        # Asking the thread's clock is a call to the kernel, and later in a turn the answer is the same.
        self._is_full = is_refused and priority is Priority.INTERACTIVE
        return is_refused

    def _turn_over(self) -> None:
        self._turn_began_at = None
        self._is_full = False

    def _look_within(self) -> None:
        """Many requests have begun since the latest look."""
        now = self._clock.monotonic()
        self._overload.sample_within(now - self._due, now)
        self._note(was_shedding=False, now=now)

    def _look(self) -> None:
        now, was_shedding = self._clock.monotonic(), self.is_shedding
        worked_before, self._worked = self._worked, self._clock.worked()
        self._overload.sample(max(0.0, now - self._due), self._worked - worked_before, now)
        self._note(was_shedding=was_shedding, now=now)
        self._look_again(now)

    def _note(self, *, was_shedding: bool, now: float) -> None:
        self.unasked = 0 if self.is_shedding else UNASKED
        if was_shedding or self.is_shedding:
            self._tell(was_shedding, now)

    def _look_again(self, now: float) -> None:
        pause = CLOSE_LOOK_SECONDS if self.is_shedding else LOOK_SECONDS
        self._due = now + pause
        self._timer = self._loop.call_later(pause, self._look)

    def _tell(self, was_shedding: bool, now: float) -> None:
        if not was_shedding:
            self._since = self._told_at = now
            self._refused_before = dict(self.refused)
            _log.warning("overload.began", action="requests that would wait too long are refused with 503")
        elif not self.is_shedding:
            _log.info("overload.ended", **self._facts(now))
        elif now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            _log.warning("overload.lasts", **self._facts(now))

    def _facts(self, now: float) -> dict[str, float]:
        refused = {f"refused_{one}": count - self._refused_before[one] for one, count in self.refused.items()}
        return {"seconds": round(now - self._since, 1), **refused}
