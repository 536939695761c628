"""Instructions that one request costs, counted by callgrind: the same number whatever else the machine does.

    python -m benchmarks.instructions              # a chat request of 700 bytes, everything on
    python -m benchmarks.instructions --details    # the same, usage with cached and reasoning tokens
    python -m benchmarks.instructions --stream     # a stream of 100 chunks
    python -m benchmarks.instructions --continuous-usage    # the same, each chunk with its usage
    python -m benchmarks.instructions --access-log all      # a line of the access log for each request

A whole gateway runs in one process. Its sockets are replaced by transports in memory, so what the kernel does
is left out, and so is the timing of a network. Counts repeat within half a percent. Needs valgrind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks import wire

ROOT = Path(__file__).resolve().parent.parent
WARM_REQUESTS = 200
COUNTED_REQUESTS = 320
LIMIT_SECONDS = 900
ACCESS_LOGS = ("errors", "off", "all")  # the default first

_TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_THREAD = re.compile(r"^thread: (\d+)", re.MULTILINE)


class Counted(msgspec.Struct, frozen=True):
    """Instructions a request: of the thread that serves requests, and of all threads together."""

    request_thread: int
    all_threads: int


class CannotCount(Exception):
    """Why nothing was counted, in one line."""


def count(
    *,
    stream: bool = False,
    continuous_usage: bool = False,
    details: bool = False,
    access_log: str = ACCESS_LOGS[0],
    requests: int = COUNTED_REQUESTS,
    python: str = sys.executable,
) -> Counted:
    """Run the counted load in a process of its own. Raises CannotCount."""
    if shutil.which("valgrind") is None:
        raise CannotCount("valgrind is not installed (Debian's package valgrind)")
    with tempfile.TemporaryDirectory(prefix="tollway-instructions-") as name:
        folder = Path(name)
        command = [
            *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"),
            *(f"--callgrind-out-file={folder}/callgrind.out", python, "-m", "benchmarks.instructions_load"),
            *("--warm", str(WARM_REQUESTS), "--counted", str(requests), "--folder", name),
            *("--access-log", access_log),
            *(("--stream",) if stream else ()),
            *(("--continuous-usage",) if continuous_usage else ()),
            *(("--details",) if details else ()),
        ]
        # A fixed seed: the order of sets and dictionaries, and with it the count, is the same each time.
        environment = {**os.environ, **_environment(folder), "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        if done.returncode != 0:
            raise CannotCount(f"the counted process failed: {done.stderr.strip()[-2000:]}")
        return _read(folder, requests)


def _environment(folder: Path) -> dict[str, str]:
    return {
        "BENCH_DATA_PORT": "0",
        "BENCH_ADMIN_PORT": "0",
        "BENCH_ADMIN_TOKEN": "bench-admin-token-9d1f",
        "BENCH_UPSTREAM_PORT": "19999",
        "BENCH_FOLDER": str(folder),
        "BENCH_KEY": wire.KEY,
        "BENCH_STATE": "memory",
        "BENCH_ADMISSION": "exact",
    }


def _read(folder: Path, requests: int) -> Counted:
    by_thread: defaultdict[int, int] = defaultdict(int)
    for file in folder.glob("callgrind.out*"):
        text = file.read_text(errors="replace")
        thread = _THREAD.search(text)
        totals = [int(found) for found in _TOTAL.findall(text)]
        by_thread[int(thread[1]) if thread else 1] += max(totals, default=0)
    if not by_thread[1]:
        raise CannotCount("callgrind counted nothing: its counting was not switched on")
    return Counted(by_thread[1] // requests, sum(by_thread.values()) // requests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stream", action="store_true", help="a stream of 100 chunks instead of one answer")
    parser.add_argument(
        "--continuous-usage", action="store_true", help="a stream of 100 chunks, each with its usage"
    )
    parser.add_argument(
        "--details", action="store_true", help="one answer whose usage tells cached and reasoning tokens"
    )
    parser.add_argument("--access-log", choices=ACCESS_LOGS, default=ACCESS_LOGS[0], help="server.access_log")
    parser.add_argument("--requests", type=int, default=COUNTED_REQUESTS, help="how many are counted")
    parser.add_argument("--most", type=int, help="exit 1 if the request thread needs more than this")
    options = parser.parse_args()
    if options.details and (options.stream or options.continuous_usage):
        parser.error("--details is of an answer in one piece: leave out --stream and --continuous-usage")
    try:
        found = count(
            stream=options.stream or options.continuous_usage,
            continuous_usage=options.continuous_usage,
            details=options.details,
            access_log=options.access_log,
            requests=options.requests,
        )
    except CannotCount as exc:
        print(f"instructions: {exc}", file=sys.stderr)
        return 2
    print(
        f"request thread {found.request_thread:,}  all threads {found.all_threads:,}  instructions a request"
    )
    return 1 if options.most is not None and found.request_thread > options.most else 0


if __name__ == "__main__":
    sys.exit(main())
