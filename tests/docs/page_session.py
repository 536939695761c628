"""A folder in which the commands of one page run, as a reader runs them after `tollway demo`.

There is `tollway-demo/`, as a demo leaves it, and `tollway.yaml` with its ledger: the demo's too, or the
worked week of docs/tco.md. A gateway and its simulators serve. Addresses and the key stand in pages as a
reader has them; here they are put in, and taken out of what is printed.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.docs.blocks import Step
from tests.docs.demo_stage import Listening
from tests.docs.source import ROOT
from tests.finance.tco import week

PATIENCE_SECONDS = 600
_DEMO = "tollway-demo"
_WEEK = "week"
_FILE = "tollway.yaml"
# What a page's commands find beside them, as in a clone.
_CLONED = ("deploy", "helm")
_MARK = "=== ended with"
_PROGRAMS = {
    "tollway": 'exec "{python}" -m gateway.cli "$@"',
    "python": 'exec "{python}" "$@"',
    # What a target would do is printed and not done: CI makes some of them, and others take an hour.
    "make": 'exec {make} --dry-run --no-print-directory -C "{root}" "$@"',
}


class Ran(NamedTuple):
    """A command, how it ended, and what it printed to standard output and standard error."""

    step: Step
    status: int
    printed: str


class Stage(NamedTuple):
    """What all pages share. `folder` holds `tollway-demo` and `week`, to be copied for each page."""

    folder: Path
    listening: Listening


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """The demo in a process of its own, and the ledger of the worked week."""
    live, at_rest = folder / "live", folder / _WEEK
    live.mkdir()
    at_rest.mkdir()
    week.write(week.config(at_rest))
    with subprocess.Popen(
        (sys.executable, "-m", "tests.docs.demo_stage", live),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as demo:
        assert demo.stdout is not None
        try:
            listening = msgspec.json.decode(demo.stdout.readline(), type=Listening)
            _copy(live, folder / _DEMO)
            yield Stage(folder, listening)
        finally:
            demo.kill()


class PageSession:
    """Runs what one page says, in its order, in `folder`."""

    def __init__(self, stage: Stage, folder: Path, *, in_worked_week: bool) -> None:
        self.stage = stage
        self.folder = folder
        _copy(stage.folder / _DEMO, folder / _DEMO)
        if in_worked_week:
            _copy(stage.folder / _WEEK, folder)
        else:
            shutil.copy(folder / _DEMO / _FILE, folder / _FILE)
        for name in _CLONED:
            shutil.copytree(ROOT / name, folder / name)
        listening = stage.listening
        self._written = {
            "127.0.0.1:8080": listening.data,
            "127.0.0.1:8081": listening.admin,
            "10.0.0.7:8000": listening.replica,
            "YOUR-TOLLWAY-KEY": listening.key,
            "$TRIAGE_KEY": listening.key,
        }
        self._environ = _environ(folder, listening)

    def run(self, steps: Sequence[Step]) -> list[Ran]:
        """The commands in one shell. Those that ask are answered with `y`."""
        lines = [
            f"{{ {self._put_in(step.command)}\n}} <<< y; ended=$?; echo; echo '{_MARK}' $ended"
            for step in steps
        ]
        printed = self._printed("bash", "-o", "pipefail", "-c", "exec 2>&1\n" + "\n".join(lines))
        ends = iter(printed.split(f"\n{_MARK} "))
        outputs, found = [next(ends)], []
        for end in ends:
            status, _, rest = end.partition("\n")
            found.append(int(status))
            outputs.append(rest)
        assert len(found) == len(steps), f"the shell ended early: {printed}"
        return [Ran(*ran) for ran in zip(steps, found, outputs, strict=False)]

    def run_python(self, text: str) -> None:
        """A program. Fails with what it printed if it does not end well."""
        self._printed(sys.executable, "-W", "error", "-c", self._put_in(text), check=True)

    def _printed(self, *command: str, check: bool = False) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        printed = self._take_out(done.stdout)
        assert not check or done.returncode == 0, printed
        return printed

    def _put_in(self, text: str) -> str:
        for written, real in self._written.items():
            text = text.replace(written, real)
        return text

    def _take_out(self, text: str) -> str:
        for written, real in self._written.items():
            text = text.replace(real, written)
        return text


def _copy(source: Path, target: Path) -> None:
    """A folder with a ledger, which may be in use, and the file that names it by its whole path."""
    shutil.copytree(
        source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.db", "*.db-*", "*.journal")
    )
    for ledger in source.glob("*.db"):
        with (
            closing(sqlite3.connect(ledger)) as original,
            closing(sqlite3.connect(target / ledger.name)) as copy,
        ):
            original.backup(copy)
    file = target / _FILE
    file.write_text(file.read_text().replace(str(source), str(target)))


def _environ(folder: Path, listening: Listening) -> Mapping[str, str]:
    programs = folder / ".bin"
    programs.mkdir()
    for name, line in _PROGRAMS.items():
        program = programs / name
        program.write_text(
            "#!/bin/sh\n" + line.format(python=sys.executable, root=ROOT, make=shutil.which("make")) + "\n"
        )
        program.chmod(0o755)
    # An answer that is an error is an error of the command, so that it does not pass unseen.
    (programs / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return {
        **listening.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "CURL_HOME": str(programs),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        "TOKEN": listening.environ["DEMO_ADMIN_TOKEN"],
    }
