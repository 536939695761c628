"""One attempt as it goes out: what was decided, what is held for it, and how it ends.

`Route.begin` decides and makes it. `hold` completes it, before a byte is sent. `end` says what came of it.
Everything here is pure, and runs without awaiting: an attempt is recorded exactly once on every way out, a
cancelled task included. A repetition, or the next candidate's turn, is a `Sent` of its own (`again`).
"""

import functools
import hmac
from collections.abc import Mapping
from itertools import repeat
from typing import Any, Self

import msgspec
import orjson

from gateway.core.admission import Ask, Hold
from gateway.core.answer import Contradictory, Exact, Metered, UnderEstimate
from gateway.core.balancing import ReplicaSet
from gateway.core.call import CONTINUOUS_USAGE, Call
from gateway.core.catalog import Api, Deployment, Model, Rule, StopsWhenLeft
from gateway.core.constraints import Excluded
from gateway.core.ended import Ended, Progress
from gateway.core.errors import UpstreamFailure
from gateway.core.estimate import (
    MEASURED_CHUNKS,
    Estimate,
    Seen,
    beside_tokens,
    learn_from_broken,
    most_output,
    most_output_of_whole,
    predicted_tokens,
)
from gateway.core.facts import needs_text
from gateway.core.heads import BodyInParts, HeaderLines, one_line
from gateway.core.masking import Masked
from gateway.core.metering import (
    BEYOND_HOLD,
    Bounds,
    flags_of,
    metered_doubtful,
    reported_by,
    with_missing,
    writes_text,
)
from gateway.core.output_sizes import TypicalOutput
from gateway.core.pricing import PriceBook, cost, rates_used
from gateway.core.rates import Price, Rates
from gateway.core.record import DIGITS, MOST, Outcome, PoolState, route_half, sent_half
from gateway.core.replica_state import ReplicaState
from gateway.core.screening import StandIn
from gateway.core.tenancy import Principal
from gateway.core.text_size import LEARN_FROM_BYTES
from gateway.core.trace_context import child_lines
from gateway.core.upstream_error import bare_secrets_in
from gateway.core.usage import NO_USAGE, REQUESTS, Usage
from gateway.core.wire_usage import Counts, WireUsage, usage_from_wire, usual_usage
from gateway.dialects.outgoing import adapted
from gateway.dialects.refusals import Remedy
from gateway.dialects.table import ServerDialect, StreamOptions

# Whole lines, written in one step: names and line ends are the code's, values from outside pass `one_line`.
_REQUEST_IDS = b"x-request-id: %b\r\nx-tollway-attempt: %b\r\n"
_ANSWER_BEGINS = b"content-type: %b\r\nx-request-id: %b\r\n%bx-tollway-decision: %b\r\n"
_REQUEST_RATE, _TOKEN_RATE = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%.3fs\r\n"
    % (kind, kind, kind)
    for kind in (b"requests", b"tokens")
)
# The rest of a larger body is not copied: the largest one would take longer than the loop has.
COPIED_BYTES = 1024 * 1024
JSON, EVENT_STREAM = b"application/json", b"text/event-stream; charset=utf-8"


