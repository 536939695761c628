"""One attempt under way: send it, relay what comes back, and record how it ended, whatever that way is."""

import asyncio
import hashlib

import msgspec
import structlog

from gateway.core.admission import Hold, RateView, Settlement
from gateway.core.answer import read_answer, read_error
from gateway.core.balancing import Blame
from gateway.core.call import Call, encode_call
from gateway.core.catalog import Api, Deployment, Provider
from gateway.core.errors import FailureKind, UpstreamFailure, UpstreamRejected
from gateway.core.money import usd_text
from gateway.core.record import Outcome, UsageRecord
from gateway.core.restoring import Restorer, RestoringReader
from gateway.core.sse import EventTooLarge, StreamReader
from gateway.core.usage import NO_USAGE, Exact, Metered, usage_from_wire
from gateway.ports import (
    Admission,
    Clock,
    Inbound,
    Ledger,
    Sink,
    Telemetry,
    Upstream,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.proxy.attempt import Attempt, Request, metered_failure, outcome_of, settlement_of

_log = structlog.get_logger("tollway.relay")

MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
DRAIN_SECONDS = 1.0

# Our own account's trouble at the upstream (its key, its model name), or a passing one: try another
# candidate. Every other 4xx is the request's own fault and would fail there as well.
_TRY_ANOTHER = frozenset({401, 402, 403, 404, 407, 408, 409, 425, 429})

NOTHING_USED = Settlement(spent_nano=0)


class Services(msgspec.Struct, frozen=True, eq=False):
    """What every attempt deals with."""

    upstream: Upstream
    admission: Admission
    ledger: Ledger
    telemetry: Telemetry
    clock: Clock


class Dispatch:
    """One attempt under way. `settlement` is what it used, once it has ended."""

    __slots__ = (
        "_attempt",
        "_blame",
        "_clock",
        "_content_type",
        "_hold",
        "_inbound",
        "_masked",
        "_processing_ms",
        "_reader",
        "_record",
        "_request",
        "_response",
        "_services",
        "_sink",
        "settlement",
    )

    def __init__(
        self,
        services: Services,
        request: Request,
        hold: Hold,
        attempt: Attempt,
        blame: Blame,
        inbound: Inbound,
        sink: Sink,
    ) -> None:
        self._services = services
        self._clock = services.clock
        self._request = request
        self._hold = hold
        self._attempt = attempt
        self._blame = blame
        self._inbound = inbound
        self._sink = sink
        self._masked = request.masked_in(attempt.deployment.zone)
        self._response: UpstreamResponse | None = None
        self._reader: StreamReader | None = None
        self._record: UsageRecord | None = None
        self._content_type = b"application/json"
        self._processing_ms: bytes | None = None
        self.settlement = NOTHING_USED

    async def run(self) -> None:
        """Send, relay, record. Raises UpstreamFailure when another candidate may be tried."""
        clock = self._clock
        attempt, call = self._attempt, self._request.call
        attempt.begin(at=clock.now(), monotonic=clock.monotonic(), held_nano=self._hold.nano)
        outgoing = self._upstream_request()
        self._intend()
        try:
            self._response = response = await self._services.upstream.send(outgoing)
            attempt.status = response.status
            self._read_head(response)
            if response.status != 200:
                await self._refused(response)
            elif call.stream:
                await self._relay_stream(response)
            else:
                await self._relay_answer(response)
        except UpstreamFailure as failure:
            self._failed(failure)
            raise
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            if self._response is not None:
                self._response.abort()
            if self._record is None:
                # Our own defect, not a known way out. What was sent must be in the ledger all the same.
                if self._reader is not None:
                    self._take_notes(self._reader)
                self._book(Outcome.UPSTREAM_ERROR, attempt.under_estimate())

    def report_completed(self) -> None:
        """The request ends with this attempt."""
        if self._record is not None:
            seconds = self._clock.monotonic() - self._request.started
            self._services.telemetry.answered(self._record, seconds)

    # --- what goes out ---

    def _intend(self) -> None:
        """Note that the attempt is about to be sent. Raises Unavailable: then it must not be."""
        attempt = self._attempt
        record = attempt.record(Outcome.PRESUMED, attempt.under_estimate(), attempt.sent_at)
        self._services.ledger.intend(record)

    def _upstream_request(self) -> UpstreamRequest:
        attempt, call = self._attempt, self._request.call
        deployment, replica = attempt.deployment, attempt.state.replica
        headers = [
            *deployment.headers,
            (b"x-request-id", self._request.id.encode()),
            (b"x-tollway-attempt", attempt.id.encode()),
        ]
        if (key := self._inbound.header(b"idempotency-key")) is not None:
            headers.append((b"idempotency-key", self._outward(key)))
        cap = min(self._hold.output_tokens, attempt.estimate.output)
        return UpstreamRequest(
            endpoint=replica.endpoint,
            method=b"POST",
            target=replica.target(call.api),
            headers=headers,
            body=encode_call(
                call,
                deployment.model,
                _cap_field(call, deployment),
                cap,
                None if self._masked is None else self._masked.rest,
            ),
            fresh=attempt.fresh,
            sent_to=attempt.went_to,
        )

    def _outward(self, idempotency_key: str) -> bytes:
        """A key that the client made up may hold what was masked. Its digest tells repetitions as well."""
        key = idempotency_key.encode("latin-1")
        return key if self._masked is None else hashlib.sha256(key).hexdigest().encode()

    # --- what comes back ---

    async def _relay_answer(self, response: UpstreamResponse) -> None:
        body = await response.read(MAX_ANSWER_BYTES)
        answer = read_answer(body)
        attempt = self._attempt
        attempt.first_token_at = attempt.last_seen_at = self._clock.monotonic()
        attempt.finish_reason = answer.finish_reason
        attempt.reported_model = answer.model
        if answer.usage is not None:
            metered: Metered = Exact(usage_from_wire(answer.usage), answer.service_tier)
        else:
            attempt.text_chunks, attempt.text_bytes = max(len(body) // 16, 1), len(body)
            metered = attempt.under_estimate()
        record = self._succeeded(metered)
        headers = self._answer_headers()
        headers.append((b"x-tollway-cost-usd", usd_text(record.cost_nano_usd).encode()))
        self._settle_early()
        if self._masked is not None:
            body = Restorer(self._masked).answer(body)
        await self._sink.answer(200, headers, body)

    async def _relay_stream(self, response: UpstreamResponse) -> None:
        if not self._content_type.startswith(b"text/event-stream"):
            raise UpstreamFailure(FailureKind.BODY, "asked for a stream, got something else")
        self._reader = reader = self._new_reader()
        sink, attempt, clock = self._sink, self._attempt, self._clock
        while chunk := await response.next_chunk():
            attempt.last_seen_at = clock.monotonic()
            if not reader.text_chunks:
                attempt.quiet_until = attempt.last_seen_at
            passed = _feed(reader, chunk)
            if not passed:
                continue
            if attempt.first_token_at is None:
                attempt.first_token_at = attempt.last_seen_at
                await sink.start(200, [*self._answer_headers(), (b"x-accel-buffering", b"no")])
            if reader.done:
                # The books are closed before the client reads [DONE] and asks what it cost.
                self._end_of_stream()
            await sink.send(passed)
            attempt.blocked_seconds += clock.monotonic() - attempt.last_seen_at
            if reader.done:
                break
        else:
            await self._unterminated()
        await sink.end()
        await self._drain(response)

    def _new_reader(self) -> StreamReader:
        call = self._request.call
        hide_usage = not call.include_usage
        if self._masked is None:
            return StreamReader(hide_usage=hide_usage, choices=call.choices)
        restorer = Restorer(self._masked)
        return RestoringReader(restorer, hide_usage=hide_usage, choices=call.choices)

    async def _unterminated(self) -> None:
        """The body ended without [DONE]: fine if the answer was finished, a broken stream otherwise."""
        reader = self._reader
        if reader is None:
            raise UpstreamFailure(FailureKind.BODY, "the stream was empty")
        rest = reader.flush()
        if not reader.complete or not self._sink.started:
            raise UpstreamFailure(FailureKind.RESET, "the stream ended before the answer was finished")
        self._end_of_stream()
        if rest:
            await self._sink.send(rest)

    def _end_of_stream(self) -> None:
        reader = self._reader
        if reader is not None and self._record is None:
            self._take_notes(reader)
            self._succeeded(self._metered(reader))
            self._settle_early()

    async def _drain(self, response: UpstreamResponse) -> None:
        """Read to the end of the body so that the connection can be used again; not for long."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await response.next_chunk():
                    pass
        except (TimeoutError, UpstreamFailure):
            response.abort()

    async def _refused(self, response: UpstreamResponse) -> None:
        """An answer other than 200: another candidate's turn, or the client's own mistake to be told."""
        body = await response.read(MAX_ERROR_BYTES)
        status = response.status
        error = read_error(status, body)
        if status in _TRY_ANOTHER or not 400 <= status < 500:
            raise UpstreamFailure(FailureKind.STATUS, f"status {status}")
        self._book(Outcome.CLIENT_ERROR, Exact(NO_USAGE))
        self._attempt.state.breaker.succeeded()
        raise UpstreamRejected(
            error.message,
            status=status,
            type=error.type or "invalid_request_error",
            param=error.param,
            code=error.code,
        )

    # --- the ways out ---

    def _succeeded(self, metered: Metered) -> UsageRecord:
        attempt, call = self._attempt, self._request.call
        attempt.state.breaker.succeeded()
        record = self._book(Outcome.SUCCESS, metered)
        if attempt.first_token_at is not None:
            seconds = attempt.last_seen_at - attempt.first_token_at
            output = record.usage.output_tokens
            speed = output / seconds if call.stream and seconds > 0 and output > 1 else None
            attempt.pool.learn_speed(attempt.first_token_at - attempt.sent_at, speed, self._clock.monotonic())
        if isinstance(metered, Exact):
            attempt.teach_pace(record.usage.output_tokens)
        if isinstance(metered, Exact) and not call.media.bytes:
            attempt.pool.learn_tokenizer(call.text_bytes, record.usage.input_tokens)
        return record

    def _failed(self, failure: UpstreamFailure) -> None:
        if self._record is not None:
            return
        attempt, now = self._attempt, self._clock.monotonic()
        if self._reader is not None:
            self._take_notes(self._reader)
        outcome = outcome_of(failure, attempt.status)
        attempt.stale = failure.stale
        if outcome is Outcome.RATE_LIMITED:
            attempt.state.breaker.succeeded()  # it is alive, only busy: not its fault
        elif not failure.stale:
            self._blame.failed(attempt.state, failure, now)
        _log.warning(
            "attempt.failed",
            attempt_id=attempt.id,
            deployment=attempt.deployment.name,
            replica=attempt.state.replica.name,
            kind=failure.kind,
            detail=failure.detail,
        )
        self._book(outcome, metered_failure(attempt, failure))

    def _cancelled(self) -> None:
        """The client went away, or the server stops. Neither is the upstream's failure."""
        if self._record is not None:
            return
        attempt = self._attempt
        metered: Metered = attempt.under_estimate()
        if self._reader is not None:
            self._take_notes(self._reader)
            metered = self._metered(self._reader)
        outcome = Outcome.CLIENT_DISCONNECT if self._inbound.disconnected else Outcome.SHUTDOWN
        self._book(outcome, metered)
        self.report_completed()

    def _book(self, outcome: Outcome, metered: Metered) -> UsageRecord:
        """Record the attempt, which has ended, and note what it takes from the budgets."""
        services = self._services
        self._record = record = self._attempt.record(outcome, metered, self._clock.monotonic())
        services.ledger.append(record)
        services.telemetry.attempted(record)
        self.settlement = settlement_of(record)
        return record

    def _settle_early(self) -> None:
        """Give the hold back before the last byte, so that the client's next request finds it settled."""
        self._services.admission.settle(self._hold, self.settlement)
        self.report_completed()

    def _take_notes(self, reader: StreamReader) -> None:
        attempt = self._attempt
        attempt.text_chunks, attempt.text_bytes = reader.text_chunks, reader.text_bytes
        attempt.finish_reason = reader.finish_reason
        attempt.reported_model = reader.model

    def _metered(self, reader: StreamReader) -> Metered:
        if reader.usage is not None:
            return Exact(usage_from_wire(reader.usage), reader.service_tier)
        return self._attempt.under_estimate()

    def _read_head(self, response: UpstreamResponse) -> None:
        """The few headers of the upstream that mean something here; all others are its own business."""
        for name, value in response.headers:
            if name == b"content-type":
                self._content_type = value
            elif name == b"x-request-id":
                self._attempt.upstream_request_id = value.decode("latin-1")
            elif name == b"openai-processing-ms":
                self._processing_ms = value

    def _answer_headers(self) -> list[tuple[bytes, bytes]]:
        request, attempt = self._request, self._attempt
        headers = [
            (b"content-type", self._content_type),
            (b"x-request-id", request.id.encode()),
            *attempt.pool.answer_headers,
            (b"x-tollway-decision", attempt.decision.encode()),
            (b"x-tollway-policy", request.policy_version.encode()),
        ]
        if self._processing_ms is not None:
            headers.append((b"openai-processing-ms", self._processing_ms))
        if self._masked is not None:
            headers.append((b"x-tollway-masked", b"%d" % len(self._masked.originals)))
        if self._hold.is_capped:
            headers.append((b"x-tollway-output-cap", str(self._hold.output_tokens).encode()))
        _add_rate(headers, b"requests", self._hold.requests)
        _add_rate(headers, b"tokens", self._hold.tokens)
        return headers


def _feed(reader: StreamReader, chunk: bytes) -> bytes:
    try:
        passed = reader.feed(chunk)
    except EventTooLarge as exc:
        raise UpstreamFailure(FailureKind.PROTOCOL, "an event of the stream has no end") from exc
    if reader.failure is not None:
        raise UpstreamFailure(FailureKind.ABORTED, reader.failure)
    return passed


def _cap_field(call: Call, deployment: Deployment) -> str | None:
    """The field in which the upstream honours an output cap."""
    if call.api is Api.EMBEDDINGS:
        return None
    if call.api is Api.CHAT and deployment.provider is not Provider.COMPATIBLE:
        return "max_completion_tokens"
    return "max_tokens"


def _add_rate(headers: list[tuple[bytes, bytes]], kind: bytes, view: RateView | None) -> None:
    if view is None:
        return
    headers.append((b"x-ratelimit-limit-" + kind, b"%d" % view.limit))
    headers.append((b"x-ratelimit-remaining-" + kind, b"%d" % view.remaining))
    headers.append((b"x-ratelimit-reset-" + kind, b"%.3fs" % view.reset_seconds))
