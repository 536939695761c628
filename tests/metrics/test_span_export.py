"""Spans on their way to a collector that is well, slow, dead, full or of another opinion."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog.testing
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from gateway.clock import SystemClock
from gateway.config.proxies import ProxyEnvironment
from gateway.config.telemetry import Traces, trace_settings
from gateway.http.client.pool import HttpUpstream
from gateway.metrics.tracing import export
from gateway.metrics.tracing.export import DROPPED, EXPORTED, REFUSED, SpanExport
from gateway.supervised import TaskRegistry
from tests.e2e.harness import until, unused_port
from tests.metrics.collector import Collector, collecting


class Exporting:
    """An export, and what it has counted."""

    def __init__(self, url: str, **given: Any) -> None:
        settings = trace_settings(
            Traces.model_validate({"endpoint": url, "interval_seconds": 0.01, **given}), ProxyEnvironment()
        )
        self.counts: Counter[str] = Counter()
        self.tasks = TaskRegistry()
        self.export = SpanExport(settings, HttpUpstream(), self._count, SystemClock(), self.tasks)
        provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
        provider.add_span_processor(self.export.queue)
        self._tracer = provider.get_tracer("tests")

    def _count(self, result: str, count: int) -> None:
        self.counts[result] += count

    def end_spans(self, count: int) -> None:
        for number in range(count):
            self._tracer.start_span(f"span {number}").end()


@asynccontextmanager
async def exporting(url: str, **given: Any) -> AsyncIterator[Exporting]:
    found = Exporting(url, **given)
    found.export.start()
    try:
        yield found
    finally:
        await found.export.close()
        assert found.tasks.problems() == []


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(export, "LONGEST_PAUSE_SECONDS", 0.02)


async def test_all_spans_arrive_in_order_and_in_batches() -> None:
    async with collecting() as collector, exporting(collector.url) as exported:
        exported.end_spans(2 * export.BATCH_SPANS + 3)
        await until(lambda: exported.counts[EXPORTED] == 2 * export.BATCH_SPANS + 3)
        assert [span.name for span in collector.spans] == [
            f"span {number}" for number in range(2 * export.BATCH_SPANS + 3)
        ]
        assert len(collector.requests) == 3


async def test_a_whole_batch_does_not_wait_for_the_interval() -> None:
    async with collecting() as collector, exporting(collector.url, interval_seconds=3600) as exported:
        exported.end_spans(export.BATCH_SPANS)
        await until(lambda: exported.counts[EXPORTED] == export.BATCH_SPANS)


async def test_what_finds_the_queue_full_is_dropped() -> None:
    async with (
        collecting() as collector,
        exporting(collector.url, interval_seconds=3600, queue_spans=5) as exported,
    ):
        exported.end_spans(8)
        assert exported.counts[DROPPED] == 3
        await exported.export.close()
        assert [span.name for span in collector.spans] == [f"span {number}" for number in range(5)]
        assert exported.counts[EXPORTED] == 5


async def test_a_collector_that_comes_late_gets_what_waited() -> None:
    collector = Collector()
    collector.port = unused_port()
    with structlog.testing.capture_logs() as logs:
        async with exporting(collector.url) as exported:
            exported.end_spans(2)
            await until(lambda: bool(logs))
            exported.end_spans(2)
            await collector.start()
            await until(lambda: exported.counts[EXPORTED] == 4)
            await collector.stop()
    assert [entry["event"] for entry in logs] == ["traces.not_exported", "traces.exported_again"]
    assert logs[0]["collector"] == f"127.0.0.1:{collector.port}"
    assert exported.counts[DROPPED] == 0


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_full_collector_is_asked_again_with_the_same_spans(status: int) -> None:
    async with collecting() as collector, exporting(collector.url) as exported:
        collector.status, collector.answer_headers = status, "retry-after: 0\r\n"
        exported.end_spans(3)
        await until(lambda: len(collector.requests) >= 3)
        collector.status = 200
        await until(lambda: exported.counts[EXPORTED] == 3)
        assert len(collector.spans) == 3
        assert exported.counts[REFUSED] == 0


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 302])
async def test_what_a_collector_refuses_is_counted_and_gone(status: int) -> None:
    with structlog.testing.capture_logs() as logs:
        async with collecting() as collector, exporting(collector.url) as exported:
            collector.status = status
            for _ in range(3):
                exported.end_spans(1)
                waiting = exported.counts[REFUSED]
                await until(lambda waiting=waiting: exported.counts[REFUSED] == waiting + 1)
            collector.status = 200
            exported.end_spans(1)
            await until(lambda: exported.counts[EXPORTED] == 1)
    assert [entry["event"] for entry in logs] == ["traces.not_exported", "traces.exported_again"]
    assert logs[0]["problem"] == f"status {status}"


async def test_spans_that_a_collector_rejects_of_a_batch_are_counted() -> None:
    async with collecting() as collector, exporting(collector.url) as exported:
        collector.rejected = 2
        exported.end_spans(5)
        await until(lambda: exported.counts[REFUSED] == 2)
        assert exported.counts[EXPORTED] == 3


async def test_a_connection_that_the_collector_has_closed_is_no_failure() -> None:
    with structlog.testing.capture_logs() as logs:
        async with collecting() as collector, exporting(collector.url) as exported:
            exported.end_spans(1)
            await until(lambda: exported.counts[EXPORTED] == 1)
            await collector.stop()
            await collector.start()
            exported.end_spans(1)
            await until(lambda: exported.counts[EXPORTED] == 2)
    assert logs == []


async def test_a_stop_beside_a_collector_that_never_answers_ends_and_says_what_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "FLUSH_SECONDS", 0.05)
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with structlog.testing.capture_logs() as logs:
        async with exporting(f"http://127.0.0.1:{port}/v1/traces") as exported:
            exported.end_spans(3)
            await until(lambda: bool(connections))
            exported.end_spans(4)
    assert exported.counts == {EXPORTED: 0, REFUSED: 0, DROPPED: 7}
    [told] = logs
    assert (told["event"], told["spans"]) == ("traces.not_flushed", 7)
    for writer in connections:
        writer.close()
    server.close()
    await server.wait_closed()
