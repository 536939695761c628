"""The process that writes the ledger: killed, orphaned, stopped and signalled. Over both databases."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.core.audit import Entry, EntryKind
from gateway.ledger.audit.verify import verify
from gateway.ledger.journal.ledger import JournaledLedger, JournalTimes
from gateway.ledger.journal.opening import open_journaled_ledger, writer_settings
from gateway.ledger.process import lifetime, owner
from gateway.ledger.process.owner import WriterOwner
from gateway.ledger.process.telemetry import WriterCounts, WriterTelemetry
from gateway.supervised import TaskRegistry
from tests.ledger.journal.faults import begun
from tests.ledger.ledger_records import TIMEOUT_SECONDS, final_half, intent_half, run, until
from tests.ledger.writer_service import writer_service

Database = Any
SEED = "00" * 32
ROOT = Path(__file__).parents[2]

# A gateway without its ports: it owns a writer, and sends and ends attempts until it is killed.
GATEWAY = """
import asyncio, signal, sys
from pathlib import Path
from gateway.core.audit import EntryKind
from gateway.ledger.journal.opening import open_journaled_ledger, writer_settings
from gateway.ledger.process.owner import WriterOwner
from gateway.supervised import TaskRegistry
from tests.ledger.ledger_records import final_half, intent_half

async def main(url, folder, name):
    owner = WriterOwner(writer_settings(url, folder=Path(folder), signing_seed="00" * 32), TaskRegistry())
    await owner.start()
    ledger = open_journaled_ledger(url, lambda: owner.path, folder=Path(folder))
    await ledger.start()
    print(owner.pid, flush=True)
    number = 0
    while True:
        for _ in range(20):
            number += 1
            ledger.intend(*intent_half(f"{name}-{number}"))
            if number % 10:
                ledger.append(*final_half(f"{name}-{number}"))
        ledger.note(EntryKind.REFUSED, {"of": name, "n": number})
        await asyncio.sleep(0.002)
        print(number, flush=True)

