"""Put the deployments that are left into order: by cost, latency, quality, the file's order, or by shares."""

import math
from collections.abc import Mapping
from itertools import count
from typing import Any

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Model, Objective, Rule
from gateway.core.estimate import Estimate
from gateway.core.facts import Moment, digest
from gateway.core.retirement import ServingSet
from gateway.core.sent import Candidate

Pair = tuple[Candidate, Estimate]
Ordered = tuple[tuple[Candidate, ...], tuple[Estimate, ...]]

# Typical answers are far shorter than their cap, so deployments are compared by this many tokens at most.
LIKELY_OUTPUT_TOKENS = 256


class Sorting(msgspec.Struct, frozen=True, gc=False):
    """What an objective is applied to: the model, when, for whom (`unit`), and who serves for whom."""

    model: Model
    moment: Moment
    unit: str | None
    serving: ServingSet

    def shares(self, given: Mapping[str, float]) -> Mapping[str, float]:
        """Weights or ratings of the file, handed on from the retired ones."""
        return self.serving.shares(given) if self.serving.serving_for else given


def in_order(
    by: Model | Rule, sorting: Sorting, candidates: tuple[Candidate, ...], estimates: tuple[Estimate, ...]
) -> Ordered:
    """Both as the objective of a model, or of one of its rules, wants them. Ties keep their order."""
    prefer = by.prefer
    if prefer is Objective.COST:
        ranks: list[Any] = list(map(likely_cost, candidates, estimates))
    elif prefer is Objective.LATENCY:
        now = sorting.moment.monotonic
        ranks = [
            one.replica_set.expected_seconds(min(expected.output, LIKELY_OUTPUT_TOKENS), now)
            for one, expected in zip(candidates, estimates, strict=True)
        ]
    elif prefer is Objective.QUALITY:
        quality = sorting.shares(sorting.model.quality)
        ranks = [
            (-quality.get(one.name, 0.0), likely_cost(one, expected))
            for one, expected in zip(candidates, estimates, strict=True)
        ]
    elif by.sticky and sorting.unit is not None:
        weights, key = sorting.shares(by.weights), f"{sorting.model.name}\0{sorting.unit}"
        ranks = [-_affinity(key, one.name, weights.get(one.name, 0.0)) for one in candidates]
    else:
        pairs = list(zip(candidates, estimates, strict=True))
        pairs = _drawn(pairs, sorting.shares(by.weights), sorting.moment.random)
        return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    # The least first. Places differ, so nothing behind them is ever compared.
    _, _, first, second = zip(*sorted(zip(ranks, count(), candidates, estimates, strict=False)), strict=True)
    return first, second


def likely_cost(candidate: Candidate, expected: Estimate) -> int:
    """What the request may cost there, for comparing, in millionths of a nano-USD."""
    input_rate, output_rate = candidate.compared
    output, standard = expected.output, candidate.price.standard
    if standard.above and candidate.compared == (standard.input, standard.output):
        standard = standard.for_input(expected.prompt)
        input_rate, output_rate = standard.input, standard.output
    return expected.prompt * input_rate + (min(LIKELY_OUTPUT_TOKENS, output)) * output_rate


def likely_nano(call: Call, candidate: Candidate, expected: Estimate) -> int:
    """What an answer of usual length costs there at its price, in nano-USD."""
    rates = candidate.price.standard.for_input(expected.prompt)
    output = min(expected.output, LIKELY_OUTPUT_TOKENS)
    return -(-(expected.prompt * rates.input + output * call.choices * rates.output) // 1_000_000)


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
