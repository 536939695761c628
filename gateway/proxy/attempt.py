"""One attempt: send a request to one replica, relay what comes back, and end in exactly one `Ended`.

Rules:
- Nothing is sent before the ledger has its intent.
- `run` relays all but the last bytes of a whole answer. Its caller settles the hold, then calls `finish`: the
  client's next request, and its question what this one cost, must find it settled.
- Every way out is recorded: success, failure, a client that has gone, a defect of ours.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable

import msgspec
import structlog

from gateway.core.answer import ErrorInstead, Exact, Metered, read_answer
from gateway.core.control_headers import wants_cost_event
from gateway.core.ended import Ended, Progress, outcome_of
from gateway.core.envelope import envelope
from gateway.core.errors import AdditionRefused, FailureKind, UpstreamFailure, UpstreamRejected
from gateway.core.heads import HeaderLines
from gateway.core.metering import BEYOND_HOLD
from gateway.core.pricing import usd_text
from gateway.core.record import Outcome
from gateway.core.remedies import remedy_for
from gateway.core.restoring import Restorer, RestoringReader
from gateway.core.sent import EVENT_STREAM, JSON, Sent
from gateway.core.sse import MAX_EVENT_BYTES, EventTooLarge, StreamReader, error_event
from gateway.core.upstream_error import (
    UpstreamError,
    is_code,
    read_error,
    retry_after_seconds,
    secrets_in,
    without_secrets,
)
from gateway.core.usage import NO_USAGE
from gateway.core.verdicts import UpstreamVerdict, error_within, verdict_of
from gateway.dialects.refusals import MOST_READ_BYTES, Remedy
from gateway.dialects.table import HELD_BACK
from gateway.metrics.access_log import AccessLog
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
from gateway.proxy.cost_event import with_cost_event
from gateway.proxy.large_bodies.reader import LargeBodyReader
from gateway.proxy.opening import StreamOpening
from gateway.proxy.verdict import rejected, stopping

_log = structlog.get_logger("tollway.relay")

MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 256 * 1024
# Of the headers of an upstream; no more of them goes on.
MOST_ID_BYTES, MOST_DIGITS = 256, 12
DRAIN_SECONDS = 1.0
# For the client of a stream to take the word that the gateway stops.
STOP_SECONDS = 1.0
COST_HEADER = b"x-tollway-cost-usd"

# What is not the request's own fault, and so another candidate's turn.
_FAILURES = {
    UpstreamVerdict.CANDIDATE: FailureKind.REFUSED,
    UpstreamVerdict.ACCOUNT: FailureKind.ACCOUNT,
    UpstreamVerdict.RATE_LIMITED: FailureKind.BUSY,
    UpstreamVerdict.BUSY: FailureKind.BUSY,
    UpstreamVerdict.TIMED_OUT: FailureKind.GATEWAY_TIMEOUT,
    UpstreamVerdict.BROKEN: FailureKind.STATUS,
}


class Services(msgspec.Struct, frozen=True, eq=False):
    """What every attempt deals with. `max_event_bytes` bounds one event of a stream.

    Without an `access_log` none is written. `large_bodies` adapts those that would hold the event loop up.
    """

    upstream: Upstream
    admission: Admission
    ledger: Ledger
    telemetry: Telemetry
    clock: Clock
    max_event_bytes: int = MAX_EVENT_BYTES
    access_log: AccessLog | None = None
    large_bodies: LargeBodyReader | None = None


class Attempt:
    """One attempt under way. `ended` is its result, once there is one, whatever the way out."""

    __slots__ = (
        "_content_type",
        "_inbound",
        "_last",
        "_processing_ms",
        "_progress",
        "_reader",
        "_response",
        "_sent",
        "_services",
        "_sink",
        "ended",
    )

    def __init__(self, services: Services, sent: Sent, inbound: Inbound, sink: Sink) -> None:
        """`sent` is complete: it has its hold."""
        self._services = services
        self._sent = sent
        self._inbound = inbound
        self._sink = sink
        now = services.clock.monotonic()
        self._progress = Progress(now, now, now)
        self._response: UpstreamResponse | None = None
        self._reader: StreamReader | None = None
        self.ended: Ended | None = None
        self._content_type = JSON  # the upstream's
        self._processing_ms: bytes | None = None
        self._last: bytes | None = None  # what `finish` sends; None: there is no whole answer

    async def run(self) -> Ended:
        """Send, and relay the answer up to its last bytes; `Ended.failure` says that another may be tried.

        Raises Unavailable when nothing may be sent, UpstreamRejected when the request itself is wrong.
        """
        sent, services = self._sent, self._services
        candidate = sent.candidate
        outgoing = UpstreamRequest(
            head=candidate.replica_set.heads[sent.replica][sent.call.api],
            own=sent.head_lines(self._inbound.headers),
            body=sent.body(),
            stream=sent.call.stream,
            fresh=sent.fresh,
            goes_out=self._goes_out,
        )
        if sent.changed:
            self._tell_dropped()
        services.ledger.intend(sent.attempt_id, sent.half())
        try:
            response = await services.upstream.send(outgoing)
            self._read_head(response)
            if response.status != 200:
                raise await self._refusal(response)
            if sent.call.stream:
                return await self._relay_stream(response)
            return await self._read_answer(response)
        except ErrorInstead as instead:
            refusal = self._verdict(error_within(instead.body, self._secrets()))
            if isinstance(refusal, UpstreamFailure):
                return self._failed(refusal)
            raise refusal from None
        except UpstreamFailure as failure:
            return self._failed(failure)
        except asyncio.CancelledError:
            self._cancelled()
            if self._sink.started and not self._inbound.disconnected:
                await self._tell_of_stop()
            raise
        finally:
            if self.ended is None:
                # Our own defect, not a known way out. What was sent must be in the ledger all the same.
                self._take_notes()
                self._end(Outcome.UPSTREAM_ERROR, self._metered())
            if self._last is None and self._response is not None:
                self._response.abort()

    def _goes_out(self, response: UpstreamResponse) -> None:
        """The request is on its way, and `response` will be its answer."""
        self._response = response
        self._progress.address = response.peer

    # --- as the watch over its replica sees it (`UnderWay`) ---

    @property
    def is_stream(self) -> bool:
        return self._sent.call.stream

    @property
    def last_seen_at(self) -> float | None:
        progress = self._progress
        return None if progress.last_seen_at == progress.sent_at else progress.last_seen_at

    @property
    def is_waiting(self) -> bool:
        return self._response is not None and self._response.is_awaited

    def break_off(self, kind: FailureKind, detail: str) -> None:
        if self._response is not None:
            self._response.break_off(kind, detail)

    # --- its end ---

    def finish(self) -> Awaitable[None]:
        """Send the last bytes of a whole answer, whose hold is settled by now."""
        last = self._last or b""
        if self._reader is not None or self.ended is None:
            return self._finish_stream(last)
        sent, masked = self._sent, self._sent.masked
        lines = sent.answer_lines(JSON, self._processing_ms, self.cost_line())
        return self._sink.answer(200, lines, last if masked is None else Restorer(masked).answer(last))

    def cost_line(self) -> HeaderLines:
        """What the attempt cost, once it has ended."""
        nano = 0 if self.ended is None else self.ended.cost_nano
        return HeaderLines(b"%b: %b\r\n" % (COST_HEADER, usd_text(nano).encode()))

    async def _finish_stream(self, last: bytes) -> None:
        response = self._response
        try:
            ended = self.ended
            if ended is not None and wants_cost_event(self._inbound.headers):
                last = with_cost_event(last, self._sent, ended.cost_nano, estimated=ended.estimated)
            if last:
                await self._sink.send(last)
            await self._sink.end(self.cost_line())
            # Read to the end of the body so that the connection can be used again; not for long.
            with contextlib.suppress(TimeoutError, UpstreamFailure):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while response is not None and await response.next_chunk():
                        pass
        finally:
            if response is not None:
                response.abort()

    def report_completed(self) -> None:
        """The request ends with this attempt."""
        ended, services = self.ended, self._services
        if ended is not None:
            seconds = services.clock.monotonic() - self._sent.started
            services.telemetry.answered(self._sent, ended, seconds)
            log = services.access_log
            if log is not None and (log.writes_all or ended.outcome is not Outcome.SUCCESS):
                log.answered(self._sent, ended, self._inbound, seconds)

    def _tell_dropped(self) -> None:
        """No field but metadata, which stays home, is left out unseen."""
        sent = self._sent
        if fields := sorted(HELD_BACK.intersection(sent.changed)):
            _log.info(
                "fields.dropped", attempt_id=sent.attempt_id, deployment=sent.candidate.name, fields=fields
            )

    # --- what comes back ---

    async def _read_answer(self, response: UpstreamResponse) -> Ended:
        body = await response.read(MAX_ANSWER_BYTES)
        answer = read_answer(body)
        progress = self._progress
        progress.first_token_at = progress.last_seen_at = self._services.clock.monotonic()
        progress.finish_reason = answer.finish_reason
        progress.reported_model = answer.model
        usage = answer.usage if answer.x_groq is None else answer.reported_usage
        if usage is not None:
            metered: Metered = self._sent.metered(
                progress, usage, answer.service_tier, progress.last_seen_at, body
            )
        else:
            progress.size_of_whole(body)
            metered = self._sent.under_estimate(progress, progress.last_seen_at)
        result = self._succeeded(metered)
        self._last = without_secrets(body, self._sent.candidate.secrets)
        return result

    async def _relay_stream(self, response: UpstreamResponse) -> Ended:
        if not self._content_type.lower().startswith(b"text/event-stream"):
            read_answer(await response.read(MAX_ERROR_BYTES))  # it may say why
            raise UpstreamFailure(FailureKind.BODY, "asked for a stream, got something else")
        self._reader = reader = self._new_reader()
        sink, progress, clock = self._sink, self._progress, self._services.clock
        # Since this candidate was asked: what others took before says nothing of it.
        due = progress.sent_at + self._sent.candidate.deployment.commit_after_seconds
        lines = self._answer_lines(b"x-accel-buffering: no\r\n")
        opening = StreamOpening(sink, lines, COST_HEADER, due - clock.monotonic())
        is_tapped = False
        try:
            while chunk := await response.next_chunk():
                progress.last_seen_at = clock.monotonic()
                if not reader.text_chunks:
                    progress.quiet_until = progress.last_seen_at
                passed = self._feed(reader, chunk)
                self._note_first_token(reader)
                if reader.done:
                    return self._end_of_stream(await self._opened(opening) + passed)
                if passed and not sink.started:
                    passed = await opening.admit(passed, has_content=reader.has_content)
                if not passed:
                    continue
                await sink.send(passed)
                progress.blocked_seconds += clock.monotonic() - progress.last_seen_at
                if not is_tapped and reader.text_chunks and self._sent.masked is None:
                    is_tapped = True
                    response.tap(self._pass_on)
            # Without [DONE]: fine if the answer was finished, a broken stream otherwise.
            rest = reader.flush()
            self._note_first_token(reader)
            if not reader.complete:
                raise UpstreamFailure(FailureKind.RESET, "the stream ended before the answer was finished")
            return self._end_of_stream(await self._opened(opening) + rest)
        finally:
            opening.close()

    async def _opened(self, opening: StreamOpening) -> bytes:
        """The answer has begun. Returns what was held back of it until now."""
        return b"" if self._sink.started else await opening.commit()

    def _note_first_token(self, reader: StreamReader) -> None:
        progress = self._progress
        if progress.first_token_at is None and reader.has_content:
            progress.first_token_at = progress.last_seen_at

    def _pass_on(self, chunk: bytes) -> bool:
        """Take a chunk of plain text straight to the client. False: it has to be read, or to wait."""
        reader = self._reader
        passed = None if reader is None else reader.passes(chunk)
        if reader is None or passed is None:
            return False
        if not self._sink.send_now(without_secrets(passed, self._sent.candidate.secrets)):
            return False
        reader.note_passed(chunk)
        self._progress.last_seen_at = self._services.clock.monotonic()
        return True

    def _answer_lines(self, last: bytes) -> HeaderLines:
        return self._sent.answer_lines(EVENT_STREAM, self._processing_ms, last)

    def _new_reader(self) -> StreamReader:
        call, masked = self._sent.call, self._sent.masked
        hides = not call.include_usage
        # What a server sends with each chunk unasked passes to a client that asked for usage.
        hides_continuous = hides or (self._sent.asks_continuous_usage and not call.wants_continuous_usage)
        reader_of = StreamReader if masked is None else functools.partial(RestoringReader, Restorer(masked))
        return reader_of(
            hide_usage=hides,
            choices=call.choices,
            hide_continuous_usage=hides_continuous,
            max_event_bytes=self._services.max_event_bytes,
        )

    def _end_of_stream(self, last: bytes) -> Ended:
        self._take_notes()
        result = self._succeeded(self._metered())
        self._last = without_secrets(last, self._sent.candidate.secrets)
        return result

    def _feed(self, reader: StreamReader, chunk: bytes) -> bytes:
        try:
            passed = reader.feed(chunk)
        except EventTooLarge as exc:
            raise UpstreamFailure(
                FailureKind.PROTOCOL, f"an event of over {self._services.max_event_bytes} bytes"
            ) from exc
        if reader.failure is None:
            return without_secrets(passed, self._sent.candidate.secrets)
        if reader.error is None:
            raise UpstreamFailure(FailureKind.ABORTED, reader.failure)
        if not reader.has_content and not self._sink.started:
            raise ErrorInstead(reader.error)
        error = error_within(reader.error, self._secrets())
        raise UpstreamFailure(FailureKind.ABORTED, reader.failure, status=error.status, error=error)

    # --- an error in place of an answer ---

    async def _refusal(self, response: UpstreamResponse) -> UpstreamRejected | UpstreamFailure:
        """What an answer other than 200 ends. What came of it will do: its status is known in any case."""
        body = b""
        with contextlib.suppress(UpstreamFailure):
            while len(body) < MAX_ERROR_BYTES and (chunk := await response.next_chunk()):
                body += chunk
        error = read_error(response.status, body[:MAX_ERROR_BYTES], self._secrets())
        text = body[:MOST_READ_BYTES].decode("utf-8", "replace")
        remedy = remedy_for(self._sent, response.status, text, error.param, error.code)
        return self._verdict(error) if remedy is None else AdditionRefused(response.status, remedy)

    def _secrets(self) -> tuple[str, ...]:
        return secrets_in(self._sent.candidate.deployment.headers)

    def _verdict(self, error: UpstreamError) -> UpstreamRejected | UpstreamFailure:
        """What `error` ends: the request, which is wrong, or this attempt."""
        verdict = verdict_of(error)
        if verdict is UpstreamVerdict.REQUEST:
            self._end(Outcome.CLIENT_ERROR, Exact(NO_USAGE))
            self._sent.replica.succeeded(self._sent.principal.key, self._services.clock.monotonic())
            return rejected(error)
        headers = () if self._response is None else self._response.headers
        code = f", code {error.code}" if error.code and is_code(error.code) else ""
        return UpstreamFailure(
            _FAILURES[verdict],
            f"status {error.status}{code}",
            status=error.status,
            error=error,
            retry_after_seconds=retry_after_seconds(headers, self._services.clock.now()),
        )

    # --- the ways out ---

    def _succeeded(self, metered: Metered) -> Ended:
        sent, replica = self._sent, self._sent.replica
        if replica.breaker.failures or replica.shared_failures:  # a breaker that is open has failures
            replica.succeeded(sent.principal.key, self._progress.last_seen_at)
        replica.answered_at = self._progress.last_seen_at
        outcome = Outcome.SUCCESS
        if self._inbound.disconnected:  # it was read to its end all the same
            outcome, self._progress.is_whole = Outcome.CLIENT_DISCONNECT, True
        result = self._end(outcome, metered)
        sent.learn(self._progress, result)
        if sent.remedy is not None:
            self._learn_dialect(sent.remedy)
        return result

    def _learn_dialect(self, remedy: Remedy) -> None:
        """The request went through once something of the gateway's own was left out."""
        candidate = self._sent.candidate
        if remedy.refused is not None and candidate.replica_set.learn_dialect(remedy):
            _log.warning("dialect.learned", deployment=candidate.name, field=remedy.refused)
            self._services.telemetry.dialect_learned(candidate.name, remedy.refused)

    def _failed(self, failure: UpstreamFailure) -> Ended:
        sent = self._sent
        self._take_notes()
        where = {
            "attempt_id": sent.attempt_id,
            "deployment": sent.candidate.name,
            "replica": sent.replica.replica.name,
        }
        if failure.kind is FailureKind.ACCOUNT:
            _log.warning("upstream.account_rejected", **where, detail=failure.detail)
        else:
            _log.warning("attempt.failed", **where, kind=failure.kind, detail=failure.detail)
        metered = sent.metered_failure(failure) or self._metered()
        return self._end(outcome_of(failure), metered, failure)

    def _cancelled(self) -> None:
        """The client went away, or the server stops. Neither is the upstream's failure."""
        self._take_notes()
        outcome = Outcome.CLIENT_DISCONNECT if self._inbound.disconnected else Outcome.SHUTDOWN
        self._end(outcome, self._metered())
        self._sent.learn_from_left(self._progress)
        self.report_completed()

    async def _tell_of_stop(self) -> None:
        """The server stops within a stream: its client learns of that as of a failure, if it still reads."""
        if self._response is not None:
            self._response.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._sink.send(error_event(envelope(stopping())))
                await self._sink.end(self.cost_line())

    def _end(self, outcome: Outcome, metered: Metered, failure: UpstreamFailure | None = None) -> Ended:
        """Record the attempt, which has ended."""
        services, sent = self._services, self._sent
        self.ended = ended = sent.end(self._progress, outcome, metered, services.clock.monotonic(), failure)
        services.ledger.append(sent.attempt_id, ended.half())
        services.telemetry.attempted(sent, ended)
        if ended.flags and BEYOND_HOLD in ended.flags:
            _log.warning(
                "usage.beyond_hold",
                attempt_id=sent.attempt_id,
                deployment=sent.candidate.name,
                held_nano_usd=sent.held_nano,
                reported=dict(ended.reported),
            )
        return ended

    def _take_notes(self) -> None:
        """Note what the stream has said so far."""
        reader, progress = self._reader, self._progress
        if reader is not None:
            reader.count_passed()
            progress.text_chunks, progress.text_bytes = reader.text_chunks, reader.text_bytes
            progress.finish_reason = reader.finish_reason
            progress.reported_model = reader.model

    def _metered(self) -> Metered:
        """Usage of a stream as far as it came, or of an answer that never came."""
        sent, reader, progress = self._sent, self._reader, self._progress
        now = self._services.clock.monotonic()
        if reader is not None and reader.usage is not None:
            if reader.usage_is_current:
                metered = sent.metered(progress, reader.usage, reader.service_tier, now)
                if isinstance(metered, Exact) and not reader.usage_is_final:
                    return Exact(metered.usage, metered.service_tier, False, metered.wire)
                return metered
            return sent.metered_outdated(progress, reader.usage, now)
        return sent.under_estimate(progress, now)

    # --- headers ---

    def _read_head(self, response: UpstreamResponse) -> None:
        """The few headers of the upstream that mean something here; all others are its own business."""
        progress = self._progress
        progress.status = response.status
        for name, value in response.headers:
            if name == b"content-type":
                self._content_type = value
            elif name == b"x-request-id":
                progress.upstream_request_id = value[:MOST_ID_BYTES].decode("latin-1")
            elif name == b"openai-processing-ms" and value.isdigit():
                self._processing_ms = value[:MOST_DIGITS]
