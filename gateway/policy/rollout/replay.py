"""What one policy would do with a request of the past, from the facts that its row keeps.

The routes that serve decide. What it would have to know and no row tells (the words of the prompt, the
speed of a deployment that never answered) makes the answer unknown, with the reason, and never a guess.
"""

import functools
from collections.abc import Hashable, Iterable, Mapping
from zoneinfo import ZoneInfo

import msgspec

from gateway.config.build import Built
from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.breaker import FAILURES_TO_OPEN
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Modality, Model, Objective
from gateway.core.causes import ENTITIES, TOKEN_IDS, UNMASKED, UNREADABLE, kind_of
from gateway.core.errors import GatewayError, InvalidApiKey, InvalidRequest, PermissionDenied
from gateway.core.facts import Facts, Moment
from gateway.core.policy import model_for
from gateway.core.pricing import PriceBook, flat_cost
from gateway.core.record import PoolState, RecordedFacts
from gateway.core.route import Refused, Routes
from gateway.core.screening import Classified, Screening
from gateway.core.sent import Sent
from gateway.core.tenancy import KeyEntry, Principal
from gateway.core.usage import Usage
from gateway.ledger.past_attempts import PastAnswer, PastAttempt

_MICROSECONDS = 1_000_000
_tags_of = msgspec.json.Decoder(dict[str, str]).decode
NOW = 0.0  # on the clock of durations, which stands still in a replay
SEARCH_CHANGED = "what is searched for has changed, and no prompt is kept to search again"


class RoutedTo(msgspec.Struct, frozen=True):
    """To this deployment first."""

    deployment: str


class RefusedWith(msgspec.Struct, frozen=True):
    """With an error of this code."""

    code: str


class Unknown(msgspec.Struct, frozen=True):
    """It cannot be told from what is recorded."""

    reason: str


Outcome = RoutedTo | RefusedWith | Unknown


class PastRequest(msgspec.Struct, frozen=True):
    """A request of the past, with the `call` that it was as far as that matters. `at` in UTC microseconds."""

    at: int
    feature: str
    key: str
    model: str
    privacy: str
    modalities: str
    facts: RecordedFacts
    call: Call


class ReplayedDecision(msgspec.Struct, frozen=True):
    """What becomes of a request, and all the candidates behind it, in order, for each class it may have."""

    outcome: Outcome
    shape: tuple[tuple[str, ...], ...] = ()


