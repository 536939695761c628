"""The process of the ledger's writer, for as long as its owner lives, and until its workers have gone.

python -m gateway.assembly.writer_process OWNER LISTENING      descriptors of both sockets
"""

import asyncio
import functools
import os
import signal
import socket
import sys
from contextlib import suppress

from gateway.garbage import start_without_collecting

NICENESS = 5  # where it shares a core with those who answer requests, they come first


def main() -> None:
    """Run until the owner says to stop, or has gone."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group: it ends after its gateway's last frame.
    # Its owner has blocked them until here; what has come so far is dropped.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)
    owner, listening = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])

    start_without_collecting()
    # Only now, since they take long enough for a signal to come.
    from gateway.ledger.process.lifetime import run  # noqa: PLC0415
    from gateway.metrics.logs import configure_logs  # noqa: PLC0415

    asyncio.run(run(owner, listening, functools.partial(configure_logs, process="ledger-writer")))


if __name__ == "__main__":
    main()
