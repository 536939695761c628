"""Requests and latency: wrk with some connections through each subject to a static upstream, in turns."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bench import DIRECT, Bench, Records
from benchmarks.processes import Child, CpuTime, Skipped, running
from benchmarks.subjects import HERE, Room, Running

if TYPE_CHECKING:
    from benchmarks.scenarios import Unary

WARM_UP_SECONDS = 1
PATIENCE_SECONDS = 60


class Load(msgspec.Struct, frozen=True):
    """What wrk's Lua script prints."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    non_2xx: int
    socket_errors: int


class UnaryRun(msgspec.Struct, frozen=True):
    """One subject in one round. Shares are of one core; `others` are programs outside the benchmark.

    CPU is in microseconds a request: of the processes that answer requests, of all the subject's, of the
    stores behind it.
    """

    round: int
    subject: str
    requests: int
    seconds: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    request_cpu_us: float
    whole_cpu_us: float
    store_cpu_us: float
    core_share: float
    others_core_share: float


class UnaryReport(msgspec.Struct, frozen=True, tag="unary"):
    scenario: str
    title: str
    connections: int
    runs: list[UnaryRun]
    skipped: dict[str, str]
    invalid: dict[str, str]


def wrk_binary() -> str:
    """Raises Skipped with how to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise Skipped("wrk is missing: apt-get install nginx wrk")
    return found


def run_wrk(room: Room, subject: Running, body: bytes, *, connections: int, seconds: int) -> Load:
    """`seconds` of load on the load core. Raises Skipped when wrk fails."""
    folder = room.new_folder("wrk")
    file = folder / "body.json"
    file.write_bytes(body)
    command = [wrk_binary(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{PATIENCE_SECONDS}s"]
    command += ["-s", str(HERE / "chat.lua"), f"http://127.0.0.1:{subject.port}{subject.path}"]
    headers = "\n".join(f"{name}: {value}" for name, value in subject.sent_headers().items())
    environment = {"BENCH_BODY": str(file), "BENCH_HEADERS": headers}
    with running(
        Child(command, core=room.cores.load, log=folder / "output.log", environment=environment)
    ) as wrk:
        with contextlib.suppress(subprocess.TimeoutExpired):
            wrk.wait(seconds + 20)
        printed = [line for line in wrk.output().splitlines() if line.startswith("{")]
        if not printed:
            raise Skipped(f"wrk printed no result: {wrk.last_words()}")
        return msgspec.json.decode(printed[-1], type=Load)


def _run(number: int, subject: str, load: Load, cpu: CpuTime, core_seconds: float, others: float) -> UnaryRun:
    duration = load.duration_us / 1e6
    requests = max(load.requests, 1)
    return UnaryRun(
        round=number,
        subject=subject,
        requests=load.requests,
        seconds=round(duration, 3),
        requests_per_second=round(load.requests / duration, 1),
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        errors=load.non_2xx + load.socket_errors,
        request_cpu_us=round(cpu.request * 1e6 / requests, 2),
        whole_cpu_us=round(cpu.whole * 1e6 / requests, 2),
        store_cpu_us=round(cpu.behind * 1e6 / requests, 2),
        core_share=round(core_seconds / duration, 3),
        others_core_share=round(others / duration, 3),
    )


def _direct(bench: Bench, scenario: Unary, number: int, upstream: Running) -> UnaryRun:
    """The load generator and the upstream by themselves: what added latency is counted from."""
    body = scenario.request(upstream.model)
    load = run_wrk(bench.room, upstream, body, connections=scenario.connections, seconds=bench.seconds)
    return _run(number, DIRECT, load, CpuTime(0.0, 0.0), 0.0, 0.0)


def _measure(bench: Bench, scenario: Unary, number: int, subject: Running) -> tuple[UnaryRun, str | None]:
    """One run, and what is wrong with it.

    CPU is counted until the subject is idle again: work that is put off is not work saved.
    """
    if subject.name == DIRECT:
        return _direct(bench, scenario, number, subject), None
    body = scenario.request(subject.model)
    records, meter = Records(subject), bench.meter(subject)
    load = run_wrk(bench.room, subject, body, connections=scenario.connections, seconds=bench.seconds)
    loaded, others = meter.subject_time(), meter.others_seconds()
    subject.child.wait_idle()
    run = _run(number, subject.name, load, meter.subject_time(), loaded.whole, others)
    return run, _problem(scenario, run, records, subject)


def _problem(scenario: Unary, run: UnaryRun, records: Records, subject: Running) -> str | None:
    if run.errors:
        failed = f"{run.errors} of {run.requests} answers in round {run.round} were not 2xx"
        return f"{failed}; its log ends: {subject.child.last_words()}"
    if not run.requests:
        return f"no answer in round {run.round}"
    # wrk leaves what is under way when its time is up, one request on each connection.
    return records.problem(run.requests, cut_off=scenario.connections)


def _part(bench: Bench, scenario: Unary) -> tuple[list[Running], dict[str, str]]:
    """Who takes part, and why others do not."""
    fit, skipped = [], dict(bench.missing(scenario.name))
    for subject in bench.part(scenario.name):
        most = bench.catalogue[subject.name].most_connections
        if scenario.connections <= most:
            fit.append(subject)
        else:
            skipped[subject.name] = f"too slow for more than {most} connections: they would only queue"
    return fit, skipped


def run_unary(bench: Bench, scenario: Unary) -> UnaryReport:
    """Every subject once a round. Raises Skipped when wrk is missing."""
    subjects, skipped = _part(bench, scenario)
    fit, failed = bench.warmed(subjects, lambda subject: _warm_up(bench, scenario, subject))
    runs: list[UnaryRun] = []
    invalid: dict[str, str] = {}
    for number, subject in bench.turns(scenario.name, fit, scenario.rounds):
        try:
            run, problem = _measure(bench, scenario, number, subject)
        except Skipped as exc:
            invalid.setdefault(subject.name, str(exc))
            continue
        runs.append(run)
        if problem is not None:
            invalid.setdefault(subject.name, problem)
    return UnaryReport(scenario.name, scenario.title, scenario.connections, runs, skipped | failed, invalid)


def _warm_up(bench: Bench, scenario: Unary, subject: Running) -> None:
    body = scenario.request(subject.model)
    run_wrk(bench.room, subject, body, connections=scenario.connections, seconds=WARM_UP_SECONDS)
