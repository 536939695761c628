"""Past attempts as `policy diff` reads them, from every database."""

from typing import Any

import msgspec
import pytest

from gateway.core.record import Outcome, RecordedFacts
from gateway.ledger.past_attempts import BATCH_ROWS, PastAnswer, PastAttempt, reading_past
from gateway.ledger.spans import Span
from tests.ledger.ledger_records import FULL, make, run

Database = Any
HOUR = 3_600_000_000


@pytest.fixture
def filled(database: Database) -> Database:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        writer.append(make(1))
        writer.append(make(2, at=FULL.at + HOUR, stream=False, estimated=False, service_tier=None))
        writer.append(make(3, at=FULL.at + 2 * HOUR, outcome=Outcome.TIMEOUT))
        await writer.close()

    run(scenario())
    return database


def attempts(database: Database, since: int | None = None, until: int | None = None) -> list[PastAttempt]:
    with reading_past(database.url, Span(since, until)) as past:
        found = [PastAttempt._make(row) for batch in past.attempts() for row in batch]
        assert past.count() == len(found)
    return sorted(found)


def test_each_attempt_has_the_facts_that_its_plan_depended_on(filled: Database) -> None:
    one = attempts(filled)[0]
    record = make(1)
    for name in ("attempt_id", "at", "feature", "key", "model", "endpoint", "deployment", "privacy"):
        assert getattr(one, name) == getattr(record, name), name
    assert (one.modalities, one.stream, one.service_tier) == ("text,image", 1, "default")
    assert (one.input_text, one.input_cached, one.output_reasoning) == (1, 7, 600_000)
    assert msgspec.json.decode(one.facts, type=RecordedFacts) == FULL.facts
    assert msgspec.json.decode(one.tags) == FULL.tags


def test_only_the_span_is_read(filled: Database) -> None:
    second, third = FULL.at + HOUR, FULL.at + 2 * HOUR
    assert [one.at for one in attempts(filled, second, third)] == [second]
    assert [one.at for one in attempts(filled, second)] == [second, third]
    assert [one.at for one in attempts(filled, None, second)] == [make(1).at]


def test_corrections_are_no_attempts(filled: Database) -> None:
    filled.execute(
        "UPDATE usage_record SET corrects = 'req_00000001:1', kind = 'correction' "
        "WHERE attempt_id = 'req_00000002:1'"
    )
    assert [one.attempt_id for one in attempts(filled)] == [make(1).attempt_id, make(3).attempt_id]


def test_only_exact_answers_tell_how_a_deployment_answers(filled: Database) -> None:
    with reading_past(filled.url, Span(None, None)) as past:
        (latest,) = past.latest()
    assert isinstance(latest, PastAnswer)
    assert (latest.deployment, latest.stream) == (FULL.deployment, 0)
    assert (latest.input_tokens, latest.output_tokens) == (321, 654_000)
    assert (latest.ttft_ms, latest.duration_ms) == (12.25, 345.5)


def test_more_rows_than_a_batch_are_all_read_once(database: Database) -> None:
    count = BATCH_ROWS + 7

    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for number in range(count):
            writer.append(make(number))
        await writer.flush()
        await writer.close()

    run(scenario())
    with reading_past(database.url, Span(None, None)) as past:
        batches = [[row[0] for row in batch] for batch in past.attempts()]
    assert [len(batch) for batch in batches] == [BATCH_ROWS, 7]
    assert len({one for batch in batches for one in batch}) == count