class ReplayEvaluator:
    """Decides under `built`. `reference` is the policy under which the rows' texts were searched.

    `now` (UTC seconds) decides what has retired or expired, and which prices hold; `latest` tells what the
    deployments have shown of themselves.
    """

    def __init__(
        self, built: Built, reference: Built, prices: PriceBook, latest: Iterable[PastAnswer], now: float
    ) -> None:
        self._built = built
        self._policy = built.policy
        self._reference = reference
        self._now = now
        at = int(now * _MICROSECONDS)
        self._price_of = {
            name: prices.price_of(deployment, at) for name, deployment in built.policy.deployments.items()
        }
        self._fleet = _with_observations(Fleet(built.policy.deployments.values()), latest)
        self._routes = Routes(built.policy, self._fleet, prices, built.tenancy.time_zone)
        self._keys: Mapping[str, KeyEntry] = {entry.name: entry for entry in built.tenancy.keys.values()}
        self._changed_pools: list[ReplicaSet] = []
        self._screening_numbers: dict[int, int] = {}
        self._known_classes: dict[Hashable, tuple[str, ...] | Unknown] = {}

    @property
    def version(self) -> str:
        return self._built.version

    @property
    def zone(self) -> ZoneInfo:
        return self._built.tenancy.time_zone

    @property
    def has_retired(self) -> bool:
        """Whether some deployment is gone by now."""
        deployments = self._policy.deployments.values()
        return any(item.retires_at is not None and item.retires_at <= self._now for item in deployments)

    def model(self, name: str) -> Model | None:
        return self._policy.models.get(name)

    def principal_class(self, key: str, feature: str, model: str) -> Hashable:
        """Keys and features for which this is equal are treated alike, but for rules that name them."""
        entry = self._keys.get(key)
        principal = None if entry is None else entry.by_feature.get(feature)
        if entry is None or principal is None:
            return entry is None
        return principal.floor, principal.may_use(model), entry.expires_at, self._screening_number(feature)

    def rules(self, request: PastRequest) -> tuple[int, ...]:
        """The number of the rule that decides, 0 for none, for each class that the request may have."""
        try:
            principal = self._principal(request)
            model = model_for(self._policy, principal, request.model)
            classes = self._possible_classes(request, principal)
        except GatewayError:
            return ()
        if model.rules is None or isinstance(classes, Unknown):
            return ()
        self._restore_pools(request.facts.pools)
        moment, match = self._moment(request), model.rules.first_match
        return tuple(
            match(Facts(request.call, principal, privacy, moment, self._fleet, self.zone))
            for privacy in classes
        )

    @property
    def bands(self) -> set[int]:
        """How much a request may read before another price holds, for every price."""
        return {tokens for price in self._price_of.values() for tokens, _, _ in price.steps}

    def cost(self, outcome: Outcome, usage: Usage, tier: str | None, above: int) -> int:
        """What `usage` costs where it goes, at the price of now in nano-USD; 0 where it goes nowhere.

        It is that of requests which read more than `above` tokens each.
        """
        if not isinstance(outcome, RoutedTo):
            return 0
        return flat_cost(self._price_of[outcome.deployment].rates(tier).for_input(above + 1), usage)

    def evaluate(self, request: PastRequest) -> ReplayedDecision:
        """What becomes of `request`."""
        try:
            principal = self._principal(request)
            model = model_for(self._policy, principal, request.model)
            classes = self._possible_classes(request, principal)
        except GatewayError as error:
            return ReplayedDecision(RefusedWith(error.code))
        if isinstance(classes, Unknown):
            return ReplayedDecision(classes)
        self._restore_pools(request.facts.pools)
        found = [self._planned(request, principal, model, privacy) for privacy in classes]
        outcomes = {one.outcome for one in found}
        shape = tuple(part for one in found for part in one.shape)
        return ReplayedDecision(outcomes.pop() if len(outcomes) == 1 else Unknown(SEARCH_CHANGED), shape)

    # --- who asks, and how sensitive it is ---

    def _principal(self, request: PastRequest) -> Principal:
        entry = self._keys.get(request.key)
        if entry is None or (entry.expires_at is not None and self._now >= entry.expires_at):
            raise InvalidApiKey(request.key)
        principal = entry.by_feature.get(request.feature)
        if principal is None:
            raise PermissionDenied(request.feature)
        return principal

    def _possible_classes(self, request: PastRequest, principal: Principal) -> tuple[str, ...] | Unknown:
        facts = request.facts
        key = (principal, request.privacy, request.modalities, facts.named, facts.finds)
        found = self._known_classes.get(key)
        if found is None:
            found = self._known_classes[key] = self._classes(request, principal)
        return found

    def _classes(self, request: PastRequest, principal: Principal) -> tuple[str, ...] | Unknown:
        """Every class that the request may have: one, unless it depends on words that are not kept."""
        known, facts = self._policy.classes, request.facts
        if request.privacy not in known:
            return Unknown(f"the privacy class {request.privacy} is not in version {self.version}")
        if facts.named and facts.named not in known:
            raise InvalidRequest(facts.named)
        screening = self._built.screenings.of(request.feature)
        least = max(principal.floor, facts.named or principal.floor, key=known.index)
        for modality in request.modalities.split(","):
            if modality and modality != Modality.TEXT:
                least = max(least, screening.media_class(Modality(modality)), key=known.index)
        return self._with_finds(request, screening, least)

    def _with_finds(self, request: PastRequest, screening: Screening, least: str) -> tuple[str, ...]:
        known = self._policy.classes
        finds = [kind_of(name) for name in request.facts.finds.split(",") if name]
        if UNREADABLE in finds:
            return (known[-1],)
        if TOKEN_IDS in finds:
            least = max(least, screening.token_class, key=known.index)
            finds.remove(TOKEN_IDS)
        raise_to = _raise_to(screening)
        is_same = self._searches_the_same(screening, request.feature) and raise_to.keys() >= set(finds)
        if is_same and finds:
            return (max(least, request.privacy, key=known.index),)  # the class that these finds asked for
        for name in finds:
            # What would be masked anew might be nothing that is left.
            if name in raise_to and name not in _masked_by(screening):
                least = max(least, raise_to[name], key=known.index)
        # Nothing that was found raised it further than it was; and what was already at the top was not
        # searched at all.
        most = known.index(request.privacy) if is_same else len(known)
        others = {to for to in raise_to.values() if known.index(least) < known.index(to) <= most}
        return (least, *sorted(others))

    def _screening_number(self, feature: str) -> int:
        screening = self._built.screenings.of(feature)
        return self._screening_numbers.setdefault(id(screening), len(self._screening_numbers))

    def _searches_the_same(self, screening: Screening, feature: str) -> bool:
        reference = self._reference
        if reference is self._built:
            return True
        # Of several finds only those that asked for most are kept, so the classes have to be the same too.
        other = reference.screenings.of(feature)
        own, its = self._built.settings.privacy, reference.settings.privacy
        return (
            _raise_to(screening) == _raise_to(other)
            and _masked_by(screening) == _masked_by(other)
            and _home(screening) == _home(other)
            and (own.detectors, own.entities) == (its.detectors, its.entities)
            and _tokenizers(self._built) == _tokenizers(reference)
        )

    # --- where it goes ---

    def _planned(
        self, request: PastRequest, principal: Principal, model: Model, privacy: str
    ) -> ReplayedDecision:
        route = self._routes.of(principal, model.name, self._now)
        decision = route.decide("", request.call, Classified(privacy), self._moment(request))
        if isinstance(decision, Refused):
            return ReplayedDecision(RefusedWith(decision.error.code), ((),))
        shape = (tuple(item.name for item in decision.candidates),)
        return ReplayedDecision(self._outcome_of(decision), shape)

    def _outcome_of(self, plan: Sent) -> Outcome:
        by = plan.model if plan.rule is None else plan.rule
        if by.prefer is Objective.LATENCY and len(plan.candidates) > 1:
            new = sorted(item.name for item in plan.candidates if item.replica_set.ttft_seconds is None)
            if new:
                return Unknown(f"how fast {', '.join(new)} answers is not recorded yet")
        return RoutedTo(plan.candidates[0].name)

    def _moment(self, request: PastRequest) -> Moment:
        return Moment(
            now=self._now,
            monotonic=NOW,
            random=request.facts.draw,
            budget_used=request.facts.budget,
            local_at=request.at / _MICROSECONDS,
            unit=request.facts.unit,
        )

    def _restore_pools(self, pools: Mapping[str, PoolState]) -> None:
        """Put the replicas into the state in which the request met them."""
        for pool in self._changed_pools:
            for state in pool.replicas:
                state.in_flight = 0
                state.breaker.succeeded()
        self._changed_pools = []
        for name, (in_flight, available, replicas) in pools.items():
            met = self._fleet.replica_sets.get(name)
            if met is not None:
                self._changed_pools.append(met)
                _set_pool_state(met, in_flight, available, replicas)


