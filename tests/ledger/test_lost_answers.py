"""The server dies, or the network does, between a commit and its answer: the slice is tried again.

The rows are in the ledger then, and their receipts in the audit log. What follows must go there too.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.audit import Entry, EntryKind
from gateway.ledger.audit.keys import Signer
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.audit.verify import verify
from gateway.ledger.opening import open_ledger
from gateway.ledger.reports import usage_by
from gateway.ledger.writer import WriterLimits
from tests.ledger.ledger_records import FULL, RecordWriter, make, run
from tests.ledger.lost_answers import lost_answers
from tests.ledger.postgres_server import postgres_server

SIGNER = Signer(bytes(range(32)))
NOW = FULL.at / 1_000_000 - 60
QUICK = WriterLimits(linger_seconds=0.001, retry_seconds=0.005, retry_ceiling_seconds=0.02)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_server("fsync=off") as server:
        yield server.url()


def audited(url: str, spill_folder: Path) -> RecordWriter:
    trail = AuditTrail(SIGNER, lambda: NOW, version="1.0")
    return RecordWriter(open_ledger(url, spill_folder=spill_folder, limits=QUICK, trail=trail))


@pytest.mark.parametrize("before", [0, 2], ids=["the chain's first entry", "a later entry"])
def test_rows_after_a_commit_whose_answer_was_lost_reach_the_ledger(
    url: str, tmp_path: Path, before: int
) -> None:
    async def scenario() -> list[str]:
        async with lost_answers(url) as (network, network_url):
            with capture_logs() as logs:
                writer = audited(network_url, tmp_path)
                await writer.start()
                for number in range(before):
                    writer.append(make(number))
                    await writer.flush()
                network.lose(after=0 if before else 1)  # the first row's partition is committed by itself
                writer.note(EntryKind.ACT, {"act": "once"})
                writer.append(make(100))
                await writer.flush()
                assert network.lost.is_set()
                for number in range(200, 203):
                    writer.append(make(number))
                    await writer.flush()
                await writer.close()
            return [entry["event"] for entry in logs]

    events = run(scenario())
    assert usage_by(url, "org")[0].attempts == before + 4
    assert not list(tmp_path.iterdir())
    assert events == ["ledger.write_failed", "ledger.write_recovered"]
    acts: list[Entry] = []
    found = verify(url, visit_act=acts.append)
    assert (found.chains, found.rows, found.receipts, found.findings) == (1, before + 4, before + 4, [])
    assert [entry.kind for entry in acts] == [EntryKind.OPENED, EntryKind.ACT]
