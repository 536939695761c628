"""Has large bodies read by a process of its own: the JSON library never gives up the interpreter's lock.

Rules:
- One body at a time, in the order in which they came. So many may wait, for so long, and no more.
- The process starts when the first body comes. When it ends, whoever waits for it is told to come again, and
  the next body starts another one; a process that takes too long is killed.
- Bytes pass over a socket that a thread blocks on: a system call copies them without the interpreter's lock.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from gateway.child_process import ShieldedProcess, exit_text
from gateway.core.call import Call
from gateway.core.errors import InvalidRequest, Unavailable
from gateway.dialects.table import ServerDialect
from gateway.proxy.large_bodies.messages import (
    AdaptQuestion,
    BodyQuestion,
    LargeBody,
    ReadingRules,
    Said,
    Told,
    decode_told,
    receive,
    send,
)
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.bodies")

MODULE = "gateway.assembly.body_process"
MOST_WAITING = 32
WAIT_SECONDS = 10.0
# For one body, and the start of a process before it. The largest body takes some seconds.
READ_SECONDS = 30.0
RETRY_SECONDS = 1.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
STEADY_SECONDS = 10.0  # one that ran for so long is started again at once


class ReaderDefect(Exception):
    """Reading failed by a defect of ours, which the log has described."""


class LargeBodyReader:
    """`start`, then `close`. The loop's thread only."""

    def __init__(self, tasks: TaskRegistry) -> None:
        self._task = SupervisedTask("large-bodies", self._keep_running, tasks, wait=self._is_wanted)
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._threads = ThreadPoolExecutor(1, "large-bodies")
        self._exchange: asyncio.Future[tuple[Told, bytes] | None] | None = None
        self._process: ShieldedProcess | None = None
        self._channel: socket.socket | None = None
        self._known: ReadingRules | None = None  # the rules that the process has
        self._pause = FIRST_PAUSE_SECONDS

    @property
    def pid(self) -> int | None:
        """The number of the process that runs."""
        return None if self._process is None or self._process.has_ended else self._process.pid

    def start(self) -> None:
        """Be ready to start a process."""
        self._task.start()

    async def close(self) -> None:
        await self._task.close()
        self._threads.shutdown(wait=False)

    async def read(
        self, raw: bytes | bytearray, question: BodyQuestion, rules: ReadingRules
    ) -> tuple[Call, LargeBody]:
        """The facts of `raw`, and what stands in its place until it is classified.

        Raises InvalidRequest, and Unavailable where nobody could read it in time.
        """
        told, rest = await self._asked(raw, question, rules)
        if told.refused is not None:
            refused = told.refused
            raise InvalidRequest(refused.message, param=refused.param, code=refused.code)
        facts = told.facts
        if facts is None:
            raise _defect(told)
        call = msgspec.structs.replace(facts.call, rest=rest, size=facts.size)

        def again(images: Mapping[str, str]) -> Awaitable[tuple[Call, LargeBody]]:
            return self.read(raw, msgspec.structs.replace(question, images=images), rules)

        return call, LargeBody(facts.classified, facts.text, facts.wanted, again)

    async def adapted(
        self, rest: bytes, members: frozenset[str], dialect: ServerDialect
    ) -> tuple[bytes, tuple[str, ...]]:
        """As `dialects.outgoing.adapted`. Raises Unavailable where nobody could do it in time."""
        told, found = await self._asked(rest, AdaptQuestion(members, dialect), None)
        if told.changed is None:
            raise _defect(told)
        return found, told.changed

    async def _asked(
        self, raw: bytes | bytearray, question: BodyQuestion | AdaptQuestion, rules: ReadingRules | None
    ) -> tuple[Told, bytes]:
        """In its turn. Raises Unavailable."""
        if self._waiting >= MOST_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turn.acquire()
        except TimeoutError as exc:
            raise _busy() from exc
        finally:
            self._waiting -= 1
        try:
            return await self._ask(raw, question, rules)
        finally:
            self._turn.release()

    async def _ask(
        self, raw: bytes | bytearray, question: BodyQuestion | AdaptQuestion, rules: ReadingRules | None
    ) -> tuple[Told, bytes]:
        if not self._ready.is_set():
            self._wanted.set()
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self._ready.wait()
                answer = await self._answer(raw, question, rules)
        except TimeoutError as exc:
            raise Unavailable(
                f"The request's body could not be read within {READ_SECONDS:g} s. Send a smaller one.",
                retry_after_seconds=READ_SECONDS,
            ) from exc
        if answer is None:
            raise Unavailable(
                "The process that reads large bodies has ended. Retry shortly.",
                retry_after_seconds=RETRY_SECONDS,
            )
        return answer

    async def _answer(
        self, raw: bytes | bytearray, question: BodyQuestion | AdaptQuestion, rules: ReadingRules | None
    ) -> tuple[Told, bytes] | None:
        """What the process tells, None when it has ended. Whoever gives up on it ends it."""
        channel, process = self._channel, self._process
        if channel is None or process is None:
            return None
        said = Said(question, None if self._known is rules else rules)
        loop = asyncio.get_running_loop()
        self._exchange = exchange = loop.run_in_executor(self._threads, _exchanged, channel, said, raw)
        answer = None
        try:
            answer = await asyncio.shield(exchange)
        finally:
            if answer is None:
                # It has ended, or may be anywhere within a message that the thread waits for.
                process.kill()
                self._ready.clear()
        if rules is not None:
            self._known = rules
        return answer

    # --- the process ---

    async def _is_wanted(self) -> None:
        await self._wanted.wait()

    async def _keep_running(self) -> None:
        began = time.monotonic()
        how = await self._run()
        if time.monotonic() - began > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        _log.warning("bodies.reader_ended", how=how, again_in_seconds=self._pause)
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> str:
        """From start to end of one process; says how it ended."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    process = ShieldedProcess(MODULE, [theirs.fileno()], lambda _name: False)
            except OSError as exc:
                return f"cannot be started: {exc.strerror}"
            self._process, self._channel, self._known = process, ours, None
            self._wanted.clear()
            self._ready.set()
            try:
                return exit_text(await process.wait())
            finally:
                self._ready.clear()
                self._process = self._channel = None
                process.kill()
                await process.wait()
                if self._exchange is not None:  # which now finds the other end gone
                    await asyncio.wait({self._exchange})


def _exchanged(channel: socket.socket, said: Said, raw: bytes | bytearray) -> tuple[Told, bytes] | None:
    """In a thread: ask and wait. None when the process has ended, or tells what is no message."""
    try:
        send(channel, said, raw)
        found = receive(channel)
        return None if found is None else (decode_told(found[0]), found[1])
    except (OSError, msgspec.DecodeError):
        return None


def _busy() -> Unavailable:
    return Unavailable(
        "Too many large bodies wait to be read. Retry shortly, or send smaller ones.",
        retry_after_seconds=RETRY_SECONDS,
    )


def _defect(told: Told) -> ReaderDefect:
    if told.defect is None:
        return ReaderDefect("an answer without content")
    _log.error("bodies.reader_defect", kind=told.defect.kind, frames=told.defect.frames)
    return ReaderDefect(told.defect.kind)
