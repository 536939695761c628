"""What the graph is given where requests are traced. Imported only where `telemetry.traces` is set."""

from collections.abc import Callable

from gateway.assembly.building import upstream
from gateway.http.server.exchange import Handler
from gateway.metrics.tracing.export import SpanExport
from gateway.metrics.tracing.settings import TraceSettings
from gateway.metrics.tracing.telemetry import TracedTelemetry
from gateway.metrics.tracing.tracer import RequestTracer
from gateway.ports import Clock, Telemetry
from gateway.proxy.handler import DataPlane
from gateway.proxy.traced import TracedDataPlane
from gateway.supervised import TaskRegistry


class Tracing:
    """The spans of one process. `start`, then `close` once nothing makes spans any more."""

    def __init__(
        self,
        settings: TraceSettings,
        counted: Callable[[str, int], None],
        clock: Clock,
        tasks: TaskRegistry,
    ) -> None:
        """`counted` is told of spans, and what became of them."""
        self._export = SpanExport(settings, upstream(), counted, clock, tasks)
        self._tracer = RequestTracer(settings, self._export.queue, clock)

    def telemetry(self, counted: Telemetry) -> Telemetry:
        """`counted`, and spans."""
        return TracedTelemetry(counted, self._tracer)

    def handler(self, plane: DataPlane, new_request_id: Callable[[], str]) -> Handler:
        """`plane`, with a span around each request."""
        return TracedDataPlane(plane, new_request_id, self._tracer)

    async def start(self) -> None:
        self._export.start()

    async def close(self) -> None:
        await self._export.close()
