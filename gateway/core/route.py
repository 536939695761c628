"""Decide which deployments may answer a request, and in which order.

A `Route` is all that the requests of one key, feature and model have in common: it is prepared once, and
holds until its `valid_until`. Its `begin` decides one request.
Hard constraints come first and nothing after them can widen the result: rules narrow or reorder what is
left, the objective sorts it, and retry and failover only ever draw from the resulting list.
"""

import datetime
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.call import Call
from gateway.core.catalog import Deployment, Model, Objective, Rule, StopsWhenLeft
from gateway.core.conditions import could_hold, first_of
from gateway.core.constraints import (
    ClassZones,
    Constraint,
    Excluded,
    checked_capabilities,
    is_too_large,
    refusal,
    retired_reason,
    size_reason,
    static_reason,
)
from gateway.core.errors import GatewayError, PrivacyViolation, RefusedByRule
from gateway.core.estimate import Estimate, ask_for, estimate, matters, room_bytes
from gateway.core.facts import Facts, Moment, busy_pools, finds_text, known_of, tags_of, unit_of
from gateway.core.ordering import Sorting, in_order
from gateway.core.output_sizes import TypicalOutput
from gateway.core.policy import Policy, model_for
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.retirement import Era, ServingSet, era_at, serving_set
from gateway.core.screening import Classified, raise_reasons
from gateway.core.sent import Candidate, Sent, candidate_at
from gateway.core.tenancy import Principal


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that nothing may answer: the `error` says why, `excluded` has each reason."""

    model: Model
    privacy: str
    error: GatewayError
    excluded: tuple[Excluded, ...]
    rule: Rule | None


class _Eligible(msgspec.Struct, frozen=True):
    """What the constraints over closed sets leave of a model."""

    candidates: tuple[Candidate, ...]
    excluded: tuple[Excluded, ...]


KINDS_REMEMBERED = 256

_Kind = tuple[str, str, frozenset[str], frozenset[str], bool, frozenset[str]]
_ORDER = Objective.ORDER


class Route:
    """The requests of one principal to one model, under one policy and one book of prices.

    It holds from `valid_from` to before `valid_until` (UTC seconds): meanwhile nobody retires, and no price
    changes.

    Many attributes: what is prepared here need not be looked up for each request.
    """

    __slots__ = (
        "_candidates",
        "_eligible",
        "_era",
        "_first_match",
        "_objective",
        "_policy",
        "_prepared_at",
        "_prices",
        "_serving",
        "_typical",
        "_zone",
        "fleet",
        "goes_on",
        "model",
        "principal",
        "roomy_bytes",
        "valid_from",
        "valid_until",
    )

    def __init__(
        self,
        principal: Principal,
        model: Model,
        policy: Policy,
        fleet: Fleet,
        prices: PriceBook,
        zone: datetime.tzinfo,
        now: float,
    ) -> None:
        """Prepare it as of `now` (UTC seconds). `zone` is that of the rules' clock."""
        self.principal = principal
        self.model = model
        self._objective = str(model.prefer)
        self.fleet = fleet
        self._policy = policy
        self._prices = prices
        self._zone = zone
        self._era: Era = era_at(now, policy.deployments.values())
        self._serving: ServingSet = serving_set(model, self._era, policy.deployments)
        # Some upstream writes, and bills, the whole answer also when it is left.
        self.goes_on = any(one.stops_when_left is StopsWhenLeft.NEVER for one in self._serving.deployments)
        # A prompt of no more bytes leaves room for all output wherever it goes: nobody need count it.
        self.roomy_bytes = min((room_bytes(one) for one in self._serving.deployments), default=0)
        self._first_match = _first_match(model, principal)
        per_minute = principal.typical_per_minute
        self._typical: TypicalOutput | None = None
        if per_minute is not None:
            sizes = fleet.output_sizes.of(principal.feature, model.name)
            self._typical = TypicalOutput(sizes, per_minute)
        self._prepared_at = int(now * 1_000_000)
        priced = policy.deployments.values()
        self.valid_from = max(self._era.begins, prices.last_change(self._prepared_at, priced) / 1_000_000)
        self.valid_until = min(self._era.ends, prices.next_change(self._prepared_at, priced) / 1_000_000)
        for deployment in self._serving.deployments:  # prices of some hours come and go by themselves
            begins, ends = prices.span(deployment, self._prepared_at)
            self.valid_from = max(self.valid_from, begins / 1_000_000)
            self.valid_until = min(self.valid_until, ends / 1_000_000)
        self._candidates: dict[str, Candidate] = {}
        self._eligible: dict[_Kind, _Eligible] = {}

    def begin(
        self, request_id: str, call: Call, classified: Classified, moment: Moment, started: float = 0.0
    ) -> Sent:
        """Decide `call`: candidates in order, and what to ask of limits and budgets for it.

        `started` is when the request came (monotonic seconds). Raises the GatewayError that says what removed
        the last candidate.
        """
        found = self.decide(request_id, call, classified, moment, started)
        if isinstance(found, Refused):
            error = found.error
            if isinstance(error, PrivacyViolation):
                message = f"{error.message} {raise_reasons(classified, self.principal.feature)}"
                raise PrivacyViolation(message.rstrip(), param=error.param) from error
            raise error
        return found

    def decide(
        self, request_id: str, call: Call, classified: Classified, moment: Moment, started: float = 0.0
    ) -> Sent | Refused:
        """As `begin`; why nothing may answer, with the reason for each deployment, is its result."""
        model, principal, privacy = self.model, self.principal, classified.privacy
        headers = moment.headers
        # Before any rule asks for them: a mistake in the header is the client's, and not the rule's.
        tags = tags_of(call, moment) if b"x-tollway-tags" in headers else call.tags
        # `_eligible_for` written out: it runs for every request.
        kind = (call.api, privacy, call.modalities, call.needs, call.media.is_remote, call.members)
        eligible = self._eligible.get(kind) or self._by_static_constraints(kind, call)
        kept, excluded, rule = eligible.candidates, eligible.excluded, None
        if self._first_match is not None and model.rules is not None:
            facts = Facts(call, principal, privacy, moment, self.fleet, self._zone)
            if number := self._first_match(facts):
                rule = model.rules.rules[number - 1]
                kept, dropped = self._narrowed(rule, eligible)
                excluded += dropped
        able = kept
        key = principal.key
        kept, estimates, dropped = _by_circumstances(call, able, moment, key, ReplicaSet.is_available)
        if dropped:
            if not kept:
                kept, estimates, dropped = _by_circumstances(call, able, moment, key, ReplicaSet.answers)
            excluded += dropped
        if not kept:
            error = self._error(privacy, rule, excluded, able, moment.monotonic)
            return Refused(model=model, privacy=privacy, error=error, excluded=excluded, rule=rule)
        has_unit = call.user is not None or b"x-tollway-session" in headers or moment.unit is not None
        unit = unit_of(call, principal, moment) if has_unit else None
        by = model if rule is None else rule
        if len(kept) > 1 and by.prefer is not _ORDER:
            kept, estimates = in_order(by, Sorting(model, moment, unit, self._serving), kept, estimates)
        ask = ask_for(call, principal, kept, estimates)
        if self._typical is not None:
            ask = self._typical.ask(call, ask)
        named = headers.get(b"x-tollway-privacy")
        return Sent(
            # By position: by name it costs four times as much, and this is made for every request.
            request_id,
            call,
            principal,
            model,
            privacy,
            classified.stand_in,
            kept,
            estimates,
            excluded,
            (
                self._objective
                if rule is None and not excluded and len(kept) > 1
                else _decision(model, rule, kept, excluded)
            ),
            rule,
            ask,
            tags,
            started,
            "" if named is None else named.decode("latin-1"),
            finds_text(classified) if classified.raised_by else "",
            unit,
            moment.random,
            moment.budget_used,
            busy_pools(self.fleet, moment.monotonic),
            kept[0],
            estimates[0],
        )

    def to_count(self, call: Call, classified: Classified, monotonic: float) -> list[Candidate]:
        """The candidates for which it matters how many tokens the prompt of `call` has."""
        eligible = self._eligible_for(call, classified.privacy).candidates
        return [one for one in eligible if matters(call, one.replica_set, monotonic)]

    def is_valid(self, now: float) -> bool:
        """Whether it holds at `now` (UTC seconds)."""
        return self.valid_from <= now < self.valid_until

    def candidate(self, deployment: Deployment) -> Candidate:
        """`deployment` as this route would use it."""
        found = self._candidates.get(deployment.name)
        if found is None:
            found = self._candidates[deployment.name] = candidate_at(
                self.principal,
                self.model,
                deployment,
                self.fleet.replica_sets[deployment.name],
                prices=self._prices,
                at=self._prepared_at,
                policy_version=self._policy.version,
                typical=self._typical,
            )
        return found

    def _eligible_for(self, call: Call, privacy: str) -> _Eligible:
        kind = (call.api, privacy, call.modalities, call.needs, call.media.is_remote, call.members)
        return self._eligible.get(kind) or self._by_static_constraints(kind, call)

    def _by_static_constraints(self, kind: _Kind, call: Call) -> _Eligible:
        """What holds for every call of this `kind`."""
        privacy, policy = kind[1], self._policy
        zones = policy.zones[privacy]
        may_leave = all(zones >= others for others in policy.zones.values())
        allowed = ClassZones(privacy, zones, policy.zone_lines.get(privacy), may_leave)
        checked = checked_capabilities(self._serving.deployments)
        eligible, excluded = [], []
        for deployment in self._serving.deployments:
            reason = static_reason(deployment, call, allowed, checked)
            if reason is None and deployment.name in self._era.retired:
                reason = retired_reason(deployment)
            if reason is None:
                eligible.append(self.candidate(deployment))
            else:
                excluded.append(reason)
        if len(self._eligible) >= KINDS_REMEMBERED:
            self._eligible.clear()  # clients can mix modalities and capabilities as they like
        found = self._eligible[kind] = _Eligible(tuple(eligible), tuple(excluded))
        return found

    def _narrowed(
        self, rule: Rule, eligible: _Eligible
    ) -> tuple[tuple[Candidate, ...], tuple[Excluded, ...]]:
        """What `rule` leaves of the eligible candidates, in its order, and what it removes."""
        by_name = {candidate.name: candidate for candidate in eligible.candidates}
        serving = self._serving
        use = serving.names_serving(rule.use) if serving.serving_for else rule.use
        says = "refuses" if rule.refuse is not None else "leaves it out"
        dropped = tuple(
            Excluded(name, Constraint.RULE, f"rule {rule.number} (line {rule.line}) {says}", rule.line)
            for name in by_name
            if name not in use
        )
        return tuple(by_name[name] for name in use if name in by_name), dropped

    def _error(
        self,
        privacy: str,
        rule: Rule | None,
        excluded: tuple[Excluded, ...],
        able: tuple[Candidate, ...],
        monotonic: float,
    ) -> GatewayError:
        if rule is not None and rule.refuse is not None:
            return RefusedByRule(rule.refuse)
        waits = [
            state.breaker.retry_after_seconds(monotonic, self.principal.key)
            for candidate in able
            for state in candidate.replica_set.replicas
        ]
        return refusal(self.model.name, privacy, excluded, max(min(waits, default=1.0), 1.0))


