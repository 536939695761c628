"""Asking a process whether it serves yet, over plain sockets."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from benchmarks.processes import Skipped

if TYPE_CHECKING:
    from benchmarks.processes import Child


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def http_status(port: int, request: bytes, timeout_seconds: float = 2.0) -> int | None:
    """Status of one HTTP/1.1 exchange with 127.0.0.1, or None when there was no answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
            connection.sendall(request)
            head = connection.recv(64)
    except OSError:
        return None
    words = head.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def wait_for_200(
    child: Child, port: int, request: bytes, *, timeout_seconds: float, poll_seconds: float
) -> float:
    """Seconds until `request` is answered with 200. Raises Skipped when the child exits or time is up."""
    started = time.monotonic()
    status = None
    while time.monotonic() - started < timeout_seconds:
        status = http_status(port, request)
        if status == 200:
            return time.monotonic() - started
        if child.exit_code() is not None:
            raise Skipped(f"exited with {child.exit_code()}: {child.last_words()}")
        time.sleep(poll_seconds)
    raise Skipped(f"not ready after {timeout_seconds:.0f} s (last status {status}): {child.last_words()}")
