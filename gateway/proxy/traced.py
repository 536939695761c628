"""The data port where requests are traced."""

from collections.abc import Callable

from gateway.http.server.exchange import Exchange
from gateway.metrics.tracing.tracer import RequestTracer
from gateway.proxy.entrances import route_of
from gateway.proxy.handler import DataPlane


class TracedDataPlane:
    """A `DataPlane` with a span around each request."""

    def __init__(self, plane: DataPlane, new_request_id: Callable[[], str], tracer: RequestTracer) -> None:
        self._plane = plane
        self._new_request_id = new_request_id
        self._tracer = tracer

    async def handle(self, exchange: Exchange) -> None:
        request_id = self._new_request_id()
        trace = self._tracer.begin(request_id, exchange, route_of(exchange.path))
        try:
            await self._plane.answer(request_id, exchange)
        finally:
            self._tracer.end(trace, exchange)
