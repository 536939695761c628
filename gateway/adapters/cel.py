"""Conditions of rules in CEL, type-checked when they are compiled."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from cel_expr_python import cel

from gateway.core.catalog import Rule, RuleSet

_log = structlog.get_logger("tollway.cel")

_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")
_CONTAINER = re.compile(r" \(in container '[^']*'\)")


class ConditionError(Exception):
    """The expression does not compile. The message names the column and what is wrong there."""


class CelCompiler:
    """Compiles expressions over the declared variables of a request."""

    def __init__(self) -> None:
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

    @property
    def variables(self) -> list[str]:
        return list(self._types)

    def check(self, source: str) -> None:
        """Raises ConditionError when `source` does not compile, or its result is no boolean."""
        kind = self._compile(source).return_type()
        if kind != cel.Type.BOOL:
            raise ConditionError(f"must be true or false, but this is of type {kind.name().lower()}")

    def rule_set(self, rules: tuple[Rule, ...]) -> RuleSet:
        """All rules as one expression that gives the number of the first that holds: one run, not many."""
        chain = "0"
        for rule in reversed(rules):
            chain = f"({rule.when}\n) ? {rule.number} : ({chain})"
        text = "\n".join(rule.when for rule in rules)
        # Each variable costs a conversion, so only those that the text names are handed over.
        used = tuple(name for name in self._types if re.search(rf"\b{name}\b", text))
        return RuleSet(rules, used, self._first_match(self._compile(chain), rules))

    def _first_match(self, chain: Any, rules: tuple[Rule, ...]) -> Callable[[Mapping[str, object]], int]:
        evaluate = chain.eval
        singly = [(rule.number, self._compile(rule.when)) for rule in rules]

        def first_match(facts: Mapping[str, object]) -> int:
            number = evaluate(data=facts).value()
            if isinstance(number, int):
                return number
            # An error (a map without that key) in one rule is no match, and must not hide the rules after it.
            _log.debug("rule.not_evaluated", reason=str(number)[:200])
            for number, expression in singly:
                if expression.eval(data=facts).value() is True:
                    return number
            return 0

        return first_match

    def _compile(self, source: str) -> Any:
        try:
            return self._environment.compile(source)
        except RuntimeError as exc:
            raise ConditionError(_explain(str(exc), self.variables)) from exc


def _explain(error: str, variables: list[str]) -> str:
    found = _POSITION.search(error)
    if found is None:
        return error.splitlines()[0]
    message = _CONTAINER.sub("", found[3])
    if "undeclared reference" in message:
        message += f"; known are {', '.join(variables)}"
    return f"column {found[2]}: {message}"
