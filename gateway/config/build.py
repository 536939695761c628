"""From settings to what the pipeline reads: policy, tenancy and screenings, in the core's values.

What can only be known here (a condition that does not compile, a price that nobody lists) is reported like
any other problem of the file: all at once, with line and path.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from zoneinfo import ZoneInfo

from msgspec import structs

from gateway.config import catalogue as schema
from gateway.config.cel import CelCompiler, ConditionError
from gateway.config.consistency import dangers
from gateway.config.deployments import DeploymentError, build_deployment, parse_networks, tokenizer_of
from gateway.config.load import Loaded
from gateway.config.payers import build_scopes, build_tenancy, is_limited
from gateway.config.pools import pool_terms
from gateway.config.privacy import Zone
from gateway.config.problems import KeyPath, Problem
from gateway.config.redacted import RedactedText, redacted_text
from gateway.config.schema import Settings
from gateway.config.screening import ScreeningSource, build_screenings, screening_source
from gateway.config.telemetry import trace_settings
from gateway.core import catalog
from gateway.core.licenses import conflict
from gateway.core.money import nano_from_usd
from gateway.core.policy import Policy
from gateway.core.pool_cost import PoolTerms
from gateway.core.screening import Screenings
from gateway.core.tenancy import Scope, Tenancy
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.tco.sources import TcoSources
from gateway.metrics.tracing.settings import TraceSettings


@dataclass(frozen=True, slots=True)
class Built:
    """One version of the configuration, ready to serve. `dangers` are what nobody can mean, one line each."""

    settings: Settings
    policy: Policy
    tenancy: Tenancy
    screenings: Screenings
    screening_source: ScreeningSource
    scopes: tuple[Scope, ...]
    version: str
    redacted: RedactedText
    dangers: tuple[str, ...] = ()
    pools: tuple[PoolTerms, ...] = ()
    traces: TraceSettings | None = None

    @property
    def tco_sources(self) -> TcoSources:
        """What the comparison of both sides is made from."""
        return TcoSources(
            ledger_url=self.settings.ledger_url,
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
    deployments = build_deployments(loaded, settings, prices, zone, problems.append)
    models = _models(loaded, settings, deployments, problems.append)

    def report(path: KeyPath, message: str) -> None:
        problems.append(loaded.problem(path, message))

    source = screening_source(loaded, settings, report)
    screenings = build_screenings(source, report)
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
    scopes, traces = build_scopes(settings, zone), settings.telemetry.traces
    return (
        Built(
            settings=settings,
            policy=policy,
            tenancy=build_tenancy(settings, scopes, zone),
            screenings=screenings,
            screening_source=source,
            scopes=tuple(scope for scope in scopes.values() if is_limited(scope)),
            version=loaded.version,
            redacted=redacted_text(loaded.text, loaded.root, settings),
            dangers=tuple(f"{'.'.join(map(str, node.path))} {what}" for node, what in dangers(loaded.root)),
            pools=tuple(
                pool_terms(name, given, zone) for name, given in settings.deployments.items() if given.cost
            ),
            traces=None if traces is None else trace_settings(traces, loaded.proxies),
        ),
        [],
    )


def build_deployments(
    loaded: Loaded,
    settings: Settings,
    prices: PriceCatalogue,
    zone: ZoneInfo,
    report: Callable[[Problem], None],
) -> dict[str, catalog.Deployment]:
    """The deployments that can be served, by name; what is wrong with others is reported."""
    networks = {name: parse_networks(item.cidrs) for name, item in settings.zones.items()}
    deployments = {}
    for name, given in settings.deployments.items():
        if given.provider == "litellm" or not _has_address(given):
            continue  # not in force yet, which the loading has said; models that use it say it again
        try:
            deployment = loaded.proxies.applied(build_deployment(name, given, networks, prices, zone))
            deployments[name] = _with_file_context(deployment, given, loaded, settings)
        except DeploymentError as error:
            path = ("deployments", name, *error.field.split("."))
            report(loaded.problem(path, error.message))
    return deployments


def _with_file_context(
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
        tokenizer=tokenizer_of(given, Path(loaded.file).parent),
        successors=_successors(deployment.name, given, settings),
        license_conflict=forbidden,
        marginal_rate=marginal,
        in_own_zone=_is_own(settings.zones[deployment.zone]),
        lines={field: loaded.line_of((*where, field)) for field in schema.Deployment.model_fields},
    )


def _is_own(zone: Zone) -> bool:
    if zone.own is not None:
        return zone.own
    return bool(zone.cidrs) and all(ip_network(cidr).is_private for cidr in zone.cidrs)


def _successors(name: str, given: schema.Deployment, settings: Settings) -> tuple[str, ...]:
    """The deployments that take the place of `name`: the one that it names, or those of the model."""
    if given.successor is None:
        return ()
    if given.successor in settings.deployments:
        return (given.successor,)
    model = settings.models.get(given.successor)  # None where a report reads the deployments only
    return () if model is None else tuple(item for item in model.use if item != name)


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
    return {name: zones[name].line for name in classes if zones[name].parsed is not None}
