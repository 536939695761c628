"""Ended spans on their way to a collector: OTLP over HTTP, as protobuf, by the gateway's own client.

Rules:
- Nothing waits for it: spans go into a bounded queue, and what finds it full is dropped and counted.
- One request at a time. A batch that the collector cannot take now is sent again, after pauses that double;
  one that it refuses is counted, and gone.
- One line in the log when spans stop to arrive, and one when they arrive again.

Source: https://opentelemetry.io/docs/specs/otlp/.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

import msgspec
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from gateway.core.errors import UpstreamFailure
from gateway.core.upstream_error import retry_after_seconds
from gateway.metrics.tracing.settings import TraceSettings
from gateway.ports import Clock, Headers, Upstream, UpstreamRequest
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.traces")

EXPORTED, DROPPED, REFUSED = "exported", "dropped", "refused"
# Spans of one request: 330 KB of protobuf, 15 KB packed.
BATCH_SPANS = 256
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
# At a stop, for all that still waits.
FLUSH_SECONDS = 2.0
MAX_ANSWER_BYTES = 64 * 1024
_RETRYABLE = frozenset({429, 502, 503, 504})
_GZIP = 16 + zlib.MAX_WBITS

Counted = Callable[[str, int], None]


class SpanQueue(SpanProcessor):
    """Spans that have ended and wait. At most `most`; `counted` hears of those that found no room."""

    def __init__(self, most: int, counted: Counted) -> None:
        self.has_batch = asyncio.Event()
        self._spans: deque[ReadableSpan] = deque()
        self._most = most
        self._counted = counted

    def __len__(self) -> int:
        return len(self._spans)

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._spans) >= self._most:
            self._counted(DROPPED, 1)
            return
        self._spans.append(span)
        if len(self._spans) >= BATCH_SPANS:
            self.has_batch.set()

    def first(self) -> list[ReadableSpan]:
        """Those of the next batch. They stay until `remove`."""
        return list(islice(self._spans, BATCH_SPANS))

    def remove(self, count: int) -> None:
        """The first `count` wait no longer."""
        for _ in range(count):
            self._spans.popleft()
        if len(self._spans) < BATCH_SPANS:
            self.has_batch.clear()


class _Batch(msgspec.Struct, frozen=True):
    """The body of one request to the collector, and how many spans it holds."""

    spans: int
    body: bytes


class _Answer(msgspec.Struct, frozen=True):
    """What the collector said to a batch."""

    status: int
    headers: Headers
    body: bytes


class SpanExport:
    """Sends what is in `queue`. `start`, then `close`; its `upstream` is its own, and closed with it."""

    def __init__(
        self, settings: TraceSettings, upstream: Upstream, counted: Counted, clock: Clock, tasks: TaskRegistry
    ) -> None:
        """`counted` is told of spans by what became of them: EXPORTED, DROPPED or REFUSED."""
        self.queue = SpanQueue(settings.queue_spans, counted)
        self._head = settings.head
        self._interval = settings.interval_seconds
        self._upstream = upstream
        self._counted = counted
        self._clock = clock
        self._unsent: _Batch | None = None  # the collector could not take it yet
        self._pause = FIRST_PAUSE_SECONDS
        self._is_failing = False
        self._loop = SupervisedTask("trace-export", self._send_waiting, tasks, wait=self._until_due)

    def start(self) -> None:
        for result in (EXPORTED, DROPPED, REFUSED):  # from 0 on: else the first increase could not be seen
            self._counted(result, 0)
        self._loop.start()

    async def close(self) -> None:
        """Send what waits, for a moment; the rest is dropped."""
        await self._loop.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._send_waiting()
        left = len(self.queue) + (0 if self._unsent is None else self._unsent.spans)
        if left:
            self._counted(DROPPED, left)
            _log.warning("traces.not_flushed", collector=self._collector, spans=left)
        await self._upstream.close()

    @property
    def _collector(self) -> str:
        return self._head.endpoint.authority

    async def _until_due(self) -> None:
        if self._unsent is not None:
            await asyncio.sleep(self._pause)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self.queue.has_batch.wait()

    async def _send_waiting(self) -> None:
        """One batch after the other, until none is left or one has to wait."""
        while (batch := self._unsent or await self._next_batch()) is not None:
            self._unsent = batch
            try:
                answer = await self._ask(batch)
            except UpstreamFailure as failure:
                self._postpone(str(failure), None)
                return
            if answer.status in _RETRYABLE:
                wait = retry_after_seconds(answer.headers, self._clock.now())
                self._postpone(f"status {answer.status}", wait)
                return
            self._unsent = None
            self._take_answer(batch, answer)

    async def _next_batch(self) -> _Batch | None:
        spans = self.queue.first()
        if not spans:
            return None
        # In a thread: it takes longer than a stream should wait for its next token.
        body = await asyncio.to_thread(_encoded, spans)
        self.queue.remove(len(spans))
        return _Batch(len(spans), body)

    async def _ask(self, batch: _Batch, *, fresh: bool = False) -> _Answer:
        """Send `batch`. Raises UpstreamFailure."""
        request = UpstreamRequest(head=self._head, body=batch.body, fresh=fresh)
        try:
            response = await self._upstream.send(request)
            try:
                return _Answer(response.status, response.headers, await response.read(MAX_ANSWER_BYTES))
            finally:
                response.abort()
        except UpstreamFailure as failure:
            if failure.stale and not fresh:
                return await self._ask(batch, fresh=True)
            raise

    def _take_answer(self, batch: _Batch, answer: _Answer) -> None:
        if not 200 <= answer.status < 300:
            self._counted(REFUSED, batch.spans)
            self._note_failure(f"status {answer.status}")
            return
        refused = min(_rejected(answer.body), batch.spans)
        self._counted(EXPORTED, batch.spans - refused)
        self._counted(REFUSED, refused)
        self._pause = FIRST_PAUSE_SECONDS
        if self._is_failing:
            self._is_failing = False
            _log.info("traces.exported_again", collector=self._collector)

    def _postpone(self, problem: str, wait_seconds: float | None) -> None:
        """The batch is sent again, after `wait_seconds` where the collector has said so."""
        if self._is_failing:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if wait_seconds is not None:
            self._pause = min(max(wait_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._note_failure(problem)

    def _note_failure(self, problem: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning("traces.not_exported", collector=self._collector, problem=problem)


def _encoded(spans: list[ReadableSpan]) -> bytes:
    """The message for the collector, by gzip."""
    packer = zlib.compressobj(level=1, wbits=_GZIP)
    return packer.compress(encode_spans(spans).SerializeToString()) + packer.flush()


def _rejected(body: bytes) -> int:
    """How many spans a collector that took a batch has rejected all the same."""
    try:
        answer = ExportTraceServiceResponse.FromString(body)
    except DecodeError:  # some answer with a text
        return 0
    return max(int(answer.partial_success.rejected_spans), 0)
