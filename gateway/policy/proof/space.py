"""The finite space of requests that a policy can tell apart."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import DECLARED_CAPABILITIES, Api, Capability, Modality, Model, RuleSet
from gateway.core.conditions import Condition, could_hold
from gateway.core.facts import Moment
from gateway.core.media import NO_MEDIA
from gateway.core.policy import Policy
from gateway.core.route import Refused, Route, Routes
from gateway.core.screening import Classified
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal, Tenancy

# Beyond this many plans for one model, capabilities are tried singly and all together, not in every mix.
MOST_CASES: Final = 50_000
NO_RULE: Final = 0

Modalities = frozenset[Modality]
Needs = frozenset[Capability]


class RequestKind(msgspec.Struct, frozen=True):
    """A kind of request, as far as constraints look at it."""

    api: Api
    modalities: Modalities
    needs: Needs


class Case(msgspec.Struct, frozen=True):
    """One point of the space: who asks for which kind at which class, and the rule that is taken to hold."""

    model: Model
    principal: Principal
    privacy: str
    kind: RequestKind
    rule: int


class Space:
    """Enumerates the requests to one model."""

    def __init__(
        self, policy: Policy, tenancy: Tenancy, model: Model, plain: Callable[[str], Condition | None]
    ) -> None:
        """`plain` reads a condition; None for one that may hold or not, whatever is known."""
        self._policy = policy
        self.model = model
        self.principals = [item for item in principals(tenancy) if item.may_use(model.name)]
        rules = model.rules.rules if model.rules else ()
        self.conditions = [plain(rule.when) for rule in rules]
        self._possible: dict[tuple[Principal, str, Modalities, bool], list[int]] = {}

    def classes(self, principal: Principal) -> tuple[str, ...]:
        """The classes that a request of `principal` can have."""
        classes = self._policy.classes
        return classes[classes.index(principal.floor) :]

    def cases(
        self, kinds: Iterable[RequestKind], *, for_each_principal: bool = False, feature: str | None = None
    ) -> Iterator[Case]:
        """Every class and rule that can occur with each of `kinds`, once, with a principal for whom it does.

        `for_each_principal`: once for each such principal. `feature`: only for its principals.
        """
        seen: set[tuple[str, int, RequestKind]] = set()
        listed = tuple(kinds)
        for principal in self.principals:
            if feature is not None and principal.feature != feature:
                continue
            if for_each_principal:
                seen = set()
            for privacy in self.classes(principal):
                for kind in listed:
                    tools = Capability.TOOLS in kind.needs
                    for rule in self.possible_rules(principal, privacy, kind.modalities, tools):
                        point = (privacy, rule, kind)
                        if point not in seen:
                            seen.add(point)
                            yield Case(self.model, principal, privacy, kind, rule)

    def possible_rules(
        self, principal: Principal, privacy: str, modalities: Modalities, tools: bool
    ) -> list[int]:
        """The numbers of the rules that can be the first to hold; NO_RULE when it can be none."""
        point = (principal, privacy, modalities, tools)
        if point not in self._possible:
            self._possible[point] = self._work_out(known_facts(self.model, *point))
        return self._possible[point]

    def _work_out(self, known: Mapping[str, Any]) -> list[int]:
        possible = []
        for number, condition in enumerate(self.conditions, 1):
            verdict = None if condition is None else could_hold(condition, known)
            if verdict is not False:
                possible.append(number)
            if verdict:
                return possible
        return [*possible, NO_RULE]

    def kinds(self) -> list[RequestKind]:
        """All kinds of request to the endpoints that some deployment of the file serves."""
        apis = sorted({api for item in self._policy.deployments.values() for api in item.serves})
        asked = _told_apart(self._policy)
        needs = list(_subsets(asked))
        mixes = list(_subsets(tuple(item for item in Modality if item is not Modality.TEXT)))
        rules = len(self.conditions) + 1
        if len(apis) * len(mixes) * len(needs) * rules * len(self._policy.classes) > MOST_CASES:
            needs = [frozenset(), *(frozenset({item}) for item in asked), frozenset(asked)]
        return [
            RequestKind(api, mix | {Modality.TEXT}, need)
            for api in apis
            for mix in (mixes if api is Api.CHAT else [frozenset[Modality]()])
            for need in needs
        ]

    def simple_kinds(self) -> list[RequestKind]:
        """Text alone, and with one modality more, asking for nothing special."""
        mixes = [frozenset({Modality.TEXT}), *(frozenset({Modality.TEXT, item}) for item in Modality)]
        return [kind for kind in self.kinds() if not kind.needs and kind.modalities in mixes]


def principals(tenancy: Tenancy) -> list[Principal]:
    """Whoever can ask: each key for each of its features, and a key of any feature that is yet to be made."""
    known = [item for entry in tenancy.keys.values() for item in entry.by_feature.values()]
    features = [item for name, item in tenancy.keyless.items() if name]
    return [*known, *(features or tenancy.keyless.values())]


def known_facts(
    model: Model, principal: Principal, privacy: str, modalities: Modalities, tools: bool
) -> Mapping[str, Any]:
    """The variables that a case decides."""
    return {
        "model": model.name,
        "feature": principal.feature,
        "team": principal.team,
        "key": principal.key,
        "privacy": privacy,
        "modalities": [str(item) for item in modalities],
        "tools": tools,
    }


class CaseRoutes:
    """Decides cases as the routes that serve do, with the rule of the case taken to hold."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._known: dict[tuple[Principal, str, int], Route] = {}

    def decide(self, case: Case, moment: Moment) -> Sent | Refused:
        """What the route of `case` says in the circumstances of `moment`."""
        key = (case.principal, case.model.name, case.rule)
        route = self._known.get(key)
        if route is None or not route.is_valid(moment.now):
            route = self._known[key] = self._route(case, moment.now)
        return route.decide("", call_of(case), Classified(case.privacy), moment)

    def _route(self, case: Case, now: float) -> Route:
        model, rule = case.model, case.rule
        if model.rules is not None:
            forced = RuleSet(model.rules.rules, (), lambda _: rule)
            model = msgspec.structs.replace(model, rules=forced)
        return self._routes.prepare(case.principal, model, now)


def call_of(case: Case) -> Call:
    kind = case.kind
    return Call(
        api=kind.api,
        model=case.model.name,
        stream=False,
        include_usage=False,
        stream_options={},
        max_output=None,
        choices=1,
        modalities=kind.modalities,
        needs=kind.needs,
        media=NO_MEDIA,
        service_tier=None,
        tags={},
        rest=b'{"messages":[]}',
        text_bytes=len(b'{"messages":[]}'),
    )


def _told_apart(policy: Policy) -> tuple[Capability, ...]:
    """One capability for each set of deployments that support it: others of the same set decide alike.

    Rules see tools, and the declared ones are not asked of everyone, so these stand by themselves.
    """
    found: dict[tuple[frozenset[str], bool, bool], Capability] = {}
    for capability in Capability:
        able = frozenset(name for name, item in policy.deployments.items() if capability in item.supports)
        is_tools, is_declared = capability is Capability.TOOLS, capability in DECLARED_CAPABILITIES
        found.setdefault((able, is_tools, is_declared), capability)
    return tuple(found.values())


def _subsets(items: tuple[Any, ...]) -> Iterator[frozenset[Any]]:
    for size in range(len(items) + 1):
        yield from map(frozenset, itertools.combinations(items, size))
