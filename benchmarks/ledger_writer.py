"""How fast the ledger's writer brings a journal into the database, and what a row costs its processor.

    python -m benchmarks.ledger_writer [--rows 200000] [--random-ids] [--audit] [--postgres [URL]]

`--postgres` writes to PostgreSQL: to the database of URL, or to a server of its own for the time being, with
the server's defaults (fsync on). Otherwise to an SQLite file in the current folder. `--audit` keeps receipts
too, as a gateway with a signing key does.

The journal is written before, as a gateway does it: with 64 attempts under way, in segments of 8 MiB. All of
it is read and committed in this process, by what the writer's process runs: the tail of the journal, the
queue and the store. Three parts, each as a row of JSON:
- `read`: CPU microseconds a row from the bytes of both its frames to the row, without a store.
- `drain`: rows a second from the journal into the database, CPU microseconds a row of all threads, and the
  growth of resident memory.
- `report`: milliseconds of `usage_by` over a month with as many rows, spread over it, by feature, by day,
  and by both with the deployment.

What the gateway does for a row is to write those frames: `benchmarks/journal.py`.
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
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from gateway.core.record import Outcome, UsageRecord
from gateway.garbage import collect_seldom
from gateway.ledger.audit.keys import signer_from
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import final_frame
from gateway.ledger.journal.journal import Journal, JournalEntry
from gateway.ledger.opening import open_ledger
from gateway.ledger.process.source import JournalSource
from gateway.ledger.reports import usage_by
from gateway.ledger.writer import JournalPosition
from tests.core.halves import halves_of
from tests.ledger.ledger_records import FULL, RecordWriter
from tests.ledger.postgres_server import postgres_server

SAMPLE = msgspec.structs.replace(FULL, unseen_nano_usd=0, tags={"ticket": "A-1"})
DAY = 24 * 3600 * 1_000_000  # microseconds
UNDER_WAY = 64
READ_TOGETHER = 2_560  # a slice of SQLite


def record(random_ids: bool) -> UsageRecord:
    at = time.time_ns() // 1000
    request_id = f"req_{secrets.token_hex(16)}" if random_ids else f"req_{time.time_ns():016x}"
    own = {"attempt_id": f"{request_id}:1", "request_id": request_id, "at": at}
    return msgspec.structs.replace(SAMPLE, **own, upstream_request_id=f"chatcmpl-{request_id}")


class Place:
    """Where the ledgers of the parts are: a file each, or one database of a server for all."""

    def __init__(self, folder: Path, postgres: str | None) -> None:
        self.folder = folder
        self.postgres = postgres

    def url(self, name: str) -> str:
        return self.postgres or f"sqlite:///{self.folder}/{name}.db"


class WrittenJournal:
    """A journal of so many attempts, all of which have ended."""

    def __init__(self, folder: Path, rows: int, random_ids: bool) -> None:
        self.folder = folder
        self.rows = rows
        places = JournalFolder(folder, "benchmark")
        places.prepare()
        self._journal = Journal(places.claim_new())
        for start in range(0, rows, UNDER_WAY):
            self._write([record(random_ids) for _ in range(min(UNDER_WAY, rows - start))])

    def begin(self) -> JournalSource:
        """It, to be read from its first frame on."""
        source = JournalSource(self.folder, JournalPosition(self._journal.worker))
        source.begin(0)
        return source

    def _write(self, together: Sequence[UsageRecord]) -> None:
        halves = [(one.attempt_id, *halves_of(one)) for one in together]
        for attempt_id, sent, _ in halves:
            self._journal.intend(attempt_id, sent)
        self._journal.append([JournalEntry(name, final_frame(ended)) for name, _, ended in halves])


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure_read(journal: WrittenJournal) -> dict[str, object]:
    source, count = journal.begin(), 0
    cpu = time.process_time()
    while entries := source.read(READ_TOGETHER):
        count += len(entries)
    spent = time.process_time() - cpu
    source.close()
    assert count == journal.rows
    return {"part": "read", "rows": count, "cpu_us_per_row": round(spent / count * 1e6, 2)}


async def measure_drain(place: Place, journal: WrittenJournal, trail: AuditTrail | None) -> dict[str, object]:
    source = journal.begin()

    async def fill(room: int) -> None:
        writer.put(source.read(room), source.position)

    writer = open_ledger(place.url("drain"), spill_folder=place.folder, trail=trail, fill=fill)
    memory, cpu, wall = resident_mib(), 0.0, 0.0
    await writer.start()
    cpu, wall = time.process_time(), time.perf_counter()
    await writer.advance(lambda: source.position.committed == journal.rows)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    grown = resident_mib() - memory
    await writer.close()
    source.close()
    return {
        "part": "drain",
        "rows": journal.rows,
        "rows_per_second": round(journal.rows / wall),
        "cpu_us_per_row": round(cpu / journal.rows * 1e6, 2),
        "memory_grown_mib": round(grown, 1),
    }


async def measure_report(place: Place, rows: int) -> dict[str, object]:
    """A month of traffic from 20 features with 2 keys each to 3 deployments, some of it failing."""
    writer = RecordWriter(open_ledger(place.url("report"), spill_folder=place.folder))
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
    parser.add_argument("--audit", action="store_true", help="with receipts in the audit log")
    parser.add_argument(
        "--postgres", nargs="?", const="own", help="a URL, or nothing for a server of its own"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name, contextlib.ExitStack() as stack:
        folder, url = Path(name), options.postgres
        if url == "own":
            url = stack.enter_context(postgres_server()).url()
        place = Place(folder, url)
        journal = WrittenJournal(folder / "journal", options.rows, options.random_ids)
        trail = AuditTrail(signer_from("00" * 32), time.time, version="benchmark") if options.audit else None
        collect_seldom()
        print(json.dumps(measure_read(journal)), flush=True)
        print(json.dumps(uvloop.run(measure_drain(place, journal, trail))), flush=True)
        print(json.dumps(uvloop.run(measure_report(place, options.rows))), flush=True)


if __name__ == "__main__":
    sys.exit(main())
