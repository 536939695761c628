"""The RE2 engine: linear time on any text. The only module that knows the `re2` package, which has no types.

Both classes take UTF-8 bytes: given a str, the wrapper would encode it and convert offsets on every call.
A call releases the GIL while it scans.
"""

from collections.abc import Iterable

import re2

# A budget, not an allocation. RE2 drops its state cache when the budget is used up and goes on.
_MAX_MEMORY_BYTES = 64 << 20


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.never_capture = True
    options.log_errors = False
    return options


class Pattern:
    """Whether one expression occurs anywhere in a text. Raises re2.error on a bad expression."""

    __slots__ = ("_compiled",)

    def __init__(self, expression: str) -> None:
        self._compiled = re2.compile(expression, _options())

    def occurs_in(self, text: bytes) -> bool:
        return self._compiled.search(text) is not None


class PatternSet:
    """Which of several expressions occur anywhere in a text, in one pass over it."""

    __slots__ = ("_compiled",)

    def __init__(self, expressions: Iterable[str]) -> None:
        self._compiled = re2.Set.SearchSet(_options())
        for expression in expressions:
            self._compiled.Add(expression)
        self._compiled.Compile()

    def matches(self, text: bytes) -> list[int] | None:
        """Positions of the expressions that occur, in no particular order; None when none does."""
        found: list[int] | None = self._compiled.Match(text)
        return found
