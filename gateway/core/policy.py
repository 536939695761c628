"""Decide which deployments may answer a request, and in which order.

Hard constraints come first and nothing after them can widen the result: rules narrow or reorder what is
left, the objective sorts it, and retry and failover only ever draw from the resulting list.
"""

import enum
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Deployment, Model, Objective, Rule, RuleSet
from gateway.core.errors import (
    GatewayError,
    InvalidRequest,
    PrivacyViolation,
    Unavailable,
    UnsupportedModality,
)
from gateway.core.estimate import Estimate, estimate
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.tenancy import Principal


class Constraint(enum.StrEnum):
    """Why a deployment was removed, in the order in which the constraints are checked."""

    ENDPOINT = "endpoint"
    MODALITY = "modality"
    CAPABILITY = "capability"
    PRIVACY = "privacy"
    RULE = "rule"
    RETIRED = "retired"
    CONTEXT = "context"
    OUTPUT = "output"
    HEALTH = "health"


class Excluded(msgspec.Struct, frozen=True):
    """A deployment that may not answer, and the constraint that removed it."""

    deployment: str
    constraint: Constraint
    detail: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision. Retry, failover and everything else draw from `candidates`, in this order."""

    model: Model
    privacy: str
    candidates: tuple[Deployment, ...]
    estimates: tuple[Estimate, ...]
    excluded: tuple[Excluded, ...]
    decision: str
    rule: Rule | None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that routing depends on; one immutable value for each version of the file."""

    version: str
    classes: tuple[str, ...]
    default_class: str
    zones: Mapping[str, frozenset[str]]
    raise_to: Mapping[str, str]
    models: Mapping[str, Model]
    deployments: Mapping[str, Deployment]

    def most_sensitive(self, *classes: str) -> str:
        """The most sensitive of `classes`. Raises ValueError for an unknown class."""
        return self.classes[max(self.classes.index(name) for name in classes)]


class Moment(msgspec.Struct, frozen=True):
    """The circumstances of one decision: clock (UTC seconds and monotonic), and lazily read facts."""

    now: float
    monotonic: float
    random: float
    budget_used: Callable[[], float]
    local_time: Callable[[], Mapping[str, int]]
    prices: PriceBook = NO_VERSIONS


_Eligible = tuple[tuple[Deployment, ...], tuple[Excluded, ...]]
_StaticKey = tuple[str, str, str, frozenset[str], frozenset[str]]


class Planner:
    """Plans requests under one policy. Constraints that depend on closed sets only are remembered."""

    def __init__(self, policy: Policy, fleet: Fleet) -> None:
        self.policy = policy
        self.fleet = fleet
        self._static: dict[_StaticKey, _Eligible] = {}

    def plan(self, call: Call, principal: Principal, model: Model, privacy: str, moment: Moment) -> Plan:
        """Candidates in order, with estimates. Raises the GatewayError that says what removed the last."""
        eligible, excluded = self._by_static_constraints(call, model, privacy)
        rule = None
        if model.rules is not None:
            rule = self._matching_rule(model.rules, _Facts(call, principal, privacy, moment, self.fleet))
        if rule is not None:
            eligible, excluded = _apply_rule(rule, eligible, excluded)
        kept, estimates, dropped = self._by_circumstances(call, eligible, moment)
        excluded += dropped
        if not kept:
            raise _refusal(model, privacy, excluded, self._retry_after(eligible, moment.monotonic))
        if rule is None and len(kept) > 1:
            kept, estimates = self._sorted(model, kept, estimates, moment)
        return Plan(
            model=model,
            privacy=privacy,
            candidates=kept,
            estimates=estimates,
            excluded=excluded,
            decision=_decision(model, rule, kept, excluded),
            rule=rule,
        )

    def _by_static_constraints(self, call: Call, model: Model, privacy: str) -> _Eligible:
        key = (model.name, call.api, privacy, call.modalities, call.needs)
        found = self._static.get(key)
        if found is None:
            found = self._static[key] = self._filter(call, model, privacy)
        return found

    def _filter(self, call: Call, model: Model, privacy: str) -> _Eligible:
        zones = self.policy.zones[privacy]
        eligible, excluded = [], []
        for deployment in model.use:
            reason = _static_reason(deployment, call, privacy, zones)
            if reason is None:
                eligible.append(deployment)
            else:
                excluded.append(reason)
        return tuple(eligible), tuple(excluded)

    def _by_circumstances(
        self, call: Call, eligible: tuple[Deployment, ...], moment: Moment
    ) -> tuple[tuple[Deployment, ...], tuple[Estimate, ...], tuple[Excluded, ...]]:
        kept, estimates, dropped = [], [], []
        for deployment in eligible:
            pool = self.fleet.pools[deployment.name]
            expected = estimate(call, deployment, pool.bytes_per_token)
            reason = _size_reason(deployment, call, expected, moment.now)
            if reason is None and not pool.is_available(moment.monotonic):
                reason = Excluded(deployment.name, Constraint.HEALTH, "no replica is available")
            if reason is None:
                kept.append(deployment)
                estimates.append(expected)
            else:
                dropped.append(reason)
        return tuple(kept), tuple(estimates), tuple(dropped)

    @staticmethod
    def _matching_rule(rules: RuleSet, facts: "_Facts") -> Rule | None:
        number = rules.first_match({name: _FACTS[name](facts) for name in rules.variables})
        return rules.rules[number - 1] if number else None

    def _sorted(
        self,
        model: Model,
        kept: tuple[Deployment, ...],
        estimates: tuple[Estimate, ...],
        moment: Moment,
    ) -> tuple[tuple[Deployment, ...], tuple[Estimate, ...]]:
        if model.prefer is Objective.ORDER:
            return kept, estimates
        pairs = list(zip(kept, estimates, strict=True))
        if model.prefer is Objective.COST:
            pairs.sort(key=lambda pair: _expected_cost(pair, moment))
        elif model.prefer is Objective.LATENCY:
            pairs.sort(key=lambda pair: self.fleet.pools[pair[0].name].expected_seconds(_likely(pair[1])))
        else:
            pairs = _drawn(pairs, model.weights, moment.random)
        return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)

    def _retry_after(self, eligible: tuple[Deployment, ...], now: float) -> float:
        waits = [
            state.breaker.retry_after_seconds(now)
            for deployment in eligible
            for state in self.fleet.pools[deployment.name].replicas
        ]
        return max(min(waits, default=1.0), 1.0)


