"""The Lua functions, loaded under names that carry a hash of their text.

During a rolling upgrade the old and the new version run side by side on one server, each called by its own
workers. Servers without FUNCTION (managed ones that forbid it) get the same text as EVAL scripts.
"""

import hashlib
from importlib import resources

CALLS = (
    "admit",
    "settle",
    "renew",
    "heartbeat",
    "sweep",
    "look",
    "peek",
    "claim",
    "lease",
    "hello",
    "adopt",
    "stand",
    "restore",
    "cover",
    "unclaim",
    "seat",
    "leave",
)
_FILES = ("common", "admit", "settle", "renew", "lease", "upkeep", "recovery")


def _text(name: str) -> str:
    folder = resources.files("gateway.quota.redis") / "lua"
    return (folder / f"{name}.lua").read_text("utf-8")


class Scripts:
    """The library and its names. `clock` replaces clock.lua, for tests that tell the time."""

    def __init__(self, clock: str | None = None) -> None:
        body = "\n".join([_text("clock") if clock is None else clock, *map(_text, _FILES)])
        # The name is no secret and needs no strength: it only tells versions apart.
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
