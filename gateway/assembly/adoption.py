"""What a running gateway does with another configuration."""

import asyncio
import dataclasses

import structlog

from gateway.assembly.building import body_bounds, names, refusal_allowances, rulebook, trusted_proxies
from gateway.assembly.graph import GatewayParts
from gateway.config.build import Built
from gateway.config.problems import Problem
from gateway.config.screening import recognizer_settings
from gateway.core.audit import EntryKind
from gateway.core.balancing import Fleet
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.policies import InForce, PolicyText
from gateway.policy.rollout.reloader import How, ReloadRefused, Result

_log = structlog.get_logger("tollway.app")

# How long a reload waits for the ledger to say what its new budgets have spent.
BUDGET_SECONDS = 10.0


class Adoption:
    """Brings configurations into force. `built` is the one in force."""

    def __init__(self, parts: GatewayParts, built: Built) -> None:
        self._parts = parts
        self.built = built

    async def adopt(self, built: Built, how: How) -> None:
        """Serve `built` from now on; requests under way finish under the policy that they began with.

        Budgets first, because those that are new ask the ledger what was spent. After that nothing awaits
        in between, so no request sees half of it. What was learned of replicas that stay is kept, and what is
        counted for keys about which nothing changes. Routes name the policy's version, so all are new.
        Settings that need a restart must be as they were. Raises ReloadRefused.
        """
        parts = self._parts
        built = dataclasses.replace(built, tenancy=built.tenancy.keeping(self.built.tenancy))
        await self._adopt_budgets(built)
        routes = parts.pipeline.rulebook.routes
        fleet = Fleet(built.policy.deployments.values(), routes.fleet)
        rules = rulebook(built, fleet, parts.entities, parts.images, routes.prices)
        parts.entities.configure(recognizer_settings(built.settings))
        parts.telemetry.configure(names(built))
        parts.body_bytes.configure(*body_bounds(built.settings.server))
        parts.clients.trusted = trusted_proxies(built.settings)
        parts.refusal_limits.configure(refusal_allowances(built.settings))
        parts.alerts.configure(built.scopes)
        parts.pool_accrual.configure(built.pools, built.tenancy.time_zone)
        self.built = built
        parts.pipeline.rulebook = rules
        self.archive(how)
        parts.price_watch.refresh_soon()
        parts.ledger.note(EntryKind.ACT, {"act": "policy", "how": how, "version": built.version})
        parts.progress.watch(fleet)
        await parts.prober.watch(fleet)

    def archive(self, how: How) -> None:
        """Have the ledger's database remember that `built` came into force now; say what is wrong with it."""
        built, at = self.built, int(self._parts.clock.now() * 1_000_000)
        self._parts.readiness.dangers = built.dangers
        for danger in built.dangers:
            _log.error("config.danger", what=danger, version=built.version)
        shown = built.redacted
        text = PolicyText(version=built.version, text=shown.text, whole=shown.whole, kept_at=at)
        self._parts.archive.note(text, InForce(at=at, version=built.version, how=how))

    async def _adopt_budgets(self, built: Built) -> None:
        try:
            async with asyncio.timeout(BUDGET_SECONDS):
                await self._parts.admission.reconfigure(
                    built.scopes, built.tenancy.time_zone, list(built.tenancy.principals())
                )
        except (LedgerUnavailable, TimeoutError) as exc:
            why = f"it cannot say what new budgets have spent ({exc or 'no answer'}); reload when it can"
            raise ReloadRefused(Result.UNAVAILABLE, [Problem(None, (), why, file="ledger")], []) from exc
