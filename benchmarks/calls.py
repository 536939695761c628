"""Python calls and files of one warm request: `python -m benchmarks.calls` prints them as JSON.

The gateway of `instructions_load`, whole and in memory. Calls of the benchmark's own clients do not count; a
resumed coroutine counts as a call, as it does in cProfile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.interpreter import ROOT
from benchmarks.processes import Child, Skipped, running
from benchmarks.tollway_servers import IN_MEMORY, environment

if TYPE_CHECKING:
    from types import FrameType

    from benchmarks.scenarios import Calls
    from benchmarks.subjects import Room

WARM = 256
COUNTED = 64
SECONDS = 120
OWN = str(Path(__file__).parent)


class CallReport(msgspec.Struct, frozen=True, tag="calls"):
    """A request's calls in the thread that serves requests; `files` hold the functions that were called."""

    scenario: str
    title: str
    python_calls: float
    c_calls: float
    files: int


class Counter:
    """A profile function that counts."""

    def __init__(self) -> None:
        self.python = self.c = 0
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        if file.startswith(OWN):
            return
        if event == "call":
            self.python += 1
            self.files.add(file)
        elif event == "c_call":
            self.c += 1


async def _count(scenario: str, title: str) -> CallReport:
    # Imported here: the process that asks for a count does not need the gateway.
    from benchmarks import instructions_load as whole  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    assert isinstance(loop, whole.CountedLoop)
    loop.events = whole.upstream_events()
    found = whole.ConfigFile(whole.CONFIG, os.environ).read()
    assert found.built is not None, found.problems
    gateway = whole.Gateway(found.built)
    await gateway.start()
    loop.data_protocol = gateway._data.new_connection
    load, counter = whole.Load(loop, stream=False), Counter()
    await load.run(WARM)
    await gateway.flush()
    sys.setprofile(counter)
    await load.run(COUNTED)
    sys.setprofile(None)
    calls = round(counter.python / COUNTED, 1), round(counter.c / COUNTED, 1)
    return CallReport(scenario, title, *calls, len(counter.files))


def run_calls(room: Room, scenario: Calls) -> CallReport:
    """In a process of the subjects' Python. Raises Skipped when it fails."""
    folder = room.new_folder("calls")
    command = [room.python, "-m", "benchmarks.calls", "--name", scenario.name, "--title", scenario.title]
    words = {**_in_memory(folder), "PYTHONHASHSEED": "0"}
    with running(
        Child(command, core=None, log=folder / "output.log", environment=words, folder=ROOT)
    ) as child:
        child.wait(SECONDS)
        printed = [line for line in child.output().splitlines() if line.startswith('{"type":"calls"')]
        if not printed:
            raise Skipped(f"calls could not be counted: {child.last_words()}")
        return msgspec.json.decode(printed[-1], type=CallReport)


def _in_memory(folder: Path) -> dict[str, str]:
    """No port is opened but the admin's, and none is dialled."""
    return environment([0, 0], 9, folder, IN_MEMORY, ROOT)


def main() -> None:
    from benchmarks.instructions_load import CountedLoop  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="calls")
    parser.add_argument("--title", default="Calls of one request")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=CountedLoop) as runner:
        os.environ.update({**_in_memory(Path(folder)), **os.environ})
        print(msgspec.json.encode(runner.run(_count(given.name, given.title))).decode(), flush=True)
        os._exit(0)  # what is open has no other side that could close it


if __name__ == "__main__":
    main()
