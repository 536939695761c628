"""The audit log: what was done to it, or to the rows it vouches for, is found. Over both databases."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.core.audit import Entry, EntryKind, Receipt
from gateway.core.record import Outcome, UsageRecord
from gateway.ledger.audit.acts import enter_act
from gateway.ledger.audit.keys import Signer
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.audit.verify import Verified, verify
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal.frames import Note
from gateway.ledger.opening import open_ledger
from gateway.ledger.retention import close, prune
from gateway.ledger.tables import QUARTER
from gateway.ledger.writer import WriterLimits
from tests.ledger.ledger_records import FULL, RecordWriter, make, run

Database = Any

SIGNER = Signer(bytes(range(32)))
OTHER = Signer(bytes(reversed(range(32))))
NOW = FULL.at / 1_000_000 - 60


def written(
    database: Database, *slices: Sequence[UsageRecord], signer: Signer = SIGNER, notes: Sequence[str] = ()
) -> None:
    """Each of `slices` in a transaction of its own, all in one new chain."""

    async def scenario() -> None:
        trail = AuditTrail(signer, lambda: NOW, version="1.0")
        writer = RecordWriter(
            open_ledger(
                database.url,
                spill_folder=database.spill_folder,
                limits=WriterLimits(linger_seconds=0.001),
                trail=trail,
            )
        )
        await writer.start()
        for act in notes:
            writer.note(EntryKind.ACT, {"act": act})
        for records in slices:
            for record in records:
                writer.append(record)
            await writer.flush()
        await writer.close()

    run(scenario())


def problems(database: Database, **options: Any) -> list[str]:
    return [finding.problem for finding in verify(database.url, **options).findings]


@pytest.fixture
def log(database: Database) -> Database:
    """Two chains: of five slices of four rows with a note, and of one."""
    written(database, *([make(10 * n + m) for m in range(4)] for n in range(5)), notes=["began"])
    written(database, [make(1000), make(1001)])
    return database


def chains(database: Database) -> list[str]:
    return [chain for (chain,) in database.execute("SELECT chain FROM audit_head ORDER BY seq DESC")]


def change(database: Database, statement: str) -> None:
    long, short = chains(database)
    database.execute(statement.format(long=long, short=short))


def test_a_log_that_nobody_touched_is_whole(log: Database) -> None:
    found = verify(log.url, [SIGNER.public_key])
    assert (found.chains, found.receipts, found.rows, found.rows_before) == (2, 22, 22, 0)
    assert found.ok
    assert found.keys == [SIGNER.public_key]


@pytest.mark.parametrize(
    ("done", "told"),
    [
        ("UPDATE audit_entry SET payload = replace(payload, 'local', 'external') WHERE seq = 4", "changed"),
        ("UPDATE audit_entry SET at = at + 1 WHERE chain = '{long}' AND seq = 3", "changed"),
        ("UPDATE audit_entry SET kind = 'act' WHERE chain = '{long}' AND seq = 3", "changed"),
        ("UPDATE audit_entry SET signature = hash WHERE chain = '{long}' AND seq = 3", "signature"),
        ("DELETE FROM audit_entry WHERE chain = '{long}' AND seq = 4", "entry 4 is missing"),
        ("DELETE FROM audit_entry WHERE chain = '{long}' AND seq IN (3, 4)", "entry 3 to 4 is missing"),
        ("DELETE FROM audit_entry WHERE chain = '{long}' AND seq = 1", "entry 1 is missing"),
        ("DELETE FROM audit_entry WHERE chain = '{long}' AND seq > 5", "cut off: it once went on to entry 7"),
        ("DELETE FROM audit_entry WHERE chain = '{short}'", "the whole chain is missing"),
        ("DELETE FROM audit_head WHERE chain = '{short}'", "its head is missing"),
        ("UPDATE audit_head SET seq = 6 WHERE chain = '{long}'", "its head is older than its last entry"),
        ("UPDATE audit_head SET hash = 'f' WHERE chain = '{long}'", "its head has another hash"),
        ("UPDATE audit_entry SET seq = 8 WHERE chain = '{long}' AND seq = 3", "entry 3 is missing"),
        ("UPDATE usage_record SET zone = 'external' WHERE attempt_id = 'req_00000011:1'", "differs from"),
        ("UPDATE usage_record SET address = '8.8.8.8:443' WHERE attempt_id = 'req_00000011:1'", "in address"),
        ("UPDATE usage_record SET cost_nano_usd = 1 WHERE attempt_id = 'req_00000011:1'", "in cost_nano_usd"),
        ("UPDATE usage_record SET privacy = 'public' WHERE attempt_id = 'req_00001001:1'", "in privacy"),
        ("DELETE FROM usage_record WHERE attempt_id = 'req_00000011:1'", "req_00000011:1 is missing"),
    ],
)
def test_what_is_done_to_it_is_found(log: Database, done: str, told: str) -> None:
    change(log, done)
    assert any(told in problem for problem in problems(log)), problems(log)


def test_two_entries_that_change_places_are_found(log: Database) -> None:
    for old, new in [(3, 99), (4, 3), (99, 4)]:
        change(log, f"UPDATE audit_entry SET seq = {new} WHERE chain = '{{long}}' AND seq = {old}")
    assert any("changed" in problem for problem in problems(log))


def test_a_chain_that_is_cut_off_together_with_its_head_is_missed_by_the_chains_after_it(
    log: Database,
) -> None:
    change(log, "DELETE FROM audit_entry WHERE chain = '{long}' AND seq > 5")
    database_hash = "(SELECT hash FROM audit_entry WHERE chain = '{long}' AND seq = 5)"
    change(log, f"UPDATE audit_head SET seq = 5, hash = {database_hash} WHERE chain = '{{long}}'")
    assert "cut off: it once went on to entry 7" in problems(log)


def test_a_last_chain_that_is_removed_with_its_head_leaves_rows_without_receipts(log: Database) -> None:
    _, short = chains(log)
    for table in ("audit_entry", "audit_head"):
        log.execute(f"DELETE FROM {table} WHERE chain = '{short}'")
    assert sorted(problems(log)) == [
        "attempt req_00001000:1 has no receipt",
        "attempt req_00001001:1 has no receipt",
    ]


def test_a_log_that_is_written_anew_with_another_key_is_found(database: Database) -> None:
    written(database, [make(1)], signer=OTHER)
    assert problems(database) == []
    assert problems(database, trusted=[SIGNER.public_key]) == [
        f"signed with an unknown key: {OTHER.public_key}"
    ]
    assert problems(database, trusted=[SIGNER.public_key, OTHER.public_key]) == []


def test_rows_from_before_there_was_a_log_are_counted_and_no_finding(database: Database) -> None:
    early = make(1, at=FULL.at - 3600 * 10**6)
    plain = RecordWriter(open_ledger(database.url, spill_folder=database.spill_folder))

    async def scenario() -> None:
        await plain.start()
        plain.append(early)
        await plain.close()

    run(scenario())
    written(database, [make(2)])
    found = verify(database.url)
    assert (found.rows, found.rows_before, found.ok) == (2, 1, True)


def test_an_attempt_that_comes_again_has_two_receipts_and_one_row(database: Database) -> None:
    written(database, [make(1), make(2)])
    written(database, [make(2, outcome=Outcome.PRESUMED), make(3)])
    found = verify(database.url)
    assert (found.receipts, found.rows, found.findings) == (3, 3, [])


def test_a_slice_that_failed_is_in_the_log_once(database: Database) -> None:
    async def scenario() -> None:
        trail = AuditTrail(SIGNER, lambda: NOW, version="1.0")
        limits = WriterLimits(linger_seconds=0.001, retry_seconds=0.005, retry_ceiling_seconds=0.01)
        writer = RecordWriter(
            open_ledger(database.url, spill_folder=database.spill_folder, limits=limits, trail=trail)
        )
        await writer.start()
        writer.append(make(1))
        await writer.flush()
        with database.gone():
            writer.append(make(2))
            while writer.problem() is None:
                await asyncio.sleep(0.005)
        await writer.flush()
        await writer.close()

    run(scenario())
    assert database.execute("SELECT max(seq), count(*) FROM audit_entry") == [(3, 3)]
    found = verify(database.url)
    assert (found.receipts, found.rows, found.findings) == (2, 2, [])


def test_a_commit_in_doubt_is_adopted_once_the_database_tells_of_it() -> None:
    moments = iter(range(100))
    trail = AuditTrail(SIGNER, lambda: next(moments), version="1.0")
    trail.adopt(trail.draft([], notes=[Note("act", 1, "start")]))
    assert not trail.needs_heads
    doubtful = [Note("act", 2, "in doubt")]
    first, second = trail.draft([], notes=doubtful), trail.draft([], notes=doubtful)
    trail.pledge(first)
    trail.pledge(second)  # the first was given up, and may be carried out all the same
    assert trail.needs_heads
    assert trail.draft([], [["other", 9, "hash"]], doubtful).entries[0].seq == 3
    assert trail.needs_heads
    assert not trail.draft([], [["other", 9, "hash"], msgspec.structs.astuple(first.head)]).entries
    assert not trail.needs_heads
    assert [entry.seq for entry in trail.draft([], notes=[Note("act", 3, "next")]).entries] == [4]


def test_no_row_is_refused_because_the_chain_has_moved(database: Database) -> None:
    async def scenario() -> None:
        trail = AuditTrail(SIGNER, lambda: NOW, version="1.0")
        limits = WriterLimits(linger_seconds=0.001, retry_seconds=0.005, retry_ceiling_seconds=0.01)
        writer = RecordWriter(
            open_ledger(database.url, spill_folder=database.spill_folder, limits=limits, trail=trail)
        )
        await writer.start()
        writer.append(make(1))
        await writer.flush()
        columns = "at, kind, payload, hash, signature"
        database.execute(
            f"INSERT INTO audit_entry (chain, seq, {columns}) "
            f"SELECT chain, 3, {columns} FROM audit_entry WHERE seq = 2"
        )
        writer.append(make(2))
        while writer.problem() is None:
            await asyncio.sleep(0.005)
        assert "chain" in str(writer.problem())
        database.execute("DELETE FROM audit_entry WHERE seq = 3")
        await writer.flush()
        await writer.close()

    run(scenario())
    assert database.refused() == ""
    found = verify(database.url)
    assert (found.receipts, found.rows, found.findings) == (2, 2, [])


def test_rows_of_a_deleted_period_leave_their_receipts(database: Database) -> None:
    month = 31 * 24 * 3600 * 10**6
    written(database, [make(1), make(2, at=FULL.at + 2 * month)])
    before = (FULL.at + month) // QUARTER * QUARTER
    close(database.url, before, now=before)
    prune(database.url, before, now=before)
    seen: list[Receipt] = []
    found = verify(database.url, visit=seen.append)
    assert (found.receipts, found.rows, found.findings) == (2, 1, [])
    assert len(seen) == 2


def test_a_row_that_came_too_late_for_its_period_is_known_by_its_true_time(database: Database) -> None:
    written(database, [make(1)])
    end = (FULL.at + 3600 * 10**6) // QUARTER * QUARTER
    close(database.url, end, now=end)
    written(database, [make(2)])
    assert problems(database) == []


def test_what_operators_did_is_told_in_order(database: Database) -> None:
    written(database, [make(1)], notes=["one", "two"])
    enter_act(database.url, SIGNER, "prices enter", {"versions": ["v1"]})
    entries: list[Entry] = []
    assert verify(database.url, visit_act=entries.append).ok
    acts = [json.loads(entry.payload) for entry in entries if entry.kind == EntryKind.ACT]
    assert sorted(act["act"] for act in acts) == ["one", "prices enter", "two"]
    assert all(act["by"] for act in acts if act["act"] == "prices enter")


def test_a_note_alone_is_committed_without_any_row(database: Database) -> None:
    written(database, notes=["reload"])
    found = verify(database.url)
    assert (found.chains, found.entries, found.rows) == (1, 2, 0)


def test_a_ledger_that_is_not_there_is_said_so() -> None:
    with pytest.raises(LedgerUnavailable):
        verify("sqlite:////nowhere/at/all.db")


def test_many_findings_are_counted_beyond_a_bound(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.audit.verify.FINDINGS_CEILING", 3)
    written(sqlite, [make(n) for n in range(10)])
    sqlite.execute("UPDATE usage_record SET zone = 'external'")
    found: Verified = verify(sqlite.url)
    assert (len(found.findings), found.more_findings) == (3, 7)
