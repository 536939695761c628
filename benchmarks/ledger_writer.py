"""How fast the ledger's writer takes rows, and what a row costs its processor.

    python -m benchmarks.ledger_writer [--rows 200000] [--random-ids] [--postgres [URL]]

`--postgres` writes to PostgreSQL: to the database of URL, or to a server of its own for the time being, with
the server's defaults (fsync on). Otherwise to an SQLite file in the current folder.

Three parts, each as a row of JSON at the end:
- `append`: nanoseconds to queue one row.
- `drain`: rows a second through the queue into the database, CPU microseconds a row of this process, and the
  growth of resident memory.
- `report`: milliseconds of `usage_by` over a month with as many rows, spread over it, by feature, by day,
  and by both with the deployment.

What the gateway does for a row is one frame in its journal: `benchmarks/journal.py`.
"""

import argparse
import contextlib
import datetime as dt
import json
import random
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from gateway.core.record import Outcome, UsageRecord
from gateway.ledger.opening import open_ledger
from gateway.ledger.reports import usage_by
from tests.ledger.ledger_records import FULL, RecordWriter
from tests.ledger.postgres_server import postgres_server

SAMPLE = msgspec.structs.replace(FULL, unseen_nano_usd=0, tags={"ticket": "A-1"})
DAY = 24 * 3600 * 1_000_000  # microseconds


def records(count: int, random_ids: bool) -> Iterator[UsageRecord]:
    for _ in range(count):
        yield record(random_ids)


def record(random_ids: bool) -> UsageRecord:
    at = time.time_ns() // 1000
    request_id = f"req_{secrets.token_hex(16)}" if random_ids else f"req_{time.time_ns():016x}"
    own = {"attempt_id": f"{request_id}:1", "request_id": request_id, "at": at}
    return msgspec.structs.replace(SAMPLE, **own, upstream_request_id=f"chatcmpl-{request_id}")


class Place:
    """Where the ledgers of the parts are: a file each, or one database of a server for all."""

    def __init__(self, folder: str, postgres: str | None) -> None:
        self.folder = folder
        self.postgres = postgres

    def url(self, name: str) -> str:
        return self.postgres or f"sqlite:///{self.folder}/{name}.db"

    def ledger(self, name: str) -> RecordWriter:
        return RecordWriter(open_ledger(self.url(name), spill_folder=Path(self.folder)))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def measure_append(place: Place, random_ids: bool) -> dict[str, float]:
    writer = place.ledger("append")
    await writer.start()
    ready = list(records(20_000, random_ids))
    start = time.perf_counter_ns()
    for one in ready:
        writer.append(one)
    spent = time.perf_counter_ns() - start
    await writer.close()
    return {"part": "append", "nanoseconds": round(spent / len(ready))}


async def measure_drain(place: Place, rows: int, random_ids: bool) -> dict[str, float]:
    writer = place.ledger("drain")
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
    }


async def measure_report(place: Place, rows: int) -> dict[str, object]:
    """A month of traffic from 20 features with 2 keys each to 3 deployments, some of it failing."""
    writer = place.ledger("report")
    await writer.start()
    start = int(dt.datetime(2026, 10, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
    for number in range(rows):
        await writer.wait_for_room()
        feature = random.randrange(20)
        changes = {
            "attempt_id": f"report-{number}:1",
            "at": start + number * (31 * DAY // rows),
            "feature": f"feature-{feature}",
            "key": f"key-{feature}-{random.randrange(2)}",
            "deployment": f"deployment-{random.randrange(3)}",
            "outcome": Outcome.SUCCESS if random.random() < 0.98 else Outcome.TIMEOUT,
        }
        writer.append(msgspec.structs.replace(record(False), **changes))
    await writer.close()
    since, until = (dt.datetime(2026, month, 1) for month in (10, 11))
    spent: dict[str, float] = {}
    for dimensions in (["feature"], ["day"], ["day", "feature", "deployment"]):
        moment = time.perf_counter()
        usage_by(place.url("report"), dimensions, since, until, timezone="Asia/Tokyo")
        spent[f"by_{'_'.join(dimensions)}_ms"] = round((time.perf_counter() - moment) * 1e3)
    return {"part": "report", "rows": rows, **spent}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--random-ids", action="store_true", help="attempt ids without an order in time")
    parser.add_argument(
        "--postgres", nargs="?", const="own", help="a URL, or nothing for a server of its own"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder, contextlib.ExitStack() as stack:
        url = options.postgres
        if url == "own":
            url = stack.enter_context(postgres_server()).url()
        place = Place(folder, url)
        print(json.dumps(uvloop.run(measure_append(place, options.random_ids))))
        print(json.dumps(uvloop.run(measure_drain(place, options.rows, options.random_ids))), flush=True)
        print(json.dumps(uvloop.run(measure_report(place, options.rows))), flush=True)


if __name__ == "__main__":
    sys.exit(main())
