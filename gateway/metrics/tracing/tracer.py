"""Spans of requests and attempts.

Rules:
- The span of a request is a child of the one that the client's `traceparent` names. Whether it is recorded is
  the caller's decision then; a trace that begins here is recorded by the sample ratio.
- The request's headers name its own span from then on, so that attempts become its children on the wire. An
  attempt's span has the id that was sent to the upstream.
- An attempt's span is made when the attempt has ended, of its `Sent` and its `Ended`. It may end after the
  request's: an answer can be read on for a client that has left.
"""

from contextvars import ContextVar

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk import version as sdk_version
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway import __version__
from gateway.core.ended import Ended
from gateway.core.errors import GatewayError
from gateway.core.money import NANO_PER_USD
from gateway.core.refused_request import code_of
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.core.trace_context import (
    RANDOM_TRACE_ID,
    SAMPLED,
    ParentSpan,
    parent_in,
    span_id_of,
    trace_id_of,
)
from gateway.http.server.exchange import Exchange
from gateway.metrics.tracing.attributes import (
    REFUSED,
    attempt_attributes,
    attempt_name,
    decision_attributes,
    error_of_attempt,
    error_of_request,
    refusal_attributes,
    request_attributes,
    request_name,
)
from gateway.metrics.tracing.settings import TraceSettings
from gateway.ports import Clock

FIRST_TOKEN_EVENT = "tollway.first_token"  # noqa: S105 - no password
SCOPE = "tollway"
_NANOS = 1_000_000_000
# What the conventions want to know of whoever made the spans.
_SDK = {
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.version": sdk_version.__version__,
}


class RequestTrace(msgspec.Struct, eq=False):
    """One request whose span is recorded, and what is known of it so far.

    `started` is monotonic seconds, `started_nanos` the same moment in UTC nanoseconds. `sent` is its latest
    attempt. `cost_nano` is that of all `attempts` that have ended.
    """

    request_id: str
    route: str | None
    span: Span
    children: Context
    started: float
    started_nanos: int
    sent: Sent | None = None
    outcome: str | None = None
    refusal: str | None = None
    attempts: int = 0
    cost_nano: int = 0

    def nanos_at(self, monotonic: float) -> int:
        """The UTC nanoseconds of a moment. All of a request's count from one, so they are in order."""
        return self.started_nanos + int((monotonic - self.started) * _NANOS)


# Of the request that runs in this context, tasks that it has started included; None: it is not recorded.
_current: ContextVar[RequestTrace | None] = ContextVar("tollway_request_trace", default=None)


class _Ids(IdGenerator):
    """The ids that stand on the wire: those of the request or attempt whose span is about to begin."""

    def __init__(self) -> None:
        self.name = ""

    def generate_span_id(self) -> int:
        return int(span_id_of(self.name), 16)

    def generate_trace_id(self) -> int:
        return int(trace_id_of(self.name), 16)

    def is_trace_id_random(self) -> bool:
        return True  # a digest of what is unique


