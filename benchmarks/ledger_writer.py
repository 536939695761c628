"""How fast the ledger takes rows, and what a row costs the processor that it shares with the gateway.

    python benchmarks/ledger_writer.py [--rows 200000] [--seconds 3] [--random-ids]

Three parts, each as a row of JSON at the end:
- `append`: nanoseconds of one call on the event loop.
- `drain`: rows a second through queue, thread and SQLite with an event loop that has nothing else to do,
  CPU microseconds a row (conversion and SQLite included), and the growth of resident memory.
- `busy`: an event loop that is never idle does some work per request and appends one row each, pinned to one
  core and on all; the same without a ledger is the reference. Shows what a row really costs there, whether
  the writer keeps up, and how long the loop is held up.
"""

import argparse
import asyncio
import json
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from gateway.adapters.ledger import LedgerWriter, WriterLimits, open_ledger
from gateway.core.record import Outcome, UsageRecord
from gateway.core.usage import Usage

USAGE = Usage(input_text=350, input_cached=128, output_text=120)
SPINS = 2500  # about 50 us


def records(count: int, random_ids: bool) -> Iterator[UsageRecord]:
    for _ in range(count):
        yield record(random_ids)


def record(random_ids: bool) -> UsageRecord:
    at = time.time_ns() // 1000
    request_id = f"req_{secrets.token_hex(16)}" if random_ids else f"req_{time.time_ns():016x}"
    return UsageRecord(
        attempt_id=f"{request_id}:1",
        request_id=request_id,
        at=at,
        org="acme",
        team="research",
        feature="literature-triage",
        key="triage-app",
        model="auto",
        dispatched_model="meta-llama/Llama-4-Scout-17B-16E-Instruct",
        reported_model="meta-llama/Llama-4-Scout-17B-16E-Instruct",
        endpoint="chat",
        deployment="llama-4-scout",
        replica="http://127.0.0.1:9101/v1",
        zone="local",
        privacy="internal",
        modalities="text",
        decision="cost",
        stream=False,
        status=200,
        outcome=Outcome.SUCCESS,
        finish_reason="stop",
        usage=USAGE,
        estimated=False,
        service_tier=None,
        price_version="config-1",
        cost_nano_usd=1_234_567,
        counterfactual_nano_usd={"gpt-4o": 9_876_543},
        held_nano_usd=5_000_000,
        ttft_ms=12.25,
        duration_ms=345.5,
        upstream_request_id=f"chatcmpl-{request_id}",
        tags={"ticket": "A-1"},
        policy_version="3f2a",
    )


def ledger(folder: str, name: str) -> LedgerWriter:
    return open_ledger(f"sqlite:///{folder}/{name}.db", limits=WriterLimits(queue_rows=10_000))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def measure_append(folder: str, random_ids: bool) -> dict[str, float]:
    writer = ledger(folder, "append")
    await writer.start()
    ready = list(records(20_000, random_ids))
    start = time.perf_counter_ns()
    for one in ready:
        writer.append(one)
    spent = time.perf_counter_ns() - start
    await writer.close()
    return {"part": "append", "nanoseconds": round(spent / len(ready))}


async def measure_drain(folder: str, rows: int, random_ids: bool) -> dict[str, float]:
    writer = ledger(folder, "drain")
    await writer.start()
    memory, writing_cpu, writing_wall, left = resident_mib(), 0.0, 0.0, rows
    while left > 0:
        ready = list(records(min(left, 10_000), random_ids))
        cpu, wall = time.process_time(), time.perf_counter()
        for one in ready:
            await writer.wait_for_room()
            writer.append(one)
        await writer.flush()
        writing_cpu += time.process_time() - cpu
        writing_wall += time.perf_counter() - wall
        left -= len(ready)
    grown = resident_mib() - memory
    await writer.close()
    return {
        "part": "drain",
        "rows": rows,
        "rows_per_second": round(rows / writing_wall),
        "cpu_us_per_row": round(writing_cpu / rows * 1e6, 2),
        "memory_grown_mib": round(grown, 1),
        "file_bytes_per_row": round(Path(folder, "drain.db").stat().st_size / rows),
    }


async def measure_busy(folder: str, seconds: float, random_ids: bool, on: bool) -> dict[str, float]:
    writer = ledger(folder, f"busy-{time.time_ns()}")
    await writer.start()
    requests, worst_lag, gaps = 0, 0, []
    cpu, moment = time.process_time(), time.perf_counter()
    end = moment + seconds
    while moment < end:
        for _ in range(4):
            for _ in range(SPINS):
                pass
            one = record(random_ids)
            requests += 1
            if on:
                writer.append(one)
        worst_lag = max(worst_lag, writer.lag_rows())
        await asyncio.sleep(0)
        now = time.perf_counter()
        gaps.append(now - moment)
        moment = now
    spent = time.process_time() - cpu
    gaps.sort()
    await writer.close()
    return {
        "requests_per_second": round(requests / seconds),
        "cpu_us_per_request": round(spent / requests * 1e6, 1),
        "worst_lag_rows": worst_lag,
        "turn_p50_ms": round(gaps[len(gaps) // 2] * 1e3, 2),
        "turn_p99_ms": round(gaps[len(gaps) * 99 // 100] * 1e3, 2),
        "turn_max_ms": round(gaps[-1] * 1e3, 2),
    }


def busy_runs(folder: str, seconds: float, random_ids: bool) -> Iterator[dict[str, object]]:
    every = os.sched_getaffinity(0)
    for cores in ({min(every)}, every):
        os.sched_setaffinity(0, cores)
        for on in (False, True, False, True):
            result = uvloop.run(measure_busy(folder, seconds, random_ids, on))
            yield {"part": "busy", "cores": len(cores), "ledger": on, **result}
    os.sched_setaffinity(0, every)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--random-ids", action="store_true", help="attempt ids without an order in time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        print(json.dumps(uvloop.run(measure_append(folder, options.random_ids))))
        print(json.dumps(uvloop.run(measure_drain(folder, options.rows, options.random_ids))), flush=True)
        for result in busy_runs(folder, options.seconds, options.random_ids):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
