"""One generation, from its slot to its last byte: pacing, streaming, faults, aborts and disconnects."""

import time
from collections.abc import Iterator

import msgspec

from gateway.simulators import faults
from gateway.simulators.answers import Answer
from gateway.simulators.attempts import Recorder
from gateway.simulators.dialect import Dialect
from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import ErrorKind
from gateway.simulators.prompts import Prompt
from gateway.simulators.refusals import Header
from gateway.simulators.requests import SimulatedCall
from gateway.simulators.state import State
from gateway.simulators.wire import COMMENT, DONE, Wire, error_event

_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_FROZEN_LOOK_SECONDS = 0.02
_UNPACED_EVENTS = 64  # as many leave at once before other requests get their turn


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request and the answer it will get unless something happens."""

    exchange: SimulatedExchange
    recorder: Recorder
    call: SimulatedCall
    prompt: Prompt
    cached_tokens: int
    answers: list[Answer]
    wire: Wire
    headers: list[Header]
    fault: ErrorKind | None

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)


class Generation:
    """Plays one job. Tokens count once they were sent, or for a whole answer when their time has passed."""

    def __init__(self, job: Job, state: State, dialect: Dialect) -> None:
        self._job = job
        self._state = state
        self._dialect = dialect
        self._attempt = job.recorder.attempt
        self._connection = job.exchange.connection
        self._aborted = False
        self._first_at = 0.0
        self._last_at = 0.0
        self._unpaced = 0

    async def run(self) -> None:
        """Returns when the answer is out, broken as asked, or of no use because the client left."""
        limit, slots = self._state.knobs.max_num_seqs, self._state.slots
        sequences = self._dialect.sequences(self._job.call)
        slots.sequences += sequences
        try:
            if await slots.enter(self._connection, limit):
                await self._run_in_slot(limit)
            else:
                self._job.recorder.disconnected()
        finally:
            slots.sequences -= sequences

    async def _run_in_slot(self, limit: int) -> None:
        call, prompt = self._job.call, self._job.prompt
        self._state.aborts.add(self._abort)
        self._dialect.observer.started(prompt.tokens, self._job.cached_tokens, call.choices_per_prompt)
        try:
            await self._generate()
        finally:
            self._state.aborts.discard(self._abort)
            self._state.slots.leave(limit)
            self._observe_end()

    def _abort(self) -> None:
        self._aborted = True
        self._connection.wake()

    def _observe_end(self) -> None:
        if self._connection.lost and self._state.knobs.bills_to_the_end:
            self._attempt.completion_tokens = self._job.tokens
        closed_by_us = self._job.fault in faults.CLOSED_BY_US and not self._attempt.is_running
        if self._connection.lost and not closed_by_us:
            self._job.recorder.disconnected()
        held = self._job.prompt.tokens + self._attempt.completion_tokens
        seconds = time.monotonic() - self._job.recorder.received_at
        self._dialect.observer.finished(self._end_reason(), seconds, held)

    def _end_reason(self) -> str:
        match self._attempt.outcome:
            case "completed":
                return "length" if self._job.answers[0].finish_reason == "length" else "stop"
            case "disconnected" | "error:abort":
                return "abort"
            case _:
                return "error"

    async def _generate(self) -> None:
        job = self._job
        uncached = job.prompt.tokens - job.cached_tokens
        due = time.monotonic() + self._state.ttft_seconds(uncached)
        if job.call.stream and self._opens_first():
            await self._start_stream()
            if self._state.knobs.opening_first:
                await self._send_openings()
            if not await self._keep_alive_until(due):
                return
        if not await self._wait_until(due):
            return
        self._first_at = self._last_at = time.monotonic()
        self._dialect.observer.first_token(job.recorder.first_token())
        await (self._stream() if job.call.stream else self._whole())

    async def _wait_until(self, due: float) -> bool:
        """False when the client left. An abort ends the wait early."""
        while not self._aborted and (left := due - time.monotonic()) > 0:
            if not await self._connection.pause(left):
                return False
        return await self._thawed()

    async def _thawed(self) -> bool:
        """Wait while the engine is frozen. False when the client left."""
        while self._state.knobs.frozen:
            if not await self._connection.pause(_FROZEN_LOOK_SECONDS):
                return False
        return not self._connection.lost

    def _finish(self) -> None:
        kind = ErrorKind.ABORT if self._aborted else self._job.fault
        self._job.recorder.finish("completed" if kind is None else f"error:{kind}")

    # A whole answer

    async def _whole(self) -> None:
        job = self._job
        longest = max(answer.tokens for answer in job.answers)
        wanted = longest // 2 if job.fault is ErrorKind.ABORT else longest
        rate = self._state.knobs.tokens_per_second
        connected = await self._wait_until(self._first_at + (max(wanted - 1, 0) / rate if rate else 0))
        cut_short = self._aborted or job.fault is ErrorKind.ABORT
        answers = job.answers
        if not connected or cut_short:
            passed = int((time.monotonic() - self._first_at) * rate) + 1 if rate else wanted
            answers = [answer.cut(min(passed, wanted), "abort") for answer in answers]
        self._generated(sum(answer.tokens for answer in answers))
        if connected:
            await self._send_whole(answers)

    async def _send_whole(self, answers: list[Answer]) -> None:
        job = self._job
        with_usage = job.fault is not ErrorKind.NO_USAGE
        body = job.wire.body(answers, with_usage=with_usage)
        self._attempt.status = 200
        self._finish()
        if job.fault is not None and job.fault in faults.MIDWAY:
            await faults.broken_reply(job.fault, job.exchange, body, job.headers)
        else:
            self._attempt.usage_sent = with_usage
            await job.exchange.reply(Reply(body=body), job.headers)

    # A stream

    async def _start_stream(self) -> None:
        self._attempt.status = 200
        await self._job.exchange.start(200, _EVENT_STREAM, self._job.headers)

    def _opens_first(self) -> bool:
        """A stream's head leaves before the wait for its first token."""
        knobs = self._state.knobs
        return self._dialect.headers_before_first_token or knobs.opening_first or knobs.comment_every_ms > 0

    async def _keep_alive_until(self, due: float) -> bool:
        """False when the client left."""
        seconds = self._state.knobs.comment_every_ms / 1000
        while seconds and not self._aborted and due - time.monotonic() > seconds:
            if not await self._connection.pause(seconds):
                return False
            await self._job.exchange.send(COMMENT)
        return True

    async def _send_openings(self) -> None:
        for answer in self._job.answers:
            if opening := self._job.wire.opening(answer.index):
                await self._job.exchange.send(opening)

    def _breaks_after(self) -> int | None:
        """Output tokens after which this stream breaks off; None: it does not."""
        job = self._job
        if job.fault not in faults.MIDWAY and job.fault is not ErrorKind.ABORT:
            return None
        wanted = self._state.knobs.break_after_tokens
        return max(job.tokens // 2, 1) if wanted < 0 else wanted

    async def _stream(self) -> None:
        job, knobs = self._job, self._state.knobs
        if not self._opens_first():
            await self._start_stream()
        if not knobs.opening_first:
            await self._send_openings()
        breaks_after = self._breaks_after()
        for event, tokens in self._events():
            if not await self._pace():
                return
            if self._aborted or (
                breaks_after is not None and self._attempt.completion_tokens >= breaks_after
            ):
                await self._break_off(event)
                return
            await job.exchange.send(event)
            self._generated(tokens)
        await self._close_stream(job.answers)

    def _events(self) -> Iterator[tuple[bytes, int]]:
        """Events of all choices behind their openings, one of each in turn."""
        wire = self._job.wire
        under_way = [(answer, wire.deltas(answer)) for answer in self._job.answers]
        while under_way:
            left = []
            for answer, deltas in under_way:
                if (delta := next(deltas, None)) is None:
                    yield wire.closing(answer, answer.tokens), 0
                else:
                    yield delta
                    left.append((answer, deltas))
            under_way = left

    async def _pace(self) -> bool:
        """Wait for the next token's time, by the rate as it is now. False when the client left."""
        rate = self._state.knobs.tokens_per_second
        if rate:
            due = self._first_at + self._attempt.completion_tokens / (rate * len(self._job.answers))
            if due > time.monotonic():
                return await self._wait_until(due)
        if self._state.knobs.frozen and not await self._thawed():
            return False
        self._unpaced += 1
        if self._unpaced % _UNPACED_EVENTS == 0:
            return await self._connection.pause(0)
        return not self._connection.lost

    def _generated(self, tokens: int) -> None:
        if not tokens:
            return
        self._attempt.completion_tokens += tokens
        now, before = time.monotonic(), self._last_at
        self._last_at = now
        first_or_whole = self._attempt.completion_tokens == tokens
        self._dialect.observer.tokens(tokens, None if first_or_whole else now - before)

    async def _break_off(self, event: bytes) -> None:
        job = self._job
        if self._aborted or job.fault is ErrorKind.ABORT or job.fault is None:
            sent = self._attempt.completion_tokens // len(job.answers)
            for answer in job.answers:
                await job.exchange.send(job.wire.closing(answer.cut(0, "abort"), sent))
            await self._close_stream(job.answers)
            return
        refused = self._dialect.fault(ErrorKind.SERVER_ERROR, self._state.knobs, job.call.model)
        error = error_event(self._dialect.envelope(refused))
        if self._dialect.shape(job.call).done_after_error:
            error += DONE
        self._finish()
        await faults.broken_stream(job.fault, job.exchange, error, event)

    async def _close_stream(self, answers: list[Answer]) -> None:
        job = self._job
        if job.call.include_usage and job.fault is not ErrorKind.NO_USAGE:
            await job.exchange.send(job.wire.usage(self._attempt.completion_tokens))
            self._attempt.usage_sent = not self._connection.lost
        await job.exchange.send(DONE)
        await job.exchange.end()
        if not self._connection.lost:
            self._finish()
