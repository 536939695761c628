"""The ledger's writer as a service: workers say where their journals are, and it commits what stands there.

Everything runs on one event loop, but for the database's own thread.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from gateway import __version__
from gateway.ledger.audit.keys import signer_from
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable, file_failure
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.process.dead_workers import DeadWorkers
from gateway.ledger.process.messages import (
    Attach,
    Detach,
    Pause,
    Resume,
    ToWriter,
    WriterCondition,
    WriterReply,
    WriterRequest,
    WriterSettings,
)
from gateway.ledger.process.source import JournalSource
from gateway.ledger.process.telemetry import WriterTelemetry
from gateway.ledger.spill import Spill
from gateway.ledger.url import database_of
from gateway.ledger.writer import JournalPosition, LedgerWriter
from gateway.message_channel import MessageChannel
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

PEERS_SECONDS = 5.0  # between two looks for journals of workers that died


class WriterService:
    """`listen`, then `close`. Raises LedgerUnavailable when made for a URL where no ledger can be."""

    def __init__(self, settings: WriterSettings, *, peers_seconds: float = PEERS_SECONDS) -> None:
        database = database_of(settings.url)
        trail = None
        if settings.signing_seed is not None:
            trail = AuditTrail(signer_from(settings.signing_seed), time.time, version=__version__)
        self.store = database.row_store(trail, sync_each_commit=settings.sync_each_commit)
        spill_folder = settings.spill_folder or database.paths.spill_folder
        self.tasks = tasks = TaskRegistry()
        self.writer = LedgerWriter(
            self.store,
            Spill(Path(spill_folder), database.paths.name),
            settings.limits,
            tasks,
            fill=self._fill,
            committed=self._report,
        )
        self._folder = JournalFolder(Path(settings.journal_folder), settings.journal_name)
        self._positions: dict[str, JournalPosition] = {}
        self._dead = DeadWorkers(
            self._folder,
            self.store,
            self.writer,
            position_of=self._position_of,
            forget=self.forget,
            changed=self._report,
        )
        self._clients: set[_Client] = set()
        self._left = asyncio.Event()  # nobody is connected
        self._left.set()
        self._is_due = asyncio.Event()
        self._peers_seconds = peers_seconds
        self._damaged = 0
        self._peers = SupervisedTask("journal-peers", self._watch_peers, tasks, wait=self._until_due)
        self._server: asyncio.Server | None = None

    async def listen(self, listening: socket.socket) -> None:
        """Serve those who connect, from now on."""
        self.writer.begin()
        self._peers.start()
        self._server = await asyncio.start_unix_server(self._serve, sock=listening)

    async def left(self) -> None:
        """Return once nobody is connected."""
        await self._left.wait()

    async def replay_dead_workers(self) -> None:
        """Bring in what dead workers left. Raises LedgerUnavailable and OSError."""
        await self._dead.wait_and_replay(lambda: True)

    async def close(self) -> None:
        """Commit what was read, within the limits, and stop."""
        if self._server is not None:
            self._server.close()
        await self._peers.close()
        for client in list(self._clients):
            await client.close()
        await self.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client to its end. This is a task of its own."""
        channel = MessageChannel(reader, writer, msgspec.msgpack.Decoder(ToWriter))
        client = _Client(self, channel)
        self._clients.add(client)
        self._left.clear()
        try:
            await client.run()
        except Exception:  # the task's end: the client connects anew
            _log.exception("ledger.writer_client_failed")
        finally:
            self._clients.discard(client)
            await client.close()
            if client.was_cut_off:
                self._is_due.set()  # it may have died
            if not self._clients:
                self._left.set()

    # --- what clients ask for ---

    def source(self, worker: str) -> JournalSource:
        """The journal of `worker`, to be read from now on."""
        return JournalSource(self._folder.path, self._position_of(worker))

    async def answer(self, request: WriterRequest, source: JournalSource | None) -> WriterReply:
        """Do what a client asks for."""
        try:
            match request.what:
                case "open":
                    await self.writer.start()
                    self._folder.prepare()
                    await self._dead.wait_and_replay(_may_commit(source))
                case "replay":
                    await self._dead.wait_and_replay(_may_commit(source))
                case "flush":
                    await self._flush(source, request.until)
        except LedgerUnavailable as exc:
            return _refusal(request, exc)
        except OSError as exc:
            return _refusal(request, file_failure(f"journal {self._folder.path}", self._folder.path, exc))
        return WriterReply(request.number, None, False)

    async def forget(self, worker: str) -> None:
        """Its journal is gone."""
        self._positions.pop(worker, None)
        try:
            await self.store.forget(worker)
        except LedgerUnavailable:
            return  # a number that nobody asks for again

    async def _flush(self, source: JournalSource | None, until: int) -> None:
        await self.writer.flush()
        if source is not None:
            await self.writer.advance(lambda: source.has_committed(until))

    def telemetry(self) -> WriterTelemetry:
        """What was counted so far."""
        tasks, commits = self.tasks, self.writer.commits
        return WriterTelemetry(tasks.up(), dict(tasks.failures), tuple(commits.counts), commits.total)

    # --- what is committed ---

    async def _fill(self, room: int) -> None:
        sources = [client.source for client in self._clients if client.source is not None]
        for source in sources:
            if source.may_begin:
                committed = await self.store.committed(source.position.worker)
                if source.may_begin:  # its worker may have gone meanwhile
                    source.begin(committed)
            self.writer.put(source.read(max(room // len(sources), 1)), source.position)

    def _position_of(self, worker: str) -> JournalPosition:
        return self._positions.setdefault(worker, JournalPosition(worker))

    def _report(self) -> None:
        for client in self._clients:
            client.report()

    def condition(self, source: JournalSource | None) -> WriterCondition:
        """What a worker is told of its journal."""
        committed = 0 if source is None else source.position.committed
        problem = self.writer.problem() or self._dead.problem()
        degraded = tuple(self.tasks.problems(essential=False))
        if self._damaged:
            kept = f"journal {self._folder.path}: {self._damaged} damaged files are kept as *.damaged"
            degraded += (f"{kept}; move them away once somebody has read them",)
        return WriterCondition(committed, problem, degraded, self.writer.is_disk_full())

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(self._peers_seconds):
                await self._is_due.wait()
        except TimeoutError:
            pass
        self._is_due.clear()

    async def _watch_peers(self) -> None:
        await self._count_damaged()
        if self._is_anyone_paused():
            return  # the rows would wait, and with them whoever wants to replay
        try:
            await self._dead.replay(lambda: not self._is_anyone_paused())
        except FileNotFoundError:
            return  # nobody has made the folder yet
        except (OSError, LedgerUnavailable) as exc:
            _log.error("journal.replay_failed", problem=str(exc))

    async def _count_damaged(self) -> None:
        before = self._damaged
        with suppress(OSError):  # nobody has made the folder yet
            self._damaged = await asyncio.to_thread(self._folder.damaged)
        if self._damaged != before:
            self._report()

    def _is_anyone_paused(self) -> bool:
        sources = (client.source for client in self._clients)
        return any(source is not None and source.paused_at is not None for source in sources)


class _Client:
    """One worker that is connected. `was_cut_off`: it has gone without a word."""

    def __init__(self, service: WriterService, channel: MessageChannel[ToWriter]) -> None:
        self.source: JournalSource | None = None
        self._service = service
        self._channel = channel
        self._reported: WriterCondition | None = None
        self._answers: set[asyncio.Task[None]] = set()

    @property
    def was_cut_off(self) -> bool:
        return self.source is not None

    async def run(self) -> None:
        """Take messages until it goes."""
        while (message := await self._channel.receive()) is not None:
            await self._take(message)

    def report(self) -> None:
        """Tell how far its journal is, if that is new."""
        condition = self._service.condition(self.source)
        if condition != self._reported:
            self._reported = condition
            self._channel.send(condition)

    async def close(self) -> None:
        for answer in list(self._answers):
            answer.cancel()
        if self._answers:
            await asyncio.wait(self._answers)
        if self.source is not None:
            self.source.close()
        await self._channel.close()

    async def _take(self, message: ToWriter) -> None:
        match message:
            case Attach(worker):
                self.source = self._service.source(worker)
            case Detach(is_empty):
                source, self.source = self.source, None
                if source is not None:
                    source.close()
                    if is_empty:
                        await self._service.forget(source.position.worker)
            case Pause(after):
                if self.source is not None:
                    self.source.paused_at = after
            case Resume():
                if self.source is not None:
                    self.source.paused_at = None
            case WriterRequest():
                answer = asyncio.create_task(self._answer(message), name=f"ledger {message.what}")
                self._answers.add(answer)
                answer.add_done_callback(self._answers.discard)

    async def _answer(self, request: WriterRequest) -> None:
        try:
            reply = await self._service.answer(request, self.source)
        except Exception as exc:  # the task's end: who asked must hear of it
            _log.exception("ledger.writer_request_failed", what=request.what)
            reply = WriterReply(request.number, f"ledger: the writer fails ({type(exc).__name__})", False)
        self.report()  # a flush is heard of after what it has committed
        self._channel.send(reply)


def _refusal(request: WriterRequest, failure: LedgerUnavailable) -> WriterReply:
    return WriterReply(request.number, str(failure), isinstance(failure, LedgerUnusable))


def _may_commit(source: JournalSource | None) -> Callable[[], bool]:
    return lambda: source is None or source.paused_at is None
