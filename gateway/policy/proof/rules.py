"""Rules that nobody ever meets, that an earlier one always takes the place of, or that only refuse."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.build import Built
from gateway.core.catalog import Capability, Model, Rule
from gateway.core.conditions import Compared, Condition, Joined, could_hold
from gateway.policy.proof.results import RuleFinding
from gateway.policy.proof.space import Space, known_facts

_BOUNDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">": operator.ge,
    ">=": operator.ge,
    "<": operator.le,
    "<=": operator.le,
}


@dataclass(slots=True)
class RuleReport:
    """Findings about rules so far."""

    unreachable: list[RuleFinding] = field(default_factory=list)
    shadowed: list[RuleFinding] = field(default_factory=list)
    dead_ends: list[RuleFinding] = field(default_factory=list)


def report_rules(space: Space, built: Built, report: RuleReport) -> None:
    """Add what is to be said about the rules of one model."""
    model = space.model
    if model.rules is None:
        return
    can_hold, can_decide, dead_ends = _reachable(space, built)
    for rule in model.rules.rules:
        if rule.number not in can_hold:
            reason = "no key, feature, class and kind of request can make its condition true"
            report.unreachable.append(_finding(model, rule, reason))
        elif (before := _covered_by(space, rule)) is not None:
            reason = f"rule {before.number} (line {before.line}) holds whenever it does, and comes first"
            report.shadowed.append(_finding(model, rule, reason))
        elif rule.number not in can_decide:
            report.shadowed.append(_finding(model, rule, "rules before it hold whenever it could"))
        elif classes := dead_ends.get(rule.number):
            allowed = ", ".join(rule.use)
            reason = (
                f"requests of class {', '.join(classes)} that match it are refused: none may reach {allowed}"
            )
            report.dead_ends.append(_finding(model, rule, reason))


def _finding(model: Model, rule: Rule, reason: str) -> RuleFinding:
    return RuleFinding(model=model.name, rule=rule.number, line=rule.line, when=rule.when, reason=reason)


def _reachable(space: Space, built: Built) -> tuple[set[int], set[int], dict[int, list[str]]]:
    """The rules whose condition can hold, those that can be the first, and the classes each only refuses."""
    can_hold: set[int] = set()
    can_decide: set[int] = set()
    dead_ends: dict[int, list[str]] = {}
    kinds = {(kind.modalities, Capability.TOOLS in kind.needs) for kind in space.kinds()}
    for principal in space.principals:
        for privacy in space.classes(principal):
            for modalities, tools in kinds:
                known = known_facts(space.model, principal, privacy, modalities, tools)
                for number, condition in enumerate(space.conditions, 1):
                    if condition is None or could_hold(condition, known) is not False:
                        can_hold.add(number)
                for number in space.possible_rules(principal, privacy, modalities, tools):
                    can_decide.add(number)
                    if number and _only_refuses(space.model, number, privacy, built):
                        classes = dead_ends.setdefault(number, [])
                        classes += [] if privacy in classes else [privacy]
    return can_hold, can_decide, dead_ends


def _only_refuses(model: Model, number: int, privacy: str, built: Built) -> bool:
    rule = model.rules.rules[number - 1] if model.rules else None
    if rule is None or rule.refuse is not None:
        return False
    zones = built.policy.zones[privacy]
    outside = all(built.settings.deployments[name].zone not in zones for name in rule.use)
    # Where the whole model is closed to the class, it is not the rule that refuses.
    return outside and any(item.zone in zones for item in model.use)


def _covered_by(space: Space, rule: Rule) -> Rule | None:
    """An earlier rule that holds whenever `rule` does, as far as its text tells."""
    condition = space.conditions[rule.number - 1]
    rules = space.model.rules.rules if space.model.rules else ()
    for earlier in rules[: rule.number - 1]:
        other = space.conditions[earlier.number - 1]
        if earlier.when == rule.when:
            return earlier
        if condition is not None and other is not None and _implies(condition, other):
            return earlier
    return None


def _implies(condition: Condition, other: Condition) -> bool:
    """Whether `other` surely holds wherever `condition` does. False when it is not plain to see."""
    if condition == other:
        return True
    if isinstance(other, Joined):
        quantifier = all if other.all else any
        if quantifier(_implies(condition, part) for part in other.conditions):
            return True
    if isinstance(condition, Joined):
        quantifier = any if condition.all else all
        return quantifier(_implies(part, other) for part in condition.conditions)
    if isinstance(condition, Compared) and isinstance(other, Compared) and condition.path == other.path:
        return _bound_implies(condition, other)
    return False


def _bound_implies(condition: Compared, other: Compared) -> bool:
    """`x > 20` implies `x > 10` and `x >= 20`, `x == 30` implies `x > 10`."""
    if condition.sign == "==":
        return could_hold(other, _nested(condition.path, condition.constant)) is True
    upward = {">", ">="}
    if condition.sign not in _BOUNDS or other.sign not in _BOUNDS:
        return False
    if (condition.sign in upward) != (other.sign in upward):
        return False
    if condition.constant == other.constant:
        return condition.sign == other.sign or len(other.sign) == 2
    return _BOUNDS[other.sign](condition.constant, other.constant)


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)
