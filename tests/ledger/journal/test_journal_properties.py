"""Whatever happens in whatever order: each attempt that was sent is in the ledger exactly once."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.errors import Unavailable
from gateway.core.record import Outcome
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.tail import JournalTail
from tests.ledger.journal.faults import Quota, attempt_of, crash, journals, read_dead
from tests.ledger.ledger_records import final_entry, intent_half

LIMITS = JournalLimits(segment_bytes=2048, total_bytes=12 * 1024)
PLENTY = 10**9


class Worker(RuleBasedStateMachine):
    """A worker that sends, records, commits, is killed and starts again, over a disk that may fill up.

    `ledger` inserts as the database does: the first row of an attempt stands. `committed` is the number up to
    which it has the journal, and what a writer that begins anew starts from.
    """

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.folder = journals(self.home / "journal")
        self.ledger: dict[str, Outcome] = {}
        self.sent: set[str] = set()
        self.ended: set[str] = set()
        self.under_way: list[str] = []
        self.names = 0
        self.disk = Quota(PLENTY)
        self.begin()

    def begin(self) -> None:
        self.committed = 0
        self.disk.left_bytes = PLENTY
        self.journal = Journal(self.folder.claim_new(), self.disk, LIMITS)
        self.tail = JournalTail(self.folder.path, self.journal.worker)

    @rule(count=st.integers(1, 8))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.names += 1
            name = str(self.names)
            try:
                self.journal.intend(*intent_half(name))
            except Unavailable:
                assert not self.journal.has_room()
                continue
            self.sent.add(name)
            self.under_way.append(name)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ending = data.draw(st.lists(st.sampled_from(self.under_way), min_size=1, max_size=8, unique=True))
        for name in ending:
            self.under_way.remove(name)
            self.journal.append([final_entry(name)])
            self.ended.add(name)

    @rule(count=st.integers(1, 20))
    def commit(self, count: int) -> None:
        for entry in self.tail.read(count):
            assert entry.number == self.committed + 1
            self.book(attempt_of(entry))
            self.committed = entry.number

    @rule(count=st.integers(0, 20))
    def writer_dies(self, count: int) -> None:
        """What it has read and not committed is read by the next one."""
        self.tail.read(count)
        self.tail.close()
        self.tail = JournalTail(self.folder.path, self.journal.worker, self.committed)

    @rule()
    def release(self) -> None:
        self.journal.release(self.committed)

    def book(self, attempt: tuple[str, str]) -> None:
        self.ledger.setdefault(attempt[0], Outcome(attempt[1]))

    @rule(left_bytes=st.integers(0, 2000))
    def fill_the_disk(self, left_bytes: int) -> None:
        self.disk.left_bytes = left_bytes

    @rule()
    def free_the_disk(self) -> None:
        self.disk.left_bytes = PLENTY

    @rule(how=st.sampled_from(["killed", "replayer killed", "stopped while the ledger is unavailable"]))
    def die(self, how: str) -> None:
        if how == "stopped while the ledger is unavailable":
            self.journal.close(self.committed)
        else:
            crash(self.journal)
        if how == "replayer killed":
            self.replay_half()
        self.recover()
        self.begin()

    def replay_half(self) -> None:
        """Half of what is read is committed, and nothing removed."""
        for claim in self.folder.dead():
            attempts = read_dead(JournalTail(claim.folder, claim.worker, self.committed))
            for attempt in attempts[: len(attempts) // 2]:
                self.book(attempt)
            claim.give_up()

    def recover(self) -> None:
        self.tail.close()
        for claim in self.folder.dead():
            tail = JournalTail(claim.folder, claim.worker, self.committed)
            for attempt in read_dead(tail):
                self.book(attempt)
            tail.finish()
            claim.give_up()
        self.under_way.clear()
        assert set(self.ledger) == {f"req_{name}:1" for name in self.sent}
        assert not list(self.folder.path.glob("*.journal2"))

    @invariant()
    def a_known_end_is_never_only_presumed(self) -> None:
        """With a disk that takes what it is given. On a full one the end may be lost with the queue."""

    def teardown(self) -> None:
        if hasattr(self, "home"):
            crash(self.journal)
            self.recover()
            shutil.rmtree(self.home)


class WorkerOnAGoodDisk(Worker):
    """The same, and an end that was recorded is never replaced by a presumption."""

    def fill_the_disk(self, left_bytes: int) -> None: ...

    @invariant()
    def a_known_end_is_never_only_presumed(self) -> None:
        for name, outcome in self.ledger.items():
            ended = name.removeprefix("req_").removesuffix(":1") in self.ended
            assert outcome is (Outcome.SUCCESS if ended else Outcome.PRESUMED)


CHECKED = settings(
    max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TestWorker = Worker.TestCase
TestWorker.settings = CHECKED
TestWorkerOnAGoodDisk = WorkerOnAGoodDisk.TestCase
TestWorkerOnAGoodDisk.settings = CHECKED
