"""The process of a worker.

python -m gateway.workers.worker_process FD      FD is the worker's end of the control channel
"""

import socket
import sys

from gateway.garbage import start_without_collecting


def main() -> None:
    """Run until the supervisor says to stop, or has gone."""
    own = socket.socket(fileno=int(sys.argv[1]))
    start_without_collecting()
    # Only now, since loading it is most of a start.
    from gateway.workers.worker import work  # noqa: PLC0415

    sys.exit(work(own))


if __name__ == "__main__":
    main()
