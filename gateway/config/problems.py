"""What is wrong in a file: where, and what to do about it, rendered the same way whoever finds it."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

KeyPath = tuple[str | int, ...]
Severity = Literal["error", "warning"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: KeyPath) -> str:
    """`path` as users read it: `models.auto.rules[0].use`; keys with a dot in them stand in quotes."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + _shown_key(part)
    return shown


def _shown_key(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    # A key is the file's own text, so it may hold anything: keep it on one line.
    return f'"{shorten(key)}"'


def shorten(text: str, most: int = 60) -> str:
    """`text` on one line and at most `most` characters long, for messages."""
    line = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error or warning. `line` counts from 1; None where the file itself cannot be read.

    `blocks_serving`: the file is valid, but serving it would not do what it says.
    """

    line: int | None
    path: KeyPath
    message: str
    file: str
    severity: Severity = "error"
    blocks_serving: bool = False

    def __str__(self) -> str:
        """`tollway.yaml:12: deployments.gpt-4o.price.input: must be >= 0`."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        kind = "warning: " if self.severity == "warning" else ""
        what = f"{dotted(self.path)}: " if self.path else ""
        return f"{where}: {kind}{what}{self.message}"


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """`problems` by line, each once."""
    return sorted(
        set(problems), key=lambda problem: (problem.line or 0, dotted(problem.path), problem.message)
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`did you mean 'zone'?`, or nothing when no known name is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(shorten(given).lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]!r}?" if near else ""


def either(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
