"""Put the deployments that are left into order: by cost, latency, quality, the file's order, or by shares."""

import math
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Deployment, Model, Objective, Rule
from gateway.core.estimate import Estimate
from gateway.core.facts import Moment, digest, unit_of
from gateway.core.retirement import ServingSet
from gateway.core.tenancy import Principal

Pair = tuple[Deployment, Estimate]

# Typical answers are far shorter than their cap, so deployments are compared by this many tokens at most.
LIKELY_OUTPUT_TOKENS = 256


class Sorting(msgspec.Struct, frozen=True, gc=False):
    """What an objective is applied to: the request, who serves for whom, and how fast each one is."""

    call: Call
    principal: Principal
    model: Model
    fleet: Fleet
    moment: Moment
    serving: ServingSet

    def shares(self, given: Mapping[str, float]) -> Mapping[str, float]:
        """Weights or ratings of the file, handed on from the retired ones."""
        return self.serving.shares(given) if self.serving.serving_for else given


def in_order(by: Model | Rule, sorting: Sorting, pairs: list[Pair]) -> list[Pair]:
    """`pairs` as the objective of a model, or of one of its rules, wants them. Ties keep their order."""
    prefer = by.prefer
    if prefer is Objective.COST:
        cost = cost_at(sorting)
        pairs.sort(key=lambda pair: cost(pair[0], pair[1]))
    elif prefer is Objective.LATENCY:
        pairs.sort(key=lambda pair: expected_seconds(pair[0], pair[1], sorting))
    elif prefer is Objective.QUALITY:
        cost, quality = cost_at(sorting), sorting.shares(sorting.model.quality)
        pairs.sort(key=lambda pair: (-quality.get(pair[0].name, 0.0), cost(pair[0], pair[1])))
    elif prefer is Objective.WEIGHTS:
        weights = sorting.shares(by.weights)
        unit = unit_of(sorting.call, sorting.principal, sorting.moment) if by.sticky else None
        if unit is None:
            return _drawn(pairs, weights, sorting.moment.random)
        key = f"{sorting.model.name}\0{unit}"
        pairs.sort(key=lambda pair: -_affinity(key, pair[0].name, weights.get(pair[0].name, 0.0)))
    return pairs


def cost_at(sorting: Sorting) -> Callable[[Deployment, Estimate], int]:
    """What the request may cost at a deployment, for comparing, in millionths of a nano-USD."""
    price_of, at = sorting.moment.prices.price_of, int(sorting.moment.now * 1_000_000)
    is_marginal = sorting.model.marginal

    def cost(deployment: Deployment, expected: Estimate) -> int:
        output = min(expected.output, LIKELY_OUTPUT_TOKENS)
        if is_marginal and deployment.marginal_rate is not None:
            return (expected.prompt + output) * deployment.marginal_rate
        rates = price_of(deployment, at).standard
        return expected.prompt * rates.input + output * rates.output

    return cost


def likely_nano(call: Call, deployment: Deployment, expected: Estimate, moment: Moment) -> int:
    """What an answer of usual length costs there at its price, in nano-USD."""
    rates = moment.prices.price_of(deployment, int(moment.now * 1_000_000)).standard
    millionths = expected.prompt * rates.input + _likely(expected) * call.choices * rates.output
    return -(-millionths // 1_000_000)


def expected_seconds(deployment: Deployment, expected: Estimate, sorting: Sorting) -> float:
    """Time to the last token, as observed of late."""
    replica_set = sorting.fleet.replica_sets[deployment.name]
    return replica_set.expected_seconds(_likely(expected), sorting.moment.monotonic)


def _likely(expected: Estimate) -> int:
    return min(expected.output, LIKELY_OUTPUT_TOKENS)


# --- shares ---


def _drawn(pairs: list[Pair], weights: Mapping[str, float], random: float) -> list[Pair]:
    """Put the deployment that `random` in [0, 1) falls on first; the others follow by weight."""
    ordered = sorted(pairs, key=lambda pair: -weights.get(pair[0].name, 0.0))
    point = random * sum(weights.get(pair[0].name, 0.0) for pair in ordered)
    for index, pair in enumerate(ordered):
        point -= weights.get(pair[0].name, 0.0)
        if point < 0:
            return [pair, *ordered[:index], *ordered[index + 1 :]]
    return ordered


def _affinity(unit: str, deployment: str, weight: float) -> float:
    """How much `unit` is drawn to `deployment`: over many units, each is first in proportion to its weight.

    Each deployment is judged by itself, so one that comes, goes or changes its share moves only the units
    that this concerns (rendezvous hashing with weights).
    """
    found = digest(f"{unit}\0{deployment}", 8)
    point = ((int.from_bytes(found) >> 11) + 0.5) / 2**53  # as many bits as a float holds, so never 0 or 1
    return -weight / math.log(point) if weight else 0.0
