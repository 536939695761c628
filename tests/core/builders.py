"""What the tests of the core are made of: small values with sensible defaults, and a clock that is told."""

import asyncio
import datetime
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import orjson

from gateway.core.admission import Ask, Hold
from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.call import Call
from gateway.core.catalog import (
    Api,
    Capability,
    Deployment,
    Health,
    ImageRule,
    Modality,
    Model,
    Objective,
    Provider,
    Replica,
    RuleSet,
)
from gateway.core.endpoint import Endpoint
from gateway.core.facts import Moment
from gateway.core.money import nano_from_usd
from gateway.core.parse import Body, parse_call
from gateway.core.policy import Policy
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.rates import Price, Rates
from gateway.core.route import Route, Routes
from gateway.core.screening import Classified
from gateway.core.sent import Candidate, Sent
from gateway.core.tenancy import Budget, Limits, Principal, Scope
from gateway.core.usage import Usage, usage_of_columns
from gateway.core.windows import Per

T = TypeVar("T")

CLASSES = ("public", "internal", "confidential", "restricted")
ZONES = {
    "public": frozenset({"local", "external"}),
    "internal": frozenset({"local", "external"}),
    "confidential": frozenset({"local"}),
    "restricted": frozenset({"local"}),
}
MAX_MESSAGES = 100
NOVEMBER = 1_795_420_800.0  # 2026-11-23 08:00 UTC, a Monday


