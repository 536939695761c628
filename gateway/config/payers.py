"""From settings to who pays: scopes with limits and budgets, and principals with their least class."""

import hmac
from zoneinfo import ZoneInfo

from gateway.config import tenancy as payers
from gateway.config.deployments import end_of_day
from gateway.config.schema import Settings
from gateway.core.money import nano_from_usd
from gateway.core.overload import Priority
from gateway.core.tenancy import Budget, KeyEntry, Limits, Override, Principal, Scope, Tenancy
from gateway.core.windows import Per
from gateway.proxy.auth import digest


def build_scopes(settings: Settings, zone: ZoneInfo) -> dict[tuple[str, str], Scope]:
    """Every scope that the file names, by kind and name."""
    scopes = {("org", settings.org.name): _scope("org", settings.org.name, settings.org, zone)}
    for kind, payers_of_kind in (
        ("team", settings.teams),
        ("feature", settings.features),
        ("key", settings.keys),
    ):
        for name, payer in payers_of_kind.items():
            scopes[kind, name] = _scope(kind, name, payer, zone)
    return scopes


def _scope(kind: str, name: str, payer: payers.Payer, zone: ZoneInfo) -> Scope:
    limits = payer.limits
    return Scope(
        kind=kind,
        name=name,
        limits=Limits(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            concurrent=limits.concurrent,
            shadow=limits.shadow,
            typical=limits.estimate == "typical",
        ),
        budgets=tuple(_budget(budget, zone) for budget in payer.budgets),
    )


def _budget(budget: payers.Budget, zone: ZoneInfo) -> Budget:
    return Budget(
        nano_usd=nano_from_usd(budget.usd),
        per=Per(budget.per),
        rolling=budget.rolling,
        soft=budget.soft,
        alert_at=tuple(sorted(set(budget.alert_at))),
        webhook=None if budget.webhook is None else budget.webhook.get_secret_value(),
        overrides=tuple(
            Override(nano_from_usd(item.usd), end_of_day(item.until, zone)) for item in budget.overrides
        ),
    )


def is_limited(scope: Scope) -> bool:
    """Whether admission has anything to do with it."""
    return bool(scope.budgets) or scope.limits.any


def build_tenancy(settings: Settings, scopes: dict[tuple[str, str], Scope], zone: ZoneInfo) -> Tenancy:
    pepper = settings.server.pepper()
    keys = {}
    for name, key in settings.keys.items():
        by_feature = {
            feature: _principal(settings, scopes, name, feature, _digest_key(pepper, name))
            for feature in (key.feature, *key.features)
        }
        entry = KeyEntry(
            name=name,
            digest=digest(pepper, key.secret.get_secret_value()),
            default=by_feature[key.feature],
            by_feature=by_feature,
            expires_at=None if key.expires_on is None else end_of_day(key.expires_on, zone),
        )
        keys[entry.digest] = entry
    keyless = {name: _keyless(settings, name) for name in ("", *settings.features)}
    return Tenancy(keys=keys, pepper=pepper, time_zone=zone, keyless=keyless)


def _keyless(settings: Settings, feature_name: str) -> Principal:
    feature = settings.features.get(feature_name)
    floor, floor_from = _floor(settings, None, feature_name)
    return Principal(
        key="",
        feature=feature_name,
        team=feature.team if feature else "",
        org=settings.org.name,
        floor=floor,
        floor_from=floor_from,
        models=None,
        scopes=(),
    )


def _floor(settings: Settings, key_name: str | None, feature_name: str) -> tuple[str, str]:
    """The least class of a key's requests for a feature, and the place in the file that says so."""
    privacy = settings.privacy
    floor, place = privacy.default, "privacy.default"
    feature = settings.features.get(feature_name)
    if feature is not None and feature.privacy is not None:
        floor, place = feature.privacy, f"features.{feature_name}.privacy"
    key = None if key_name is None else settings.keys[key_name]
    if key is not None and key.privacy is not None:
        rank = privacy.classes.index
        if rank(key.privacy) > rank(floor):
            floor, place = key.privacy, f"keys.{key_name}.privacy"
    return floor, place


def _digest_key(pepper: bytes, key_name: str) -> bytes:
    """The same in every gateway and after a restart, and nobody outside can try values against it."""
    return hmac.digest(pepper, b"digests of " + key_name.encode(), "sha256")


def _principal(
    settings: Settings,
    scopes: dict[tuple[str, str], Scope],
    key_name: str,
    feature_name: str,
    digest_key: bytes,
) -> Principal:
    key, feature = settings.keys[key_name], settings.features[feature_name]
    payers_of_request = (
        scopes["key", key_name],
        scopes["feature", feature_name],
        scopes["team", feature.team],
        scopes["org", settings.org.name],
    )
    floor, floor_from = _floor(settings, key_name, feature_name)
    return Principal(
        key=key_name,
        feature=feature_name,
        team=feature.team,
        org=settings.org.name,
        floor=floor,
        floor_from=floor_from,
        models=None if key.models is None else frozenset(key.models),
        scopes=tuple(scope for scope in payers_of_request if is_limited(scope)),
        priority=Priority(key.priority or feature.priority),
        digest_key=digest_key,
    )
