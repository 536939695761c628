"""Who asks and who pays: a key belongs to a feature, a feature to a team, a team to the org."""

from zoneinfo import ZoneInfo

import msgspec

from gateway.core.windows import Per


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Rate limits of one scope; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class Budget(msgspec.Struct, frozen=True):
    """At most `nano_usd` in each window of kind `per`."""

    nano_usd: int
    per: Per


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """One holder of limits and budgets: kind is key, feature, team or org."""

    kind: str
    name: str
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.name}"


class Principal(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An authenticated key acting for one feature. Compared and hashed by identity: one object per pair.

    `scopes` are those of key, feature, team and org that have a limit or a budget.
    `floor` is the least privacy class that this pair's requests have. `models` None: all models.
    """

    key: str
    feature: str
    team: str
    org: str
    floor: str
    models: frozenset[str] | None
    scopes: tuple[Scope, ...]

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stored key: the HMAC of its secret, and a principal for each feature that it may act for."""

    name: str
    digest: bytes
    default: Principal
    by_feature: dict[str, Principal]
    expires_at: float | None = None


class Tenancy(msgspec.Struct, frozen=True, kw_only=True):
    """All keys by digest. Looking a digest up tells nothing about other keys' secrets."""

    keys: dict[bytes, KeyEntry]
    pepper: bytes
    time_zone: ZoneInfo