class ToldClock:
    """A clock that stands still until it is told; `jump` moves only the wall clock, as NTP does."""

    def __init__(self, now: float = NOVEMBER, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def forward(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        self._now += seconds


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine to its end."""
    return asyncio.run(coroutine)


# --- what can answer ---


def used(
    *,
    input_text: int = 0,
    input_image: int = 0,
    input_audio: int = 0,
    input_cached: int = 0,
    output_text: int = 0,
    output_audio: int = 0,
    output_reasoning: int = 0,
) -> Usage:
    """Usage by the columns of a row: `input_cached` is a part of what was read."""
    return usage_of_columns(
        input_text, input_image, input_audio, input_cached, output_text, output_audio, output_reasoning
    )


def rates(
    given: str = "2.50",
    output: str = "10",
    *,
    cached: str | None = None,
    input_audio: str | None = None,
    output_audio: str | None = None,
) -> Rates:
    """Rates from USD per million tokens."""
    return Rates(
        input=nano_from_usd(given),
        cached_input=nano_from_usd(cached or given),
        output=nano_from_usd(output),
        input_audio=nano_from_usd(input_audio or given),
        output_audio=nano_from_usd(output_audio or output),
    )


def price(standard: Rates | None = None, **tiers: Rates) -> Price:
    return Price(version="test-1", standard=standard or rates(), tiers=tiers)


def replica(port: int = 9101, host: str = "127.0.0.1") -> Replica:
    return Replica(f"{host}:{port}", Endpoint(scheme="http", host=host, port=port), "/v1")


def deployment(name: str = "gpt-4o", *, replicas: int = 1, **changes: Any) -> Deployment:
    """A hosted text model in zone external; `changes` are fields of Deployment."""
    fields: dict[str, Any] = {
        "provider": Provider.OPENAI,
        "model": f"{name}-upstream",
        "zone": "external",
        "serves": frozenset({Api.CHAT}),
        "accepts": frozenset({Modality.TEXT, Modality.IMAGE}),
        "supports": frozenset(Capability),
        "context_tokens": 128_000,
        "max_output_tokens": 16_384,
        "price": price(),
        "image_rule": ImageRule(low=85, high=1445),
        "replicas": tuple(replica(9101 + number) for number in range(replicas)),
        "headers": (),
    }
    return Deployment(name=name, **(fields | changes))


def local(name: str = "llama", **changes: Any) -> Deployment:
    """A deployment on own GPUs: zone local, cheaper."""
    fields: dict[str, Any] = {
        "provider": Provider.VLLM,
        "zone": "local",
        "price": price(rates("0.50", "1")),
        "health": Health(),
    }
    return deployment(name, **(fields | changes))


def pool(item: Deployment | None = None, *, bytes_per_token: float = 4.0) -> ReplicaSet:
    """The servers of a deployment, whose text takes `bytes_per_token`."""
    found = Fleet([item or deployment()]).replica_sets[(item or deployment()).name]
    found.bytes_per_token = bytes_per_token
    return found


def model(
    *use: Deployment,
    name: str = "auto",
    prefer: Objective = Objective.ORDER,
    weights: Mapping[str, float] | None = None,
    rules: RuleSet | None = None,
) -> Model:
    return Model(name=name, use=use, prefer=prefer, weights=weights or {}, rules=rules)


def policy(*models: Model) -> Policy:
    deployments = {item.name: item for one in models for item in one.use}
    return Policy(
        version="v1",
        classes=CLASSES,
        default_class="internal",
        zones=ZONES,
        models={one.name: one for one in models},
        deployments=deployments,
    )


def routes(
    *models: Model,
    fleet: Fleet | None = None,
    prices: PriceBook = NO_VERSIONS,
    zone: datetime.tzinfo = datetime.UTC,
) -> Routes:
    """The routes to `models`, with nothing in flight unless `fleet` says so."""
    rules = policy(*models)
    return Routes(rules, fleet or Fleet(rules.deployments.values()), prices, zone)


def route_to(
    item: Model, by: Routes | None = None, payer: Principal | None = None, now: float = 0.0
) -> Route:
    """The route to `item` among the routes `by`, which keep it where it is a model of their policy."""
    by, payer = by or routes(item), payer or principal()
    if by.policy.models.get(item.name) is item:
        return by.of(payer, item.name, now)
    return by.prepare(payer, item, now)


def candidates_of(*deployments: Deployment, by: Routes | None = None) -> tuple[Candidate, ...]:
    """`deployments` as the route of a model that has them would use them."""
    route = route_to(model(*deployments), by)
    return tuple(map(route.candidate, deployments))


def decided(
    item: Model,
    call: Call | None = None,
    privacy: str = "internal",
    *,
    by: Routes | None = None,
    payer: Principal | None = None,
    at: Moment | None = None,
) -> Sent:
    """What is decided for `call` to `item`. Raises the GatewayError of what removed the last candidate."""
    at = at or moment()
    route = route_to(item, by, payer, at.now)
    return route.begin("r", call or parsed(chat()), Classified(privacy), at)


def moment(
    now: float = NOVEMBER,
    *,
    random: float = 0.0,
    monotonic: float = 1000.0,
    budget_used: float = 0.0,
    headers: Mapping[bytes, bytes] | None = None,
) -> Moment:
    return Moment(now, monotonic, random, budget_used, headers or {})


# --- what is asked ---


def chat(content: Any = "Hello", **members: Any) -> dict[str, Any]:
    """The body of a chat request with one user message."""
    return {"model": "auto", "messages": [{"role": "user", "content": content}], **members}


def parsed(body: Mapping[str, Any] | bytes, api: Api = Api.CHAT, max_messages: int = MAX_MESSAGES) -> Call:
    return parsed_with_body(body, api, max_messages)[0]


def parsed_with_body(
    body: Mapping[str, Any] | bytes, api: Api = Api.CHAT, max_messages: int = MAX_MESSAGES
) -> tuple[Call, Body]:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse_call(api, raw, max_messages)


# --- who asks ---


def scope(
    kind: str = "feature",
    name: str = "triage",
    *,
    requests: int | None = None,
    tokens: int | None = None,
    concurrent: int | None = None,
    budgets: Mapping[Per, int] | None = None,
    **limits: bool,
) -> Scope:
    """A scope with limits, which may be `shadow` or `typical`, and with budgets in nano-USD."""
    return Scope(
        kind=kind,
        name=name,
        limits=Limits(
            requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent, **limits
        ),
        budgets=tuple(Budget(nano, per) for per, nano in (budgets or {}).items()),
    )


def principal(*scopes: Scope, **changes: Any) -> Principal:
    fields: dict[str, Any] = {
        "key": "triage-app",
        "feature": "triage",
        "team": "research",
        "org": "acme",
        "floor": "internal",
        "models": None,
    }
    named = {scope.kind: scope.name for scope in scopes}
    return Principal(scopes=tuple(scopes), **(fields | named | changes))


def ask(payer: Principal, *, tokens: int | None = None, **changes: Any) -> Ask:
    """A reservation of 100 prompt tokens and a cap of 1,000 at one micro-USD a token.

    `tokens`: of so many prompt tokens instead, and no output.
    """
    fields: dict[str, Any] = {
        "prompt_nano": 100_000,
        "output_nano_per_million": 1_000_000_000,
        "output_tokens": 1_000,
        "output_is_explicit": True,
        "choices": 1,
        "prompt_tokens": 100,
    }
    if tokens is not None:
        fields |= {"prompt_tokens": tokens, "output_tokens": 0}
    return Ask(principal=payer, **(fields | changes))


def hold(reserved: Ask | None = None, **changes: Any) -> Hold:
    """A dollar held for at most 50 tokens of output, without limits of a rate."""
    fields: dict[str, Any] = {
        "output_tokens": 50,
        "rate_tokens": 0,
        "nano": 10**9,
        "admitted_at": 0.0,
        "requests": None,
        "tokens": None,
        "token": None,
    }
    return Hold(ask=reserved or ask(principal(), output_tokens=50), **(fields | changes))


def held(sent: Sent, taken: Hold | None = None, at: int = int(NOVEMBER * 1_000_000)) -> Sent:
    """`sent`, complete: it goes to the first replica of its candidate at `at` (UTC microseconds)."""
    sent.hold(taken or hold(sent.ask), sent.candidate.replica_set.replicas[0], at)
    return sent


def names(deployments: Iterable[Deployment | Candidate]) -> list[str]:
    return [item.name for item in deployments]
