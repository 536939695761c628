"""Which differences between requests the rules of a model can see: those alike to them are judged once.

A rule that compares `prompt_tokens` with 20000 sees three sizes: below, equal, above. Such plain conditions
are taken apart; of one that goes beyond them, every value of what it reads counts as different.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.call import BYTES_PER_TOKEN
from gateway.core.catalog import Model
from gateway.core.condition_text import parse, selections
from gateway.core.conditions import Compared, Condition, Constant, Contains, Joined, Not, OneOf
from gateway.core.facts import POOL_NAMES, local_time
from gateway.core.record import RecordedFacts
from gateway.ledger.past_attempts import PastAttempt

View = Callable[[PastAttempt, RecordedFacts], Hashable]

MOST_WEIGHTS = 6
_MINUTE = 60 * 1_000_000
_tags_of = msgspec.json.Decoder(dict[str, str]).decode

# What any rule sees of a request, exactly. Facts that are the same for all requests of one kind (its model,
# modalities and capabilities) are no part of this.
_WHOLE: dict[str, View] = {
    "feature": lambda row, _: row.feature,
    "key": lambda row, _: row.key,
    "team": lambda row, _: row.feature,  # which has one team
    "stream": lambda row, _: row.stream,
    "prompt_tokens": lambda _, facts: facts.text_bytes // BYTES_PER_TOKEN,
    "tags": lambda row, _: row.tags,
    "budget": lambda _, facts: facts.budget,
    "pool": lambda _, facts: tuple(sorted(facts.pools.items())),
    "time": lambda row, _: row.at // _MINUTE,
}


def views_of(models: Iterable[tuple[Model, ZoneInfo]]) -> tuple[View, ...]:
    """What the rules of `models`, each in its time zone, see of a request."""
    found: list[View] = []
    for model, zone in models:
        sources = [rule.when for rule in model.rules.rules] if model.rules else []
        plain = {source: parse(source, lambda _: True) for source in sources}
        whole = {
            name
            for source, condition in plain.items()
            if condition is None
            for name in _WHOLE
            if selections(source, name)
        }
        found += [_WHOLE[name] for name in sorted(whole)]
        compared = _compared(condition for condition in plain.values() if condition is not None)
        found += _views({path: of for path, of in compared.items() if path[0] not in whole}, zone)
    return tuple(found)


def draws_of(weights: Mapping[str, float]) -> tuple[float, ...] | None:
    """Where the deployment that a draw falls on may change, whichever of those with `weights` are left.

    None when there are too many of them to say.
    """
    if len(weights) > MOST_WEIGHTS:
        return None
    edges = set()
    for count in range(2, len(weights) + 1):
        for left in combinations(weights.values(), count):
            total, reached = sum(left), 0.0
            for weight in sorted(left, reverse=True):
                reached += weight
                edges.add(reached / total if total else 1.0)
    return tuple(sorted(edges))


_Constants = dict[tuple[str, ...], set[Constant]]


def _compared(conditions: Iterable[Condition]) -> _Constants:
    """The constants that each variable is compared with."""
    constants: _Constants = defaultdict(set)
    for condition in conditions:
        for path, found in _comparisons(condition):
            constants[path].update(found)
    return constants


def _comparisons(condition: Condition) -> Iterator[tuple[tuple[str, ...], tuple[Constant, ...]]]:
    match condition:
        case Compared(path, _, constant) | Contains(path, constant):
            yield path, (constant,)
        case OneOf(path, constants):
            yield path, constants
        case Not(inner):
            yield from _comparisons(inner)
        case Joined(_, parts):
            for part in parts:
                yield from _comparisons(part)


def _views(constants: _Constants, zone: ZoneInfo) -> Iterator[View]:
    for path, values in constants.items():
        root, *names = path
        if root == "tags":
            # A tag may be missing, and `"x" in tags` is a constant of the map itself.
            for name in names or map(str, values):
                yield _tag(name)
        elif root == "time" and names:
            yield _of_minute(_steps(values), names[0], zone)
        elif root == "pool" and len(names) == 2:
            yield _of_pool(_steps(values), *names)
        elif root in ("prompt_tokens", "budget"):
            yield _of_number(_steps(values), root)
        elif root in _WHOLE:
            yield _WHOLE[root]


def _steps(values: set[Constant]) -> Callable[[Any], int]:
    """Tells numbers apart by which of `values` they are below, equal to or above."""
    numbers = sorted(value for value in values if isinstance(value, int | float))
    return lambda value: bisect_left(numbers, value) + bisect_right(numbers, value)


def _of_number(step: Callable[[Any], int], root: str) -> View:
    if root == "budget":
        return lambda _, facts: step(facts.budget)
    return lambda _, facts: step(facts.text_bytes // BYTES_PER_TOKEN + 1)


def _of_minute(step: Callable[[Any], int], name: str, zone: ZoneInfo) -> View:
    known: dict[int, int] = {}

    def view(row: PastAttempt, _: RecordedFacts) -> int:
        minute = row.at // _MINUTE
        found = known.get(minute)
        if found is None:
            found = known[minute] = step(local_time(minute * 60, zone)[name])
        return found

    return view


def _of_pool(step: Callable[[Any], int], pool: str, name: str) -> View:
    place = POOL_NAMES.index(name)

    def view(_: PastAttempt, facts: RecordedFacts) -> int | None:
        state = facts.pools.get(pool)
        return None if state is None else step(state[place])

    return view


def _tag(name: str) -> View:
    return lambda row, _: None if row.tags == "{}" else _tags_of(row.tags).get(name)
