"""Processes of our own code, without our keys, which no SIGTERM ends before they have run a line."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# They reach a whole group, as Ctrl-C and a service manager's stop do.
GROUP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
# What Python and its libraries may need, and none of the keys that the gateway has in its environment.
_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "TMPDIR"})


def exit_text(code: int) -> str:
    """How a process ended, by its exit code or the negative number of a signal."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


class ShieldedProcess:
    """A child that begins with GROUP_SIGNALS blocked: it ignores them as soon as it can.

    Started here and not by the event loop: uvloop gives each child the usual mask and handlers again.
    """

    def __init__(self, module: str, descriptors: Sequence[int], passed_on: Callable[[str], bool]) -> None:
        """Start `module` with these open descriptors, whose numbers are its arguments. Raises OSError.

        Of the environment it gets the variables whose names `passed_on` holds for.
        """
        # -P, and the same places for modules: it runs the code of this process.
        command = [sys.executable, "-P", "-m", module, *map(str, descriptors)]
        environ = {name: value for name, value in os.environ.items() if name in _PASSED_ON or passed_on(name)}
        environ["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
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
        threading.Thread(target=self._watch, name=f"end of {module}", daemon=True).start()

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
