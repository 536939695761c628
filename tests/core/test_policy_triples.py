"""100,000 triples of a policy, a request and a fault: at no stage does any list of deployments hold one in a
zone that the request's class forbids.

A stage is what the constraints leave, what the rule leaves of it, what is up of that, and the plan in its
order, which is all that retry and failover draw from.
"""

import datetime
import itertools
import random
from typing import Any

import msgspec
import pytest

from gateway.config.cel import CelCompiler
from gateway.core import route
from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment, Modality, Model, Objective, Rule
from gateway.core.facts import Moment
from gateway.core.policy import Policy
from gateway.core.route import Refused, Route, Routes
from gateway.core.screening import Classified
from gateway.core.sent import Candidate, Sent
from gateway.core.tenancy import Principal
from tests.core.builders import NOVEMBER, chat, deployment, model, parsed, principal

POLICIES, REQUESTS, FAULTS = 400, 25, 10
BATCHES = 8
BY_CIRCUMSTANCES = route._by_circumstances

CLASSES = ("public", "internal", "confidential", "restricted")
ZONES = ("local", "eu", "external")
NAMES = ("a", "b", "c", "d", "e")
COMPILER = CelCompiler(pools=NAMES)
CONDITIONS = (
    "true",
    "stream",
    'feature == "search" && prompt_tokens > 20',
    'privacy == "confidential" || privacy == "restricted"',
    '"image" in modalities',
    "budget.used > 0.8",
    'pool["a"].available == 0',
    "pool.b.outstanding > 2",
    "time.days_left < 3",
    'key.startsWith("other")',
    "size(modalities) > 1 && !tools",
)
PARTS: tuple[dict[str, Any], ...] = (
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "file", "file": {"file_data": "AAAA"}},
)


class Watch:
    """Looks at every list of candidates that the routes make on the way."""

    def __init__(self) -> None:
        self.allowed: frozenset[str] = frozenset()
        self.stages = 0

    def look(self, candidates: tuple[Candidate, ...]) -> None:
        self.stages += 1
        for item in candidates:
            assert item.deployment.zone in self.allowed

    def by_circumstances(self, call: Call, able: tuple[Candidate, ...], *given: Any) -> Any:
        self.look(able)
        found = BY_CIRCUMSTANCES(call, able, *given)
        self.look(found[0])
        return found


class WatchedRoute(Route):
    """The route that serves; what it remembers for a kind of request is looked at with each of them."""

    __slots__ = ("watch",)
    watch: Watch

    def decide(
        self, request_id: str, call: Call, classified: Classified, moment: Moment, started: float = 0.0
    ) -> Sent | Refused:
        found = super().decide(request_id, call, classified, moment, started)
        self.watch.look(self._eligible_for(call, classified.privacy).candidates)
        return found


class WatchedRoutes(Routes):
    """The routes that serve, watched."""

    def __init__(self, policy: Policy, fleet: Fleet, watch: Watch) -> None:
        super().__init__(policy, fleet)
        self._watch = watch

    def prepare(self, principal: Principal, model: Model, now: float) -> Route:
        made = WatchedRoute(principal, model, self.policy, self.fleet, self.prices, datetime.UTC, now)
        made.watch = self._watch
        return made


def some(chance: random.Random, items: Any, least: int = 0) -> list[Any]:
    return chance.sample(list(items), chance.randint(least, len(items)))


def a_deployment(chance: random.Random, name: str) -> Deployment:
    retires = chance.random() < 0.3
    return deployment(
        name,
        replicas=chance.randint(1, 2),
        zone=chance.choice(ZONES),
        serves=frozenset(some(chance, Api, 1)),
        accepts=frozenset({Modality.TEXT, *some(chance, Modality, 2)}),
        supports=frozenset(some(chance, Capability, 2)),
        context_tokens=chance.choice([60, 100_000]),
        max_output_tokens=chance.choice([50, 5_000]),
        retires_at=NOVEMBER + chance.choice([-1, 0, 1, 3600]) if retires else None,
        successors=tuple(other for other in some(chance, NAMES) if other != name) if retires else (),
        license_conflict=chance.choice([None, None, None, "not for us"]),
        marginal_rate=chance.choice([None, 0]),
        fetches_urls=chance.random() < 0.5,
    )


