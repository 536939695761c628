"""Reads plain conditions from their text. Whatever goes beyond them is left to the engine, which is right.

Only what the engine has type-checked may be parsed here.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.core.conditions import (
    COMPARISONS,
    Always,
    Compared,
    Condition,
    Constant,
    Contains,
    Joined,
    Not,
    OneOf,
)

_TOKEN: Final = re.compile(
    r"""\s+|//[^\n]*
    |(?P<text>[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    |(?P<number>\d+\.\d+(?:[eE][+-]?\d+)?|\d+)(?![\w.])
    |(?P<word>[A-Za-z_]\w*)
    |(?P<sign>==|!=|<=|>=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
LARGEST_INT: Final = 2**63 - 1


class Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    column: int


def tokens(source: str) -> list[Token]:
    """The words and signs of a CEL expression; columns count from 1 over the whole text."""
    return [
        Token(found.lastgroup, found[0], found.start() + 1)
        for found in _TOKEN.finditer(source)
        if found.lastgroup is not None
    ]


def literal(text: str) -> str | None:
    """The value of a string token without escapes; None for one with escapes, or longer than a line."""
    if "\\" in text or text[0] not in "\"'" or text[:3] in ('"""', "'''"):
        return None
    return text[1:-1]


def selections(source: str, root: str) -> list[tuple[tuple[str, ...], int]]:
    """Each `root.a.b` or `root["a"].b` in `source`: its names after the root, and its column."""
    found = []
    words = tokens(source)
    for index, token in enumerate(words):
        within = index > 0 and words[index - 1].text == "."
        if token.kind == "word" and token.text == root and not within:
            reader = _ConditionParser(words, set())
            reader.at = index + 1
            found.append((reader.names(), token.column))
    return found


def parse(source: str, always_there: Callable[[tuple[str, ...]], bool]) -> Condition | None:
    """The condition, or None when it is not plain.

    `always_there` says of a path whether each request has it: one that may be missing is left to the engine,
    whose errors have rules of their own.
    """
    reader = _ConditionParser(tokens(source), set())
    try:
        condition = reader.any_of()
    except (_NotPlainError, RecursionError):
        return None
    if reader.at != len(reader.tokens) or not all(always_there(path) for path in reader.paths):
        return None
    return condition


class _NotPlainError(Exception):
    """The expression goes beyond what is read here."""


class _ConditionParser:
    """Recursive descent over the tokens. `paths` are those that were read."""

    def __init__(self, found: list[Token], paths: set[tuple[str, ...]]) -> None:
        self.tokens = found
        self.paths = paths
        self.at = 0

    def any_of(self) -> Condition:
        return self._joined("||", self._all_of, all_of=False)

    def names(self) -> tuple[str, ...]:
        """What follows a variable: `.name` and `["name"]`, as far as it goes."""
        names: list[str] = []
        while True:
            if self._next() == "." and self._kind(1) == "word" and self._next(2) != "(":
                names.append(self._next(1))
                self.at += 2
            elif self._next() == "[" and self._kind(1) == "text" and self._next(2) == "]":
                name = literal(self._next(1))
                if name is None:
                    return tuple(names)
                names.append(name)
                self.at += 3
            else:
                return tuple(names)

    def _all_of(self) -> Condition:
        return self._joined("&&", self._negated, all_of=True)

    def _joined(self, sign: str, part: Callable[[], Condition], *, all_of: bool) -> Condition:
        parts = [part()]
        while self._next() == sign:
            self.at += 1
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(all_of, tuple(parts))

    def _negated(self) -> Condition:
        if self._take("!"):
            return Not(self._negated())
        if self._take("("):
            inner = self.any_of()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        if self._kind() == "word" and self._next() not in ("true", "false"):
            return self._of_a_variable()
        constant = self._constant()
        sign = self._next()
        if sign == "in":
            self.at += 1
            return Contains(self._path(), constant)
        if sign in _MIRRORED:
            self.at += 1
            return Compared(self._path(), _MIRRORED[sign], constant)
        if isinstance(constant, bool):
            return Always(constant)
        raise _NotPlainError

    def _of_a_variable(self) -> Condition:
        path = self._path()
        sign = self._next()
        if sign in COMPARISONS:
            self.at += 1
            return Compared(path, sign, self._constant())
        if sign == "in":
            self.at += 1
            return OneOf(path, self._constants())
        return Compared(path, "==", True)  # a variable alone is one that is true or false

    def _path(self) -> tuple[str, ...]:
        if self._kind() != "word":
            raise _NotPlainError
        root = self._next()
        self.at += 1
        if self._next() == "(":
            raise _NotPlainError
        path = (root, *self.names())
        self.paths.add(path)
        return path

    def _constants(self) -> tuple[Constant, ...]:
        self._expect("[")
        found = [self._constant()]
        while self._take(","):
            found.append(self._constant())
        self._expect("]")
        if len({type(item) for item in found}) > 1:
            raise _NotPlainError  # 1 is true to Python, and not to CEL
        return tuple(found)

    def _constant(self) -> Constant:
        sign = -1 if self._take("-") else 1
        kind, text = self._kind(), self._next()
        self.at += 1
        if kind == "number":
            number = float(text) if "." in text else int(text)
            if isinstance(number, int) and number > LARGEST_INT:
                raise _NotPlainError
            return sign * number
        if sign == 1 and text in ("true", "false"):
            return text == "true"
        value = literal(text) if kind == "text" and sign == 1 else None
        if value is None:
            raise _NotPlainError
        return value

    def _next(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text if index < len(self.tokens) else ""

    def _kind(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].kind if index < len(self.tokens) else ""

    def _take(self, sign: str) -> bool:
        if self._kind() == "sign" and self._next() == sign:
            self.at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _NotPlainError
