"""The part of a file that a report is made from: a mistake or a missing variable elsewhere is no obstacle."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.config.build import build_deployments
from gateway.config.load import Loaded, load
from gateway.config.payers import build_scopes, is_limited
from gateway.config.pools import pool_terms
from gateway.config.problems import Problem
from gateway.config.schema import Settings
from gateway.config.stand_ins import stand_in_but_for
from gateway.core.catalog import Deployment
from gateway.core.pool_cost import PoolTerms
from gateway.core.tenancy import Scope
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.tco.sources import TcoSources

# The ledger and the org's calendar; with them the budgets; with them what traffic may go to; with them who
# signs the audit log, and where its key is kept.
LEDGER = frozenset({"ledger", "org"})
BUDGETS = LEDGER | {"state", "teams", "features", "keys"}
DEPLOYMENTS = LEDGER | {"deployments", "zones"}
AUDIT = LEDGER | {"audit", "server"}

_READ_FROM = stand_in_but_for(("ledger",), ("state",), ("audit", "signing_key"))


@dataclass(frozen=True, slots=True)
class ReportFile:
    """Some sections of a file. `settings` has defaults for all others, and stand-ins for unset secrets."""

    loaded: Loaded
    settings: Settings

    @property
    def zone(self) -> ZoneInfo:
        """The org's time zone."""
        return ZoneInfo(self.settings.org.timezone)

    @property
    def ledger_url(self) -> str:
        return self.settings.ledger_url

    def scopes(self) -> tuple[Scope, ...]:
        """Whoever has a budget or a limit, in the order of the file. Needs BUDGETS."""
        return tuple(scope for scope in build_scopes(self.settings, self.zone).values() if is_limited(scope))

    def pools(self) -> tuple[PoolTerms, ...]:
        """What the own GPUs cost. Needs DEPLOYMENTS."""
        given = self.settings.deployments.items()
        return tuple(pool_terms(name, one, self.zone) for name, one in given if one.cost)

    def deployments(self) -> tuple[dict[str, Deployment], list[Problem]]:
        """All that can be served, and what is wrong with others. Needs DEPLOYMENTS."""
        problems: list[Problem] = []
        found = build_deployments(self.loaded, self.settings, PriceCatalogue(), self.zone, problems.append)
        return found, problems

    def tco_sources(self) -> tuple[TcoSources, list[Problem]]:
        """What the comparison of both sides is made from, and what is wrong. Needs DEPLOYMENTS."""
        deployments, problems = self.deployments()
        sources = TcoSources(
            ledger_url=self.ledger_url,
            time_zone=self.zone,
            deployments=tuple(deployments.values()),
            pools=self.pools(),
        )
        return sources, problems


def read_report_file(
    path: Path, environ: Mapping[str, str], sections: Collection[str]
) -> ReportFile | list[Problem]:
    """These `sections` of the file at `path`, or what is wrong in them."""
    loaded = load(path, environ, sections=sections, stand_in=_READ_FROM)
    return loaded.errors if loaded.settings is None else ReportFile(loaded, loaded.settings)
