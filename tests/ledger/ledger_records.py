"""Records for the ledger's tests, and the loop that runs a test's coroutine."""

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import msgspec

from gateway.core.audit import EntryKind, json_text
from gateway.core.media import Media
from gateway.core.record import Outcome, RecordedFacts, UsageRecord
from gateway.core.refused_request import RefusedRequest
from gateway.core.usage import Usage
from gateway.ledger.journal.frames import Note, Told, final_frame
from gateway.ledger.journal.journal import JournalEntry
from gateway.ledger.journal.tail import LedgerEntry
from gateway.ledger.rows import Row, row_of
from gateway.ledger.writer import JournalPosition, LedgerWriter
from tests.core.builders import used
from tests.core.halves import halves_of

T = TypeVar("T")

TIMEOUT_SECONDS = 300  # a hang fails the test; nothing is measured against it

FULL = UsageRecord(
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
    usage=used(
        input_text=1,
        input_image=20,
        input_audio=300,
        input_cached=7,
        output_text=4_000,
        output_audio=50_000,
        output_reasoning=600_000,
    ),
    estimated=True,
    service_tier="default",
    price_version="config-1",
    cost_nano_usd=8_123_456_789,
    counterfactual_nano_usd={"gpt-4o": 9_000_000_001},
    held_nano_usd=10_000_000_000,
    unseen_nano_usd=1_500_000_000,
    ttft_ms=12.25,
    duration_ms=345.5,
    upstream_request_id="chatcmpl-1",
    tags={"ticket": "A-1", "顧客": "学校"},
    policy_version="3f2a",
    flags="contradiction,unpriced",
    reported={"prompt_tokens": 321, "completion_tokens_details.reasoning_tokens": 600_000},
    rates={
        "input_text": 150_000_001,
        "cached_text": 75_000_000,
        "input_image": 200_000_000,
        "input_audio": 40_000_000_000,
        "output_text": 600_000_000,
        "output_audio": 80_000_000_000,
        "output_reasoning": 600_000_000,
    },
    facts=RecordedFacts(
        text_bytes=1_234,
        max_output=500,
        choices=2,
        needs="json_schema,tools",
        media=Media(images_high=1, bytes=9_000),
        named="internal",
        finds="email",
        unit="0123456789",
        draw=0.25,
        budget=0.125,
        pools={"llama-4-scout": (3, 1, 2)},
    ),
    address="127.0.0.1:9101",
)


def make(number: int = 1, **changes: Any) -> UsageRecord:
    """A full record, the `number`th of its kind, with `changes`."""
    own = {"attempt_id": f"req_{number:08}:1", "request_id": f"req_{number:08}", "at": FULL.at + number}
    return msgspec.structs.replace(FULL, **(own | changes))


FINAL = msgspec.structs.replace(
    FULL,
    usage=used(input_text=350, input_cached=128, output_text=120),
    estimated=False,
    unseen_nano_usd=0,
    facts=RecordedFacts(),
    address="",
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
        rates={"input_text": 1_000_000 * 1_000_000 // 300, "output_text": 0},
        cost_nano_usd=1_000_000,
        unseen_nano_usd=FINAL.held_nano_usd - 1_000_000,
        service_tier=None,
        status=0,
        finish_reason=None,
        reported_model=None,
        ttft_ms=None,
        duration_ms=0.0,
        upstream_request_id=None,
        flags="",
        reported={},
    )


def intent_half(name: object) -> tuple[str, bytes]:
    """The same as the journal takes it: its id and its first half."""
    record = intent(name)
    return record.attempt_id, halves_of(record)[0]


def final_half(name: object, **changes: Any) -> tuple[str, bytes]:
    """How the attempt called `name` ended, as the journal takes it: its id and its second half."""
    record = final(name, **changes)
    return record.attempt_id, halves_of(record)[1]


def final_entry(name: object, **changes: Any) -> JournalEntry:
    """The same as one of the entries that a journal appends together."""
    attempt_id, half = final_half(name, **changes)
    return JournalEntry(attempt_id, final_frame(half))


class RecordWriter:
    """A `LedgerWriter` for tests that think in records: they count as one worker's journal."""

    def __init__(self, writer: LedgerWriter) -> None:
        self.writer = writer
        self._position = JournalPosition(uuid.uuid4().hex)
        self._count = 0

    def append(self, record: UsageRecord) -> None:
        self._put(row_of(record), None)

    def note(self, kind: EntryKind, particulars: Mapping[str, Any]) -> None:
        self._put(None, Note(kind.value, FULL.at, json_text(particulars)))

    def refuse(self, refused: RefusedRequest) -> None:
        self._put(None, refused)

    def _put(self, row: Row | None, told: Told | None) -> None:
        self._count += 1
        self.writer.put([LedgerEntry(row, told, self._count)], self._position)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine to its end."""

    async def bounded() -> T:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await coroutine

    return asyncio.run(bounded())


async def until(condition: Any) -> None:
    """Wait until `condition()` holds."""
    while not condition():
        await asyncio.sleep(0.005)


def write(database: Any, *records: Any) -> None:
    """Have a writer put `records` into the ledger, and stop it."""

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in records:
            writer.append(record)
        await writer.close()

    run(scenario())
