"""The journal in front of a real database: what a start finds, what a stop leaves, who waits for whom."""

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.core.audit import Entry, EntryKind
from gateway.core.errors import Unavailable
from gateway.core.record import UsageRecord
from gateway.ledger.audit.verify import verify
from gateway.ledger.errors import LedgerUnusable
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import MARKER, FrameKind, Note, _frame, note_frame
from gateway.ledger.journal.journal import Journal, JournalEntry, JournalLimits
from gateway.ledger.journal.ledger import JournaledLedger, JournalTimes, Sync
from gateway.ledger.journal.opening import open_journaled_ledger, writer_settings
from gateway.ledger.journal.tail import JournalTail
from gateway.ledger.process.messages import WriterSettings
from gateway.ledger.process.service import WriterService
from gateway.ledger.writer import WriterLimits
from tests.ledger.journal.faults import LEDGER, Quota, begun, crash, found_dead, journals, ledger_rows
from tests.ledger.ledger_records import final, final_entry, final_half, intent, intent_half, run, until
from tests.ledger.writer_service import writer_service

SEED = "00" * 32
SMALL = JournalLimits(segment_bytes=4096, total_bytes=32 * 1024)
QUICK = JournalTimes(release_seconds=0.01, sync_seconds=0.01, close_timeout_seconds=0.05)
PEERS_SECONDS = 0.02
SHORT_WAITS = WriterLimits(
    linger_seconds=0.005, retry_seconds=0.005, retry_ceiling_seconds=0.02, close_timeout_seconds=0.05
)