class Routes:
    """The routes under one policy and one book of prices: each made when it is first used."""

    def __init__(
        self,
        policy: Policy,
        fleet: Fleet,
        prices: PriceBook = NO_VERSIONS,
        zone: datetime.tzinfo = datetime.UTC,
    ) -> None:
        self.policy = policy
        self.fleet = fleet
        self.prices = prices
        self._zone = zone
        self._routes: dict[tuple[Principal, str], Route] = {}

    def of(self, principal: Principal, name: str, now: float) -> Route:
        """The route of `principal` to the model `name`. Raises ModelNotFound."""
        route = self._routes.get((principal, name))
        if route is None or not route.valid_from <= now < route.valid_until:
            model = model_for(self.policy, principal, name)
            route = self._routes[principal, name] = self.prepare(principal, model, now)
        return route

    def prepare(self, principal: Principal, model: Model, now: float) -> Route:
        """A route to `model`, which need not be one of the policy's."""
        return Route(principal, model, self.policy, self.fleet, self.prices, self._zone, now)

    def drop(self, principal: Principal) -> None:
        """Forget the routes of `principal`: those of its next requests are made anew."""
        for key in [key for key in self._routes if key[0] is principal]:
            del self._routes[key]

    def at_prices(self, prices: PriceBook) -> "Routes":
        """The same routes at other prices."""
        return Routes(self.policy, self.fleet, prices, self._zone)


