"""Whatever happens in whatever order: each attempt that was sent is in the ledger exactly once."""

import shutil
import tempfile
from pathlib import Path

from gateway.ledger.journal.replay import Replay
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.errors import Unavailable
from gateway.core.record import Outcome
from gateway.ledger.journal.journal import Journal, JournalLimits
from tests.ledger.journal.faults import Quota, crash, journals
from tests.ledger.ledger_records import final_half, intent_half

LIMITS = JournalLimits(segment_bytes=2048, total_bytes=12 * 1024)
PLENTY = 10**9


class Worker(RuleBasedStateMachine):
    """A worker that sends, records, commits, is killed and starts again, over a disk that may fill up.

    `ledger` inserts as the database does: the first row of an attempt stands. `queue` dies with the worker.
    """

    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.folder = journals(self.home / "journal")
        self.ledger: dict[str, Outcome] = {}
        self.sent: set[str] = set()
        self.ended: set[str] = set()
        self.under_way: list[str] = []
        self.queue: list[str] = []
        self.names = 0
        self.disk = Quota(PLENTY)
        self.begin()

    def begin(self) -> None:
        self.appended = 0
        self.disk.left_bytes = PLENTY
        self.journal = Journal(self.folder.claim_new(), self.disk, LIMITS)

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
            self.appended += 1
            self.journal.append([(*final_half(name), self.appended)])
            self.ended.add(name)
            self.queue.append(name)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.queue)))
        for name in self.queue[:count]:
            self.ledger.setdefault(f"req_{name}:1", Outcome.SUCCESS)
        del self.queue[:count]

    @rule()
    def release(self) -> None:
        self.journal.release(self.appended - len(self.queue))

    @rule(left_bytes=st.integers(0, 2000))
    def fill_the_disk(self, left_bytes: int) -> None:
        self.disk.left_bytes = left_bytes

    @rule()
    def free_the_disk(self) -> None:
        self.disk.left_bytes = PLENTY

    @rule(how=st.sampled_from(["killed", "replayer killed", "stopped while the ledger is unavailable"]))
    def die(self, how: str) -> None:
        if how == "stopped while the ledger is unavailable":
            self.journal.close(self.appended - len(self.queue))
        else:
            crash(self.journal)
        if how == "replayer killed":
            self.replay_half()
        self.recover()
        self.begin()

    def replay_half(self) -> None:
        """Half of what is read is committed, and nothing removed."""
        for claim in self.folder.dead():
            records = list(Replay(claim).records())
            for record in records[: len(records) // 2]:
                self.ledger.setdefault(record.attempt_id, record.outcome)
            claim.give_up()

    def recover(self) -> None:
        for claim in self.folder.dead():
            replay = Replay(claim)
            for record in replay.records():
                self.ledger.setdefault(record.attempt_id, record.outcome)
            replay.finish()
            claim.give_up()
        self.queue.clear()
        self.under_way.clear()
        assert set(self.ledger) == {f"req_{name}:1" for name in self.sent}
        assert not list(self.folder.path.glob("*.journal"))

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
