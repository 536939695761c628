"""Plain conditions: comparisons of variables with constants, joined by `&&`, `||`, `!` and brackets.

They are a part of CEL that can be evaluated without the engine, in a fraction of its time, and that can be
reasoned about. `core/condition_text.py` reads them.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Facts = Mapping[str, Any]
Constant = str | int | float | bool

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Always(msgspec.Struct, frozen=True):
    """`true` or `false`."""

    value: bool


class Compared(msgspec.Struct, frozen=True):
    """A variable, or something within one, against a constant: `budget.used > 0.8`."""

    path: tuple[str, ...]
    sign: str
    constant: Constant


class OneOf(msgspec.Struct, frozen=True):
    """`feature in ["a", "b"]`."""

    path: tuple[str, ...]
    constants: tuple[Constant, ...]


class Holds(msgspec.Struct, frozen=True):
    """`"image" in modalities`."""

    path: tuple[str, ...]
    constant: Constant


class Not(msgspec.Struct, frozen=True):
    condition: "Condition"


class Joined(msgspec.Struct, frozen=True):
    """All of the conditions, or any of them."""

    all: bool
    conditions: tuple["Condition", ...]


Condition = Always | Compared | OneOf | Holds | Not | Joined


def compiled(condition: Condition) -> Callable[[Facts], bool]:
    """A function that tells whether `condition` holds for the facts of a request."""
    match condition:
        case Always(value):
            return lambda _: value
        case Compared(path, sign, constant):
            return _comparing(_reading(path), sign, constant)
        case OneOf(path, constants):
            read, options = _reading(path), frozenset(constants)
            return lambda facts: read(facts) in options
        case Holds(path, constant):
            read = _reading(path)
            return lambda facts: constant in read(facts)
        case Not(inner):
            holds = compiled(inner)
            return lambda facts: not holds(facts)
        case Joined(all_of, conditions):
            return _joining(all_of, [compiled(item) for item in conditions])


def _comparing(read: Callable[[Facts], Any], sign: str, constant: Constant) -> Callable[[Facts], bool]:
    if sign == "==":
        return lambda facts: bool(read(facts) == constant)
    compare = COMPARISONS[sign]
    return lambda facts: compare(read(facts), constant)


def _joining(all_of: bool, parts: list[Callable[[Facts], bool]]) -> Callable[[Facts], bool]:
    if len(parts) == 2:
        first, second = parts
        if all_of:
            return lambda facts: first(facts) and second(facts)
        return lambda facts: first(facts) or second(facts)
    quantifier = all if all_of else any
    return lambda facts: quantifier(part(facts) for part in parts)


def _reading(path: tuple[str, ...]) -> Callable[[Facts], Any]:
    if len(path) == 1:
        return operator.itemgetter(path[0])
    if len(path) == 2:
        root, name = path
        return lambda facts: facts[root][name]

    def read(facts: Facts) -> Any:
        value: Any = facts
        for name in path:
            value = value[name]
        return value

    return read


def could_hold(condition: Condition, known: Facts) -> bool | None:
    """Whether `condition` holds where only `known` variables are decided; None: it depends on the others."""
    match condition:
        case Always(value):
            return value
        case Not(inner):
            found = could_hold(inner, known)
            return None if found is None else not found
        case Joined(all_of, conditions):
            found_all = [could_hold(item, known) for item in conditions]
            if (not all_of) in found_all:
                return not all_of
            return None if None in found_all else all_of
        case Compared(path) | OneOf(path) | Holds(path):
            return compiled(condition)(known) if path[0] in known else None