class RequestTracer:
    """Makes the spans of one process. Used on the event loop's thread only."""

    def __init__(self, settings: TraceSettings, processor: SpanProcessor, clock: Clock) -> None:
        """`processor` takes what has ended."""
        self._clock = clock
        self._ids = _Ids()
        # The same trace is sampled or not whichever service asks, as long as their ratios are the same.
        self._bound = TraceIdRatioBased(settings.sample_ratio).bound
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # no span is begun that is not to be recorded
            resource=Resource({**_SDK, **settings.resource}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer(SCOPE, __version__)

    # --- the request ---

    def begin(self, request_id: str, exchange: Exchange, route: str | None) -> RequestTrace | None:
        """A request begins. `exchange` then names its span as the parent. None: it is not recorded."""
        headers = exchange.headers
        parent = parent_in(headers)
        if parent is None:
            headers.pop(b"tracestate", None)  # it belongs to a traceparent
        own = self._own_span(request_id, parent)
        headers[b"traceparent"] = own.header()
        trace = self._recorded(request_id, exchange.method, route, parent) if own.is_sampled else None
        _current.set(trace)
        return trace

    def _own_span(self, request_id: str, parent: ParentSpan | None) -> ParentSpan:
        """The span of a request. Whether it is recorded is up to its parent; without one to its trace id."""
        if parent is not None:
            return ParentSpan(parent.trace_id, span_id_of(request_id), parent.flags)
        trace_id = trace_id_of(request_id)
        is_sampled = int(trace_id, 16) & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound
        flags = RANDOM_TRACE_ID | (SAMPLED if is_sampled else 0)
        return ParentSpan(trace_id, span_id_of(request_id), flags)

    def _recorded(
        self, request_id: str, method: str, route: str | None, parent: ParentSpan | None
    ) -> RequestTrace:
        clock = self._clock
        started, started_nanos = clock.monotonic(), int(clock.now() * _NANOS)
        self._ids.name = request_id
        span = self._tracer.start_span(
            request_name(method, route),
            context=Context() if parent is None else _context_of(parent),
            kind=SpanKind.SERVER,
            start_time=started_nanos,
        )
        children = set_span_in_context(span, Context())
        return RequestTrace(request_id, route, span, children, started, started_nanos)

    def end(self, trace: RequestTrace | None, exchange: Exchange) -> None:
        """The request is over, for its client."""
        _current.set(None)
        if trace is None:
            return
        span, refusal = trace.span, trace.refusal
        outcome = trace.outcome or ("client_disconnect" if exchange.disconnected else None)
        span.set_attributes(
            request_attributes(
                trace.request_id,
                exchange.method,
                trace.route,
                status=exchange.status,
                outcome=outcome,
                refusal=refusal,
            )
        )
        if trace.sent is not None:
            span.set_attributes(decision_attributes(trace.sent))
        if trace.attempts:
            span.set_attributes(
                {"tollway.attempts": trace.attempts, "tollway.cost_usd": trace.cost_nano / NANO_PER_USD}
            )
        if error_of_request(exchange.status, refusal) is not None:
            span.set_status(StatusCode.ERROR)
        span.end(trace.nanos_at(self._clock.monotonic()))

    # --- what happens meanwhile ---

    def planned(self, sent: Sent) -> None:
        """It was admitted."""
        trace = _current.get()
        if trace is not None:
            trace.sent = sent

    def refused(self, error: GatewayError, principal: Principal | None, model: str | None) -> None:
        """It is answered with an error envelope."""
        trace = _current.get()
        if trace is None:
            return
        trace.refusal, trace.outcome = code_of(error), REFUSED
        if trace.sent is None:
            trace.span.set_attributes(refusal_attributes(principal, model))

    def answered(self, ended: Ended) -> None:
        """It ended with this attempt."""
        trace = _current.get()
        if trace is not None:
            trace.outcome = ended.outcome.value

    def attempted(self, sent: Sent, ended: Ended) -> None:
        """An attempt of it has ended."""
        trace = _current.get()
        if trace is None:
            return
        trace.sent = sent
        trace.attempts += 1
        trace.cost_nano += ended.cost_nano
        self._ids.name = sent.attempt_id
        sent_at = ended.progress.sent_at
        span = self._tracer.start_span(
            attempt_name(sent),
            context=trace.children,
            kind=SpanKind.CLIENT,
            attributes=attempt_attributes(sent, ended),
            start_time=trace.nanos_at(sent_at),
        )
        if sent.call.stream and ended.ttft_ms is not None:
            span.add_event(FIRST_TOKEN_EVENT, timestamp=trace.nanos_at(sent_at + ended.ttft_ms / 1000))
        if error_of_attempt(ended) is not None:
            span.set_status(StatusCode.ERROR)
        span.end(trace.nanos_at(sent_at + ended.duration_ms / 1000))


def _context_of(parent: ParentSpan) -> Context:
    """A context whose span is `parent`, which somebody else records."""
    remote = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())
