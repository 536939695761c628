"""Put the whole space of requests to the routes, and compare what they decide with what the file allows."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from gateway.config.build import Built
from gateway.config.cel import CelCompiler
from gateway.config.tenancy import Key
from gateway.core.balancing import Fleet
from gateway.core.catalog import Deployment
from gateway.core.errors import GatewayError, PrivacyViolation, RefusedByRule
from gateway.core.facts import Moment
from gateway.core.policy import Policy
from gateway.core.retirement import ever_serving
from gateway.core.route import Routes
from gateway.core.sent import Sent
from gateway.policy.proof.boundaries import boundary_holes
from gateway.policy.proof.results import Hole, Proof, Unusable
from gateway.policy.proof.rules import RuleReport, report_rules
from gateway.policy.proof.space import Case, CaseRoutes, Space, principals
from gateway.policy.proof.witness import hole

FEW: Final = 4
MOST_HOLES: Final = 20  # one of them is enough to act on
NO_KEY: Final = "no key of the feature may use it"

MakeRoutes = Callable[[Policy, Fleet], Routes]


def prove(
    built: Built,
    make_routes: MakeRoutes = Routes,
    progress: Callable[[int, int], None] = lambda done, models: None,
) -> Proof:
    """The proof for what `make_routes` would serve under `built`, or what stands against it.

    `progress` is told how many models are done, and of how many.
    """
    return _Prover(built, make_routes).prove(progress)


class _Prover:
    def __init__(self, built: Built, make_routes: MakeRoutes) -> None:
        self._built = built
        self._make_routes = make_routes
        self._cases = 0
        self._holes: dict[tuple[str, str, str], Hole] = {}
        compiler = CelCompiler(pools=built.policy.deployments)
        self._spaces = [
            Space(built.policy, built.tenancy, model, compiler.plain)
            for model in built.policy.models.values()
        ]

    def prove(self, progress: Callable[[int, int], None]) -> Proof:
        started = time.monotonic()
        moments = list(self._moments())
        for done, space in enumerate(self._spaces, 1):
            kinds, simple_kinds = space.kinds(), space.simple_kinds()
            self._search(space.cases(kinds), moments, frozenset())
            self._search(space.cases(simple_kinds, for_each_principal=True), moments, frozenset())
            simple = list(space.cases(simple_kinds))
            for down in _outages(space.model.use, self._built.policy.deployments):
                self._search(simple, moments, down)
            progress(done, len(self._spaces))
        holes = [*boundary_holes(self._built), *self._holes.values()][:MOST_HOLES]
        rules = RuleReport()
        for space in self._spaces:
            report_rules(space, self._built, rules)
        return Proof(
            proven=not holes,
            cases=self._cases,
            seconds=round(time.monotonic() - started, 3),
            holes=holes,
            unreachable_rules=rules.unreachable,
            shadowed_rules=rules.shadowed,
            dead_ends=rules.dead_ends,
            unusable_models=list(self._unusable(moments[0])),
        )

    def _search(self, cases: Iterable[Case], moments: list[Moment], down: frozenset[str]) -> None:
        routes = self._routes(down)
        listed = list(cases)
        for moment in moments:  # outermost: a route holds between two retirements
            for case in listed:
                self._cases += 1
                plan = routes.decide(case, moment)
                if isinstance(plan, Sent):
                    self._check(case, plan, moment, down)

    def _check(self, case: Case, plan: Sent, moment: Moment, down: frozenset[str]) -> None:
        # The settings are what the file says; the policy was built from them, and might be wrong as well.
        settings = self._built.settings
        allowed = settings.privacy.zones[case.privacy]
        for index, candidate in enumerate(plan.candidates):
            zone = settings.deployments[candidate.name].zone
            key = (case.privacy, zone, candidate.name)
            if zone not in allowed and key not in self._holes:
                self._holes[key] = hole(self._built, case, plan, index, moment, down)

    def _unusable(self, moment: Moment) -> Iterator[Unusable]:
        routes = self._routes(frozenset())
        features, keys = self._built.settings.features, self._built.settings.keys
        for space in self._spaces:
            found = {feature: self._why_not(space, routes, feature, moment) for feature in features}
            pairs = [one for one in found.values() if one is not None]
            unmeant = {self._named_in_vain(key, space.model.name, found) for key in keys.values()}
            if pairs and len(pairs) == len(features):
                yield self._useless(pairs)
                unmeant = set()
            yield from (
                msgspec.structs.replace(one, on_purpose=one.on_purpose and one.feature not in unmeant)
                for one in (pairs if len(features) > 1 else ())
            )

    @staticmethod
    def _useless(pairs: list[Unusable]) -> Unusable:
        """That no feature can use a model, for the reason of the one that comes nearest."""
        nearest = min(pairs, key=lambda one: (one.on_purpose, one.reason == NO_KEY, len(one.reason)))
        feature = nearest.feature if len(pairs) == 1 else ""
        return msgspec.structs.replace(nearest, feature=feature, on_purpose=False)

    @staticmethod
    def _named_in_vain(key: Key, model: str, found: Mapping[str, Unusable | None]) -> str | None:
        """The feature of `key`, when the key names `model` and none of its features can use it."""
        features = (key.feature, *key.features)
        in_vain = key.models is not None and model in key.models and all(found.get(name) for name in features)
        return key.feature if in_vain else None

    def _why_not(self, space: Space, routes: CaseRoutes, feature: str, moment: Moment) -> Unusable | None:
        """Why no request of `feature` to the space's model gets a plan; None when one does."""
        name = space.model.name
        ours = [item for item in principals(self._built.tenancy) if item.feature == feature]
        with_key = [item for item in ours if item.key] or ours
        if not any(item.may_use(name) for item in with_key):
            return Unusable(feature=feature, model=name, reason=NO_KEY, on_purpose=True)
        served = {api for deployment in space.model.use for api in deployment.serves}
        # That nothing serves such requests is no reason: others may be meant.
        kinds = [kind for kind in space.kinds() if kind.api in served]
        refusals: list[GatewayError] = []
        for case in space.cases(kinds, for_each_principal=True, feature=feature):
            plan = routes.decide(case, moment)
            if isinstance(plan, Sent):
                return None
            refusals.append(plan.error)
        meant = [one for one in refusals if isinstance(one, PrivacyViolation | RefusedByRule)]
        told = (meant or refusals)[:1]
        reason = told[0].message if told else "no request can be made of it"
        return Unusable(feature=feature, model=name, reason=reason, on_purpose=bool(meant))

    def _routes(self, down: frozenset[str]) -> CaseRoutes:
        fleet = Fleet(self._built.policy.deployments.values())
        for name in down:
            for state in fleet.replica_sets[name].replicas:
                state.is_up = False
        return CaseRoutes(self._make_routes(self._built.policy, fleet))

    def _moments(self) -> Iterator[Moment]:
        """Now, and the first moment after each retirement that is still to come."""
        now = time.time()
        retirements = {item.retires_at for item in self._built.policy.deployments.values()}
        for at in (now, *sorted(item for item in retirements if item is not None and item > now)):
            yield Moment(at, 0.0)


def _outages(use: tuple[Deployment, ...], known: Mapping[str, Deployment]) -> list[frozenset[str]]:
    """Which of a model's deployments and successors are down: every mix of a few, else one or all but one."""
    names = {item.name for item in ever_serving(use, known)}
    if len(names) <= FEW:
        sizes = range(1, len(names) + 1)
        return [frozenset(mix) for size in sizes for mix in itertools.combinations(sorted(names), size)]
    singly = [frozenset({name}) for name in sorted(names)]
    return [*singly, *(frozenset(names) - one for one in singly), frozenset(names)]
