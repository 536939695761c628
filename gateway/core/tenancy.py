"""Who asks and who pays: a key belongs to a feature, a feature to a team, a team to the org."""

from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo

import msgspec
from msgspec import structs

from gateway.core.overload import Priority
from gateway.core.windows import Per


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Rate limits of one scope; None is no limit. `shadow`: only count what would have been refused.

    `typical`: tokens are held for an answer of typical length, not for the longest that it can be.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    shadow: bool = False
    typical: bool = False

    @property
    def any(self) -> bool:
        return not (self.requests_per_minute is self.tokens_per_minute is self.concurrent is None)


class Override(msgspec.Struct, frozen=True):
    """Another limit of a budget, in force until `until` (UTC seconds)."""

    nano_usd: int
    until: float


class Budget(msgspec.Struct, frozen=True):
    """At most `nano_usd` in each window of kind `per`.

    `rolling`: the window is the time just gone, not one of the calendar. `soft`: refuses nothing. `alert_at`
    are per cent of the limit at which `webhook` is told. `overrides` change the limit for a time; of several
    in force the last one counts.
    """

    nano_usd: int
    per: Per
    rolling: bool = False
    soft: bool = False
    alert_at: tuple[int, ...] = ()
    webhook: str | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def window(self) -> str:
        """The name of its kind of window; a scope has at most one budget for each."""
        return f"rolling_{self.per}" if self.rolling else str(self.per)

    def counted_as(self, zone: ZoneInfo) -> str:
        """The name of its counters in a scope: calendar windows of another time zone are other windows."""
        everywhere = self.rolling or self.per is Per.LIFETIME
        return self.window if everywhere else f"{self.window}@{zone.key}"

    def limit_at(self, now: float) -> int:
        """The limit in force at `now` (UTC seconds), in nano-USD."""
        limit = self.nano_usd
        for override in self.overrides:
            if now < override.until:
                limit = override.nano_usd
        return limit

    def limit_until(self, now: float) -> float:
        """When the limit changes next (UTC seconds); infinity when it never does."""
        return min((item.until for item in self.overrides if now < item.until), default=float("inf"))


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
    `floor` is the least privacy class that this pair's requests have, and `floor_from` the place in the file
    that says so. `models` None: all models. `digest_key`: its clients' own values leave as digests under it.
    """

    key: str
    feature: str
    team: str
    org: str
    floor: str
    models: frozenset[str] | None
    scopes: tuple[Scope, ...]
    floor_from: str = "privacy.default"
    priority: Priority = Priority.INTERACTIVE
    digest_key: bytes = b""

    @property
    def labels(self) -> tuple[str, str, str, str]:
        """The labels of all that it belongs to, with or without limits."""
        return f"key:{self.key}", f"feature:{self.feature}", f"team:{self.team}", f"org:{self.org}"

    @property
    def typical_per_minute(self) -> int | None:
        """The tightest of its limits of tokens that hold a typical answer; None: it has none."""
        limits = [scope.limits for scope in self.scopes]
        return min(
            (one.tokens_per_minute for one in limits if one.typical and one.tokens_per_minute), default=None
        )

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
    """All keys by digest. Looking a digest up tells nothing about other keys' secrets.

    `keyless` has a principal for each feature, and for none (""), that samples are decided for where no key
    is named. Nothing authenticates as one.
    """

    keys: dict[bytes, KeyEntry]
    pepper: bytes
    time_zone: ZoneInfo
    keyless: dict[str, Principal] = {}

    def principals(self) -> Iterator[Principal]:
        """Everybody who can authenticate."""
        return (principal for entry in self.keys.values() for principal in entry.by_feature.values())

    def keeping(self, before: "Tenancy") -> "Tenancy":
        """The same, with the very principals of `before` where nothing about them has changed.

        What is kept for a principal, such as its account, then outlives a new configuration.
        """
        known = {structs.astuple(one): one for one in before.principals()}
        keys = {}
        for digest, entry in self.keys.items():
            by_feature = {
                feature: known.get(structs.astuple(one), one) for feature, one in entry.by_feature.items()
            }
            keys[digest] = structs.replace(
                entry, by_feature=by_feature, default=by_feature[entry.default.feature]
            )
        return structs.replace(self, keys=keys)


def changed_labels(before: Iterable[Scope], after: Iterable[Scope]) -> frozenset[str]:
    """The labels of scopes that have come, gone, or have other limits or budgets."""
    old, new = ({scope.label: scope for scope in scopes} for scopes in (before, after))
    return frozenset(label for label in old.keys() | new.keys() if old.get(label) != new.get(label))
