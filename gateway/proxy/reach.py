"""Which models a key can reach, and what it can ask of them: what `GET /v1/models` lists."""

import datetime
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.catalog import Deployment, Model
from gateway.core.conditions import could_hold
from gateway.core.facts import known_of
from gateway.core.policy import Policy
from gateway.core.retirement import era_at, serving_set
from gateway.core.tenancy import Principal


class ReachableModel(msgspec.Struct, frozen=True):
    """A model, and those of its deployments that may answer the key now: at least one.

    `last_day`: of service, also by those that are to take a retired one's place; None: no end is known.
    """

    model: Model
    deployments: tuple[Deployment, ...]
    last_day: datetime.date | None


def reachable(
    model: Model, principal: Principal, policy: Policy, fleet: Fleet, now: float, monotonic: float
) -> ReachableModel | None:
    """`model` as `principal` can reach it at `now` (UTC seconds); None where nobody may answer, or can.

    Only what holds for all its requests counts: its least class, and rules that ask for nothing else than who
    it is.
    """
    serving = serving_set(model, era := era_at(now, policy.deployments.values()), policy.deployments)
    zones = policy.zones[principal.floor]
    named = _named_by_rules(model, principal)
    used = None if named is None else serving.names_serving(named)

    def may_answer(item: Deployment) -> bool:
        return item.zone in zones and item.license_conflict is None and (used is None or item.name in used)

    found = tuple(
        item
        for item in serving.deployments
        if item.name not in era.retired
        and may_answer(item)
        and fleet.replica_sets[item.name].answers(monotonic, principal.key)
    )
    if not found:
        return None
    last = max(_last_day(item, policy.deployments, may_answer, frozenset()) for item in model.use)
    return ReachableModel(model, found, None if last == datetime.date.max else last)


def _named_by_rules(model: Model, principal: Principal) -> tuple[str, ...] | None:
    """The deployments that some rule may leave for `principal`; None: there may be none that holds."""
    rules = model.rules
    if rules is None or len(rules.conditions) != len(rules.rules):
        return None
    known = known_of(model.name, principal)
    names: list[str] = []
    for rule, condition in zip(rules.rules, rules.conditions, strict=True):
        holds = None if condition is None else could_hold(condition, known)
        if holds is not False:
            names += rule.use
        if holds:
            return tuple(names)
    return None


def _last_day(
    item: Deployment,
    deployments: Mapping[str, Deployment],
    may_answer: Callable[[Deployment], bool],
    before: frozenset[str],
) -> datetime.date:
    """Of `item`, or of those that take its place: the earliest date for none, the latest for no end."""
    own = (item.retires_on or datetime.date.max) if may_answer(item) else datetime.date.min
    if item.retires_on is None:
        return own
    before |= {item.name}
    later = (
        _last_day(deployments[name], deployments, may_answer, before)
        for name in item.successors
        if name in deployments and name not in before
    )
    return max(own, *later, datetime.date.min)