class _Facts(msgspec.Struct, frozen=True, gc=False):
    """What the variables of rules are computed from; each only when a rule names it."""

    call: Call
    principal: Principal
    privacy: str
    moment: Moment
    fleet: Fleet

    def pool(self) -> dict[str, dict[str, int]]:
        now = self.moment.monotonic
        return {
            name: {
                "outstanding": pool.outstanding,
                "available": sum(state.available(now) for state in pool.replicas),
                "replicas": len(pool.replicas),
            }
            for name, pool in self.fleet.pools.items()
        }


_FACTS: Mapping[str, Callable[[_Facts], object]] = {
    "model": lambda facts: facts.call.model,
    "feature": lambda facts: facts.principal.feature,
    "team": lambda facts: facts.principal.team,
    "key": lambda facts: facts.principal.key,
    "privacy": lambda facts: facts.privacy,
    "modalities": lambda facts: [str(item) for item in facts.call.modalities],
    "tools": lambda facts: "tools" in facts.call.needs,
    "stream": lambda facts: facts.call.stream,
    "prompt_tokens": lambda facts: facts.call.prompt_tokens,
    "max_output_tokens": lambda facts: facts.call.max_output or 0,
    "tags": lambda facts: dict(facts.call.tags),
    "budget": lambda facts: {"used": facts.moment.budget_used()},
    "pool": lambda facts: facts.pool(),
    "time": lambda facts: dict(facts.moment.local_time()),
}


def _static_reason(
    deployment: Deployment, call: Call, privacy: str, zones: frozenset[str]
) -> Excluded | None:
    name = deployment.name
    if call.api not in deployment.serves:
        return Excluded(name, Constraint.ENDPOINT, f"does not serve {call.api}")
    if missing := call.modalities - deployment.accepts:
        return Excluded(name, Constraint.MODALITY, f"does not accept {_listed(missing)}")
    if lacking := call.needs - deployment.supports:
        return Excluded(name, Constraint.CAPABILITY, f"does not support {_listed(lacking)}")
    if deployment.zone not in zones:
        return Excluded(name, Constraint.PRIVACY, f"zone {deployment.zone} is not allowed for {privacy}")
    return None


def _size_reason(deployment: Deployment, call: Call, expected: Estimate, now: float) -> Excluded | None:
    name = deployment.name
    if deployment.retires_at is not None and now >= deployment.retires_at:
        return Excluded(name, Constraint.RETIRED, f"retired on {deployment.retires_on}")
    if expected.prompt > deployment.context_tokens * call.prompts:
        return Excluded(
            name,
            Constraint.CONTEXT,
            f"about {expected.prompt} prompt tokens, and its context is {deployment.context_tokens}",
        )
    if (call.max_output or 0) > deployment.max_output_tokens:
        return Excluded(
            name,
            Constraint.OUTPUT,
            f"{call.max_output} output tokens asked, at most {deployment.max_output_tokens} possible",
        )
    return None