class Home:
    """A database and the journals beside it, and the writer as a service in the same loop."""

    def __init__(self, path: Path) -> None:
        self.database = path / "ledger.db"
        self.folder = journals(path / "journal")
        self.address = Path()
        self.service: Any = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def settings(self) -> WriterSettings:
        return WriterSettings(
            url=self.url,
            journal_folder=str(self.folder.path),
            journal_name=LEDGER,
            spill_folder=None,
            signing_seed=SEED,
            sync_each_commit=False,
            log_level="info",
            limits=SHORT_WAITS,
        )

    @asynccontextmanager
    async def writer(self, *, peers_seconds: float = PEERS_SECONDS) -> AsyncIterator[WriterService]:
        """The writer, which those who start meanwhile find."""
        async with writer_service(self.settings, peers_seconds=peers_seconds) as (service, self.address):
            self.service = service
            yield service

    def ledger(self, **options: Any) -> JournaledLedger:
        address = self.address
        options = {"limits": SMALL, "times": QUICK} | options
        return JournaledLedger(JournalFolder(self.folder.path, LEDGER), lambda: address, **options)

    @asynccontextmanager
    async def running(
        self, *, peers_seconds: float = PEERS_SECONDS, **options: Any
    ) -> AsyncIterator[JournaledLedger]:
        async with self.writer(peers_seconds=peers_seconds):
            ledger = self.ledger(**options)
            await ledger.start()
            try:
                yield ledger
            finally:
                await ledger.close()

    def dead_worker(self, *, sent: int, ended: int) -> None:
        """A worker that was killed after so many attempts of its own."""
        journal = Journal(self.folder.claim_new(), limits=SMALL)
        for number in range(sent):
            journal.intend(*intent_half(f"{journal.worker}-{number}"))
        for number in range(ended):
            journal.append([final_entry(f"{journal.worker}-{number}")])
        crash(journal)

    def rows(self) -> dict[str, str]:
        return ledger_rows(self.database)

    def counts(self) -> dict[str, int]:
        outcomes = list(self.rows().values())
        return {outcome: outcomes.count(outcome) for outcome in set(outcomes)}

    def segments(self) -> list[Path]:
        return begun(self.folder.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the database's write lock."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_start_knows_everything_that_the_dead_have_sent(home: Home) -> None:
    async def scenario() -> None:
        home.dead_worker(sent=600, ended=550)
        home.dead_worker(sent=3, ended=0)
        async with home.writer():
            ledger = home.ledger()
            assert not ledger.has_room()
            await ledger.start()
            assert home.counts() == {"success": 550, "presumed": 53}  # before anything is admitted
            assert ledger.has_room()
            assert ledger.lag_rows() == 0
            await ledger.close()
        assert home.segments() == []

    run(scenario())


def test_a_replay_that_was_cut_off_is_repeated_and_inserts_each_row_once(home: Home) -> None:
    async def scenario() -> None:
        home.dead_worker(sent=40, ended=30)
        kept = {path: path.read_bytes() for path in home.segments()}
        async with home.running():
            pass
        for path, content in kept.items():
            path.write_bytes(content)
        async with home.running():
            assert home.counts() == {"success": 30, "presumed": 10}

    run(scenario())


def test_two_that_start_at_once_insert_each_row_once_and_both_wait_for_it(home: Home) -> None:
    async def scenario() -> None:
        async with home.running():
            pass  # the database is there
        home.dead_worker(sent=900, ended=600)
        async with home.writer():
            first = home.ledger()
            async with home.writer():
                second = home.ledger()

                async def start(ledger: JournaledLedger) -> int:
                    await ledger.start()
                    return len(home.rows())

                assert await asyncio.gather(start(first), start(second)) == [900, 900]
                assert home.counts() == {"success": 600, "presumed": 300}
                await first.close()
                await second.close()

    run(scenario())


def test_a_peers_crash_is_noticed_while_serving(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            ledger.intend(*intent_half("mine"))
            home.dead_worker(sent=5, ended=2)
            await until(lambda: len(home.rows()) == 5)
            ledger.append(*final_half("mine"))
            await ledger.flush()
            assert home.counts() == {"success": 3, "presumed": 3}
            await until(lambda: len(home.segments()) == 1)
        assert home.segments() == []

    run(scenario())


def test_the_living_are_not_replayed(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as one, home.running() as other:
            one.intend(*intent_half(1))
            other.intend(*intent_half(2))
            await asyncio.sleep(5 * PEERS_SECONDS)
            assert home.rows() == {}
            one.append(*final_half(1))
            other.append(*final_half(2))
        assert home.counts() == {"success": 2}

    run(scenario())


def test_a_stop_with_the_database_unavailable_forgets_nothing(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            for number in range(10):
                ledger.intend(*intent_half(number))
            for number in range(8):
                ledger.append(*final_half(number))
            with home.locked(), capture_logs() as logs:
                await ledger.close()
                assert home.rows() == {}
        (left,) = (entry for entry in logs if entry["event"] == "journal.rows_left")
        assert (left["rows"], left["folder"]) == (8, str(home.folder.path))
        async with home.running():
            assert home.counts() == {"success": 8, "presumed": 2}

    run(scenario())


def test_a_stop_says_how_many_attempts_are_still_under_way(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            for number in range(3):
                ledger.intend(*intent_half(number))
            ledger.append(*final_half(0))
            with capture_logs() as logs:
                await ledger.close()
        (left,) = (entry for entry in logs if entry["event"] == "journal.under_way")
        assert left["attempts"] == 2

    run(scenario())


def test_an_end_after_the_stop_is_kept(home: Home) -> None:
    async def scenario() -> None:
        async with home.running(peers_seconds=3600) as ledger:
            ledger.intend(*intent_half(1))
            await ledger.close()
            ledger.append(*final_half(1))
            with pytest.raises(Unavailable):
                ledger.intend(*intent_half(2))
        async with home.running():
            assert home.counts() == {"success": 1}

    run(scenario())


def test_committed_segments_go_while_serving(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            for number in range(200):
                await ledger.wait_for_room()
                ledger.intend(*intent_half(number))
                ledger.append(*final_half(number))
            await ledger.flush()
            await until(lambda: len(home.segments()) == 1)
            assert len(home.rows()) == 200

    run(scenario())


def test_with_the_database_unavailable_the_journal_grows_to_its_bound_and_admission_waits(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            number = 0
            with home.locked():
                while ledger.has_room():
                    number += 1
                    ledger.intend(*intent_half(number))
                    ledger.append(*final_half(number))
                    await asyncio.sleep(0)
                waiting = asyncio.create_task(ledger.wait_for_room())
                await until(lambda: ledger.problem() is not None)
                assert not waiting.done()
            await waiting
            assert ledger.problem() is None
            await ledger.flush()
            assert len(home.rows()) == number

    run(scenario())


def test_a_full_disk_refuses_at_once_and_loses_nothing(home: Home) -> None:
    async def scenario() -> None:
        disk = Quota(20_000)
        sent: list[str] = []
        refused = 0
        async with home.running(files=disk) as ledger:
            for number in range(200):
                try:
                    ledger.intend(*intent_half(number))
                except Unavailable:
                    refused += 1
                else:
                    sent.append(f"req_{number}:1")
            assert refused
            assert not ledger.has_room()
            assert "No space left on device" in (ledger.problem() or "")
            for name in sent[::2]:
                ledger.append(*final_half(name.removeprefix("req_").removesuffix(":1")))
            with pytest.raises(Unavailable, match="disk"):
                await ledger.wait_for_room()
            flushing = asyncio.create_task(ledger.flush())
            await asyncio.sleep(5 * QUICK.release_seconds)
            assert not flushing.done()  # these ends are in memory only
            disk.left_bytes = 10**6
            await flushing
            await ledger.wait_for_room()
            assert ledger.problem() is None
        assert list(home.rows()) == sent[::2]
        async with home.running():
            assert home.counts() == {"success": len(sent[::2]), "presumed": len(sent[1::2])}

    run(scenario())


def test_syncing_in_batches_says_when_the_disk_refuses(home: Home) -> None:
    class Refusing(Files):
        def __init__(self) -> None:
            self.refuses = False
            self.synced = 0

        def sync(self, descriptor: int) -> None:
            if self.refuses:
                raise OSError(5, "Input/output error")
            self.synced += 1

    async def scenario() -> None:
        disk = Refusing()
        async with home.running(files=disk, sync="batch") as ledger:
            ledger.intend(*intent_half(1))
            await until(lambda: disk.synced)
            disk.refuses = True
            ledger.append(*final_half(1))
            await until(lambda: ledger.problem() == "journal: cannot sync: Input/output error")
            disk.refuses = False
            await until(lambda: ledger.problem() is None)

    run(scenario())


@pytest.mark.parametrize(
    ("damaged", "counts"),
    [
        (FrameKind.FINAL, {"success": 1, "presumed": 1}),
        (FrameKind.INTENT, {"success": 1}),  # its end alone does not say who pays
    ],
)
def test_damage_is_kept_for_a_person_and_costs_nobody_else(
    home: Home, damaged: FrameKind, counts: dict[str, int]
) -> None:
    async def scenario() -> None:
        home.dead_worker(sent=2, ended=2)
        [path] = home.segments()
        content = bytearray(path.read_bytes())
        content[content.index(damaged.marker) + 20] ^= 0xFF
        path.write_bytes(content)
        async with home.running():
            assert home.counts() == counts
        assert [path.name.rpartition(".")[2] for path in home.folder.path.glob("*.0*")] == ["damaged"]
        assert found_dead(home.folder) == []

    run(scenario())


def test_a_segment_of_an_unknown_format_is_kept_for_a_person(home: Home) -> None:
    """A later version may have written it: who goes back to this one must not lose what it says."""

    async def scenario() -> None:
        home.dead_worker(sent=2, ended=2)
        [path] = home.segments()
        content = path.read_bytes().replace(MARKER, b"\xd6NEW"[: len(MARKER)].ljust(len(MARKER), b"!"))
        path.write_bytes(content)
        async with home.running():
            assert home.rows() == {}
        [kept] = home.folder.path.glob("*.damaged")
        assert kept.read_bytes() == content

    run(scenario())


def test_a_pause_of_commits_takes_what_came_before_it_and_nothing_after(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            for number in range(3):
                ledger.intend(*intent_half(number))
                ledger.append(*final_half(number))
            ledger.pause_commits()
            ledger.intend(*intent_half(3))
            ledger.append(*final_half(3))
            await ledger.flush()
            assert list(home.rows()) == [f"req_{number}:1" for number in range(3)]
            assert ledger.lag_rows() == 1
            ledger.resume_commits()
            await ledger.flush()
            assert len(home.rows()) == 4
            ledger.pause_commits()
            ledger.intend(*intent_half(4))
            ledger.append(*final_half(4))
        assert len(home.rows()) == 5

    run(scenario())


def test_while_one_worker_has_paused_another_goes_on(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as one:
            other = home.ledger()
            await other.start()
            one.pause_commits()
            for number, ledger in enumerate((one, other)):
                ledger.intend(*intent_half(number))
                ledger.append(*final_half(number))
            await asyncio.gather(one.flush(), other.flush())
            assert list(home.rows()) == ["req_1:1"]
            await other.close()

    run(scenario())


def test_while_commits_are_paused_the_dead_wait(home: Home) -> None:
    async def scenario() -> None:
        async with home.running() as ledger:
            kept = len(home.segments())  # its own
            ledger.pause_commits()
            home.dead_worker(sent=5, ended=5)
            with_the_dead = len(home.segments())
            await ledger.replay_dead_workers()
            await asyncio.sleep(5 * PEERS_SECONDS)
            assert (len(home.rows()), len(home.segments())) == (0, with_the_dead)
            ledger.resume_commits()
            await ledger.replay_dead_workers()
            assert (len(home.rows()), len(home.segments())) == (5, kept)

    run(scenario())


def test_so_many_rows_may_wait_for_the_writer_and_no_more(home: Home) -> None:
    async def scenario() -> None:
        async with home.running(queue_rows=3) as ledger:
            with home.locked():
                for number in range(3):
                    assert ledger.has_room()
                    ledger.intend(*intent_half(number))
                    ledger.append(*final_half(number))
                assert not ledger.has_room()
                ledger.intend(*intent_half(3))  # admitted before the bound was reached
                ledger.append(*final_half(3))
                waiting = [asyncio.create_task(ledger.wait_for_room()) for _ in range(5)]
                cancelled = waiting.pop()
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in waiting)
                cancelled.cancel()
            await asyncio.gather(*waiting)
            assert ledger.has_room()
        assert len(home.rows()) == 4

    run(scenario())


def test_a_writer_that_is_gone_holds_up_no_request_and_its_successor_catches_up(home: Home) -> None:
    async def scenario() -> None:
        async with home.writer():
            ledger = home.ledger()
            ledger._writer._address = lambda: home.address
            await ledger.start()
            ledger.intend(*intent_half(0))
            ledger.append(*final_half(0))
            ledger.note(EntryKind.ACT, {"act": "before"})
            await ledger.flush()
        for number in range(1, 4):
            ledger.intend(*intent_half(number))
            ledger.append(*final_half(number))
        ledger.note(EntryKind.ACT, {"act": "meanwhile"})
        assert ledger.has_room()
        assert ledger.problem() is None  # a second is not worth a word
        flushing = asyncio.create_task(ledger.flush())
        async with home.writer():
            await flushing
            assert home.counts() == {"success": 4}
            await ledger.close()
        assert home.segments() == []
        acts = list[Entry]()
        assert verify(home.url, visit_act=acts.append).ok
        told = [json.loads(act.payload)["act"] for act in acts if act.kind == EntryKind.ACT]
        assert sorted(told) == ["before", "meanwhile"]

    run(scenario())


def test_what_a_dead_worker_noted_is_entered_once_though_its_replay_was_cut_off(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_tail: JournalTail) -> None:
        raise OSError(5, "the process dies here")

    async def scenario() -> None:
        journal = Journal(home.folder.claim_new(), limits=SMALL)
        notes = [Note(EntryKind.REFUSED.value, 1, f'{{"n":{number}}}') for number in range(30)]
        journal.append([JournalEntry(None, note_frame(note)) for note in notes])
        crash(journal)
        with monkeypatch.context() as patch:
            patch.setattr(JournalTail, "finish", killed)
            async with home.writer():
                ledger = home.ledger()
                with pytest.raises(LedgerUnusable, match="dies here"):
                    await ledger.start()
                await ledger.close()
        assert len(home.segments()) == 1
        async with home.running():
            pass
        assert home.segments() == []
        acts = list[Entry]()
        assert verify(home.url, visit_act=acts.append).ok
        told = [act.payload for act in acts if act.kind == EntryKind.REFUSED]
        assert told == [f'{{"n":{number}}}' for number in range(30)]

    run(scenario())


def test_notes_are_dropped_and_counted_when_nobody_takes_them(home: Home) -> None:
    async def scenario() -> None:
        async with home.running(queue_rows=5) as ledger:
            with home.locked(), capture_logs() as logs:
                for number in range(15):
                    ledger.note(EntryKind.REFUSED, {"n": number})
                assert [entry["event"] for entry in logs].count("audit.notes_dropped") == 1
            await ledger.flush()
            ledger.note(EntryKind.REFUSED, {"n": 15})
            await ledger.flush()
        acts = list[Entry]()
        assert verify(home.url, visit_act=acts.append).ok
        told = [json.loads(act.payload) for act in acts if act.kind == EntryKind.REFUSED]
        assert told == [*({"n": number} for number in range(10)), {"n": 15, "dropped_before": 5}]

    run(scenario())


def test_an_end_without_an_intent_holds_up_no_flush(home: Home) -> None:
    """It cannot be booked, since nothing says who pays. What comes after it goes on."""

    async def scenario() -> None:
        async with home.running() as ledger:
            ledger.append(*final_half("unknown"))
            await ledger.flush()
            assert ledger.lag_rows() == 0
            ledger.intend(*intent_half(1))
            ledger.append(*final_half(1))
            await ledger.flush()
        assert home.counts() == {"success": 1}

    run(scenario())


def whole(record: UsageRecord) -> bytes:
    """As release 0.1.0 wrote a record."""
    return msgspec.msgpack.encode(msgspec.structs.astuple(record))


def test_a_journal_of_release_0_1_0_is_replayed(home: Home) -> None:
    """Its segments have no number, another suffix, and records as a whole in either frame."""
    claim = home.folder.claim_new()
    frames = [
        _frame(FrameKind.NAMES, msgspec.msgpack.encode(UsageRecord.__struct_fields__)),
        *(_frame(FrameKind.INTENT, whole(intent(number))) for number in range(5)),
        _frame(FrameKind.FINAL, whole(final(1))),
    ]
    path = home.folder.path / f"{claim.worker}.00000001.journal"
    path.write_bytes(b"".join(frames))
    os.close(claim.descriptor)

    async def scenario() -> None:
        async with home.running():
            assert home.counts() == {"success": 1, "presumed": 4}
        assert not path.exists()

    run(scenario())


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("no folder")
        url, folder = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "file" / "journal"
        async with writer_service(writer_settings(url, folder=folder)) as (_, address):
            ledger = open_journaled_ledger(url, lambda: address, folder=folder)
            with pytest.raises(LedgerUnusable, match=r"journal .*: Not a directory"):
                await ledger.start()
            await ledger.close()

    run(scenario())


@pytest.mark.parametrize(("sync", "pragma"), [("off", 1), ("batch", 2)])
def test_where_a_power_cut_spares_the_journal_it_spares_what_has_left_it_for_the_file(
    tmp_path: Path, sync: Sync, pragma: int
) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/ledger.db"
        async with writer_service(writer_settings(url, sync=sync)) as (service, _):
            await service.writer.start()
            store: Any = service.store
            asked = lambda: store._connected().exec_driver_sql("PRAGMA synchronous").scalar()  # noqa: E731
            assert await store._on_thread(asked) == pragma

    run(scenario())


def test_the_journal_stands_beside_the_file_unless_told_otherwise(tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/ledger.db"
        for folder in (None, tmp_path / "elsewhere"):
            async with writer_service(writer_settings(url, folder=folder)) as (_, address):
                ledger = open_journaled_ledger(url, lambda: address, folder=folder)
                await ledger.start()
                expected = folder or tmp_path / "ledger.db.journal"
                assert len(begun(expected)) == 1
                await ledger.close()
                assert list(expected.glob("*.journal2")) == []

    run(scenario())
