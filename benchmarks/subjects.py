"""What a subject of the benchmarks is, how it becomes ready, and how all of them start and stop together."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.probes import wait_for_200
from benchmarks.processes import Child, Cores, Skipped, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
READY_SECONDS = 60.0


class Room(msgspec.Struct, frozen=True):
    """Where a benchmark runs: a folder that is deleted at the end, the cores, the Python of the subjects.

    `before` is the tree of an older commit that is measured beside.
    """

    folder: Path
    cores: Cores
    python: str
    before: Path | None = None

    def new_folder(self, name: str) -> Path:
        """A folder of its own for one process. One name may come again."""
        number = len(list(self.folder.iterdir()))
        folder = self.folder / f"{number:03d}-{name}"
        folder.mkdir()
        return folder


class Running(msgspec.Struct, frozen=True):
    """A subject under load: where it listens, how it wants to be asked, and the process to measure.

    `behind` are the stores that it uses, on the load's core. `health` is a port and a path that answer 200
    when it lives. `count_rows` says how many answers its own records hold, None when they cannot be read.
    """

    name: str
    child: Child
    port: int
    folder: Path
    path: str = wire.CHAT_PATH
    model: str = wire.MODEL
    headers: dict[str, str] = {}
    behind: tuple[Child, ...] = ()
    workers: int = 1
    health: tuple[int, str] | None = None
    count_rows: Callable[[], int | None] | None = None

    def request(self, body: bytes) -> bytes:
        return wire.http_post(self.port, body, path=self.path, headers=self.headers)

    def sent_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {wire.KEY}", "Content-Type": "application/json", **self.headers}


class Subject(msgspec.Struct, frozen=True):
    """One program in one configuration. `launch` starts it and does not wait.

    `governed`: it checks keys, holds limits and budgets, records usage or shows metrics, as `does` says.
    `usage_unasked`: it ends a stream with a chunk of usage that the client did not ask for.
    `only` names the scenarios that it takes part in; none named means all. `most_connections` and
    `most_streams` are what it answers in a bearable time.
    """

    name: str
    label: str
    launch: Callable[[Room, int], Running]
    does: str
    lacks: str
    governed: bool = False
    only: tuple[str, ...] = ()
    usage_unasked: bool = False
    most_connections: int = 1_000_000
    most_streams: int = 1_000_000

    def takes_part(self, scenario: str) -> bool:
        return not self.only or scenario in self.only


@contextlib.contextmanager
def stopped_on_error(*children: Child) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for child in children:
            child.stop()
        raise


def ready(subject: Running) -> Running:
    """`subject` once its health and then a chat request are answered with 200. Raises Skipped."""
    with stopped_on_error(subject.child, *subject.behind):
        if subject.health is not None:
            port, path = subject.health
            _wait(subject, port, wire.http_get(port, path))
        _wait(subject, subject.port, subject.request(wire.short_request(subject.model)))
    return subject


def _wait(subject: Running, port: int, request: bytes) -> None:
    wait_for_200(subject.child, port, request, timeout_seconds=READY_SECONDS, poll_seconds=0.05)


def configured(room: Room, name: str, template: Path, words: dict[str, str]) -> tuple[Path, Path]:
    """A folder of its own, and in it `template` with its `@WORD@`s filled in."""
    folder = room.new_folder(name)
    text = template.read_text()
    for word, value in {**words, "FOLDER": str(folder)}.items():
        text = text.replace(f"@{word}@", value)
    file = folder / template.name
    file.write_text(text)
    return folder, file


def started(stack: contextlib.ExitStack, subject: Running) -> Running:
    """`subject`, stopped by `stack` before the stores behind it."""
    for child in (*subject.behind, subject.child):
        stack.enter_context(running(child))
    return subject


def start_all(
    stack: contextlib.ExitStack, room: Room, upstream_port: int, subjects: list[Subject]
) -> tuple[list[Running], dict[str, str]]:
    """Every subject that starts, stopped by `stack`; and why the others do not, by name."""
    found: list[Running] = []
    skipped: dict[str, str] = {}
    for subject in subjects:
        try:
            found.append(started(stack, ready(subject.launch(room, upstream_port))))
        except (Skipped, OSError) as exc:
            skipped[subject.name] = str(exc)
    return found, skipped
