"""Tollway with everything on: one worker and two, with its stores, and an older commit of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from benchmarks import wire
from benchmarks.interpreter import ROOT
from benchmarks.probes import free_ports
from benchmarks.processes import Child, Skipped
from benchmarks.stores import start_postgres, start_valkey
from benchmarks.subjects import Room, Running, stopped_on_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADMIN_TOKEN = "bench-admin-token-9d1f"
SQLITE = 'ledger: "sqlite:///${BENCH_FOLDER}/ledger.db"'
COMMITS = ROOT / ".cache" / "bench-commits"
# By PYTHONPATH and not by an installed command: so any interpreter runs any commit's tree.
COMMAND = "import sys; sys.argv[0] = 'tollway'; from gateway.cli import main; main()"


class Stores(msgspec.Struct, frozen=True):
    """Where limits and usage are kept, in the words of `tollway.yaml`; no ledger: SQLite in a new folder."""

    state: str = "memory"
    admission: str = "exact"
    ledger: str | None = None
    children: tuple[Child, ...] = ()


IN_MEMORY = Stores()


def environment(
    ports: list[int], upstream_port: int, folder: Path, stores: Stores, tree: Path
) -> dict[str, str]:
    """What `tollway.yaml` takes from the environment."""
    return {
        "BENCH_DATA_PORT": str(ports[0]),
        "BENCH_ADMIN_PORT": str(ports[1]),
        "BENCH_ADMIN_TOKEN": ADMIN_TOKEN,
        "BENCH_UPSTREAM_PORT": str(upstream_port),
        "BENCH_FOLDER": str(folder),
        "BENCH_KEY": wire.KEY,
        "BENCH_STATE": stores.state,
        "BENCH_ADMISSION": stores.admission,
        "PYTHONPATH": str(tree),
    }


def launch(
    room: Room,
    upstream_port: int,
    *,
    name: str = "tollway",
    stores: Stores = IN_MEMORY,
    workers: int = 1,
    tree: Path = ROOT,
    prefix: tuple[str, ...] = (),
) -> Running:
    """`tollway serve` from `tree`; `prefix` are words for Python that put a profiler in front."""
    ports = free_ports(2)
    folder = room.new_folder(name)
    command = [room.python, *prefix, "-c", COMMAND]
    if prefix:
        script = folder / "tollway.py"
        script.write_text(COMMAND)
        command = [room.python, *prefix, str(script)]
    command += ["serve", "--config", str(_configuration(tree, folder, stores))]
    command += ["--workers", str(workers)] if workers > 1 else []
    child = Child(
        command,
        core=room.cores.subject,
        log=folder / "output.log",
        environment=environment(ports, upstream_port, folder, stores, tree),
        folder=folder,
    )
    return Running(
        name,
        child,
        ports[0],
        folder,
        behind=stores.children,
        workers=workers,
        health=(ports[1], "/healthz"),
        count_rows=_row_counter(stores.ledger, folder),
    )


def _configuration(tree: Path, folder: Path, stores: Stores) -> Path:
    """The tree's own file, or a copy of it with another ledger."""
    source = tree / "benchmarks" / "tollway.yaml"
    if stores.ledger is None:
        return source
    text = source.read_text()
    if text.count(SQLITE) != 1:
        raise Skipped(f"{source} has no {SQLITE}")
    copy = folder / source.name
    copy.write_text(text.replace(SQLITE, f'ledger: "{stores.ledger}"'))
    return copy


def _with_stores(room: Room) -> Stores:
    """Limits leased from a Valkey server, the ledger in PostgreSQL."""
    postgres = start_postgres(room)
    with stopped_on_error(postgres.child):
        valkey = start_valkey(room)
    return Stores(valkey.url, "leased", postgres.url, (valkey.child, postgres.child))


def launch_leased(
    room: Room, upstream_port: int, *, name: str = "tollway-leased", workers: int = 1
) -> Running:
    stores = _with_stores(room)
    with stopped_on_error(*stores.children):
        return launch(room, upstream_port, name=name, stores=stores, workers=workers)


def launch_two_workers(room: Room, upstream_port: int) -> Running:
    """Both on the subject's one core."""
    return launch_leased(room, upstream_port, name="tollway-two", workers=2)


def launch_before(room: Room, upstream_port: int) -> Running:
    """The older commit, with that commit's own benchmark configuration."""
    if room.before is None:
        raise Skipped("no --against")
    return launch(room, upstream_port, name="tollway-before", tree=room.before)


def tree_of(commit: str) -> Path:
    """The files of `commit`, unpacked once. Raises Skipped."""
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", f"{commit}^{{commit}}"], capture_output=True, text=True, check=False
    )
    if named.returncode != 0:
        raise Skipped(f"git knows no commit {commit}")
    folder = COMMITS / named.stdout.strip()[:12]
    if not folder.exists():
        folder.mkdir(parents=True)
        packed = subprocess.run([*git, "archive", named.stdout.strip()], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def _row_counter(ledger: str | None, folder: Path) -> Callable[[], int | None]:
    if ledger is not None:
        return partial(_postgres_rows, ledger)
    return partial(sqlite_rows, folder / "ledger.db", "attempt_id")


def sqlite_rows(path: Path, column: str, where: str = "true") -> int | None:
    """Rows of the largest table that has `column`; None when there is no such table."""
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        counts = [
            database.execute(f'select count(*) from "{table}" where {where}').fetchone()[0]
            for table in tables
            if any(found[1] == column for found in database.execute(f'pragma table_info("{table}")'))
        ]
    return max(counts, default=None)


def _postgres_rows(url: str) -> int | None:
    return asyncio.run(_largest_table(url))


async def _largest_table(url: str) -> int | None:
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "select format('%I.%I', table_schema, table_name) from information_schema.columns "
            "where column_name = 'attempt_id' and table_schema not in ('pg_catalog', 'information_schema')"
        )
        counts = [await connection.fetchval(f"select count(*) from {name}") for (name,) in tables]
    finally:
        await connection.close()
    return max(counts, default=None)
