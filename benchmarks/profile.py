"""Where Tollway's time goes under the proxy load: a py-spy flame graph if py-spy is there, else cProfile."""

from __future__ import annotations

import contextlib
import pstats
import shutil
import sys
from typing import TYPE_CHECKING

from benchmarks import wire
from benchmarks.nginx_servers import start_static_upstream
from benchmarks.processes import Child, running
from benchmarks.subjects import Room, Running, ready
from benchmarks.tollway_servers import launch
from benchmarks.unary import run_wrk

if TYPE_CHECKING:
    from pathlib import Path

CONNECTIONS = 32
TOP_LINES = 40


def profile_proxy(room: Room, *, seconds: int, out: Path) -> int:
    """Exit code. Writes below `out`. Raises Skipped when Tollway cannot start."""
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        upstream = start_static_upstream(room)
        stack.enter_context(running(upstream.child))
        py_spy = shutil.which("py-spy")
        if py_spy is None:
            _with_cprofile(room, upstream.port, seconds, out / "profile.pstats")
        else:
            _with_py_spy(py_spy, room, upstream.port, seconds, out / "profile.svg")
    return 0


def _load(room: Room, subject: Running, seconds: int) -> None:
    run_wrk(room, subject, wire.chat_request(), connections=CONNECTIONS, seconds=seconds)


def _with_py_spy(py_spy: str, room: Room, upstream_port: int, seconds: int, target: Path) -> None:
    with contextlib.ExitStack() as stack:
        subject = ready(launch(room, upstream_port))
        stack.enter_context(running(subject.child))
        command = [py_spy, "record", "--native", "--duration", str(seconds), "--output", str(target)]
        log = room.new_folder("py-spy") / "output.log"
        spy = Child([*command, "--pid", str(subject.child.pid)], core=room.cores.load, log=log)
        stack.enter_context(running(spy))
        _load(room, subject, seconds)
        if spy.wait(60) != 0:
            print(f"py-spy: {spy.last_words()}", file=sys.stderr)
            return
    print(f"Flame graph: {target}")


def _with_cprofile(room: Room, upstream_port: int, seconds: int, target: Path) -> None:
    """cProfile makes every call dearer: read the order of the lines, not their sum."""
    subject = ready(launch(room, upstream_port, prefix=("-m", "cProfile", "-o", str(target))))
    with running(subject.child):
        _load(room, subject, seconds)
    pstats.Stats(str(target)).sort_stats("tottime").print_stats(TOP_LINES)
    print(f"Profile: {target}")
