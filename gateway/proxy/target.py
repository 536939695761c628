"""What goes out: a request that was admitted, where one attempt of it goes, and what the client hears of it.

Everything here is decided before a byte is sent, and nothing of it changes afterwards.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from gateway.core.admission import Hold
from gateway.core.balancing import ReplicaSet, ReplicaState
from gateway.core.call import Call
from gateway.core.catalog import Api, Deployment, Price, Provider
from gateway.core.estimate import Estimate
from gateway.core.facts import RecordedFacts
from gateway.core.heads import HeaderLines, one_line
from gateway.core.masking import Masked
from gateway.core.policy import Plan
from gateway.core.pricing import PriceBook
from gateway.core.screening import StandIn
from gateway.core.tenancy import Principal
from gateway.ports import UpstreamRequest

# Whole lines, written in one step: names and line ends are the code's, values from outside pass `one_line`.
_REQUEST_IDS = b"x-request-id: %b\r\nx-tollway-attempt: %b\r\n"
_ANSWER_BEGINS = (
    b"content-type: %b\r\nx-request-id: %b\r\n%bx-tollway-decision: %b\r\nx-tollway-policy: %b\r\n"
)
_REQUEST_RATE, _TOKEN_RATE = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%.3fs\r\n"
    % (kind, kind, kind)
    for kind in (b"requests", b"tokens")
)


class Request(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """A request that was admitted: the facts that all its attempts share. `started` is monotonic seconds.

    `stand_in` is what is sent in its place, except to the zones that get the request as it is.
    """

    id: str
    org: str
    principal: Principal
    call: Call
    plan: Plan
    policy_version: str
    tags: Mapping[str, str]
    facts: RecordedFacts
    started: float
    prices: PriceBook
    stand_in: StandIn | None = None


class Target(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Where one attempt of `request` goes, chosen at `at` (UTC microseconds), which fixes its `price`.

    `decision` is why: the plan's reason for its first candidate, `failover` for the others. `privacy` is the
    class of what goes out; `masked` is what goes out in place of the body, where it is not the body itself.
    `fresh`: the attempt before found a stale connection, so this one must not reuse any.
    """

    attempt_id: str
    request: Request
    replica_set: ReplicaSet
    replica: ReplicaState
    deployment: Deployment
    estimate: Estimate
    price: Price
    at: int
    decision: str
    privacy: str
    masked: Masked | None
    fresh: bool


def target_at(
    replica: ReplicaState, replica_set: ReplicaSet, request: Request, index: int, number: int, at: int
) -> Target:
    """Attempt `number` of `request`, at `replica` of the candidate at `index` of its plan."""
    plan, stand_in, deployment = request.plan, request.stand_in, replica_set.deployment
    goes_as_it_is = stand_in is None or deployment.zone in stand_in.zones
    return Target(
        f"{request.id}:{number}",
        request,
        replica_set,
        replica,
        deployment,
        plan.estimates[index],
        request.prices.price_of(deployment, at),
        at,
        plan.decision if index == 0 else "failover",
        plan.privacy if stand_in is None or not goes_as_it_is else stand_in.privacy,
        None if stand_in is None or goes_as_it_is else stand_in.masked,
        False,
    )


def again(target: Target, number: int) -> Target:
    """The same place once more, as attempt `number`, on a connection of its own."""
    return msgspec.structs.replace(target, attempt_id=f"{target.request.id}:{number}", fresh=True)


def upstream_request(
    target: Target, hold: Hold, idempotency_key: str | None, sent_to: Callable[[str], None]
) -> UpstreamRequest:
    """The request as it goes out under `hold`; `sent_to` is told the address.

    Raises ValueError for an idempotency key that is not one line.
    """
    request, deployment, masked = target.request, target.deployment, target.masked
    call = request.call
    own = _REQUEST_IDS % (request.id.encode(), target.attempt_id.encode())
    if idempotency_key is not None:
        own += b"idempotency-key: %b\r\n" % one_line(_outgoing_key(idempotency_key, masked))
    return UpstreamRequest(
        head=target.replica_set.heads[target.replica][call.api],
        own=HeaderLines(own),
        body=encode_call(
            call,
            deployment.model,
            _cap_field(call, deployment),
            min(hold.output_tokens, target.estimate.output),
            None if masked is None else masked.rest,
        ),
        fresh=target.fresh,
        sent_to=sent_to,
    )


def answer_lines(
    target: Target, hold: Hold, content_type: bytes, processing_ms: bytes | None, last: bytes
) -> HeaderLines:
    """Where the request went and why, what its limits have left, and `last`, which is a line.

    `content_type` and `processing_ms` are the upstream's. Raises ValueError where one is more than a line.
    """
    request, requests, tokens = target.request, hold.requests, hold.tokens
    block = _ANSWER_BEGINS % (
        one_line(content_type),
        request.id.encode(),
        target.replica_set.answer_lines,
        target.decision.encode(),
        request.policy_version.encode(),
    )
    if processing_ms is not None:
        block += b"openai-processing-ms: %b\r\n" % one_line(processing_ms)
    if target.masked is not None:
        block += b"x-tollway-masked: %d\r\n" % len(target.masked.originals)
    if hold.is_capped:
        block += b"x-tollway-output-cap: %d\r\n" % hold.output_tokens
    if requests is not None:
        block += _REQUEST_RATE % (requests.limit, requests.remaining, requests.reset_seconds)
    if tokens is not None:
        block += _TOKEN_RATE % (tokens.limit, tokens.remaining, tokens.reset_seconds)
    return HeaderLines(block + last)


def _outgoing_key(idempotency_key: str, masked: Masked | None) -> bytes:
    """A key that the client made up may hold what was masked. Its digest tells repetitions as well."""
    key = idempotency_key.encode("latin-1")
    return key if masked is None else hashlib.sha256(key).hexdigest().encode()


def _cap_field(call: Call, deployment: Deployment) -> str | None:
    """The field in which the upstream honours an output cap."""
    if call.api is Api.EMBEDDINGS:
        return None
    if call.api is Api.CHAT and deployment.provider is not Provider.COMPATIBLE:
        return "max_completion_tokens"
    return "max_tokens"


def encode_call(call: Call, model: str, cap_field: str | None, cap: int, rest: bytes | None = None) -> bytes:
    """The body for one upstream: `rest` with the deployment's model name, output cap and stream options.

    `rest` is what goes out in place of the call's own.
    """
    head: dict[str, Any] = {"model": model}
    if cap_field is not None:
        head[cap_field] = cap
    if call.stream:
        head["stream_options"] = {**call.stream_options, "include_usage": True}
    encoded = orjson.dumps(head)
    rest = call.rest if rest is None else rest
    if len(rest) == 2:
        return encoded
    return encoded[:-1] + b"," + rest[1:]
