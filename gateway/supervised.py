"""Background loops that cannot end unseen.

A loop is a wait and a turn, repeated for as long as the gateway serves. The rules:

- A turn that raises is logged once, counted each time, and named by `readyz` until a turn succeeds.
- Only a loop that requests depend on keeps requests away meanwhile: a defect of another one, which every
  process shares, must not take all of them out of service.
- It is tried again after a pause that doubles. The wait is not repeated: what was due is still due.
- Only `close`, or the end of the event loop, ends a loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

_log = structlog.get_logger("tollway.tasks")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
# A turn may be a loop of its own that never returns. One that runs for so long after a failure works again.
STEADY_SECONDS = 5.0

Step = Callable[[], Awaitable[object]]


class TaskRegistry:
    """The loops of one process, for `readyz` and metrics. Used on the event loop's thread only."""

    def __init__(self) -> None:
        # Failed turns by name. A name stays after its loop was closed, so that no counter goes back.
        self.failures: dict[str, int] = {}
        self._tasks: set[SupervisedTask] = set()

    def add(self, task: "SupervisedTask") -> None:
        """`task` begins."""
        self.failures.setdefault(task.name, 0)
        self._tasks.add(task)

    def remove(self, task: "SupervisedTask") -> None:
        """`task` has ended, as it should."""
        self._tasks.discard(task)

    def count_failure(self, task: "SupervisedTask") -> None:
        """A turn of `task` has raised."""
        self.failures[task.name] += 1

    def up(self) -> dict[str, bool]:
        """Whether all loops of each name work. Names that run no more count as working."""
        failing = {task.name for task in self._failing()}
        return {name: name not in failing for name in self.failures}

    def problems(self, *, essential: bool | None = None) -> list[str]:
        """One reason for each name whose loops fail; empty when all work.

        `essential`: only of loops that requests depend on, or only of the others.
        """
        found = (task for task in self._failing() if essential in (None, task.is_essential))
        failing = sorted(found, key=lambda task: (task.name, task.subject))
        return [_reason(name, failing) for name in dict.fromkeys(task.name for task in failing)]

    def _failing(self) -> "Iterable[SupervisedTask]":
        return (task for task in self._tasks if task.error is not None)


class SupervisedTask:
    """One loop: `start`, then `close`. Both do nothing when there is nothing to do.

    `error` names the type of what the latest turn raised; None while the loop works.
    """

    def __init__(
        self,
        name: str,
        turn: Step,
        registry: TaskRegistry,
        *,
        wait: Step | None = None,
        subject: str = "",
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        is_essential: bool = False,
    ) -> None:
        """`wait` returns when the next turn is due. Left out: `turn` waits by itself.

        `is_essential`: while it fails, requests should go elsewhere.

        `name` is one of few, since it is a metric's label. `subject` tells loops of one name apart.
        """
        self.name = name
        self.subject = subject
        self.is_essential = is_essential
        self.error: str | None = None
        self._turn = turn
        self._wait = wait
        self._registry = registry
        self._longest_pause = longest_pause_seconds
        self._pause = self._first_pause = min(FIRST_PAUSE_SECONDS, longest_pause_seconds)
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Between `start` and `close`."""
        return self._task is not None

    def start(self, *, is_due: bool = False) -> None:
        """Begin with the wait, or at once with a turn when one `is_due`."""
        if self._task is None:
            self._registry.add(self)
            self._task = asyncio.create_task(self._run(is_due), name=f"{self.name} {self.subject}".rstrip())

    async def close(self) -> None:
        """Cancel the loop and return once it has ended. Never raises what the loop does."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            self.error = None
            self._registry.remove(self)

    async def _run(self, is_due: bool) -> None:
        own = asyncio.current_task()
        while own is not None and not own.cancelling():
            try:
                if self._wait is not None and not is_due:
                    await self._wait()
                is_due = True
                await self._watched_turn()
                is_due = False
            except (Exception, asyncio.CancelledError) as exc:
                # Something that was awaited can be cancelled without this loop being closed.
                if isinstance(exc, asyncio.CancelledError) and own.cancelling():
                    raise
                self._note_failure(exc)
                if not own.cancelling():
                    await self._back_off()
            else:
                self._note_success()

    async def _watched_turn(self) -> None:
        if self.error is None:
            await self._turn()
            return
        steady = asyncio.get_running_loop().call_later(STEADY_SECONDS, self._note_success)
        try:
            await self._turn()
        finally:
            steady.cancel()

    async def _back_off(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, self._longest_pause)

    def _note_failure(self, exc: BaseException) -> None:
        self._registry.count_failure(self)
        if self.error is None:  # one line for each change of state
            _log.error("task.failed", task=self.name, subject=self.subject or None, exc_info=exc)
        self.error = type(exc).__name__

    def _note_success(self) -> None:
        if self.error is not None:
            _log.info("task.recovered", task=self.name, subject=self.subject or None)
            self.error = None
            self._pause = self._first_pause


def _reason(name: str, failing: "list[SupervisedTask]") -> str:
    """For readers without a token: what was raised is in the log only."""
    same = [task for task in failing if task.name == name]
    subjects = ", ".join(task.subject for task in same if task.subject)
    whom = f" for {subjects}" if subjects else ""
    return f"background task {name} fails{whom}: {same[0].error}; the log says why, it is tried again"
