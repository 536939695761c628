"""Conditions of rules in CEL, type-checked when they are compiled."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from cel_expr_python import cel

_log = structlog.get_logger("tollway.cel")

_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")
_CONTAINER = re.compile(r" \(in container '[^']*'\)")

Condition = Callable[[Mapping[str, object]], bool]


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

    def compile(self, source: str) -> Condition:
        """A condition over the variables. Raises ConditionError, also when its result is no boolean."""
        try:
            expression = self._environment.compile(source)
        except RuntimeError as exc:
            raise ConditionError(_explain(str(exc), self.variables)) from exc
        if expression.return_type() != cel.Type.BOOL:
            kind = expression.return_type().name().lower()
            raise ConditionError(f"must be true or false, but this is of type {kind}")
        # Each variable costs a conversion, so only those that the text names are handed over.
        used = tuple(name for name in self._types if re.search(rf"\b{name}\b", source))
        return _condition(expression, used, source)


def _condition(expression: Any, used: tuple[str, ...], source: str) -> Condition:
    evaluate = expression.eval

    def holds(facts: Mapping[str, object]) -> bool:
        # An error while evaluating (a missing map key) comes back as a value that is not True: no match.
        result = evaluate(data={name: facts[name] for name in used}).value()
        if result is not True and result is not False:
            _log.debug("rule.not_evaluated", when=source, reason=str(result)[:200])
        return result is True

    return holds


def _explain(error: str, variables: list[str]) -> str:
    found = _POSITION.search(error)
    if found is None:
        return error.splitlines()[0]
    message = _CONTAINER.sub("", found[3])
    if "undeclared reference" in message:
        message += f"; known are {', '.join(variables)}"
    return f"column {found[2]}: {message}"
