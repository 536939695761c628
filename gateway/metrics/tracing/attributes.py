"""What spans say: the attributes of attempts and requests, by name.

Names are those of OpenTelemetry's semantic conventions (general, HTTP, GenAI) where they have one, else
`tollway.*`; docs/observability.md lists them all. Nothing here comes from a prompt, an answer, a header of
the client's or a credential. Words of an upstream are taken only where they look like a name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from gateway.core.catalog import Api, Provider
from gateway.core.ended import Ended
from gateway.core.money import NANO_PER_USD
from gateway.core.record import Outcome
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.core.usage import CACHE_WRITE, REASONING, Usage

Value: TypeAlias = str | bool | int | float | list[str]
Attributes: TypeAlias = dict[str, Value]

# Others are their own name, as the conventions ask for.
_PROVIDERS: Mapping[Provider, str] = {Provider.AZURE: "azure.ai.openai"}
_OPERATIONS: Mapping[Api, str] = {
    Api.CHAT: "chat",
    Api.COMPLETIONS: "text_completion",
    Api.EMBEDDINGS: "embeddings",
}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_NO_ERRORS = frozenset({Outcome.SUCCESS, Outcome.CLIENT_DISCONNECT, Outcome.SHUTDOWN})
# What an upstream may call a model, a request or a reason. Anything else could be a piece of the answer.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")

REFUSED = "refused"
CACHED_INPUT = "gen_ai.usage.cache_read.input_tokens"


def attempt_name(sent: Sent) -> str:
    """The name of an attempt's span."""
    return f"{_OPERATIONS[sent.call.api]} {sent.candidate.deployment.model}"


def request_name(method: str, route: str | None) -> str:
    """The name of a request's span. `route` is that of a known address."""
    known = _known(method)
    return known if route is None else f"{known} {route}"


def attempt_attributes(sent: Sent, ended: Ended) -> Attributes:
    """Of an attempt that has ended."""
    call, deployment, replica = sent.call, sent.candidate.deployment, sent.replica.replica
    progress, endpoint = ended.progress, replica.endpoint
    found: Attributes = {
        "gen_ai.operation.name": _OPERATIONS[call.api],
        "gen_ai.provider.name": _PROVIDERS.get(deployment.provider, deployment.provider.value),
        "gen_ai.request.model": deployment.model,
        "gen_ai.request.stream": call.stream,
        "server.address": endpoint.host,
        "server.port": endpoint.port,
        "http.request.method": "POST",
        "tollway.request_id": sent.request_id,
        "tollway.attempt_id": sent.attempt_id,
        **_payer(sent.principal),
        "tollway.model": sent.model.name,
        "tollway.deployment": deployment.name,
        "tollway.replica": replica.name,
        "tollway.zone": deployment.zone,
        "tollway.privacy": sent.sent_privacy,
        "tollway.decision": sent.decision,
        "tollway.outcome": ended.outcome.value,
        "tollway.cost_usd": ended.cost_nano / NANO_PER_USD,
        "tollway.usage_estimated": ended.estimated,
        **_usage(ended.usage),
    }
    if call.api is not Api.EMBEDDINGS:
        found["gen_ai.request.max_tokens"] = sent.output_cap
    if call.choices != 1:
        found["gen_ai.request.choice.count"] = call.choices
    if sent.rule is not None:
        found["tollway.rule"] = sent.rule.number
    if call.stream and ended.ttft_ms is not None:
        found["gen_ai.response.time_to_first_chunk"] = ended.ttft_ms / 1000
    if progress.address:
        host, _, port = progress.address.rpartition(":")
        found |= {"network.peer.address": host.strip("[]"), "network.peer.port": int(port)}
    if progress.status:
        found["http.response.status_code"] = progress.status
    said = {
        "gen_ai.response.model": progress.reported_model,
        "openai.response.service_tier": ended.service_tier,
        "tollway.upstream_request_id": progress.upstream_request_id,
        "error.type": error_of_attempt(ended),
    }
    found |= _names(said.items())
    if progress.finish_reason is not None and _NAME.fullmatch(progress.finish_reason):
        found["gen_ai.response.finish_reasons"] = [progress.finish_reason]
    return found


def error_of_attempt(ended: Ended) -> str | None:
    """`error.type` of an attempt; None where nothing went wrong at the upstream."""
    if ended.outcome in _NO_ERRORS:
        return None
    if ended.progress.status >= 400:
        return str(ended.progress.status)
    return ended.outcome.value if ended.failure is None else ended.failure.kind.value


def request_attributes(
    request_id: str,
    method: str,
    route: str | None,
    *,
    status: int,
    outcome: str | None,
    refusal: str | None,
) -> Attributes:
    """Of a request that is over. `status` 0: nothing was answered; `outcome` None: it asked no model.

    `refusal` is the code of the error that it was answered with.
    """
    found: Attributes = {
        "http.request.method": _known(method),
        "url.scheme": "http",
        "tollway.request_id": request_id,
    }
    said = {
        "http.route": route,
        "tollway.outcome": outcome,
        "tollway.refusal": refusal,
        "error.type": error_of_request(status, refusal),
    }
    found |= {name: value for name, value in said.items() if value is not None}
    if status:
        found["http.response.status_code"] = status
    return found


def error_of_request(status: int, refusal: str | None) -> str | None:
    """`error.type` of a request: of a 5xx alone, since a 4xx is no failure of this server."""
    if status < 500:
        return None
    return str(status) if refusal is None else refusal


def decision_attributes(sent: Sent) -> Attributes:
    """Of a request that was admitted: who pays, and where it went last."""
    found: Attributes = {
        **_payer(sent.principal),
        "tollway.model": sent.model.name,
        "tollway.deployment": sent.candidate.deployment.name,
        "tollway.zone": sent.candidate.deployment.zone,
        "tollway.privacy": sent.privacy,
        "tollway.decision": sent.decision,
    }
    if sent.rule is not None:
        found["tollway.rule"] = sent.rule.number
    return found


def refusal_attributes(principal: Principal | None, model: str | None) -> Attributes:
    """Of a request that was refused before it was admitted."""
    found: Attributes = {} if principal is None else _payer(principal)
    if model is not None:
        found["tollway.model"] = model
    return found


def _payer(principal: Principal) -> Attributes:
    return {
        "tollway.team": principal.team,
        "tollway.feature": principal.feature,
        "tollway.key": principal.key,
    }


def _usage(usage: Usage) -> Attributes:
    found: Attributes = {"gen_ai.usage.input_tokens": usage.input_tokens}
    if usage.output_tokens:
        found["gen_ai.usage.output_tokens"] = usage.output_tokens
    if usage.others:
        units = dict(usage.others)
        told = {
            CACHED_INPUT: usage.cached_tokens,
            "gen_ai.usage.cache_creation.input_tokens": sum(
                amount for unit, amount in usage.others if unit.startswith(CACHE_WRITE)
            ),
            "gen_ai.usage.reasoning.output_tokens": units.get(REASONING, 0),
        }
        found |= {name: amount for name, amount in told.items() if amount}
    return found


def _names(said: Iterable[tuple[str, str | None]]) -> Attributes:
    return {name: word for name, word in said if word is not None and _NAME.fullmatch(word)}


def _known(method: str) -> str:
    return method if method in _METHODS else "_OTHER"
