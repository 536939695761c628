"""From settings to what the pipeline reads: policy, tenancy and screenings, in the core's values.

What can only be known here (a condition that does not compile, a price that nobody lists) is reported like
any other problem of the file: all at once, with line and path.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from msgspec import structs

from gateway.config import catalogue as schema
from gateway.config import tenancy as payers
from gateway.config.cel import CelCompiler, ConditionError
from gateway.config.deployments import DeploymentError, build_deployment, end_of_day, parse_networks
from gateway.config.load import Loaded
from gateway.config.pools import pool_terms
from gateway.config.problems import Problem
from gateway.config.redacted import KeptText, kept_text
from gateway.config.schema import Settings
from gateway.config.screening import build_screenings
from gateway.core import catalog
from gateway.core.licenses import conflict
from gateway.core.money import nano_from_usd
from gateway.core.policy import Policy
from gateway.core.pool_cost import PoolTerms
from gateway.core.screening import Screenings
from gateway.core.tenancy import Budget, KeyEntry, Limits, Override, Principal, Scope, Tenancy
from gateway.core.windows import Per
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.tco.sources import TcoSources
from gateway.proxy.auth import digest


@dataclass(frozen=True, slots=True)
class Built:
    """One version of the configuration, ready to serve."""

    settings: Settings
    policy: Policy
    tenancy: Tenancy
    screenings: Screenings
    scopes: tuple[Scope, ...]
    version: str
    kept: KeptText
    pools: tuple[PoolTerms, ...] = ()

    @property
    def tco_sources(self) -> TcoSources:
        """What the comparison of both sides is made from."""
        return TcoSources(
            ledger_url=self.settings.ledger.get_secret_value(),
            time_zone=self.tenancy.time_zone,
            deployments=tuple(self.policy.deployments.values()),
            pools=self.pools,
        )


def build(loaded: Loaded, prices: PriceCatalogue) -> tuple[Built | None, list[Problem]]:
    """What to serve, or every problem that stands in the way of it."""
    if loaded.settings is None:
        return None, loaded.errors
    settings = loaded.settings
    zone = ZoneInfo(settings.org.timezone)
    problems: list[Problem] = []
    deployments = _deployments(loaded, settings, prices, zone, problems.append)
    models = _models(loaded, settings, deployments, problems.append)
    screenings = build_screenings(loaded, settings, problems.append)
    if problems:
        return None, problems
    policy = Policy(
        version=loaded.version,
        classes=settings.privacy.classes,
        default_class=settings.privacy.default,
        zones={name: frozenset(zones) for name, zones in settings.privacy.zones.items()},
        models=models,
        deployments=deployments,
        zone_lines=_zone_lines(loaded, settings.privacy.classes),
    )
    scopes = _scopes(settings, zone)
    return (
        Built(
            settings=settings,
            policy=policy,
            tenancy=_tenancy(settings, scopes, zone),
            screenings=screenings,
            scopes=tuple(scope for scope in scopes.values() if scope.budgets or _limited(scope)),
            version=loaded.version,
            kept=kept_text(loaded.text, loaded.root, settings),
            pools=tuple(
                pool_terms(name, given, zone) for name, given in settings.deployments.items() if given.cost
            ),
        ),
        [],
    )


def _deployments(
    loaded: Loaded,
    settings: Settings,
    prices: PriceCatalogue,
    zone: ZoneInfo,
    report: Callable[[Problem], None],
) -> dict[str, catalog.Deployment]:
    networks = {name: parse_networks(item.cidrs) for name, item in settings.zones.items()}
    deployments = {}
    for name, given in settings.deployments.items():
        if given.provider == "litellm" or not _has_address(given):
            continue  # not in force yet, which the loading has said; models that use it say it again
        try:
            deployment = loaded.proxies.applied(build_deployment(name, given, networks, prices, zone))
            deployments[name] = _in_its_file(deployment, given, loaded, settings)
        except DeploymentError as error:
            path = ("deployments", name, *error.field.split("."))
            report(loaded.problem(path, error.message))
    return deployments


def _in_its_file(
    deployment: catalog.Deployment, given: schema.Deployment, loaded: Loaded, settings: Settings
) -> catalog.Deployment:
    """The deployment with what the rest of the file says about it."""
    org = settings.org
    forbidden = None
    if org.license_conflicts == "forbid" and given.license is not None:
        forbidden = conflict(
            given.license,
            eu_domiciled=bool(org.licensee_eu_domiciled),
            monthly_users=org.monthly_users,
        )
    marginal = None if given.cost is None else nano_from_usd(given.cost.marginal_usd_per_million_tokens)
    where = ("deployments", deployment.name)
    return structs.replace(
        deployment,
        successors=_successors(deployment.name, given, settings),
        license_conflict=forbidden,
        marginal_rate=marginal,
        lines={field: loaded.line_of((*where, field)) for field in schema.Deployment.model_fields},
    )


def _successors(name: str, given: schema.Deployment, settings: Settings) -> tuple[str, ...]:
    """The deployments that take the place of `name`: the one that it names, or those of the model."""
    if given.successor is None:
        return ()
    if given.successor in settings.deployments:
        return (given.successor,)
    return tuple(item for item in settings.models[given.successor].use if item != name)


def _has_address(given: schema.Deployment) -> bool:
    return given.base_url is not None or (given.replicas is not None and given.replicas.urls is not None)


def _models(
    loaded: Loaded,
    settings: Settings,
    deployments: dict[str, catalog.Deployment],
    report: Callable[[Problem], None],
) -> dict[str, catalog.Model]:
    # A pool that is not in force yet has no facts, so nothing can be said about its name either.
    is_whole = len(deployments) == len(settings.deployments)
    compiler = CelCompiler(pools=deployments if is_whole else None)
    models = {}
    for name, given in settings.models.items():
        rules = []
        for index, rule in enumerate(given.rules):
            path = ("models", name, "rules", index, "when")
            try:
                compiler.check(rule.when)
            except ConditionError as error:
                report(loaded.problem(path, str(error)))
                continue
            rules.append(_rule(index + 1, loaded.line_of(path), rule))
        models[name] = catalog.Model(
            name=name,
            use=tuple(deployments[item] for item in given.use if item in deployments),
            prefer=catalog.Objective(given.prefer),
            weights=_shares(given.weights),
            sticky=given.sticky,
            quality=_shares(given.quality),
            marginal=given.local_cost == "marginal",
            rules=compiler.rule_set(tuple(rules)) if rules else None,
            created=int(time.time()),
            line=loaded.line_of(("models", name, "use")),
        )
    return models


def _rule(number: int, line: int, given: schema.Rule) -> catalog.Rule:
    return catalog.Rule(
        number,
        line,
        given.when,
        given.use,
        prefer=catalog.Objective(given.prefer),
        weights=_shares(given.weights),
        sticky=given.sticky,
        refuse=given.refuse,
    )


def _shares(given: Mapping[str, Decimal]) -> dict[str, float]:
    return {name: float(share) for name, share in given.items()}


def _zone_lines(loaded: Loaded, classes: Iterable[str]) -> dict[str, int]:
    """The line of each class in `privacy.zones`; none when the file says nothing about privacy."""
    zones = loaded.root["privacy"]["zones"]
    return {name: zones[name].line for name in classes if zones[name].node is not None}


def _scopes(settings: Settings, zone: ZoneInfo) -> dict[tuple[str, str], Scope]:
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
        webhook=budget.webhook,
        overrides=tuple(
            Override(nano_from_usd(item.usd), end_of_day(item.until, zone)) for item in budget.overrides
        ),
    )


def _limited(scope: Scope) -> bool:
    return scope.limits.any


def _tenancy(settings: Settings, scopes: dict[tuple[str, str], Scope], zone: ZoneInfo) -> Tenancy:
    pepper = settings.server.pepper()
    keys = {}
    for name, key in settings.keys.items():
        by_feature = {
            feature: _principal(settings, scopes, name, feature) for feature in (key.feature, *key.features)
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


def _principal(
    settings: Settings, scopes: dict[tuple[str, str], Scope], key_name: str, feature_name: str
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
        scopes=tuple(scope for scope in payers_of_request if scope.budgets or _limited(scope)),
    )
