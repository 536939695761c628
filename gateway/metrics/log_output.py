"""Where log lines go: into a bounded queue, from which a thread writes them to a file descriptor.

So a reader that is slow, or has stopped, holds up neither the event loop nor a request. What finds no room
is lost and counted. Lines of processes that share a pipe do not mix: each write is short enough to be whole.
"""

import os
import select
import stat
import threading
from collections import deque

import structlog

_log = structlog.get_logger("tollway.logs")

MOST_BYTES = 4 * 1024 * 1024  # some thousand requests
LINGER_SECONDS = 0.1  # lines that nobody waits for are written together
CLOSE_SECONDS = 1.0
FILE_BYTES = 64 * 1024


class LogOutput:
    """A text file for structlog, and `put` for whole lines that may linger. `lost` counts lines.

    Methods may be called on any thread, and never block.
    """

    def __init__(self, descriptor: int, most_bytes: int = MOST_BYTES) -> None:
        """Its thread starts with the first line, and lives until `close`."""
        self.lost = 0
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        # Longer writes to a pipe may be taken apart, and those of another process come between.
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._write_bytes = FILE_BYTES if is_file else select.PIPE_BUF
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of the lines, and of those that are being written
        self._told_lost = 0
        self._is_urgent = self._is_closing = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Take a line, which ends in a newline, to be written within LINGER_SECONDS."""
        with self._lock:
            if self._bytes + len(line) > self._most_bytes or self._is_closing:
                self.lost += 1
                return
            is_first = not self._lines
            self._lines.append(line)
            self._bytes += len(line)
            if is_first:
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
                self._thread.start()

    def write(self, text: str) -> None:
        """As `put`; `flush` follows."""
        self.put(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Have what was put written at once, without waiting for it."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify()

    def close(self) -> None:
        """Write what is left, within CLOSE_SECONDS, and take no more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    # --- its thread ---

    def _run(self) -> None:
        while (lines := self._next()) is not None:
            try:
                _write_all(self._descriptor, b"".join(lines))
            except OSError:  # nobody reads any more
                with self._changed:
                    self.lost += len(lines)
            with self._changed:
                self._bytes -= sum(map(len, lines))
            self._tell_lost()

    def _next(self) -> list[bytes] | None:
        """The lines of the next write. None once it is closed, and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_closing)
            self._changed.wait_for(lambda: self._is_urgent or self._is_closing, LINGER_SECONDS)
            if not self._lines:
                return None
            lines = [self._lines.popleft()]
            size = len(lines[0])
            while self._lines and size + len(self._lines[0]) <= self._write_bytes:
                size += len(self._lines[0])
                lines.append(self._lines.popleft())
            # The rest has lingered as well.
            self._is_urgent = bool(self._lines)
            return lines

    def _tell_lost(self) -> None:
        """One line for all that were lost while there was no room, once there is."""
        lost = self.lost
        if lost > self._told_lost and self._bytes < self._most_bytes // 2:
            _log.error("log.lines_lost", lines=lost - self._told_lost)
            self._told_lost = lost


def _write_all(descriptor: int, data: bytes) -> None:
    """Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
