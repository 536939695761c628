"""Keeps the process of the ledger's writer running, for one gateway or for all workers of a supervisor."""

import asyncio
import shutil
import socket
import tempfile
import time
from pathlib import Path

import msgspec
import structlog

from gateway.child_process import ShieldedProcess, exit_text
from gateway.ledger.errors import LedgerUnusable
from gateway.ledger.process.messages import Stop, WriterSettings
from gateway.ledger.process.telemetry import WriterCounts, WriterTelemetry
from gateway.message_channel import MessageChannel
from gateway.private_files import FILE_MODE
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

MODULE = "gateway.assembly.writer_process"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
STEADY_SECONDS = 10.0  # one that ran for so long is started again at once
END_SECONDS = 15.0  # for what it has read, and a database that does not answer
_OF_DRIVERS = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
BACKLOG = 64  # workers that wait for the next process


class WriterOwner:
    """`start`, then `close`. One process at a time; workers find it at `path`, whichever it is."""

    def __init__(self, settings: WriterSettings, tasks: TaskRegistry) -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._listening: socket.socket | None = None
        self._process: ShieldedProcess | None = None
        self._channel: MessageChannel[WriterTelemetry] | None = None
        self.counts = WriterCounts()
        self._pause = FIRST_PAUSE_SECONDS
        self._stopping = False
        self.restarts = 0
        self._task = SupervisedTask("ledger-writer-process", self._keep_running, tasks)

    @property
    def path(self) -> Path:
        """Of the Unix socket on which it takes connections. One that waits there outlives a process."""
        if self._folder is None:
            raise RuntimeError("the ledger's writer was not started")
        return self._folder / "writer.sock"

    @property
    def is_up(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and not self._process.has_ended

    @property
    def pid(self) -> int | None:
        """The number of the process that runs."""
        return self._process.pid if self._process is not None and self.is_up else None

    async def start(self) -> None:
        """Begin to run it. Raises LedgerUnusable when there is no place for its socket."""
        if self._folder is not None:
            return
        try:
            # A short path: that of a Unix socket has 107 characters at most.
            self._folder = Path(tempfile.mkdtemp(prefix="tollway-writer-"))
            self._listening = listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(self.path))
            self.path.chmod(FILE_MODE)
            listening.listen(BACKLOG)
        except OSError as exc:
            raise LedgerUnusable(
                f"ledger: its writer needs a folder for temporary files: {exc.strerror or exc}"
            ) from exc
        self._task.start()

    async def close(self) -> None:
        """Have it commit what it has read, and return when it has ended, within END_SECONDS."""
        self._stopping = True
        process, channel = self._process, self._channel
        try:
            if process is not None and channel is not None:
                channel.send(Stop())
                await channel.close()
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
        except TimeoutError:
            _log.error("ledger.writer_killed", pid=None if process is None else process.pid)
        finally:
            await self._task.close()
            self._clean_up()

    async def _keep_running(self) -> None:
        began = time.monotonic()
        how = await self._run()
        if self._stopping:
            await asyncio.Event().wait()  # only a close ends a loop
        if time.monotonic() - began > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self.restarts += 1
        _log.error("ledger.writer_died", how=how, again_in_seconds=self._pause)
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> str:
        """From start to end of one process; says how it ended."""
        ours, theirs = socket.socketpair()
        try:
            process = self._spawn(theirs)
        except OSError as exc:
            ours.close()
            return f"cannot be started: {exc.strerror}"
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._process = process
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            channel = MessageChannel(reader, writer, msgspec.msgpack.Decoder(WriterTelemetry))
            self._channel = channel
            channel.send(self._settings)
            while (told := await channel.receive()) is not None:
                self.counts.take(told)
            return exit_text(await process.wait())
        finally:
            # Killing it loses nothing: what it has not committed is in the journals.
            process.kill()
            await process.wait()
            self.counts.end()
            if self._channel is not None:
                await self._channel.close()
                self._channel = None

    def _spawn(self, theirs: socket.socket) -> ShieldedProcess:
        listening = self._listening
        if listening is None:
            raise OSError(0, "there is no socket for it")
        return ShieldedProcess(MODULE, [theirs.fileno(), listening.fileno()], _is_of_driver)

    def _clean_up(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _is_of_driver(name: str) -> bool:
    """Whether the database's driver may need this variable."""
    return name in _OF_DRIVERS or name.startswith("PG")
