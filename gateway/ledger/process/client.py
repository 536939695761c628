"""A worker's end of the connection to the ledger's writer, made anew when the writer was started anew."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.process.messages import (
    Attach,
    Detach,
    FromWriter,
    Pause,
    Resume,
    WriterCondition,
    WriterReply,
    WriterRequest,
)
from gateway.message_channel import MessageChannel
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

RETRY_SECONDS = 0.1
# A writer that is started again takes a second. What takes longer is worth a word in `readyz`.
DOWN_SECONDS = 5.0
CLOSED = "ledger: the gateway has stopped; what is not committed stays in the journal"
DOWN = "ledger: its writer does not answer; what is not committed waits in the journal"


class WriterClient:
    """`start`, then `close`. What a writer was told is told again to the next one.

    All methods are called on the event loop's thread.
    """

    def __init__(
        self, address: Callable[[], Path], on_commit: Callable[[], None], tasks: TaskRegistry
    ) -> None:
        """`address` is that of its socket.

        `on_commit` is called when more was committed, and when its disk is full.
        """
        self.committed = 0
        self.degraded: tuple[str, ...] = ()  # what fails in the writer and keeps no row from the ledger
        self.is_disk_full = False  # nothing is committed, since the database's disk is full
        self._address = address
        self._on_commit = on_commit
        self._channel: MessageChannel[FromWriter] | None = None
        self._worker: str | None = None
        self._paused_at: int | None = None
        self._problem: str | None = None
        self._down_since: float | None = time.monotonic()
        self._last_number = 0
        self._asked: dict[int, tuple[WriterRequest, asyncio.Future[WriterReply]]] = {}
        self._is_closed = False
        self._task = SupervisedTask("ledger-channel", self._keep_connected, tasks, is_essential=True)

    def start(self) -> None:
        """Connect, as soon as there is a writer, and whenever there is another one."""
        self._task.start()

    def problem(self) -> str | None:
        """Why nothing is committed, None while it is."""
        if self._down_since is not None and time.monotonic() - self._down_since > DOWN_SECONDS:
            return DOWN
        return self._problem

    def attach(self, worker: str) -> None:
        """The journal of this name is this worker's, and nothing in it is committed."""
        self.committed = 0
        self._worker = worker
        self._send(Attach(worker))

    def detach(self, *, is_empty: bool) -> None:
        """Nothing will be appended any more. `is_empty`: the journal was committed and is removed."""
        self._worker = None
        self._send(Detach(is_empty))

    def pause(self, after: int) -> None:
        """Have nothing committed beyond the number `after`."""
        self._paused_at = after
        self._send(Pause(after))

    def resume(self) -> None:
        self._paused_at = None
        self._send(Resume())

    async def ask(self, what: Literal["open", "replay", "flush"], until: int = 0) -> None:
        """Return when it is done, by this writer or the next one.

        Raises LedgerUnusable when waiting will not help, LedgerUnavailable when it cannot be done now.
        """
        if self._is_closed:
            raise LedgerUnavailable(CLOSED)
        self._last_number += 1
        request = WriterRequest(self._last_number, what, until)
        answered: asyncio.Future[WriterReply] = asyncio.get_running_loop().create_future()
        self._asked[request.number] = request, answered
        self._send(request)
        try:
            reply = await answered
        finally:
            del self._asked[request.number]
        if reply.problem is not None:
            raise (LedgerUnusable if reply.is_final else LedgerUnavailable)(reply.problem)

    async def close(self) -> None:
        """Hang up. Whoever waits for an answer hears that none will come."""
        self._is_closed = True
        await self._task.close()
        await self._hang_up()
        for request, answered in self._asked.values():
            if not answered.done():
                answered.set_result(WriterReply(request.number, CLOSED, False))

    # --- the connection ---

    async def _keep_connected(self) -> None:
        """From one connection to the next."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._address()))
        except OSError:
            await asyncio.sleep(RETRY_SECONDS)
            return
        channel = self._channel = MessageChannel(reader, writer, msgspec.msgpack.Decoder(FromWriter))
        self._introduce()
        try:
            while (message := await channel.receive()) is not None:
                self._take(message)
        finally:
            await self._hang_up()
        await asyncio.sleep(RETRY_SECONDS)

    def _introduce(self) -> None:
        """Tell the writer what the one before it knew."""
        if self._worker is not None:
            self._send(Attach(self._worker))
        if self._paused_at is not None:
            self._send(Pause(self._paused_at))
        for request, _ in self._asked.values():
            self._send(request)

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            if self._down_since is None:
                self._down_since = time.monotonic()
            await channel.close()

    def _take(self, message: FromWriter) -> None:
        self._down_since = None
        match message:
            case WriterCondition(committed, problem, degraded, is_disk_full):
                self._problem = problem
                self.degraded = degraded
                self.is_disk_full = is_disk_full
                if committed > self.committed or is_disk_full:
                    self.committed = committed
                    self._on_commit()
            case WriterReply(number):
                _, answered = self._asked.get(number, (None, None))
                if answered is not None and not answered.done():
                    answered.set_result(message)

    def _send(self, message: Attach | Detach | Pause | Resume | WriterRequest) -> None:
        if self._channel is not None:
            self._channel.send(message)
