"""Past attempts, for trying another policy on them. No prompt is kept, so none is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import func, select

from gateway.ledger.database import Query, ReadTransaction
from gateway.ledger.spans import Span
from gateway.ledger.tables import usage_record
from gateway.ledger.url import database_of

BATCH_ROWS = 10_000
LATEST_ROWS = 20_000

_row = usage_record.c


class PastAttempt(NamedTuple):
    """One row. `at` is in UTC microseconds, `tags` and `facts` are JSON.

    Many attributes: one for each column that is read.
    """

    attempt_id: str
    at: int
    feature: str
    key: str
    model: str
    endpoint: str
    deployment: str
    privacy: str
    modalities: str
    stream: int
    service_tier: str | None
    input_text: int
    input_image: int
    input_audio: int
    input_cached: int
    output_text: int
    output_audio: int
    output_reasoning: int
    cost_nano_usd: int
    tags: str
    policy_version: str
    facts: str


_COLUMNS = (
    _row.attempt_id,
    _row.at,
    _row.feature,
    _row.key,
    _row.model,
    _row.endpoint,
    _row.deployment,
    _row.privacy,
    _row.modalities,
    _row.stream,
    _row.service_tier,
    _row.input_text_tokens,
    _row.input_image_tokens,
    _row.input_audio_tokens,
    _row.cached_input_tokens,
    _row.output_text_tokens,
    _row.output_audio_tokens,
    _row.reasoning_tokens,
    _row.cost_nano_usd,
    _row.tags,
    _row.policy_version,
    _row.facts,
)


class PastAnswer(NamedTuple):
    """How an attempt went that was answered in full, with the upstream's own usage."""

    deployment: str
    dispatched_model: str
    stream: int
    input_tokens: int
    output_tokens: int
    ttft_ms: float | None
    duration_ms: float
    facts: str


class EngineAttempt(NamedTuple):
    """What the engine of a replica has counted of one attempt, as far as the ledger knows it."""

    input_tokens: int
    output_tokens: int
    estimated: int
    facts: str


class PastAttempts:
    """The attempts of a span, as one transaction sees them."""

    def __init__(self, ledger: ReadTransaction, span: Span) -> None:
        self._ledger = ledger
        self._span = span

    def count(self) -> int:
        """How many `attempts` there are."""
        ((count,),) = self._ledger.fetch(self._within(select(func.count())))
        return int(count)

    def attempts(self) -> Iterator[list[tuple[Any, ...]]]:
        """All of them, in batches of rows that have the fields of PastAttempt."""
        return self._ledger.batches(self._within(select(*_COLUMNS)), BATCH_ROWS)

    def latest(self) -> list[PastAnswer]:
        """The latest ones that tell how a deployment answers, oldest first."""
        query = (
            self._within(
                select(
                    _row.deployment,
                    _row.dispatched_model,
                    _row.stream,
                    _row.input_tokens,
                    _row.output_tokens,
                    _row.ttft_ms,
                    _row.duration_ms,
                    _row.facts,
                )
            )
            .where(_row.outcome == "success", _row.estimated.is_(False))
            .order_by(_row.at.desc())
            .limit(LATEST_ROWS)
        )
        return [PastAnswer(*row) for row in reversed(self._ledger.fetch(query))]

    def at_replica(self, name: str) -> Iterator[list[tuple[Any, ...]]]:
        """Those that were sent to the replica `name`, in batches of rows with the fields of EngineAttempt."""
        query = select(_row.input_tokens, _row.output_tokens, _row.estimated, _row.facts)
        return self._ledger.batches(self._within(query.where(_row.replica == name)), BATCH_ROWS)

    def _within(self, query: Any) -> Query:
        """Attempts of the span: corrections of a row are none."""
        found: Query = query.where(_row.corrects.is_(None))
        if self._span.since is not None:
            found = found.where(_row.at >= self._span.since)
        if self._span.until is not None:
            found = found.where(_row.at < self._span.until)
        return found


@contextmanager
def reading_past(url: str, span: Span) -> Iterator[PastAttempts]:
    """Raises LedgerUnavailable, on entering and for each query."""
    with database_of(url).reading() as ledger:
        yield PastAttempts(ledger, span)
