"""Starting a process that no SIGTERM ends before it has run its first line."""

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

# They reach a whole group, as Ctrl-C and a service manager's stop do.
GROUP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class ShieldedProcess:
    """A child that begins with GROUP_SIGNALS blocked: it ignores them as soon as it can.

    Started here and not by the event loop: uvloop gives each child the usual mask and handlers again.
    """

    def __init__(
        self, command: Sequence[str], descriptors: Sequence[int], environ: Mapping[str, str]
    ) -> None:
        """Start it, with these open descriptors. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        # A child has the mask of the thread that starts it. What comes meanwhile is delivered afterwards.
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=environ
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        threading.Thread(target=self._watch, name="ledger-writer-end", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._code.done()

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        return await asyncio.shield(self._code)

    def kill(self) -> None:
        """SIGKILL. Does nothing once it has ended."""
        self._process.kill()

    def _watch(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the event loop has ended before it
            self._loop.call_soon_threadsafe(self._code.set_result, code)
