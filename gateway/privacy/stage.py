"""Keeps one recogniser process running, and asks it. Whatever goes wrong is an answer, never an error."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import structlog

from gateway.core.causes import EntityResult
from gateway.privacy.frames import BadFrame, RecognizeReply, RecognizeRequest, framed, next_reply
from gateway.privacy.settings import RecognizerSettings
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.entities")

MOST_TEXT_CHARACTERS = 256 * 1024
START_SECONDS = 120.0
# An answer that takes so many deadlines, and this long at least, will not come: the process hangs.
HANGING_DEADLINES = 20
HANGING_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0

# The recogniser sees prompts, but none of the gateway's keys.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "SYSTEMROOT")


class EntityStage:
    """Implements the EntityFinder port over a process that is started again whenever it ends."""

    def __init__(
        self,
        settings: RecognizerSettings,
        counted: Callable[[EntityResult], None],
        tasks: TaskRegistry | None = None,
    ) -> None:
        """`counted` is told each answer."""
        self.settings = settings
        self._counted = counted
        self._task = SupervisedTask("entities", self._keep_running, tasks or TaskRegistry())
        self._process: asyncio.subprocess.Process | None = None
        self._is_ready = False
        self._asked: dict[int, float] = {}
        self._waiting: dict[int, asyncio.Future[EntityResult]] = {}
        self._count = 0
        self._pause = FIRST_PAUSE_SECONDS

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def start(self) -> None:
        """Start the process; until it is ready every text counts as one that nobody could look at."""
        self._task.start()

    async def close(self) -> None:
        await self._task.close()

    async def find(self, text: str) -> EntityResult:
        """Whether `text` names someone or something that counts; within the deadline, whatever happens."""
        result = await self._find(text)
        self._counted(result)
        return result

    async def _find(self, text: str) -> EntityResult:
        process = self._process
        if not self._is_ready or process is None or process.stdin is None:
            return EntityResult.UNAVAILABLE
        if len(text) > MOST_TEXT_CHARACTERS:
            return EntityResult.TOO_LONG
        if len(self._asked) >= self.settings.queue:
            self._end_if_hanging()
            return EntityResult.BUSY
        if process.stdin.is_closing():
            return EntityResult.UNAVAILABLE  # it has just ended, and nobody has noticed yet
        self._count = number = self._count + 1
        answer: asyncio.Future[EntityResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._asked[number] = time.monotonic()
        process.stdin.write(framed(RecognizeRequest(number, text)))
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                return await answer
        except TimeoutError:
            self._end_if_hanging()
            return EntityResult.LATE
        finally:
            del self._waiting[number]

    def _end_if_hanging(self) -> None:
        longest = max(HANGING_SECONDS, HANGING_DEADLINES * self.settings.deadline_seconds)
        oldest = min(self._asked.values(), default=None)
        if oldest is not None and time.monotonic() - oldest > longest:
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # --- the process ---

    async def _keep_running(self) -> None:
        while True:
            reason = await self._run()
            _log.warning("entities.unavailable", reason=reason, again_in_seconds=self._pause)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> str:
        """From start to end of one process; says why it ended."""
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self.settings.arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                start_new_session=True,  # Ctrl-C is for the gateway, which then ends this one
            )
        except OSError as exc:
            return f"cannot be started: {exc.strerror}"
        try:
            return await self._listen(process)
        finally:
            self._kill()
            await asyncio.shield(process.wait())
            self._forget()

    async def _listen(self, process: asyncio.subprocess.Process) -> str:
        reader = process.stdout
        if reader is None:
            return "has no output"
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await next_reply(reader)
            if first is None or not first.ready:
                return (first and first.error) or "ended before it was ready"
            self._is_ready = True
            _log.info("entities.ready")
            while (reply := await next_reply(reader)) is not None:
                self._take(reply)
        except TimeoutError:
            return f"not ready after {START_SECONDS:.0f} s"
        except BadFrame as exc:
            return f"sent {exc}"
        return "ended"

    def _take(self, reply: RecognizeReply) -> None:
        if reply.id is None or self._asked.pop(reply.id, None) is None:
            raise BadFrame("an answer to nothing that was asked")
        self._pause = FIRST_PAUSE_SECONDS
        waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(EntityResult.FOUND if reply.found else EntityResult.CLEAR)

    def _forget(self) -> None:
        """Nobody will answer any more what is still open."""
        self._is_ready = False
        self._process = None
        self._asked.clear()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(EntityResult.UNAVAILABLE)
