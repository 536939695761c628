"""The RE2 engine: linear time on any text. The only module that knows the `re2` package, which has no types.

The classes take UTF-8 bytes: given a str, the wrapper would encode it and convert offsets on every call.
A call releases the GIL while it scans.
"""

from collections.abc import Callable, Iterable, Iterator

import re2

Span = tuple[int, int]

# A budget, not an allocation. RE2 drops its state cache when the budget is used up and goes on.
_MAX_MEMORY_BYTES = 64 << 20

# Where one match begins and ends is looked for within so many bytes: a search from each of a million places
# to the end of the text would be quadratic, however linear each single one is.
_WINDOW_BYTES = 2_048


class BadExpression(ValueError):
    """An expression that RE2 does not take, and why."""


def _options(*, captures: bool = False) -> re2.Options:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.never_capture = not captures
    options.log_errors = False
    return options


class Pattern:
    """Whether one expression occurs anywhere in a text. Raises re2.error on a bad expression."""

    __slots__ = ("_compiled",)

    def __init__(self, expression: str) -> None:
        self._compiled = re2.compile(expression, _options())

    def occurs_in(self, text: bytes) -> bool:
        return self._compiled.search(text) is not None


def _with_hint(reason: str) -> str:
    if reason.startswith("invalid perl operator"):
        return f"{reason} (there is no look-around: put what stands around a value outside of a group)"
    if reason.startswith("invalid escape sequence"):
        return f"{reason} (there are no back-references)"
    return reason


class Finder:
    """Where one expression occurs. Raises BadExpression."""

    __slots__ = ("_compiled",)

    def __init__(self, expression: str) -> None:
        try:
            self._compiled = re2.compile(expression, _options(captures=True))
        except re2.error as exc:
            reason = exc.args[0] if exc.args else exc
            raise BadExpression(
                _with_hint(reason.decode() if isinstance(reason, bytes) else str(reason))
            ) from exc

    def spans(self, text: bytes, at: int = 0) -> Iterator[Span]:
        """First and last offset of each match from `at` on, or of its first group where it has one; leftmost
        first.

        Matches do not overlap. Those of up to 1,024 bytes are whole; a longer one may be found in part.
        """
        length = len(text)
        while at < length:
            match = self._compiled.search(text, at, at + _WINDOW_BYTES)
            if match is None:
                at += _WINDOW_BYTES // 2
                continue
            if match.start() > at + _WINDOW_BYTES // 2:
                at = match.start()  # the window may have cut it: again, with all of one
                continue
            group = 1 if match.re.groups and match.start(1) >= 0 else 0
            if match.end() > match.start():
                yield match.span(group)
            at = max(match.end(), at + 1)

    def occurs_in(self, text: bytes) -> bool:
        return self._compiled.search(text) is not None

    def is_whole(self, text: bytes) -> bool:
        """Whether it matches `text` from its beginning to its end."""
        return self._compiled.fullmatch(text) is not None


class PatternSet:
    """Which of several expressions occur anywhere in a text, in one pass over it. Raises BadExpression."""

    __slots__ = ("matches",)

    def __init__(self, expressions: Iterable[str]) -> None:
        compiled = re2.Set.SearchSet(_options())
        try:
            for expression in expressions:
                compiled.Add(expression)
            compiled.Compile()
        except re2.error as exc:
            raise BadExpression("the detectors together are too large for one pass") from exc
        # Positions of the expressions that occur, in no particular order; None or none when none does. Asked
        # for each request, so where it can be had without the wrapper's function, which only encodes a str.
        self.matches: Callable[[bytes], list[int] | None] = getattr(compiled, "_set", compiled).Match
