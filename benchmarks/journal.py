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
from gateway.core.answer import Usage
from gateway.core.record import Outcome, UsageRecord
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import final_frame, intent_frame
from gateway.ledger.journal.journal import Journal

UNDER_WAY = 64


def final_records(count: int) -> list[UsageRecord]:
    """Records with attempt ids of their own, as a gateway makes them."""
    return [
        msgspec.structs.replace(
            record(False), attempt_id=f"req_{number:024x}:1", request_id=f"req_{number:024x}"
        )
        for number in range(count)
    ]


def presumed(final: UsageRecord) -> UsageRecord:
    return msgspec.structs.replace(
        final,
        outcome=Outcome.PRESUMED,
        estimated=True,
        usage=Usage(input_text=812),
        status=0,
        finish_reason=None,
        reported_model=None,
        ttft_ms=None,
        duration_ms=0.0,
        upstream_request_id=None,
    )


class Subject:
    """One journal, which takes attempts and releases them."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(JournalFolder(folder, "benchmark").claim_new())
        self.appended = 0

    def run(self, intents: Sequence[UsageRecord], finals: Sequence[UsageRecord]) -> dict[str, float]:
        """Seconds that these attempts took, by part."""
        seconds = {"intend": 0.0, "append": 0.0}
        for position in range(0, len(intents), UNDER_WAY):
            window = slice(position, position + UNDER_WAY)
            begun = time.thread_time()
            for one in intents[window]:
                self.journal.intend(one)
            between = time.thread_time()
            for one in finals[window]:
                self.appended += 1
                self.journal.append([(one, self.appended)])
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
    finals = final_records(options.records)
    intents = [presumed(one) for one in finals]
    sizes = {"intent": len(intent_frame(intents[0])), "final": len(final_frame(finals[0]))}
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        subject = Subject(Path(name))
        for _ in range(options.rounds):
            seconds = subject.run(intents, finals)
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
