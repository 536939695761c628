"""The Telemetry port where requests are traced: each call goes to the metrics and to the spans."""

from gateway.core.ended import Ended
from gateway.core.errors import GatewayError
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.metrics.tracing.tracer import RequestTracer
from gateway.ports import Telemetry


class TracedTelemetry:
    """Implements Telemetry."""

    def __init__(self, counted: Telemetry, tracer: RequestTracer) -> None:
        self._counted = counted
        self._tracer = tracer

    def refused(self, error: GatewayError, principal: Principal | None, model: str | None) -> None:
        self._counted.refused(error, principal, model)
        self._tracer.refused(error, principal, model)

    def planned(self, sent: Sent, overhead_seconds: float) -> None:
        self._counted.planned(sent, overhead_seconds)
        self._tracer.planned(sent)

    def attempted(self, sent: Sent, ended: Ended) -> None:
        self._counted.attempted(sent, ended)
        self._tracer.attempted(sent, ended)

    def answered(self, sent: Sent, ended: Ended, seconds: float) -> None:
        self._counted.answered(sent, ended, seconds)
        self._tracer.answered(ended)

    def dialect_learned(self, deployment: str, field: str) -> None:
        self._counted.dialect_learned(deployment, field)
