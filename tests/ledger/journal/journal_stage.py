"""Records, crashes and disks for the journal's tests."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.core.record import Outcome, UsageRecord
from gateway.core.usage import Usage
from gateway.ledger.journal.files import Files
from gateway.ledger.journal.folder import Claim, JournalFolder
from gateway.ledger.journal.journal import Journal
from gateway.ledger.journal.replay import Replay

T = TypeVar("T")

PATIENCE_SECONDS = 60  # a hang fails the test; nothing is measured against it
LEDGER = "0123456789ab"

FINAL = UsageRecord(
    attempt_id="req_1:1",
    request_id="req_1",
    at=1_793_491_200_123_456,
    org="acme",
    team="research",
    feature="literature-triage",
    key="triage-app",
    model="auto",
    dispatched_model="meta-llama/Llama-4-Scout-17B-16E-Instruct",
    reported_model="llama-4-scout",
    endpoint="chat",
    deployment="llama-4-scout",
    replica="http://127.0.0.1:9101/v1",
    zone="local",
    privacy="confidential",
    modalities="text,image",
    decision="cheapest",
    stream=True,
    status=200,
    outcome=Outcome.SUCCESS,
    finish_reason="stop",
    usage=Usage(input_text=350, input_cached=128, output_text=120),
    estimated=False,
    service_tier="default",
    price_version="config-1",
    cost_nano_usd=8_123_456_789,
    counterfactual_nano_usd={"gpt-4o": 9_000_000_001},
    held_nano_usd=10_000_000_000,
    unseen_nano_usd=0,
    ttft_ms=12.25,
    duration_ms=345.5,
    upstream_request_id="chatcmpl-1",
    tags={"ticket": "A-1", "顧客": "学校"},
    policy_version="3f2a",
)


def final(name: object, **changes: Any) -> UsageRecord:
    """How the attempt called `name` ended."""
    own = {"attempt_id": f"req_{name}:1", "request_id": f"req_{name}"}
    return msgspec.structs.replace(FINAL, **(own | changes))


def intent(name: object) -> UsageRecord:
    """The same attempt, about to be sent."""
    return final(
        name,
        outcome=Outcome.PRESUMED,
        estimated=True,
        usage=Usage(input_text=300),
        cost_nano_usd=1_000_000,
        status=0,
        finish_reason=None,
        reported_model=None,
        ttft_ms=None,
        duration_ms=0.0,
        upstream_request_id=None,
    )


def journals(path: Path) -> JournalFolder:
    folder = JournalFolder(path, LEDGER)
    folder.prepare()
    return folder


def crash(journal: Journal) -> None:
    """What kill -9 does: descriptors close, and with them the lock goes. Nothing else happens."""
    for segment in journal._segments:
        os.close(segment._descriptor)
    os.close(journal._claim.descriptor)


def found_dead(folder: JournalFolder) -> list[UsageRecord]:
    """What a replay would put into the ledger now. Changes nothing."""
    records: list[UsageRecord] = []
    for claim in folder.dead():
        records += Replay(claim).records()
        claim.give_up()
    return records


def read_claim(claim: Claim) -> list[UsageRecord]:
    return list(Replay(claim).records())


class Quota(Files):
    """A disk that takes so many bytes more, and the beginning of what does not fit, as real ones do."""

    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes

    def write(self, descriptor: int, data: bytes) -> int:  # type: ignore[override]
        fits = data[: self.left_bytes]
        if data and not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left_bytes -= len(fits)
        return os.write(descriptor, fits)

    def truncate(self, descriptor: int, size: int) -> None:
        self.left_bytes += os.fstat(descriptor).st_size - size
        os.ftruncate(descriptor, size)


def ledger_rows(path: Path) -> dict[str, str]:
    """Outcome of each attempt in the ledger. The table takes an attempt once."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT attempt_id, outcome FROM usage_record"))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine to its end."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await coroutine

    return asyncio.run(bounded())


async def until(condition: Any) -> None:
    """Wait until `condition()` holds."""
    while not condition():
        await asyncio.sleep(0.005)
