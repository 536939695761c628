"""A collector of OpenTelemetry over real connections: it decodes what comes, and answers as it is told."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


class SeenSpan:
    """One span as it arrived."""

    def __init__(self, span: Span, resource: dict[str, Any]) -> None:
        self.span = span
        self.name = span.name
        self.kind = span.kind
        self.trace_id = span.trace_id.hex()
        self.span_id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.resource = resource
        self.attributes = {pair.key: value_of(pair.value) for pair in span.attributes}
        self.events = {event.name: event.time_unix_nano for event in span.events}
        self.is_error = span.status.code == 2


class Collector:
    """What arrived, and how it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.answer_headers = ""
        self.rejected = 0
        self.requests: list[dict[str, str]] = []  # header lines of each, names in lower case
        self.spans: list[SeenSpan] = []
        self.raw = b""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def of_kind(self, kind: int) -> list[SeenSpan]:
        return [span for span in self.spans if span.kind == kind]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                start, *lines = head.decode().split("\r\n")[:-2]
                headers = {
                    name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                self._take({**headers, "": start}, body)
                answer = self._answer()
                framing = f"content-length: {len(answer)}\r\n\r\n"
                writer.write(f"HTTP/1.1 {self.status} X\r\n{self.answer_headers}{framing}".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    def _take(self, headers: dict[str, str], body: bytes) -> None:
        self.requests.append(headers)
        if self.status != 200:
            return
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.raw += plain
        for group in ExportTraceServiceRequest.FromString(plain).resource_spans:
            resource = {pair.key: value_of(pair.value) for pair in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [SeenSpan(span, resource) for span in scope.spans]

    def _answer(self) -> bytes:
        answer = ExportTraceServiceResponse()
        if self.rejected:
            answer.partial_success.rejected_spans = self.rejected
        return answer.SerializeToString()


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    await collector.start()
    try:
        yield collector
    finally:
        await collector.stop()
