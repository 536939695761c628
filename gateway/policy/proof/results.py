"""What a proof says."""

from typing import Any

import msgspec


class Hole(msgspec.Struct, frozen=True, kw_only=True, rename={"privacy": "class"}):
    """A request that shows it: one of class `privacy` can reach `zone`, which the file forbids.

    `path` says by which way. `request` has the headers and the body to send with a key of that name.
    """

    privacy: str
    zone: str
    deployment: str
    path: str
    line: int | None
    model: str
    key: str
    feature: str
    request: dict[str, Any]


class RuleFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that does not do what somebody wrote it for."""

    model: str
    rule: int
    line: int
    when: str
    reason: str


class Unusable(msgspec.Struct, frozen=True, kw_only=True):
    """A model that requests of a feature never get an answer from; feature "": those of no feature do.

    `on_purpose`: the file says so itself, by the models of its keys, its zones or its rules.
    """

    feature: str
    model: str
    reason: str
    on_purpose: bool


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """`proven`: there are no holes. `cases` is how many plans were looked at; `seconds` how long it took.

    `dead_ends` are rules that refuse whatever matches them for some class, because privacy allows none of
    the deployments that they leave.
    """

    proven: bool
    cases: int
    seconds: float
    holes: list[Hole]
    unreachable_rules: list[RuleFinding]
    shadowed_rules: list[RuleFinding]
    dead_ends: list[RuleFinding]
    unusable_models: list[Unusable]

    @property
    def findings(self) -> int:
        """How many things there are to look at that open no zone."""
        rules = len(self.unreachable_rules) + len(self.shadowed_rules) + len(self.dead_ends)
        return rules + sum(not item.on_purpose for item in self.unusable_models)
