"""Reload: read the file again and bring it into force, whole or not at all.

What serves is always exactly one version of the file. So a file with an error changes nothing, and neither
does one that asks for something which only a restart can bring: the answer names it.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from gateway.config.build import Built
from gateway.config.problems import Problem, dotted
from gateway.config.restart import needs_restart
from gateway.policy.rollout.config_file import ConfigFile, ConfigReading
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.reload")

WATCH_SECONDS = 1.0
TURNS_BEFORE_RETRY = 10


class How(enum.StrEnum):
    """What brought a version into force."""

    START = "start"
    SIGNAL = "signal"
    WATCH = "watch"
    ADMIN = "admin"


class Result(enum.StrEnum):
    """How a reload ended, as the metric counts it."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    INVALID = "invalid"
    RESTART_REQUIRED = "restart_required"
    UNAVAILABLE = "unavailable"  # the file is right, and something that it needs is unavailable

    @property
    def in_force(self) -> bool:
        """Whether what the file says is what serves."""
        return self in (Result.APPLIED, Result.UNCHANGED)


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """`version` is in force, where `previous` was."""

    version: str
    previous: str
    warnings: list[Problem]

    @property
    def result(self) -> Result:
        return Result.UNCHANGED if self.version == self.previous else Result.APPLIED


class ReloadRefused(Exception):
    """The version from before goes on serving. `problems` of the file, or `settings` that need a restart."""

    def __init__(self, result: Result, problems: list[Problem], settings: list[str]) -> None:
        super().__init__(result)
        self.result = result
        self.problems = problems
        self.settings = settings


class Reloader:
    """Reloads one at a time. `adopt` brings a checked version into force; `counted` gets each result."""

    def __init__(
        self,
        file: ConfigFile,
        built: Built,
        adopt: Callable[[Built, How], Awaitable[None]],  # may raise ReloadRefused
        counted: Callable[[Result], None],
        tasks: TaskRegistry,
        *,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._file = file
        self._built = built
        self.text: str | None = None  # of the version in force, as its file stood; None before a reload
        self._adopt = adopt
        self._counted = counted
        self._watch_seconds = watch_seconds
        self._turn = asyncio.Lock()
        self._needs_retry = False
        self._turns = 0
        self._watching = SupervisedTask(
            "config-watch", self._look, tasks, wait=lambda: asyncio.sleep(watch_seconds)
        )
        self._signalled: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> str:
        """The version in force."""
        return self._built.version

    def start(self) -> None:
        """Watch the file, if it says so."""
        self._watching.start()

    async def close(self) -> None:
        await self._watching.close()
        signalled = set(self._signalled)
        for task in signalled:
            task.cancel()
        if signalled:
            await asyncio.wait(signalled)

    async def reload(self, how: How) -> Reloaded:
        """Bring the file as it is now into force. Raises ReloadRefused; then nothing has changed."""
        async with self._turn:
            return await self._reload(how)

    def reload_soon(self, how: How = How.SIGNAL) -> None:
        """As `reload`, for a signal handler: log and metric say how it ended."""
        task = asyncio.create_task(self._reload_quietly(how), name="config-reload")
        self._signalled.add(task)
        task.add_done_callback(self._signalled.discard)

    async def _reload(self, how: How) -> Reloaded:
        # On a thread: checking a file takes longer than a stream should wait for its next token.
        candidate = await asyncio.to_thread(self._file.read_tested)
        try:
            built = self._accepted(candidate)
            previous = self._built.version
            await self._adopt(built, how)
        except ReloadRefused as refusal:
            self._needs_retry = refusal.result is Result.UNAVAILABLE
            self._note_refusal(refusal, how)
            raise
        self._needs_retry = False
        done = Reloaded(version=built.version, previous=previous, warnings=candidate.problems)
        self._built = built
        self.text = candidate.loaded.text
        self._counted(done.result)
        _log.info("config.reloaded", how=how, version=done.version, previous=done.previous)
        return done

    def _accepted(self, candidate: ConfigReading) -> Built:
        built = candidate.built
        if built is None:
            raise ReloadRefused(Result.INVALID, candidate.problems, [])
        if settings := needs_restart(self._built.settings, built.settings):
            raise ReloadRefused(Result.RESTART_REQUIRED, [], settings)
        return built

    def _note_refusal(self, refusal: ReloadRefused, how: How) -> None:
        self._counted(refusal.result)
        _log.warning(
            "config.reload_refused",
            how=how,
            reason=refusal.result,
            still_serving=self._built.version,
            problems=[str(problem) for problem in refusal.problems],
            settings=refusal.settings,
        )

    async def _reload_quietly(self, how: How) -> None:
        try:
            with suppress(ReloadRefused):  # reported where it was found
                await self.reload(how)
        except Exception:  # the task's end: nobody else would see it
            _log.exception("config.reload_failed", how=how, still_serving=self._built.version)

    async def _look(self) -> None:
        self._turns += 1
        if not self._built.settings.server.watch:
            return
        is_retry = self._needs_retry and self._turns % TURNS_BEFORE_RETRY == 0
        if is_retry or await self._is_rewritten():
            await self._reload_changed(is_retry=is_retry)

    async def _reload_changed(self, *, is_retry: bool) -> None:
        async with self._turn:
            # Meanwhile somebody may have asked for it.
            if is_retry or self._file.mark() != self._file.read_mark:
                with suppress(ReloadRefused):  # reported where it was found
                    await self._reload(How.WATCH)

    async def _is_rewritten(self) -> bool:
        """Whether the file has changed since it was last read, and is not being written any more."""
        mark = self._file.mark()
        if mark is None or mark == self._file.read_mark:
            return False
        await asyncio.sleep(self._watch_seconds)
        return mark == self._file.mark()


def problem_fields(problem: Problem) -> dict[str, object]:
    """A problem as the admin API shows it."""
    return {
        "file": problem.file,
        "line": problem.line,
        "path": dotted(problem.path),
        "message": problem.message,
        "severity": problem.severity,
    }