signal.signal(signal.SIGINT, signal.SIG_DFL)
asyncio.run(main(*sys.argv[1:]))
"""


class Beside:
    """A ledger whose writer is a process."""

    def __init__(self, database: Database) -> None:
        self.url = database.waiting_url
        self.folder = database.folder / "journal"

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[WriterOwner]:
        settings = writer_settings(self.url, folder=self.folder, signing_seed=SEED)
        running = WriterOwner(settings, TaskRegistry())
        await running.start()
        try:
            yield running
        finally:
            await running.close()

    def ledger(self, writer: WriterOwner) -> JournaledLedger:
        return open_journaled_ledger(self.url, lambda: writer.path, folder=self.folder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[WriterOwner, JournaledLedger]]:
        async with self.owner() as writer:
            ledger = self.ledger(writer)
            await ledger.start()
            try:
                yield writer, ledger
            finally:
                await ledger.close()

    def segments(self) -> list[Path]:
        return begun(self.folder)

    def check_audit(self) -> list[str]:
        """The log is whole, and each row has one receipt. The payloads of its notes."""
        notes: list[Entry] = []
        found = verify(self.url, visit_act=notes.append)
        assert found.findings == []
        assert found.receipts == found.rows
        return [note.payload for note in notes if note.kind == EntryKind.REFUSED]


@pytest.fixture
def beside(database: Database) -> Beside:
    return Beside(database)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def killed(writer: WriterOwner) -> int:
    """Kill the process, and wait for the next one. The number of that."""
    pid = writer.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: writer.pid not in {None, pid})
    assert writer.pid is not None
    return writer.pid


def test_the_writer_tells_how_long_commits_take_and_how_its_loops_are(beside: Beside) -> None:
    async def scenario() -> None:
        async with beside.running() as (writer, ledger):
            ledger.intend(*intent_half(1))
            ledger.append(*final_half(1))
            await ledger.flush()
            counts = writer.counts
            await until(lambda: sum(counts.commits.counts) > 0)
            assert counts.commits.total > 0
            loops = {"ledger-writer", "journal-peers", "ledger-writer-telemetry"}
            assert counts.up == dict.fromkeys(loops, True)
            assert counts.failures == dict.fromkeys(loops, 0)
            before = sum(counts.commits.counts)

            await killed(writer)
            await until(lambda: all(counts.up.values()))
            assert set(counts.up) == loops
            ledger.intend(*intent_half(2))
            ledger.append(*final_half(2))
            await ledger.flush()
            await until(lambda: sum(counts.commits.counts) > before)  # no counter has gone back

    run(scenario())


def test_counts_of_one_writer_after_another_add_up() -> None:
    counts = WriterCounts()
    told = WriterTelemetry({"ledger-writer": True}, {"ledger-writer": 2}, (1, *[0] * 13, 1), 31.5)
    for _ in range(2):
        counts.take(told)
        counts.take(told)
        assert counts.up == {"ledger-writer": True}
        counts.end()
        assert counts.up == {"ledger-writer": False}
    assert counts.failures == {"ledger-writer": 4}
    assert (counts.commits.counts[0], counts.commits.counts[-1], counts.commits.total) == (2, 2, 63.0)


def test_a_writer_that_is_killed_again_and_again_enters_everything_once(
    beside: Beside, database: Database
) -> None:
    async def scenario() -> int:
        count = 0
        async with beside.running() as (writer, ledger):
            with capture_logs() as logs:
                for _ in range(4):
                    for _ in range(random.randrange(20, 60)):
                        for _ in range(50):
                            count += 1
                            ledger.intend(*intent_half(count))
                            ledger.append(*final_half(count))
                        ledger.note(EntryKind.REFUSED, {"n": count})
                        await asyncio.sleep(0.005)
                    await killed(writer)
                await ledger.flush()
            assert writer.restarts == 4
            assert [entry["event"] for entry in logs] == ["ledger.writer_died"] * 4
            assert ledger.problem() is None
        return count

    count = run(scenario())
    assert sorted(database.attempts()) == sorted(f"req_{number}:1" for number in range(1, count + 1))
    assert beside.check_audit() == [f'{{"n":{number}}}' for number in range(50, count + 1, 50)]
    assert beside.segments() == []
    assert database.execute("SELECT count(*) FROM journal_position") == [(0,)]


async def started(beside: Beside, name: str) -> tuple[asyncio.subprocess.Process, int]:
    """A gateway that has sent some hundreds of attempts, and its writer's process."""
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, beside.url, str(beside.folder), name),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    while int(await gateway.stdout.readline()) < 2000:
        pass
    return gateway, pid


def check_books(beside: Beside, database: Database, name: str) -> None:
    """Attempts without a gap, the tenth of each ten presumed, and a note after every twenty of them."""
    rows = {row["attempt_id"]: row["outcome"] for row in database.rows()}
    assert len(rows) == len(database.attempts()) >= 2000
    for number in range(1, len(rows) + 1):
        outcome = rows[f"req_{name}-{number}:1"]
        assert outcome == ("success" if number % 10 else "presumed") or number > len(rows) - 20
    notes = beside.check_audit()
    assert notes == [f'{{"of":"{name}","n":{number}}}' for number in range(20, 20 * len(notes) + 1, 20)]
    assert len(notes) >= len(rows) // 20 - 1
    assert beside.segments() == []


@pytest.mark.parametrize("victims", ["gateway", "both", "writer first"])
def test_whoever_is_killed_everything_is_entered_once(
    beside: Beside, database: Database, victims: str
) -> None:
    async def scenario() -> None:
        gateway, pid = await started(beside, "one")
        if victims != "gateway":
            os.kill(pid, signal.SIGKILL)
        if victims == "writer first":
            await asyncio.sleep(random.uniform(0.0, 1.5))  # its successor may be anywhere
        gateway.kill()
        await gateway.wait()
        await until(lambda: not is_alive(pid))  # an orphan ends when it has entered everything
        if victims != "gateway":
            async with beside.running():
                pass

    run(scenario())
    check_books(beside, database, "one")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_whole_group_ends_the_gateway_first(
    beside: Beside, database: Database, number: signal.Signals
) -> None:
    async def scenario() -> None:
        gateway, pid = await started(beside, "one")
        os.killpg(gateway.pid, number)  # this gateway handles none: it is gone at once
        await gateway.wait()
        await until(lambda: not is_alive(pid))

    run(scenario())
    check_books(beside, database, "one")