def a_model(chance: random.Random, use: tuple[Deployment, ...]) -> Model:
    def shares() -> dict[str, float]:
        return {item.name: chance.choice([0.0, 1.0, 5.0]) for item in use}

    rules = []
    for number in range(1, chance.randint(0, 4) + 1):
        named = tuple(item.name for item in some(chance, use, 1))
        refuses = chance.random() < 0.1
        rules.append(
            Rule(
                number,
                number,
                chance.choice(CONDITIONS),
                () if refuses else named,
                prefer=chance.choice(list(Objective)),
                weights=shares(),
                sticky=chance.random() < 0.5,
                refuse="no" if refuses else None,
            )
        )
    return msgspec.structs.replace(
        model(*use, prefer=chance.choice(list(Objective)), weights=shares()),
        rules=COMPILER.rule_set(tuple(rules)) if rules else None,
        sticky=chance.random() < 0.5,
        quality=shares(),
        marginal=chance.random() < 0.5,
    )


def a_policy(chance: random.Random) -> Policy:
    known = {name: a_deployment(chance, name) for name in NAMES}
    use = tuple(known[name] for name in some(chance, NAMES, 1))
    return Policy(
        version="v",
        classes=CLASSES,
        default_class="public",
        zones={name: frozenset(some(chance, ZONES)) for name in CLASSES},
        models={"auto": a_model(chance, use)},
        deployments=known,
    )


def a_request(chance: random.Random) -> tuple[Call, Principal, str]:
    content: Any = "word " * chance.choice([1, 100])
    if chance.random() < 0.5:
        content = [{"type": "text", "text": content}, *some(chance, PARTS)]
    members: dict[str, Any] = {"stream": chance.random() < 0.5}
    members |= {"max_tokens": chance.choice([10, 100])} if chance.random() < 0.3 else {}
    members |= {"tools": [{"type": "function"}]} if chance.random() < 0.3 else {}
    members |= {"n": 2} if chance.random() < 0.2 else {}
    members |= {"user": chance.choice("xyz")} if chance.random() < 0.5 else {}
    who = principal(feature=chance.choice(["search", "triage"]), key=chance.choice(["app", "other-app"]))
    return parsed(chat(content, **members)), who, chance.choice(CLASSES)


def put_a_fault(chance: random.Random, fleet: Fleet) -> Moment:
    """Replicas down, tripped or busy, and another time, draw, budget and session."""
    for pool in fleet.replica_sets.values():
        for state in pool.replicas:
            state.is_up = chance.random() < 0.7
            state.in_flight = chance.randint(0, 4)
            state.breaker.succeeded()
            if chance.random() < 0.15:
                state.breaker.failed(1000.0, weight=3)
    now = NOVEMBER + chance.choice([-3600, 0, 2, 7 * 86_400])
    used, session = chance.random(), chance.choice([None, b"s-1", b"s-2"])
    return Moment(
        now=now,
        monotonic=1000.0,
        random=chance.random(),
        budget_used=used,
        headers={} if session is None else {b"x-tollway-session": session},
    )


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_list_of_deployments_holds_a_zone_that_the_class_forbids(
    batch: int, monkeypatch: pytest.MonkeyPatch
):
    watch = Watch()
    monkeypatch.setattr(route, "_by_circumstances", watch.by_circumstances)
    planned = reached = 0
    for number in range(POLICIES // BATCHES):
        chance = random.Random(f"{batch}.{number}")
        policy = a_policy(chance)
        fleet = Fleet(policy.deployments.values())
        routes = WatchedRoutes(policy, fleet, watch)
        requests = [a_request(chance) for _ in range(REQUESTS)]
        for _, (call, who, privacy) in itertools.product(range(FAULTS), requests):
            at = put_a_fault(chance, fleet)
            watch.allowed = policy.zones[privacy]
            decision = routes.of(who, "auto", at.now).decide("r", call, Classified(privacy), at)
            reached += 1
            if isinstance(decision, Sent):
                watch.look(decision.candidates)
                planned += 1
    assert reached == POLICIES * REQUESTS * FAULTS // BATCHES
    assert planned > reached // 10  # or the property would say little
    assert watch.stages > 2 * reached
