"""Who serves when: a deployment that has retired gives its place to its successors.

Between two retirements nothing changes, so what was worked out holds for the whole era.
"""

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.catalog import Deployment, Model


class Era(msgspec.Struct, frozen=True):
    """A time from `begins` to before `ends` (UTC seconds) in which the deployments `retired` have retired."""

    begins: float
    ends: float
    retired: frozenset[str]


def era_at(now: float, deployments: Iterable[Deployment]) -> Era:
    """The era in which `now` (UTC seconds) lies."""
    ends = {item.name: item.retires_at for item in deployments if item.retires_at is not None}
    return Era(
        begins=max((at for at in ends.values() if at <= now), default=float("-inf")),
        ends=min((at for at in ends.values() if at > now), default=float("inf")),
        retired=frozenset(name for name, at in ends.items() if at <= now),
    )


class ServingSet(msgspec.Struct, frozen=True):
    """The deployments of one model in one era, each retired one followed by those that took its place.

    `serving_for` has for each of the model's own the names that serve for it: itself, if it still serves.
    """

    deployments: tuple[Deployment, ...]
    serving_for: Mapping[str, tuple[str, ...]]

    def names_serving(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` of the file as they are to be read in this era, each once."""
        return tuple(dict.fromkeys(one for name in names for one in self.serving_for.get(name, (name,))))

    def shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """`weights` of the file, with what a retired deployment had given to the first in its place."""
        found: dict[str, float] = {}
        for name, weight in weights.items():
            first = self.serving_for.get(name, (name,))[:1]
            for one in first:
                found[one] = found.get(one, 0.0) + weight
        return found


def serving_set(model: Model, era: Era, deployments: Mapping[str, Deployment]) -> ServingSet:
    """Who serves `model` in `era`."""
    if era.retired.isdisjoint(item.name for item in model.use):
        return ServingSet(model.use, {})
    met: dict[str, Deployment] = {}
    serving_for = {
        item.name: tuple(dict.fromkeys(_serving(item, era, deployments, met, frozenset())))
        for item in model.use
    }
    return ServingSet(tuple(met.values()), serving_for)


def ever_serving(use: Iterable[Deployment], deployments: Mapping[str, Deployment]) -> list[Deployment]:
    """Those of a model, and those that take their place some day, each once."""
    serving = {item.name: item for item in use}
    waiting = list(serving.values())
    while waiting:
        for name in waiting.pop().successors:
            if name not in serving and name in deployments:
                serving[name] = deployments[name]
                waiting.append(serving[name])
    return list(serving.values())


def _serving(
    item: Deployment,
    era: Era,
    deployments: Mapping[str, Deployment],
    met: dict[str, Deployment],
    before: frozenset[str],
) -> list[str]:
    """`item`, or those that took its place; everybody on the way is added to `met`."""
    met.setdefault(item.name, item)
    if item.name not in era.retired:
        return [item.name]
    before |= {item.name}
    return [
        name
        for successor in item.successors
        if successor in deployments and successor not in before
        for name in _serving(deployments[successor], era, deployments, met, before)
    ]
