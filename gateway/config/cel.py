"""Conditions of rules in CEL, type-checked when they are compiled.

Plain comparisons, which most rules are made of, are evaluated without the engine (core/conditions.py).
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import structlog
from cel_expr_python import cel

from gateway.core import condition_text, conditions
from gateway.core.catalog import Rule, RuleSet
from gateway.core.facts import BUDGET_NAMES, POOL_NAMES, TIME_NAMES, VARIABLES

_log = structlog.get_logger("tollway.cel")

_POSITION: Final = re.compile(r"<input>:(\d+):(\d+): (.*)")
_CONTAINER: Final = re.compile(r" \(in container '[^']*'\)")
# What is often written where CEL wants something else, by what the engine says of it.
_WRITE_INSTEAD: Final = (
    (re.compile(r"token recognition error at: '= ?"), "write == to compare"),
    (re.compile(r"token recognition error at: '& ?"), "write && for and"),
    (re.compile(r"token recognition error at: '\| ?"), "write || for or"),
    (re.compile(r"mismatched input 'and'|extraneous input 'and'"), "write && for and"),
    (re.compile(r"mismatched input 'or'|extraneous input 'or'"), "write || for or"),
    (
        re.compile(r"'_[<>=!]+_' applied to '\((double, int|int, double)\)'"),
        "write both with a point, as 0.8 or 80.0",
    ),
    (re.compile(r"'_[<>=!]+_' applied to '\(int, string\)'"), "a number is written without quotes"),
    (re.compile(r"'_[<>=!]+_' applied to '\(string, int\)'"), "a text is written in quotes"),
)
_NOT: Final = re.compile(r"\bnot\s+[A-Za-z_(]")
_HYPHEN: Final = re.compile(r"\b(pool|tags)\.([A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)+)")
_UNDECLARED: Final = re.compile(r"undeclared reference to '(\w+)'")

# Takes facts by variable, and gives the number of the first rule that holds; 0 for none.
_FirstMatch = Callable[[Mapping[str, object]], int]


class ConditionError(Exception):
    """The expression does not compile. The message names the column and what is wrong there."""


class CelCompiler:
    """Compiles expressions over the declared variables of a request."""

    def __init__(self, pools: Iterable[str] | None = None) -> None:
        """`pools`: the deployments that `pool` knows; None when they are not known here."""
        kinds = cel.Type
        counts = kinds.Map(kinds.STRING, kinds.INT)
        self._types: dict[str, Any] = {
            "model": kinds.STRING,
            "feature": kinds.STRING,
            "team": kinds.STRING,
            "key": kinds.STRING,
            "privacy": kinds.STRING,
            "modalities": kinds.List(kinds.STRING),
            "tools": kinds.BOOL,
            "stream": kinds.BOOL,
            "prompt_tokens": kinds.INT,
            "max_output_tokens": kinds.INT,
            "tags": kinds.Map(kinds.STRING, kinds.STRING),
            "budget": kinds.Map(kinds.STRING, kinds.DOUBLE),
            "pool": kinds.Map(kinds.STRING, counts),
            "time": counts,
        }
        self._environment = cel.NewEnv(variables=self._types)
        self._pools = None if pools is None else tuple(pools)

    @property
    def variables(self) -> list[str]:
        return list(self._types)

    def check(self, source: str) -> None:
        """Raises ConditionError when `source` does not compile, or its result is no boolean.

        A name within `budget`, `time` or `pool` that no request will ever have is an error as well.
        """
        kind = self._compile(source).return_type()
        if kind != cel.Type.BOOL:
            raise ConditionError(f"must be true or false, but this is of type {kind.name().lower()}")
        for root, levels in self._names_within().items():
            for names, column in condition_text.selections(source, root):
                for name, known in zip(names, levels, strict=False):
                    if known is not None and name not in known:
                        raise ConditionError(f"column {column}: {root} has no '{name}'{_hint(name, known)}")

    def plain(self, source: str) -> conditions.Condition | None:
        """`source` as a plain condition; None when only the engine can evaluate it."""
        return condition_text.parse(source, self._is_always_there)

    def rule_set(self, rules: tuple[Rule, ...]) -> RuleSet:
        """All rules as one function: plain ones are compared, each run of others is one run of the engine."""
        steps: list[_FirstMatch] = []
        used: list[str] = []
        plain = {rule.number: self.plain(rule.when) for rule in rules}
        for is_plain, group in itertools.groupby(rules, key=lambda rule: plain[rule.number] is not None):
            members = tuple(group)
            if is_plain:
                pairs = [(rule.number, plain[rule.number]) for rule in members]
                steps.append(conditions.first_of([(number, item) for number, item in pairs if item]))
            else:
                steps += self._engine_steps(members)
            used += self._used(members)
        variables = tuple(name for name in self._types if name in used)
        first_match = steps[0] if len(steps) == 1 else _first_of(tuple(steps))
        return RuleSet(rules, variables, first_match, tuple(plain[rule.number] for rule in rules))

    def _names_within(self) -> Mapping[str, tuple[tuple[str, ...] | None, ...]]:
        """For each variable with known names those of its levels; None: any."""
        return {"budget": (BUDGET_NAMES,), "time": (TIME_NAMES,), "pool": (self._pools, POOL_NAMES)}

    def _is_always_there(self, path: tuple[str, ...]) -> bool:
        root, *names = path
        if not names:
            return root in VARIABLES
        levels = self._names_within().get(root)
        if levels is None or len(names) != len(levels):
            return False
        return all(known is not None and name in known for name, known in zip(names, levels, strict=True))

    def _used(self, rules: Iterable[Rule]) -> tuple[str, ...]:
        """The variables that `rules` name. Each costs a conversion, so the engine gets no others."""
        text = "\n".join(rule.when for rule in rules)
        return tuple(name for name in self._types if re.search(rf"\b{name}\b", text))

    def _engine_steps(self, rules: tuple[Rule, ...]) -> list[_FirstMatch]:
        """One expression that gives the number of the first of `rules` that holds: one run, not many.

        The engine bounds how deep an expression nests, so a long list takes several.
        """
        if len(rules) == 1:
            return [self._single_step(rules[0])]
        chain = "0"
        for rule in reversed(rules):
            chain = f"({rule.when}\n) ? {rule.number} : ({chain})"
        try:
            compiled = self._compile(chain)
        except ConditionError:
            middle = len(rules) // 2
            return self._engine_steps(rules[:middle]) + self._engine_steps(rules[middle:])
        return [self._chained_step(compiled.eval, rules)]

    def _single_step(self, rule: Rule) -> _FirstMatch:
        evaluate, used, number = self._compile(rule.when).eval, self._used([rule]), rule.number
        return lambda facts: (
            number if evaluate(data={name: facts[name] for name in used}).value() is True else 0
        )

    def _chained_step(self, evaluate: Callable[..., Any], rules: tuple[Rule, ...]) -> _FirstMatch:
        singly = [(rule.number, self._compile(rule.when)) for rule in rules]
        used = self._used(rules)

        def first_match(facts: Mapping[str, object]) -> int:
            named = {name: facts[name] for name in used}
            number = evaluate(data=named).value()
            if isinstance(number, int):
                return number
            # An error (a map without that key) in one rule is no match, and must not hide the rules after it.
            _log.debug("rule.not_evaluated", reason=str(number)[:200])
            for number, expression in singly:
                if expression.eval(data=named).value() is True:
                    return number
            return 0

        return first_match

    def _compile(self, source: str) -> Any:
        try:
            return self._environment.compile(source)
        except RuntimeError as exc:
            raise ConditionError(_explain(str(exc), self.variables, source)) from exc


def _first_of(steps: tuple[_FirstMatch, ...]) -> _FirstMatch:
    def first_match(facts: Mapping[str, object]) -> int:
        for step in steps:
            if number := step(facts):
                return number
        return 0

    return first_match


def _explain(error: str, variables: list[str], source: str) -> str:
    """What the engine says of `source`, with what to write instead where that is known."""
    if (hyphen := _HYPHEN.search(source)) is not None:
        root, name = hyphen.groups()
        return f'column {hyphen.start() + 1}: a name with a hyphen stands in brackets: {root}["{name}"]'
    found = _POSITION.search(error)
    if found is None:
        return error.splitlines()[0]
    message = _CONTAINER.sub("", found[3])
    if unknown := _UNDECLARED.search(message):
        message += _hint(unknown[1], variables)
    elif advice := next((text for said, text in _WRITE_INSTEAD if said.search(message)), None):
        message += f"; {advice}"
    elif "Syntax error" in message and _NOT.search(source):
        message += "; write ! for not"
    return f"column {found[2]}: {message}"


def _hint(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a name is near, and what is known."""
    listed = tuple(known)
    near = difflib.get_close_matches(name.lower(), listed, n=1, cutoff=0.6)
    meant = f"; did you mean '{near[0]}'?" if near else ";"
    return f"{meant} known are {', '.join(listed)}"