GROUP_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


# As a gateway runs it, and as tests do: an event loop may give a child its signals back.
@pytest.mark.parametrize("new_event_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_no_signal_to_the_group_ends_a_writer_in_its_first_moments(
    sqlite: Database, new_event_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Before its first line Python would end by them. They come as soon as it has a number."""
    beside = Beside(sqlite)

    async def scenario() -> None:
        async with beside.owner() as writer:
            await until(lambda: writer.pid is not None)
            ledger, first = beside.ledger(writer), writer.pid
            starting = asyncio.create_task(ledger.start())
            while not starting.done() and writer.restarts == 0:
                for number in GROUP_SIGNALS:
                    os.kill(first or 0, number)
                await asyncio.sleep(0.0005)
            await starting
            assert (writer.pid, writer.restarts) == (first, 0)
            ledger.intend(*intent_half(1))
            ledger.append(*final_half(1))
            await ledger.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), TIMEOUT_SECONDS))
    assert sqlite.attempts() == ["req_1:1"]


def test_starting_a_writer_leaves_the_signals_of_the_gateway_as_they_are(sqlite: Database) -> None:
    beside = Beside(sqlite)

    async def scenario() -> None:
        async with beside.running():
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    run(scenario())


def test_a_stop_without_the_database_ends_and_the_next_start_has_everything(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Beside(database)
    beside.url = database.url  # a lock is given up soon
    monkeypatch.setattr(owner, "END_SECONDS", 20.0)

    async def scenario() -> None:
        async with beside.owner() as writer:
            ledger = JournaledLedger(
                beside.ledger(writer)._folder,
                lambda: writer.path,
                times=JournalTimes(close_timeout_seconds=0.2),
            )
            await ledger.start()
            pid = writer.pid
            for number in range(100):
                ledger.intend(*intent_half(number))
            await ledger.flush()
            with database.locked():
                for number in range(90):
                    ledger.append(*final_half(number))
                await ledger.close()
                await writer.close()
                assert not is_alive(pid or 0)
        assert len(beside.segments()) == 1
        async with beside.running():
            pass

    run(scenario())
    outcomes = [row["outcome"] for row in database.rows()]
    assert (outcomes.count("success"), outcomes.count("presumed")) == (90, 10)
    assert beside.segments() == []


def test_an_orphan_that_finds_no_database_ends_and_leaves_the_journal(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "ORPHAN_SECONDS", 0.3)
    monkeypatch.setattr(lifetime, "RETRY_SECONDS", 0.01)
    beside = Beside(sqlite)

    async def scenario() -> None:
        settings = writer_settings(beside.url, folder=beside.folder, signing_seed=SEED)
        async with writer_service(settings, peers_seconds=3600) as (service, address):
            ledger = open_journaled_ledger(beside.url, lambda: address, folder=beside.folder)
            await ledger.start()
            ledger.intend(*intent_half(1))
            journal, ledger._journal = ledger._journal, None
            assert journal is not None
            os.close(journal._claim.descriptor)  # as a kill does
            await ledger.close()
            with sqlite.locked(), capture_logs() as logs:
                await lifetime._end_as_orphan(service)
            assert [entry["event"] for entry in logs][-1] == "ledger.writer_gave_up"
        assert len(beside.segments()) == 1

    run(scenario())


def test_a_writer_gets_its_secrets_by_no_argument_and_by_no_variable(sqlite: Database) -> None:
    beside = Beside(sqlite)

    async def scenario() -> None:
        os.environ["A_PROVIDERS_KEY"] = "sk-of-the-provider"
        try:
            async with beside.running() as (writer, _):
                shown = Path(f"/proc/{writer.pid}/cmdline").read_bytes()
                shown += Path(f"/proc/{writer.pid}/environ").read_bytes()
        finally:
            del os.environ["A_PROVIDERS_KEY"]
        for secret in (SEED, beside.url, "sk-of-the-provider"):
            assert secret.encode() not in shown

    run(scenario())
