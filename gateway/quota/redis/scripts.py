"""The Lua functions, loaded under names that carry a hash of their text.

During a rolling upgrade the old and the new version run side by side on one server, each called by its own
workers. Servers without FUNCTION (managed ones that forbid it) get the same text as EVAL scripts.

A Lua file writes `LIMIT.scope` for a position in a packed row; the number comes from layout.py and
replies.py. So both sides have one declaration, and a name that it lacks fails here, before anything is
loaded.
"""

import hashlib
import re
from collections.abc import Iterable
from importlib import resources

from gateway.quota.redis.layout import ARGUMENTS, KEYS, ROWS, STORED
from gateway.quota.redis.replies import REPLIES, REPLY_ROWS, LimitKind

CALLS = tuple(ARGUMENTS)
_FILES = (
    "common",
    "budgets",
    "rates",
    "holds",
    "admit",
    "settle",
    "renew",
    "lease",
    "upkeep",
    "rebuild",
)
# `LIMIT.scope`, but not within a longer name.
_NAME = re.compile(r"(?<![\w.])([A-Z][A-Z_]*)\.(\w+)")


def positions() -> dict[str, dict[str, str]]:
    """What each name in capitals stands for: Lua literals by field; positions begin at 1."""
    found = {"KEY": _numbered(key.rstrip(":") for key in KEYS)}
    for name, fields in STORED.items():
        found[name] = _numbered(fields) | {"size": str(len(fields))}
    found |= {call.upper(): _numbered(names) for call, names in ARGUMENTS.items()}
    found |= {name: _numbered(row.__struct_fields__) for name, row in (ROWS | REPLY_ROWS).items()}
    for name, reply in REPLIES.items():
        found[name] = _numbered(("tag", *reply.__struct_fields__))
        found[name]["tag"] = str(reply.__struct_config__.tag)
    found["LIMIT_KIND"] = {kind.name.lower(): f"'{kind}'" for kind in LimitKind}
    return found


def _numbered(names: Iterable[str]) -> dict[str, str]:
    return {name: str(number) for number, name in enumerate(names, 1)}


def filled(lua: str) -> str:
    """`lua` with a number for every declared position. Raises ValueError for one that is not declared."""
    known = positions()

    def number(match: re.Match[str]) -> str:
        try:
            return known[match[1]][match[2]]
        except KeyError:
            raise ValueError(f"{match[0]} is declared in neither layout.py nor replies.py") from None

    return _NAME.sub(number, lua)


def _text(name: str) -> str:
    folder = resources.files("gateway.quota.redis") / "lua"
    return (folder / f"{name}.lua").read_text("utf-8")


class Scripts:
    """The library and its names. `clock` replaces clock.lua, for tests that set the time."""

    def __init__(self, clock: str | None = None) -> None:
        body = filled("\n".join([_text("clock") if clock is None else clock, *map(_text, _FILES)]))
        # The name is no secret and needs no strength: it only keeps versions apart.
        version = hashlib.sha256(body.encode()).hexdigest()[:12]
        self.library = f"tollway_{version}"
        register = [f"redis.register_function('{self.library}_{call}', {call})" for call in CALLS]
        self.source = "\n".join([f"#!lua name={self.library}", body, *register, ""]).encode()
        self.functions = {call: f"{self.library}_{call}".encode() for call in CALLS}
        self.evals = {call: f"{body}\nreturn {call}(KEYS, ARGV)\n".encode() for call in CALLS}
        self.digests = {
            call: hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
            for call, text in self.evals.items()
        }
