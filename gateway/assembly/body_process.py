"""The process that reads large bodies, for as long as its gateway lives.

python -m gateway.assembly.body_process CHANNEL      the descriptor of its end of a socket
"""

import signal
import socket
import sys

from gateway.garbage import start_without_collecting


def main() -> None:
    """Read what comes until the gateway hangs up."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group: it ends when its gateway does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # For good: what is read of JSON has no circles, and looking for some takes longer than reading it.
    start_without_collecting()
    # Only now, since they take long enough for a signal to come.
    from gateway.assembly.body_serving import serve  # noqa: PLC0415

    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)


if __name__ == "__main__":
    main()