def _apply_rule(rule: Rule, eligible: tuple[Deployment, ...], excluded: tuple[Excluded, ...]) -> _Eligible:
    by_name = {deployment.name: deployment for deployment in eligible}
    kept = tuple(by_name[name] for name in rule.use if name in by_name)
    dropped = tuple(
        Excluded(name, Constraint.RULE, f"rule {rule.number} (line {rule.line}) leaves it out")
        for name in by_name
        if name not in rule.use
    )
    return kept, excluded + dropped


def _likely(expected: Estimate) -> int:
    """Output tokens to compare deployments by: typical answers are far shorter than their cap."""
    return min(expected.output, 256)


def _expected_cost(pair: tuple[Deployment, Estimate], moment: Moment) -> int:
    deployment, expected = pair
    rates = moment.prices.price_of(deployment, int(moment.now * 1_000_000)).standard
    return expected.prompt * rates.input + _likely(expected) * rates.output


def _drawn(
    pairs: list[tuple[Deployment, Estimate]], weights: Mapping[str, float], random: float
) -> list[tuple[Deployment, Estimate]]:
    """Put the deployment that `random` in [0, 1) falls on first; the others follow by weight."""
    ordered = sorted(pairs, key=lambda pair: -weights.get(pair[0].name, 0.0))
    point = random * sum(weights.get(pair[0].name, 0.0) for pair in ordered)
    for index, pair in enumerate(ordered):
        point -= weights.get(pair[0].name, 0.0)
        if point < 0:
            return [pair, *ordered[:index], *ordered[index + 1 :]]
    return ordered


def _decision(
    model: Model, rule: Rule | None, kept: tuple[Deployment, ...], excluded: tuple[Excluded, ...]
) -> str:
    """A short code: the rule that chose, the constraint that left one deployment only, or the objective."""
    removed = [item.constraint for item in excluded if item.constraint is not Constraint.RULE]
    if rule is not None and (len(rule.use) == 1 or len(kept) > 1 or not removed):
        return f"rule-{rule.number}"
    if len(kept) > 1:
        return str(model.prefer)
    if not removed:
        return "only"
    # Of several reasons, privacy is the one that people ask about.
    return f"only-{Constraint.PRIVACY if Constraint.PRIVACY in removed else removed[-1]}"


def _listed(items: frozenset[enum.StrEnum] | frozenset[str]) -> str:
    return ", ".join(sorted(str(item) for item in items))


def _refusal(  # noqa: PLR0911  # one return for each constraint, in the order in which they are named
    model: Model, privacy: str, excluded: tuple[Excluded, ...], retry_after_seconds: float
) -> GatewayError:
    """The error for an empty plan. What a retry or a change can mend is named first: health, then privacy."""
    why = "; ".join(f"{item.deployment}: {item.detail}" for item in excluded)
    seen = {item.constraint for item in excluded}
    name = model.name
    if Constraint.HEALTH in seen:
        return Unavailable(
            f"No deployment of model '{name}' can answer now ({why}).",
            retry_after_seconds=retry_after_seconds,
        )
    if Constraint.PRIVACY in seen:
        return PrivacyViolation(
            f"Requests of privacy class '{privacy}' may not go to any deployment of '{name}' that could "
            f"answer this one ({why})."
        )
    if Constraint.CONTEXT in seen:
        return InvalidRequest(
            f"This request is too long for every deployment of '{name}' ({why}).",
            param="messages",
            code="context_length_exceeded",
        )
    if Constraint.OUTPUT in seen:
        return InvalidRequest(
            f"Too many output tokens for every deployment of '{name}' ({why}).",
            param="max_completion_tokens",
            code="invalid_value",
        )
    if Constraint.MODALITY in seen:
        return UnsupportedModality(f"No deployment of '{name}' reads this content ({why}).", param="messages")
    if Constraint.CAPABILITY in seen:
        return InvalidRequest(
            f"No deployment of '{name}' can do this ({why}).", code="unsupported_capability"
        )
    if Constraint.RETIRED in seen:
        return InvalidRequest(f"Model '{name}' is retired ({why}).", param="model", code="model_retired")
    return InvalidRequest(f"Model '{name}' does not serve this endpoint ({why}).", param="model")