def _tokenizers(built: Built) -> dict[str, str | None]:
    return {name: deployment.tokenizer for name, deployment in built.policy.deployments.items()}


def _raise_to(screening: Screening) -> dict[str, str]:
    """What a find raises a request to, by what finds it, the second stage included."""
    entities = screening.entities
    return {
        **screening.raise_to,
        **({} if entities is None else {ENTITIES: entities.raise_to}),
        **({} if screening.masking is None else {UNMASKED: screening.classes[-1]}),
    }


def _masked_by(screening: Screening) -> frozenset[str]:
    """The detectors whose finds are replaced before a request leaves."""
    return frozenset() if screening.masking is None else frozenset(screening.masking.detectors.names)


def _home(screening: Screening) -> Mapping[str, frozenset[str]] | None:
    """Where requests stay as they are."""
    return None if screening.masking is None else screening.masking.home


def _set_pool_state(pool: ReplicaSet, in_flight: int, available: int, replicas: int) -> None:
    """As many of the replicas as were out then are out; another number of them is scaled."""
    pool.replicas[0].in_flight = in_flight
    count = len(pool.replicas)
    out = count if not available else min((replicas - available) * count // max(replicas, 1), count - 1)
    for state in pool.replicas[count - out :]:
        # As the last resort it would still be used: the row is there because some replica was.
        state.breaker.failed(NOW, weight=FAILURES_TO_OPEN, answered=True)


def past_request(row: PastAttempt, facts: RecordedFacts) -> PastRequest:
    """The request behind `row`, whose facts are `facts`."""
    call = Call(
        api=Api(row.endpoint),
        model=row.model,
        stream=bool(row.stream),
        include_usage=False,
        stream_options={},
        max_output=facts.max_output,
        choices=facts.choices,
        modalities=_modalities(row.modalities),
        needs=_needs(facts.needs),
        media=facts.media,
        service_tier=None,
        tags=_tags_of(row.tags) if row.tags != "{}" else {},
        rest=b"{}",  # only its length is known
        text_bytes=facts.text_bytes,
        prompts=facts.prompts,
    )
    return PastRequest(
        at=row.at,
        feature=row.feature,
        key=row.key,
        model=row.model,
        privacy=row.privacy,
        modalities=row.modalities,
        facts=facts,
        call=call,
    )


@functools.lru_cache(maxsize=256)
def _modalities(listed: str) -> frozenset[Modality]:
    return frozenset(map(Modality, listed.split(",")))


@functools.lru_cache(maxsize=256)
def _needs(listed: str) -> frozenset[Capability]:
    return frozenset(map(Capability, listed.split(","))) if listed else frozenset()


def _with_observations(fleet: Fleet, latest: Iterable[PastAnswer]) -> Fleet:
    """`fleet` with what the latest attempts tell of tokenizers and speeds, learned as while serving."""
    decode = msgspec.json.Decoder(RecordedFacts).decode
    for one in latest:
        pool = fleet.replica_sets.get(one.deployment)
        if pool is None or pool.deployment.model != one.dispatched_model:
            continue
        facts = decode(one.facts)
        if facts.text_bytes and not facts.media.bytes:
            pool.learn_tokenizer(facts.text_bytes, one.input_tokens)
        if one.ttft_ms is not None:
            seconds = (one.duration_ms - one.ttft_ms) / 1000
            has_speed = one.stream and seconds > 0 and one.output_tokens > 1
            pool.learn_speed(one.ttft_ms / 1000, one.output_tokens / seconds if has_speed else None, NOW)
    return fleet
