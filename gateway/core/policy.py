"""Decide which deployments may answer a request, and in which order.

Hard constraints come first and nothing after them can widen the result: rules narrow or reorder what is
left, the objective sorts it, and retry and failover only ever draw from the resulting list.
"""

from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.call import Call
from gateway.core.catalog import Deployment, Model, Objective, Rule
from gateway.core.constraints import (
    ClassZones,
    Constraint,
    Excluded,
    checked_capabilities,
    refusal,
    retired_reason,
    size_reason,
    static_reason,
)
from gateway.core.errors import GatewayError, RefusedByRule
from gateway.core.estimate import Estimate, estimate
from gateway.core.facts import Facts, Moment
from gateway.core.ordering import Sorting, in_order
from gateway.core.retirement import Era, ServingSet, era_at, serving_set
from gateway.core.tenancy import Principal


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision. Retry, failover and everything else draw from `candidates`, in this order."""

    model: Model
    privacy: str
    candidates: tuple[Deployment, ...]
    estimates: tuple[Estimate, ...]
    excluded: tuple[Excluded, ...]
    decision: str
    rule: Rule | None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that nothing may answer: the `error` says why, `excluded` has each reason."""

    model: Model
    privacy: str
    error: GatewayError
    excluded: tuple[Excluded, ...]
    rule: Rule | None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that routing depends on; one immutable value for each version of the file."""

    version: str
    classes: tuple[str, ...]
    default_class: str
    zones: Mapping[str, frozenset[str]]
    models: Mapping[str, Model]
    deployments: Mapping[str, Deployment]
    zone_lines: Mapping[str, int] = {}

    def most_sensitive(self, *classes: str) -> str:
        """The most sensitive of `classes`. Raises ValueError for an unknown class."""
        return self.classes[max(self.classes.index(name) for name in classes)]


class _Filtered(msgspec.Struct, frozen=True):
    """What the constraints over closed sets leave of a model, and who serves for whom."""

    eligible: tuple[Deployment, ...]
    excluded: tuple[Excluded, ...]
    serving: ServingSet


_StaticKey = tuple[str, str, str, frozenset[str], frozenset[str], bool]


class Planner:
    """Plans requests under one policy. Constraints that depend on closed sets only are remembered."""

    def __init__(self, policy: Policy, fleet: Fleet) -> None:
        self.policy = policy
        self.fleet = fleet
        self._era = Era(0.0, 0.0, frozenset())  # of no length, so the first request begins the right one
        self._static: dict[_StaticKey, _Filtered] = {}

    def plan(self, call: Call, principal: Principal, model: Model, privacy: str, moment: Moment) -> Plan:
        """Candidates in order, with estimates. Raises the GatewayError that says what removed the last."""
        decision = self.decide(call, principal, model, privacy, moment)
        if isinstance(decision, Refused):
            raise decision.error
        return decision

    def decide(
        self, call: Call, principal: Principal, model: Model, privacy: str, moment: Moment
    ) -> Plan | Refused:
        """The plan, or why there is none, with the reason for each deployment that may not answer."""
        filtered = self._by_static_constraints(call, model, privacy, moment.now)
        eligible, excluded = filtered.eligible, filtered.excluded
        rule = None
        if model.rules is not None:
            number = model.rules.first_match(Facts(call, principal, privacy, moment, self.fleet))
            rule = model.rules.rules[number - 1] if number else None
        if rule is not None:
            eligible, dropped = _narrowed(rule, filtered)
            excluded += dropped
        kept, estimates, dropped = self._by_circumstances(
            call, eligible, moment.monotonic, ReplicaSet.is_available
        )
        if not kept and dropped:
            kept, estimates, dropped = self._by_circumstances(
                call, eligible, moment.monotonic, ReplicaSet.answers
            )
        excluded += dropped
        if not kept:
            error = self._error(model, privacy, rule, excluded, eligible, moment.monotonic)
            return Refused(model=model, privacy=privacy, error=error, excluded=excluded, rule=rule)
        by = model if rule is None else rule
        if len(kept) > 1 and by.prefer is not Objective.ORDER:
            sorting = Sorting(call, principal, model, self.fleet, moment, filtered.serving)
            pairs = in_order(by, sorting, list(zip(kept, estimates, strict=True)))
            kept, estimates = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        return Plan(
            model=model,
            privacy=privacy,
            candidates=kept,
            estimates=estimates,
            excluded=excluded,
            decision=_decision(model, rule, kept, excluded),
            rule=rule,
        )

    def _by_static_constraints(self, call: Call, model: Model, privacy: str, now: float) -> _Filtered:
        if not self._era.begins <= now < self._era.ends:
            self._era = era_at(now, self.policy.deployments.values())
            self._static = {}
        key = (model.name, call.api, privacy, call.modalities, call.needs, call.media.is_remote)
        found = self._static.get(key)
        if found is None:
            found = self._static[key] = self._filter(call, model, privacy)
        return found

    def _filter(self, call: Call, model: Model, privacy: str) -> _Filtered:
        policy = self.policy
        zones = policy.zones[privacy]
        may_leave = all(zones >= others for others in policy.zones.values())
        allowed = ClassZones(privacy, zones, policy.zone_lines.get(privacy), may_leave)
        serving = serving_set(model, self._era, policy.deployments)
        checked = checked_capabilities(serving.deployments)
        eligible, excluded = [], []
        for deployment in serving.deployments:
            reason = static_reason(deployment, call, allowed, checked)
            if reason is None and deployment.name in self._era.retired:
                reason = retired_reason(deployment)
            if reason is None:
                eligible.append(deployment)
            else:
                excluded.append(reason)
        return _Filtered(tuple(eligible), tuple(excluded), serving)

    def _by_circumstances(
        self,
        call: Call,
        eligible: tuple[Deployment, ...],
        monotonic: float,
        is_healthy: Callable[[ReplicaSet, float], bool],
    ) -> tuple[tuple[Deployment, ...], tuple[Estimate, ...], tuple[Excluded, ...]]:
        kept, estimates, dropped = [], [], []
        for deployment in eligible:
            replica_set = self.fleet.replica_sets[deployment.name]
            expected = estimate(call, deployment, replica_set.bytes_per_token)
            fits = (
                expected.prompt <= deployment.context_tokens * call.prompts
                and (call.max_output or 0) <= deployment.max_output_tokens
            )
            reason = None if fits else size_reason(deployment, call, expected)
            if fits and not is_healthy(replica_set, monotonic):
                reason = Excluded(deployment.name, Constraint.HEALTH, "no replica is available")
            if reason is None:
                kept.append(deployment)
                estimates.append(expected)
            else:
                dropped.append(reason)
        return tuple(kept), tuple(estimates), tuple(dropped)

    def _error(
        self,
        model: Model,
        privacy: str,
        rule: Rule | None,
        excluded: tuple[Excluded, ...],
        eligible: tuple[Deployment, ...],
        monotonic: float,
    ) -> GatewayError:
        if rule is not None and rule.refuse is not None:
            return RefusedByRule(rule.refuse)
        waits = [
            state.breaker.retry_after_seconds(monotonic)
            for deployment in eligible
            for state in self.fleet.replica_sets[deployment.name].replicas
        ]
        return refusal(model.name, privacy, excluded, max(min(waits, default=1.0), 1.0))


def _narrowed(rule: Rule, filtered: _Filtered) -> tuple[tuple[Deployment, ...], tuple[Excluded, ...]]:
    """What `rule` leaves of the eligible deployments, in its order, and what it removes."""
    by_name = {deployment.name: deployment for deployment in filtered.eligible}
    use = filtered.serving.names_serving(rule.use) if filtered.serving.serving_for else rule.use
    says = "refuses" if rule.refuse is not None else "leaves it out"
    dropped = tuple(
        Excluded(name, Constraint.RULE, f"rule {rule.number} (line {rule.line}) {says}", rule.line)
        for name in by_name
        if name not in use
    )
    return tuple(by_name[name] for name in use if name in by_name), dropped


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
