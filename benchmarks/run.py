"""The benchmarks of the data plane: `python -m benchmarks.run`. What they mean: benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks import peers
from benchmarks.environment import observe
from benchmarks.processes import Skipped, choose_cores
from benchmarks.profile import profile_proxy
from benchmarks.proxy import run_proxy
from benchmarks.report import Parameters, Report, as_markdown, print_tables, targets, write_json
from benchmarks.start import run_start
from benchmarks.streams import run_streams
from benchmarks.subjects import STARTERS, Room

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("proxy", "stream", "start")
OUT = peers.ROOT / "benchmarks" / "out"
MOST_STREAM_ROUNDS = 3  # a round of streams takes half a minute
START_ROUNDS = 5


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of one proxy run")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (streams: at most 3)")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="one part; may be given more than once"
    )
    parser.add_argument("--subjects", default=",".join(STARTERS), help="comma-separated; default: all")
    parser.add_argument(
        "--json", type=Path, default=OUT / "latest.json", help="where to write every raw round"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of terminal tables")
    parser.add_argument("--check", action="store_true", help="exit 1 unless every promise measured holds")
    parser.add_argument("--profile", action="store_true", help="profile Tollway under the proxy load instead")
    chosen = parser.parse_args(given)
    chosen.subjects = [name for name in STARTERS if name in chosen.subjects.split(",")]
    if chosen.seconds < 1 or chosen.rounds < 1 or not chosen.subjects:
        parser.error(f"--seconds and --rounds start at 1, --subjects are of {', '.join(STARTERS)}")
    return chosen


def _say(what: str) -> None:
    """Progress, on standard error: standard output is the report."""
    print(f"\r\033[K{what}" if sys.stderr.isatty() else what, end="", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        print(file=sys.stderr)


def measure(room: Room, chosen: argparse.Namespace) -> Report:
    """Every part asked for. Raises Skipped when a tool of the benchmark itself is missing."""
    parts = chosen.only or list(PARTS)
    environment = observe(room.cores)
    started = time.monotonic()
    proxy = stream = start = None
    if "proxy" in parts:
        proxy = run_proxy(room, names=chosen.subjects, rounds=chosen.rounds, seconds=chosen.seconds, say=_say)
    if "stream" in parts:
        rounds = min(chosen.rounds, MOST_STREAM_ROUNDS)
        stream = run_streams(room, names=chosen.subjects, rounds=rounds, say=_say)
    if "start" in parts and "tollway" in chosen.subjects:
        start = run_start(room, rounds=min(chosen.rounds, START_ROUNDS), say=_say)
    return Report(
        environment=environment,
        parameters=Parameters(chosen.seconds, chosen.rounds, list(parts)),
        proxy=proxy,
        stream=stream,
        start=start,
        took_seconds=round(time.monotonic() - started, 1),
    )


def _show(report: Report, chosen: argparse.Namespace) -> int:
    """Exit code: 1 under --check when a promise is missed or was not measured."""
    _say("")
    write_json(report, chosen.json)
    if chosen.markdown:
        print(as_markdown(report))
    else:
        print_tables(report)
    print(f"Every round: {chosen.json}", file=sys.stderr)
    return int(chosen.check and not all(target.holds for target in targets(report)))


def _stop_on_sigterm() -> None:
    """SIGTERM unwinds like Ctrl-C, so every child is stopped."""

    def leave(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


def main(given: Sequence[str] | None = None) -> int:
    chosen = _arguments(given)
    if not sys.platform.startswith("linux"):
        print("The benchmarks read /proc and pin processes: they run on Linux only.", file=sys.stderr)
        return 2
    _stop_on_sigterm()
    os.chdir(peers.ROOT)  # the children are started as modules of this tree
    try:
        with tempfile.TemporaryDirectory(prefix="tollway-bench-") as folder:
            room = Room(Path(folder), choose_cores())
            if chosen.profile:
                return profile_proxy(room, seconds=chosen.seconds, out=OUT)
            return _show(measure(room, chosen), chosen)
    except Skipped as exc:
        print(f"Cannot run: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