def _first_match(model: Model, principal: Principal) -> Callable[[Mapping[str, object]], int] | None:
    """The number of the first rule that holds for a request, else 0; None where no rule ever can."""
    rules = model.rules
    if rules is None or len(rules.conditions) != len(rules.rules):
        return None if rules is None else rules.first_match
    known = known_of(model.name, principal)
    possible = [
        (rule.number, condition)
        for rule, condition in zip(rules.rules, rules.conditions, strict=True)
        if condition is None or could_hold(condition, known) is not False
    ]
    if not possible:
        return None
    plain = [(number, condition) for number, condition in possible if condition is not None]
    return first_of(plain) if len(plain) == len(possible) else rules.first_match


def _by_circumstances(
    call: Call,
    able: tuple[Candidate, ...],
    moment: Moment,
    key: str,
    is_healthy: Callable[[ReplicaSet, float, str], bool],
) -> tuple[tuple[Candidate, ...], tuple[Estimate, ...], tuple[Excluded, ...]]:
    """The candidates for which the request is not too large and that are well; each with its estimate."""
    kept, estimates, dropped = [], [], []
    monotonic, counted = moment.monotonic, moment.counted
    wanted = call.max_output or 0
    for candidate in able:
        deployment, replica_set = candidate.deployment, candidate.replica_set
        expected = estimate(call, replica_set, monotonic, counted.get(deployment.name) if counted else None)
        if (expected.near or wanted > deployment.max_output_tokens) and is_too_large(
            deployment, call, expected
        ):
            dropped.append(size_reason(deployment, call, expected))
        elif not is_healthy(replica_set, monotonic, key):
            dropped.append(_health_reason(replica_set, monotonic))
        else:
            kept.append(candidate)
            estimates.append(expected)
    return tuple(kept), tuple(estimates), tuple(dropped)


def _health_reason(replica_set: ReplicaSet, monotonic: float) -> Excluded:
    """Why no replica takes the request, and whether that is so for its key alone."""
    detail = "no replica is available"
    if replica_set.is_available(monotonic):
        detail = "requests of this key have just failed on every replica, and those of others have not"
    return Excluded(replica_set.deployment.name, Constraint.HEALTH, detail)


def _decision(
    model: Model, rule: Rule | None, kept: tuple[Candidate, ...], excluded: tuple[Excluded, ...]
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