class Candidate(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Where a route may lead: one deployment, with all that is the same for every attempt there.

    `price` holds from the first to before the second of `price_holds`, `soon` are it and those that begin
    before a request that is held now can have been sent (times in UTC microseconds). `dearest` bounds them
    all for a request that no band of theirs is meant for, (input, output) in nano-USD per million tokens.
    `has_more`: some have bands, or cost something beside tokens. `counts_requests`: here or elsewhere a
    request costs something by itself. `goes_on`: its upstream writes, and bills, the whole answer also when
    it is left. `compared` are the rates that an objective of cost goes by.
    `others` are the model's other deployments, `other_rates` their rates. `half` is what rows of attempts
    there share, `answer_lines` what all heads of answers. `typical`: there are limits that hold a typical
    answer. `secrets` are our credentials there, which no answer shows. `series` belongs to telemetry: what it
    counts for attempts there.

    Many attributes: what is prepared here need not be looked up for each request.
    """

    principal: Principal
    model: Model
    deployment: Deployment
    replica_set: ReplicaSet
    prices: PriceBook
    price: Price
    price_holds: tuple[float, float]
    soon: tuple[Price, ...]
    dearest: tuple[int, int]
    has_more: bool
    counts_requests: bool
    goes_on: bool
    compared: tuple[int, int]
    others: tuple[str, ...]
    other_rates: tuple[Rates, ...]
    policy_version: str
    half: bytes
    answer_lines: bytes
    typical: TypicalOutput | None = None
    secrets: tuple[bytes, ...] = ()
    series: dict[object, Any] = {}

    @property
    def name(self) -> str:
        return self.deployment.name

    def at(self, at: int) -> "Candidate":
        """This one at the prices of `at` (UTC microseconds)."""
        begins, ends = self.price_holds
        if begins <= at < ends:
            return self
        return candidate_at(
            self.principal,
            self.model,
            self.deployment,
            self.replica_set,
            prices=self.prices,
            at=at,
            policy_version=self.policy_version,
            typical=self.typical,
        )


def candidate_at(
    principal: Principal,
    model: Model,
    deployment: Deployment,
    replica_set: ReplicaSet,
    *,
    prices: PriceBook,
    at: int,
    policy_version: str,
    typical: TypicalOutput | None = None,
) -> Candidate:
    """Prepare `deployment` for requests of `principal` to `model`, at the prices of `at`."""
    price, soon = prices.price_of(deployment, at), prices.prices_soon(deployment, at)
    priced = (deployment, *model.use)
    others = tuple(
        (other.name, prices.price_of(other, at).standard) for other in model.use if other is not deployment
    )
    marginal = deployment.marginal_rate if model.marginal else None
    standard = price.standard
    return Candidate(
        principal=principal,
        model=model,
        deployment=deployment,
        replica_set=replica_set,
        prices=prices,
        price=price,
        price_holds=prices.span(deployment, at, priced),
        soon=soon,
        dearest=(max(one.dearest_any[0] for one in soon), max(one.dearest_any[1] for one in soon)),
        has_more=deployment.searches or any(one.steps or one.per_request for one in soon),
        counts_requests=bool(price.per_request) or any(rates.of(REQUESTS) for _, rates in others),
        goes_on=deployment.stops_when_left is StopsWhenLeft.NEVER,
        compared=(standard.input, standard.output) if marginal is None else (marginal, marginal),
        others=tuple(name for name, _ in others),
        other_rates=tuple(rates for _, rates in others),
        policy_version=policy_version,
        half=route_half(
            (
                principal.org,
                principal.team,
                principal.feature,
                principal.key,
                model.name,
                deployment.model,
                deployment.name,
                deployment.zone,
                price.version,
                policy_version,
                standard.input,
                standard.output,
                [(name, rates.input) for name, rates in others],
            )
        ),
        answer_lines=replica_set.answer_lines
        + b"x-tollway-policy: %b\r\n" % one_line(policy_version.encode()),
        typical=typical,
        secrets=tuple(secret.encode("latin-1") for secret in bare_secrets_in(deployment.headers)),
    )


class Sent(msgspec.Struct, eq=False, gc=False):
    """A request that was decided, and one attempt of it.

    `candidates` are tried in this order, each with its estimate; `excluded` are the others, each with its
    reason. `decision` is a short code of why. `privacy` is the class that was planned with. `stand_in`
    is sent in place of the body, but for the zones that get it as it is. `started` is monotonic seconds.
    `named` to `pools` are facts for the row.

    From `hold` on: `hold_taken` is what is held for the attempt at `replica` of the candidate at `index`; its
    price is that of `at` (UTC microseconds). `output_cap` is the most tokens that each choice may have.
    `masked` is what goes out in place of the body, where it is not the body itself. `fresh`: the attempt
    before found a stale connection, so this one must not reuse any. `remedy`: the attempt before was refused
    for what the gateway had added. `changed` are the members of the body that its dialect has changed or left
    out; known once there is a body.

    Many attributes: it is the half of the row that is known before the answer, and what that comes from.
    """

    request_id: str
    call: Call
    principal: Principal
    model: Model
    privacy: str
    stand_in: StandIn | None
    candidates: tuple[Candidate, ...]
    estimates: tuple[Estimate, ...]
    excluded: tuple[Excluded, ...]
    decision: str
    rule: Rule | None
    ask: Ask
    tags: Mapping[str, str]
    started: float
    named: str
    finds: str
    unit: str | None
    draw: float
    budget: float
    pools: Mapping[str, PoolState]
    candidate: Candidate
    estimate: Estimate
    index: int = 0
    number: int = 1
    fresh: bool = False
    remedy: Remedy | None = None
    changed: tuple[str, ...] = ()
    adapted: tuple[bytes, tuple[str, ...]] | None = None
    attempt_id: str = ""
    at: int = 0
    replica: ReplicaState = None  # type: ignore[assignment]  # as all below: until `hold`
    hold_taken: Hold = None  # type: ignore[assignment]
    dialect: ServerDialect = None  # type: ignore[assignment]
    output_cap: int = 0
    held_nano: int = 0
    sent_privacy: str = ""
    masked: Masked | None = None

    # --- before it goes out ---

    def hold(self, hold: Hold, replica: ReplicaState, at: int) -> None:
        """Complete it: `hold` was taken for it, and it goes to `replica` at `at` (UTC microseconds)."""
        candidate = self.candidate
        begins, ends = candidate.price_holds
        if not begins <= at < ends:
            self.candidate = candidate = candidate.at(at)
        self.attempt_id = f"{self.request_id}:{self.number}"
        self.hold_taken, self.held_nano, self.replica, self.at = hold, hold.nano, replica, at
        # What its deployment learns while it is under way is for those that follow.
        held, most, remedy = hold.output_tokens, self.estimate.output, self.remedy
        if remedy is None:
            self.dialect = candidate.replica_set.dialect
        else:
            self.dialect = remedy.dialect
            most = most if remedy.most_output is None else min(most, remedy.most_output)
        self.output_cap = held if held < most else most
        stand_in = self.stand_in
        if stand_in is None:
            self.sent_privacy = self.privacy
        elif candidate.deployment.zone in stand_in.zones:
            self.sent_privacy = stand_in.privacy
        else:
            self.sent_privacy, self.masked = self.privacy, stand_in.masked

    def again(self, *, number: int, index: int, fresh: bool = False, remedy: Remedy | None = None) -> Self:
        """Attempt `number`, at the candidate at `index`; `hold` is still to come.

        What an attempt before it at the same candidate was remedied by goes on.
        """
        candidate, estimate = self.candidates[index], self.estimates[index]
        if remedy is None and index == self.index:
            remedy = self.remedy
        if remedy is not None and not remedy.dialect.caps[remedy.where]:
            most = candidate.deployment.max_output_tokens
            estimate = msgspec.structs.replace(estimate, output=most, uncapped=True)
        return msgspec.structs.replace(
            self,
            number=number,
            index=index,
            fresh=fresh,
            remedy=remedy,
            candidate=candidate,
            estimate=estimate,
            decision=self.decision if index == 0 else "failover",
            masked=None,
            changed=(),
            adapted=None,
        )

    def half(self) -> bytes:
        """Its half of the row (ROUTE_FIELDS, SENT_FIELDS): the journal's intent."""
        call, estimate = self.call, self.estimate
        media, max_output, prompt, bound = call.media, call.max_output, estimate.prompt, estimate.prompt_bound
        return sent_half(
            self.candidate.half,
            (
                self.attempt_id,
                self.request_id,
                self.at,
                call.api,
                self.replica.replica.name,
                self.sent_privacy,
                _listed(call.modalities),
                self.decision,
                call.stream,
                self.held_nano,
                prompt if prompt < bound else bound,
                self.tags,
                call.text_bytes,
                max_output if max_output is None or max_output < MOST else MOST,
                call.choices,
                call.prompts,
                needs_text(call) if call.needs else "",
                msgspec.structs.astuple(media) if media.bytes else None,
                self.named,
                self.finds,
                self.unit,
                round(self.draw, DIGITS),
                round(self.budget, DIGITS),
                self.pools,
            ),
        )

    def head_lines(self, headers: Mapping[bytes, bytes]) -> HeaderLines:
        """The request's own header lines, by the client's `headers`.

        No detector reads headers, so nothing that a client makes up leaves as it is: its values go out as
        digests. Only zones of our own see its trace.
        """
        own = _REQUEST_IDS % (self.request_id.encode(), self.attempt_id.encode())
        if b"traceparent" in headers and self.masked is None:
            is_own = self.candidate.deployment.in_own_zone
            own += child_lines(
                headers, self.request_id, self.attempt_id, None if is_own else self.principal.digest_key
            )
        idempotency_key = headers.get(b"idempotency-key")
        if idempotency_key is not None:
            # It tells repetitions of one key's requests, as what it stands for does.
            told = hmac.digest(self.principal.digest_key, idempotency_key, "sha256")
            own += b"idempotency-key: %b\r\n" % told.hex().encode()
        return HeaderLines(own)

    def body(self) -> bytes | BodyInParts:
        """The body for the upstream, in its dialect, with its model name, output cap and stream options."""
        call, dialect = self.call, self.dialect
        rest = call.rest if self.masked is None else self.rest
        if call.members:
            rest, self.changed = self.adapted or adapted(rest, call.members, dialect)
        counts = call.stream and self.asks_continuous_usage
        model = self.candidate.deployment.model
        return encode_call(call, model, dialect, self.output_cap, rest, continuous_usage=counts)

    @property
    def rest(self) -> bytes:
        """What is sent of the client's body, before any dialect."""
        return self.call.rest if self.masked is None else self.masked.rest

    @property
    def asks_continuous_usage(self) -> bool:
        """For the gateway's own sake. Several choices are counted each for itself: asked for one alone."""
        return self.candidate.deployment.continuous_usage and self.call.choices == 1

    def needs_more(self, hold: Hold) -> bool:
        """No cap will end its answer, and `hold` does not cover all that it may be."""
        return self.estimate.uncapped and hold.output_tokens < self.estimate.output

    def uncapped_ask(self) -> Ask:
        """The reservation for an answer that no cap ends."""
        most = max(self.ask.output_tokens, self.estimate.output)
        return msgspec.structs.replace(self.ask, output_tokens=most, output_is_explicit=True)

    def answer_lines(self, content_type: bytes, processing_ms: bytes | None, last: bytes) -> HeaderLines:
        """Where the request went and why, what its limits have left, and `last`, which is a line.

        `content_type` is the gateway's own. `processing_ms` are digits that the upstream has sent.
        """
        hold = self.hold_taken
        requests, tokens = hold.requests, hold.tokens
        block = _ANSWER_BEGINS % (
            content_type,
            self.request_id.encode(),
            self.candidate.answer_lines,
            self.decision.encode(),
        )
        if processing_ms is not None:
            block += b"openai-processing-ms: %b\r\n" % processing_ms
        if self.masked is not None:
            block += b"x-tollway-masked: %d\r\n" % len(self.masked.originals)
        if hold.output_tokens < hold.ask.output_tokens or self.remedy is not None:
            block += b"x-tollway-output-cap: %d\r\n" % self.output_cap
        if self.changed:
            block += b"x-tollway-changed: %b\r\n" % ",".join(self.changed).encode()
        if requests is not None:
            block += _REQUEST_RATE % (requests.limit, requests.remaining, requests.reset_seconds)
        if tokens is not None:
            block += _TOKEN_RATE % (tokens.limit, tokens.remaining, tokens.reset_seconds)
        return HeaderLines(block + last)

    # --- the end ---

    def end(
        self,
        progress: Progress,
        outcome: Outcome,
        metered: Metered,
        now: float,
        failure: UpstreamFailure | None = None,
    ) -> Ended:
        """How it ended, at `now` (monotonic seconds)."""
        price, usage = self.candidate.price, metered.usage
        is_exact, tier = True, None
        so_far: Usage | None = None  # what an answer that goes on has reported
        if type(metered) is Exact:
            tier = metered.service_tier
            if not metered.is_final:
                so_far = usage
        else:
            is_exact = False
            if type(metered) is Contradictory:
                tier = metered.service_tier
        rates = price.standard if tier is None else price.rates(tier)
        if self.candidate.counts_requests:
            usage = usage.with_request()
        spent, held, flags = cost(rates, usage), self.held_nano, ""
        reported: Counts = ()
        has_others = bool(usage.others)
        if not is_exact or tier is not None or has_others:
            flags = flags_of(metered, price, rates, usage)
            reported = () if isinstance(metered, Exact) else metered.reported
        if (
            spent > held
            or has_others
            or usage.output_text > self.output_cap * self.call.choices
            or usage.input_text > self.estimate.prompt_bound
        ):
            allowed = self._allowed(usage, is_dear=spent > held)
            if spent > held or allowed is not usage:
                # What an upstream states beyond all that was asked of it is no evidence. It stays in the row.
                usage, reported, is_exact = allowed, reported_by(metered), False
                spent = min(cost(rates, usage), held)
                flags = f"{flags},{BEYOND_HOLD}" if flags else BEYOND_HOLD
        is_listed = rates is price.standard and not usage.others and not rates.above
        booked_at = None if is_listed else rates_used(rates, usage)
        is_open = so_far is not None or type(metered) is UnderEstimate
        first, sent_at = progress.first_token_at, progress.sent_at
        return Ended(
            self.attempt_id,
            outcome,
            progress,
            usage,
            not is_exact,
            tier,
            None if tier is None else price.version_of(tier),
            spent,
            tuple(map(cost, self.candidate.other_rates, repeat(usage))),
            max(self._most_nano(progress, outcome, now, so_far) - spent, 0) if is_open else 0,
            None if first is None else (first - sent_at) * 1000,
            (now - sent_at) * 1000,
            failure,
            flags,
            reported,
            booked_at,
        )

    def _allowed(self, usage: Usage, *, is_dear: bool) -> Usage:
        """`usage`, or what the hold covers of it where it has more than any answer can have.

        A prompt is only estimated: one that has more tokens is cut where it `is_dear`er than its hold, or
        where no context has room for it.
        """
        call, estimate, deployment = self.call, self.estimate, self.candidate.deployment
        read, written = estimate.prompt_bound, self.output_cap * call.choices
        if not is_dear:
            read = max(read, deployment.context_tokens * call.prompts)
        if "prediction" in call.members:
            written += predicted_tokens(call)
        return Bounds(read, written, deployment.most_searches).allow(usage)

    def metered(
        self,
        progress: Progress,
        wire: WireUsage,
        service_tier: str | None,
        now: float,
        body: bytes | None = None,
    ) -> Metered:
        """Usage of an answer that has a usage object, at `now`. `body` is that of a whole one."""
        usual = usual_usage(wire)
        if usual is not None and usual.input_text and usual.output_text:
            return Exact(usual, service_tier, True, wire)
        reading = usage_from_wire(wire)
        usage, tier = reading.usage, service_tier or reading.service_tier
        if usage.input_text and usage.output_text and not reading.reported and not reading.is_total_only:
            return Exact(usage, tier, True, wire)
        if body is None:
            wrote = progress.text_chunks > 0 or progress.first_token_at is not None
        else:
            wrote = writes_text(body)
        if wrote and body is not None and not usage.output_tokens:
            progress.size_of_whole(body)
        embeds = self.call.api is Api.EMBEDDINGS
        seen = self.under_estimate(progress, now).usage
        return metered_doubtful(reading, wire, tier, seen, wrote=wrote, embeds=embeds)

    def under_estimate(self, progress: Progress, now: float) -> UnderEstimate:
        """Usage of an attempt that broke at `now`: its prompt as estimated, and what was seen of the answer.

        Of an answer in one piece nothing is seen before its end: then what this pool usually writes in the
        time that has passed.
        """
        prompt = min(self.estimate.prompt, self.estimate.prompt_bound)
        if self.call.api is Api.EMBEDDINGS:  # which writes no tokens, however large its answer is
            return UnderEstimate(Usage(input_text=prompt))
        output = progress.text_chunks
        if not output and not self.call.stream:
            likely = self.candidate.replica_set.pace.likely_output(now - progress.sent_at)
            output = min(likely, self.output_cap) * self.call.choices
        return UnderEstimate(Usage(input_text=prompt, output_text=output))

    def metered_outdated(self, progress: Progress, wire: WireUsage, now: float) -> UnderEstimate:
        """Usage of a stream that told `wire` before more of its text came."""
        seen, told = self.under_estimate(progress, now), usage_from_wire(wire).usage
        if told.output_tokens <= progress.text_chunks:
            return seen
        return UnderEstimate(with_missing(told, seen.usage, wrote=False), wire=wire)

    def metered_failure(self, failure: UpstreamFailure) -> Metered | None:
        """Usage of a failed attempt of which nothing can have been used; None: what was seen decides."""
        if failure.never_sent or failure.was_refused:
            return Exact(NO_USAGE)
        return UnderEstimate(NO_USAGE) if failure.stale else None

    def learn(self, progress: Progress, ended: Ended) -> None:
        """What a whole answer shows of its deployment: its speed, its pace, its tokenizer."""
        call, replica_set, usage = self.call, self.candidate.replica_set, ended.usage
        has_others = bool(usage.others)  # else its texts are all of it, with no call
        output = usage.output_tokens if has_others else usage.output_text
        last, first = progress.last_seen_at, progress.first_token_at
        stream, sent_at = call.stream, progress.sent_at
        if first is not None:
            seconds = last - first
            speed = output / seconds if stream and seconds > 0 and output > 1 else None
            replica_set.learn_speed(first - sent_at, speed, last)
        if ended.estimated:
            return
        seconds = last - (progress.quiet_until if stream else sent_at)
        if progress.blocked_seconds <= seconds / 2:  # else it was the client's pace
            replica_set.pace.learn(output, progress.text_chunks, seconds)
            if output >= MEASURED_CHUNKS:
                replica_set.pace.learn_usual(output / call.choices, last - sent_at)
        typical = self.candidate.typical
        if typical is not None:
            typical.learn(call, self.hold_taken, output, progress.finish_reason)
        if not call.media.bytes:
            tokens = usage.input_tokens if has_others else usage.input_text
            replica_set.learn_tokenizer(call.text_bytes, tokens)
            near = self.estimate.near
            if near or call.text_bytes >= LEARN_FROM_BYTES:
                replica_set.ratios.learn(call, tokens, last, mattered=near)

    def learn_from_left(self, progress: Progress) -> None:
        """What a stream shows of its deployment's speed whose client has gone."""
        if self.call.stream:
            learn_from_broken(self.candidate.replica_set.pace, _seen(progress, progress.last_seen_at))

    def _most_nano(self, progress: Progress, outcome: Outcome, now: float, reported: Usage | None) -> int:
        """What an attempt without usage may have cost at most, or one whose usage so far is `reported`."""
        call, pace, estimate = self.call, self.candidate.replica_set.pace, self.estimate
        cap = estimate.output * call.choices
        seen = _seen(progress, now)
        prompt = estimate.prompt_bound
        if reported is not None:
            prompt = reported.input_tokens
            seen = msgspec.structs.replace(
                seen, reported_tokens=reported.output_tokens, silent_seconds=now - progress.last_seen_at
            )
        if outcome is Outcome.SUCCESS or progress.is_whole:
            output = most_output_of_whole(seen, pace, call, cap)
        else:
            output = most_output(seen, pace, call, self.candidate.deployment, cap)
        price = self.candidate.price
        input_rate, output_rate = price.dearest(call.service_tier, estimate.prompt_bound)
        most = -(-(prompt * input_rate + output * output_rate) // 1_000_000)
        most += beside_tokens(call, self.candidate.deployment, price)
        return min(self.held_nano, most)


def _seen(progress: Progress, now: float) -> Seen:
    last, quiet, blocked = progress.last_seen_at, progress.quiet_until, progress.blocked_seconds
    return Seen(
        text_chunks=progress.text_chunks,
        text_bytes=progress.text_bytes,
        watched_seconds=last - quiet - blocked,
        silent_seconds=quiet - progress.sent_at + blocked + now - last,
    )


@functools.lru_cache(maxsize=64)
def _listed(modalities: frozenset[str]) -> str:
    return ",".join(sorted(modalities))


def encode_call(
    call: Call, model: str, dialect: ServerDialect, cap: int, rest: bytes, *, continuous_usage: bool = False
) -> bytes | BodyInParts:
    """The body for one upstream: `rest` with the deployment's model name, output cap and stream options.

    `continuous_usage`: each chunk is to have its usage.
    """
    head: dict[str, Any] = {"model": model}
    cap_field = dialect.cap_field(call.api, call.members)
    if cap_field is not None:
        head[cap_field] = cap
    if call.stream and dialect.stream_options is StreamOptions.INJECT:
        head["stream_options"] = options = {**call.stream_options, "include_usage": True}
        if continuous_usage:
            options[CONTINUOUS_USAGE] = True
    encoded = orjson.dumps(head)
    if len(rest) == 2:
        return encoded
    if len(rest) > COPIED_BYTES:
        return BodyInParts(encoded[:-1] + b",", memoryview(rest)[1:])
    return encoded[:-1] + b"," + rest[1:]
