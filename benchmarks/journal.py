"""What the journal costs a request: microseconds for its intent, its final record, and both.

    python -m benchmarks.journal [--folder .] [--records 2000] [--rounds 50]

Processor time of the one thread, the kernel's share included, since that is what a gateway has one core of.
64 attempts are under way at any time, of few enough records to stay in the cache, as new ones do. The best
round counts, since everything else that the machine does only adds to it; the median stands beside it.
`write` is the bare system call with a frame of the same size, for comparison. One JSON object a line.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.ledger_writer import record
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import final_frame, intent_frame
from gateway.ledger.journal.journal import Journal, JournalEntry
from tests.core.halves import halves_of

UNDER_WAY = 64


# An attempt's id, and the two halves of its row.
Attempt = tuple[str, bytes, bytes]


def attempts(count: int) -> list[Attempt]:
    """Attempts with ids of their own, as a gateway makes them."""
    made = []
    for number in range(count):
        own = {"attempt_id": f"req_{number:024x}:1", "request_id": f"req_{number:024x}"}
        made.append((own["attempt_id"], *halves_of(msgspec.structs.replace(record(False), **own))))
    return made


class Subject:
    """One journal, which takes attempts and releases them."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(JournalFolder(folder, "benchmark").claim_new())
        self.appended = 0

    def run(self, given: Sequence[Attempt]) -> dict[str, float]:
        """Seconds that these attempts took, by part."""
        seconds = {"intend": 0.0, "append": 0.0}
        for position in range(0, len(given), UNDER_WAY):
            window = given[position : position + UNDER_WAY]
            begun = time.thread_time()
            for attempt_id, sent, _ in window:
                self.journal.intend(attempt_id, sent)
            between = time.thread_time()
            for attempt_id, _, ended in window:
                self.appended += 1
                self.journal.append([JournalEntry(attempt_id, final_frame(ended))])
            seconds["intend"] += between - begun
            seconds["append"] += time.thread_time() - between
        self.journal.release(self.appended)
        return {**seconds, "both": sum(seconds.values())}


def bare_writes(folder: Path, data: bytes, times: int) -> float:
    descriptor = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    begun = time.thread_time()
    for _ in range(times):
        os.write(descriptor, data)
    seconds = time.thread_time() - begun
    os.close(descriptor)
    (folder / "bare").unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    given = attempts(options.records)
    _, sent, ended = given[0]
    sizes = {"intent": len(intent_frame(sent)), "final": len(final_frame(ended))}
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        subject = Subject(Path(name))
        for _ in range(options.rounds):
            seconds = subject.run(given)
            seconds["write"] = bare_writes(Path(name), bytes(sizes["final"]), options.records)
            for part, value in seconds.items():
                taken.setdefault(part, []).append(value / options.records * 1e6)
        subject.journal.close(subject.appended)
    for part, microseconds in taken.items():
        best, median = min(microseconds), statistics.median(microseconds)
        print(json.dumps({"part": part, "best_us": round(best, 2), "median_us": round(median, 2)}))
    print(json.dumps({"part": "frame_bytes", **sizes}))


if __name__ == "__main__":
    sys.exit(main())
