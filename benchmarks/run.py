"""The benchmarks of the data plane: `python -m benchmarks.run`. What they mean: benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks import interpreter
from benchmarks.catalogue import BEFORE, BY_NAME, SUBJECTS
from benchmarks.environment import observe
from benchmarks.measure import Choice, measure
from benchmarks.nginx_servers import nginx_binary
from benchmarks.plots import draw
from benchmarks.processes import Skipped, choose_cores
from benchmarks.profile import profile_proxy
from benchmarks.promises import verdicts
from benchmarks.report import Report, read_json, write_json
from benchmarks.scenarios import chosen
from benchmarks.subjects import Room, Subject
from benchmarks.tables import as_markdown, print_tables
from benchmarks.tollway_servers import tree_of
from benchmarks.unary import wrk_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

OUT = interpreter.ROOT / "benchmarks" / "out"
NO_PGO = (
    "{name} was built without profile-guided optimisation: its numbers are not to be quoted.\n"
    "Choose another with --python (/usr/bin/python3.11 on Debian) or {variable}, or say --any-interpreter."
)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    more = parser.add_argument
    more("--seconds", type=int, default=5, help="length of one run of wrk")
    more("--rounds", type=int, default=5, help="interleaved rounds; many scenarios take at most 3")
    more(
        "--only",
        action="append",
        default=[],
        help="a scenario or a kind of them; may be given more than once",
    )
    more("--subjects", default="", help="comma-separated; default: all")
    more(
        "--python", default=os.environ.get(interpreter.VARIABLE, ""), help="the Python that runs the subjects"
    )
    more("--any-interpreter", action="store_true", help="--markdown and --check from a build without PGO too")
    more("--against", metavar="COMMIT", help="measure this older commit beside")
    more("--json", type=Path, default=OUT / "latest.json", help="where to write every raw round")
    more("--from-json", type=Path, metavar="F", help="measure nothing: tables and plots of an earlier run")
    more("--markdown", action="store_true", help="print Markdown instead of terminal tables")
    more("--plots", type=Path, metavar="DIR", help="write the plots there, as SVG")
    more("--check", action="store_true", help="exit 1 unless every promise measured holds")
    more("--profile", action="store_true", help="profile Tollway under load instead")
    return parser


def _choice(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Choice:
    """What to measure. Ends the process on a word that means nothing."""
    names = [name for name in given.subjects.split(",") if name] or [subject.name for subject in SUBJECTS]
    unknown = [name for name in names if name not in BY_NAME]
    if given.seconds < 1 or given.rounds < 1 or unknown:
        parser.error(f"--seconds and --rounds start at 1, --subjects are of {', '.join(BY_NAME)}")
    try:
        scenarios = chosen(given.only)
    except ValueError as exc:
        parser.error(str(exc))
    return Choice(scenarios, _subjects(names, given.against), given.rounds, given.seconds)


def _subjects(names: list[str], against: str | None) -> list[Subject]:
    """In the order of the catalogue; the older commit only where one is named."""
    return [
        one
        for one in SUBJECTS
        if (one.name in names and one.name != BEFORE) or (one.name == BEFORE and against)
    ]


def say(what: str) -> None:
    """Progress, on standard error: standard output is the report."""
    print(f"\r\033[K{what}" if sys.stderr.isatty() else what, end="", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        print(file=sys.stderr)


def _python(given: argparse.Namespace) -> interpreter.Interpreter:
    """The Python of the subjects, with their dependencies. Raises Skipped."""
    python = interpreter.with_dependencies(given.python) if given.python else sys.executable
    return interpreter.observe(python)


def _may_be_quoted(python: interpreter.Interpreter, given: argparse.Namespace) -> bool:
    """Says why not, on standard error."""
    if python.pgo or given.any_interpreter or not (given.markdown or given.check):
        return True
    print(NO_PGO.format(name=python.name(), variable=interpreter.VARIABLE), file=sys.stderr)
    return False


def _measured(given: argparse.Namespace, choice: Choice, python: interpreter.Interpreter) -> Report:
    nginx_binary(), wrk_binary()  # both needed whatever is measured: say so before anything starts
    before = tree_of(given.against) if given.against else None
    with tempfile.TemporaryDirectory(prefix="tollway-bench-") as folder:
        room = Room(Path(folder), choose_cores(), python.python, before)
        environment = observe(room.cores, python, before.name if before else None)
        return measure(room, choice, environment, say, lambda report: write_json(report, given.json))


def _show(report: Report, given: argparse.Namespace) -> int:
    """Exit code: 1 under --check when a promise is missed or was not measured."""
    if given.markdown:
        print(as_markdown(report))
    else:
        print_tables(report)
    if given.plots:
        for file in draw(report, given.plots):
            print(f"Plot: {file}", file=sys.stderr)
    return int(given.check and not all(verdict.holds for verdict in verdicts(report)))


def _run(given: argparse.Namespace, choice: Choice) -> int:
    if given.from_json:
        report = read_json(given.from_json)
        return _show(report, given) if _may_be_quoted(report.environment.interpreter, given) else 2
    python = _python(given)
    if given.profile:
        with tempfile.TemporaryDirectory(prefix="tollway-bench-") as folder:
            return profile_proxy(
                Room(Path(folder), choose_cores(), python.python), seconds=given.seconds, out=OUT
            )
    if not _may_be_quoted(python, given):
        return 2
    report = _measured(given, choice, python)
    say("")
    print(f"Every round: {given.json}", file=sys.stderr)
    return _show(report, given)


def _stop_on_sigterm() -> None:
    """SIGTERM unwinds like Ctrl-C, so every child is stopped."""

    def leave(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


def main(words: Sequence[str] | None = None) -> int:
    parser = argument_parser()
    given = parser.parse_args(words)
    choice = _choice(given, parser)
    if not sys.platform.startswith("linux"):
        print("The benchmarks read /proc and pin processes: they run on Linux only.", file=sys.stderr)
        return 2
    _stop_on_sigterm()
    try:
        return _run(given, choice)
    except Skipped as exc:
        print(f"Cannot run: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
