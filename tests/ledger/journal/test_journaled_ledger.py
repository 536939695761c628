"""The journal in front of a real database: what a start finds, what a stop leaves, who waits for whom."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import Unavailable
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.frames import MARKER, FrameKind
from gateway.ledger.journal.journal import Journal, JournalLimits
from gateway.ledger.journal.ledger import JournaledLedger, JournalTimes, Sync
from gateway.ledger.journal.opening import open_journaled_ledger
from gateway.ledger.opening import open_ledger
from gateway.ledger.writer import WriterLimits
from tests.ledger.journal.faults import Quota, crash, found_dead, journals, ledger_rows
from tests.ledger.ledger_records import final_half, intent_half, run, until

SMALL = JournalLimits(segment_bytes=4096, total_bytes=32 * 1024)
QUICK = JournalTimes(release_seconds=0.01, sync_seconds=0.01, peers_seconds=0.02)
SHORT_WAITS = WriterLimits(
    linger_seconds=0.005, retry_seconds=0.005, retry_ceiling_seconds=0.02, close_timeout_seconds=0.05
)


class Home:
    """A database and the journals beside it."""

    def __init__(self, path: Path) -> None:
        self.database = path / "ledger.db"
        self.folder = journals(path / "journal")

    def ledger(
        self, files: Files | None = None, sync: Sync = "off", times: JournalTimes = QUICK
    ) -> JournaledLedger:
        writer = open_ledger(f"sqlite:///{self.database}", limits=SHORT_WAITS)
        folder = JournalFolder(self.folder.path, "0123456789ab")
        return JournaledLedger(writer, folder, sync=sync, files=files, limits=SMALL, times=times)

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[JournaledLedger]:
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
            journal.intend(*intent_half(f"{journal._claim.worker}-{number}"))
        for number in range(ended):
            journal.append([(*final_half(f"{journal._claim.worker}-{number}"), number + 1)])
        crash(journal)

    def rows(self) -> dict[str, str]:
        return ledger_rows(self.database)

    def counts(self) -> dict[str, int]:
        outcomes = list(self.rows().values())
        return {outcome: outcomes.count(outcome) for outcome in set(outcomes)}

    def segments(self) -> list[Path]:
        return sorted(self.folder.path.glob("*.journal"))

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
        first, second = home.ledger(), home.ledger()

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
            await asyncio.sleep(5 * QUICK.peers_seconds)
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
            with home.locked():
                await ledger.close()
        async with home.running():
            assert home.counts() == {"success": 8, "presumed": 2}

    run(scenario())


def test_without_a_database_and_without_a_spill_file_the_journal_keeps_the_rows(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ledger = home.ledger()
        await ledger.start()
        ledger.intend(*intent_half(1))
        ledger.append(*final_half(1))

        def full(*_: object) -> Path:
            raise LedgerUnavailable("no space")

        monkeypatch.setattr(ledger._writer._spill, "save", full)
        with home.locked(), capture_logs() as logs, pytest.raises(LedgerUnavailable):
            await ledger.close()
        (left,) = (entry for entry in logs if entry["event"] == "journal.rows_left")
        assert (left["rows"], left["folder"]) == (1, str(home.folder.path))
        async with home.running():
            assert home.counts() == {"success": 1}

    run(scenario())


def test_an_end_that_a_full_disk_keeps_out_of_the_spill_file_while_stopping_stays_in_the_journal(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ledger = home.ledger()
        await ledger.start()
        ledger.intend(*intent_half(1))
        close_store = ledger._writer._store.close

        def full(*_: object) -> Path:
            raise LedgerUnavailable("no space")

        async def close_slowly() -> None:
            with pytest.raises(LedgerUnavailable):
                ledger.append(*final_half(1))
            await close_store()

        monkeypatch.setattr(ledger._writer._spill, "save", full)
        monkeypatch.setattr(ledger._writer._store, "close", close_slowly)
        await ledger.close()
        async with home.running():
            assert home.counts() == {"success": 1}

    run(scenario())


def test_a_replay_that_a_pause_of_commits_overtakes_leaves_the_dead_ones_journal_until_its_rows_are_committed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        times = JournalTimes(release_seconds=0.01, peers_seconds=3600)
        async with home.running(times=times) as ledger:
            home.dead_worker(sent=5, ended=5)
            kept = len(home.segments())  # its own with them
            wait = ledger._writer.wait_for_room

            async def halt_first() -> None:
                ledger.pause_commits()
                await wait()

            monkeypatch.setattr(ledger._writer, "wait_for_room", halt_first)
            await ledger.replay_dead_workers()
            assert (len(home.rows()), len(home.segments())) == (0, kept)
            monkeypatch.undo()
            ledger.resume_commits()
            await ledger.replay_dead_workers()
            assert (len(home.rows()), len(home.segments())) == (5, 1)

    run(scenario())


def test_a_stop_says_how_many_attempts_are_still_under_way(home: Home) -> None:
    async def scenario() -> None:
        ledger = home.ledger()
        await ledger.start()
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
        ledger = home.ledger()
        await ledger.start()
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


def test_a_full_disk_slows_admission_and_loses_nothing(home: Home) -> None:
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
            waiting = asyncio.create_task(ledger.wait_for_room())
            await ledger.flush()
            assert not waiting.done()
            disk.left_bytes = 10**6
            await waiting
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


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("no folder")
        ledger = open_journaled_ledger(
            f"sqlite:///{tmp_path}/ledger.db", folder=tmp_path / "file" / "journal"
        )
        with pytest.raises(LedgerUnavailable, match=r"journal .*: Not a directory"):
            await ledger.start()

    run(scenario())


@pytest.mark.parametrize(("sync", "pragma"), [("off", 1), ("batch", 2)])
def test_where_a_power_cut_spares_the_journal_it_spares_what_has_left_it_for_the_file(
    tmp_path: Path, sync: Sync, pragma: int
) -> None:
    async def scenario() -> None:
        ledger = open_journaled_ledger(f"sqlite:///{tmp_path}/ledger.db", sync=sync)
        await ledger.start()
        store: Any = ledger._writer._store
        asked = lambda: store._connected().exec_driver_sql("PRAGMA synchronous").scalar()  # noqa: E731
        assert await store._on_thread(asked) == pragma
        await ledger.close()

    run(scenario())


def test_the_journal_stands_beside_the_file_unless_told_otherwise(tmp_path: Path) -> None:
    async def scenario() -> None:
        for folder in (None, tmp_path / "elsewhere"):
            ledger = open_journaled_ledger(f"sqlite:///{tmp_path}/ledger.db", folder=folder)
            await ledger.start()
            expected = folder or tmp_path / "ledger.db.journal"
            assert len(list(expected.glob("*.journal"))) == 1
            await ledger.close()
            assert list(expected.glob("*.journal")) == []

    run(scenario())
