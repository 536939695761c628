"""Requests per second: wrk with 32 connections through each subject to a static upstream, in turns."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire
from benchmarks.processes import Child, CpuMeter, Skipped, running
from benchmarks.subjects import HERE, Room, Running, start_all, start_static_upstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONNECTIONS = 32
WARM_UP_SECONDS = 1


class Load(msgspec.Struct, frozen=True):
    """What wrk's Lua script prints."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    non_2xx: int
    socket_errors: int


class ProxyRun(msgspec.Struct, frozen=True):
    """One subject in one round. Shares are of one core; `others` are programs outside the benchmark."""

    round: int
    subject: str
    requests: int
    seconds: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us_per_request: float
    core_share: float
    others_core_share: float


class ProxyReport(msgspec.Struct, frozen=True):
    runs: list[ProxyRun]
    skipped: dict[str, str]
    invalid: dict[str, str]
    ledger_rows: int | None = None


def wrk_binary() -> str:
    """Raises Skipped with how to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise Skipped("wrk is missing: apt-get install nginx wrk")
    return found


def run_wrk(room: Room, port: int, seconds: int) -> Load:
    """`seconds` of load on the load core. Raises Skipped when wrk fails."""
    folder = room.new_folder("wrk")
    body = folder / "body.json"
    body.write_bytes(wire.chat_request())
    command = [wrk_binary(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "chat.lua"), f"http://127.0.0.1:{port}/v1/chat/completions"]
    environment = {"BENCH_BODY": str(body), "BENCH_KEY": wire.KEY}
    with running(
        Child(command, core=room.cores.load, log=folder / "output.log", environment=environment)
    ) as wrk:
        with contextlib.suppress(subprocess.TimeoutExpired):
            wrk.wait(seconds + 20)
        printed = [line for line in wrk.output().splitlines() if line.startswith("{")]
        if not printed:
            raise Skipped(f"wrk printed no result: {wrk.last_words()}")
        return msgspec.json.decode(printed[-1], type=Load)


def _measure(room: Room, subject: Running, upstream: Running, round_number: int, seconds: int) -> ProxyRun:
    """One run; CPU is counted until the subject is idle again, so work put off is not work saved."""
    meter = CpuMeter(room.cores, subject.child, upstream.child)
    load = run_wrk(room, subject.port, seconds)
    loaded_cpu, others = meter.subject_seconds(), meter.others_seconds()
    subject.child.wait_idle()
    whole_cpu = meter.subject_seconds()
    duration = load.duration_us / 1e6
    return ProxyRun(
        round=round_number,
        subject=subject.name,
        requests=load.requests,
        seconds=round(duration, 3),
        requests_per_second=round(load.requests / duration, 1),
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        errors=load.non_2xx + load.socket_errors,
        cpu_us_per_request=round(whole_cpu * 1e6 / max(load.requests, 1), 2),
        core_share=round(loaded_cpu / duration, 3),
        others_core_share=round(others / duration, 3),
    )


def _rotated(subjects: list[Running], by: int) -> list[Running]:
    """A different one first in each round: what drifts during a round then hits all alike."""
    cut = by % len(subjects)
    return subjects[cut:] + subjects[:cut]


def _invalid(runs: list[ProxyRun]) -> dict[str, str]:
    """Subjects whose numbers must not be compared, with the reason."""
    reasons: dict[str, str] = {}
    for run in runs:
        if run.errors:
            reasons[run.subject] = f"{run.errors} of {run.requests} answers in round {run.round} were not 2xx"
        elif not run.requests:
            reasons[run.subject] = f"no answer in round {run.round}"
    return reasons


def ledger_rows(folder: Path) -> int | None:
    """Rows of the largest table that has an `attempt_id`; None when there is no such ledger."""
    path = folder / "ledger.db"
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        counts = [
            database.execute(f'select count(*) from "{table}"').fetchone()[0]
            for table in tables
            if any(column[1] == "attempt_id" for column in database.execute(f'pragma table_info("{table}")'))
        ]
    return max(counts, default=None)


def _checked_ledger(runs: list[ProxyRun], subjects: list[Running], invalid: dict[str, str]) -> int | None:
    """Rows in Tollway's ledger at its end: fewer than answers means it was fast by not doing its work."""
    tollway = next((subject for subject in subjects if subject.name == "tollway"), None)
    if tollway is None:
        return None
    rows = ledger_rows(tollway.folder)
    answered = sum(run.requests for run in runs if run.subject == "tollway")
    if rows is None or rows < answered:
        invalid.setdefault("tollway", f"the ledger has {rows} rows for at least {answered} answers")
    return rows


def run_proxy(
    room: Room, *, names: list[str], rounds: int, seconds: int, say: Callable[[str], None]
) -> ProxyReport:
    """Every subject once a round for `seconds`. Raises Skipped when the upstream or wrk is missing."""
    wrk_binary()
    runs: list[ProxyRun] = []
    with contextlib.ExitStack() as stack:
        upstream = start_static_upstream(room)
        stack.enter_context(running(upstream.child))
        subjects, skipped = start_all(stack, room, upstream.port, names)
        for subject in subjects:
            run_wrk(room, subject.port, WARM_UP_SECONDS)
            subject.child.wait_idle()
        for number in range(1, rounds + 1 if subjects else 1):
            for subject in _rotated(subjects, number - 1):
                say(f"proxy: round {number} of {rounds}, {subject.name}")
                runs.append(_measure(room, subject, upstream, number, seconds))
    invalid = _invalid(runs)
    return ProxyReport(runs, skipped, invalid, _checked_ledger(runs, subjects, invalid))
