"""Floor 4: the object graph. Everything is built here, from a checked configuration, and nowhere else."""

import asyncio
import functools
import random
from collections.abc import Sequence

import httpx
import msgspec
import structlog

from gateway import __version__
from gateway.admin.operations import Operations
from gateway.admin.server import admin_app
from gateway.assembly import Listeners, listeners, names, request_ids, rulebook, signer, upstream
from gateway.clock import SystemClock
from gateway.config.build import Built
from gateway.config.problems import Problem
from gateway.config.screening import recognizer_settings
from gateway.core.audit import Denial, EntryKind
from gateway.core.balancing import Fleet
from gateway.core.pricing import PriceBook
from gateway.finance.pool_accrual import PoolAccrual, PoolUse
from gateway.finance.price_watch import PriceWatch
from gateway.http.server.connection import ServerConnection
from gateway.http.server.listening import Listening, url_of
from gateway.http.write_coalescer import WriteCoalescer
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal.ledger import JournaledLedger
from gateway.ledger.journal.opening import open_journaled_ledger
from gateway.ledger.policies import InForce, PolicyText
from gateway.ledger.retry import retry_until_available
from gateway.ledger.spending import spent_in_windows
from gateway.metrics.across import FamilySamples
from gateway.metrics.alerts import BudgetAlerts
from gateway.metrics.scrape import ScrapeSources
from gateway.metrics.telemetry import CONTENT_TYPE, PrometheusTelemetry
from gateway.policy.rollout.archive import PolicyArchive
from gateway.policy.rollout.config_file import ConfigFile
from gateway.policy.rollout.reloader import How, Reloader, ReloadRefused, Result
from gateway.ports import BudgetView
from gateway.privacy.service import EntityService
from gateway.proxy.attempt import Services
from gateway.proxy.failover import Relay
from gateway.proxy.handler import DataPlane
from gateway.proxy.pipeline import Pipeline
from gateway.quota.factory import open_admission
from gateway.replicas.health import HealthProber

_log = structlog.get_logger("tollway.app")

ADMIN_DRAIN_SECONDS = 1.0
# How long a reload waits for the ledger to say what its new budgets have spent.
BUDGET_SECONDS = 10.0


class Gateway:
    """A whole gateway in the running event loop: `start`, then `stop`. Raises PortTaken when made."""

    def __init__(
        self, built: Built, file: ConfigFile | None = None, sockets: Listeners | None = None
    ) -> None:
        """`file` is what `built` was read from; without it there is nothing to reload.

        `sockets` are those for the two ports; left out: they are opened as `built` says.
        """
        settings = built.settings
        server = settings.server
        self._clock = SystemClock()
        self._built = built
        self._upstream = upstream()
        coalescer = WriteCoalescer()
        self._ledger: JournaledLedger = open_journaled_ledger(
            settings.ledger.get_secret_value(),
            folder=server.journal_dir,
            sync=server.journal_sync,
            coalescer=coalescer,
            queue_rows=server.ledger_queue_rows,
            trail=AuditTrail(signer(built), self._clock.now, version=__version__),
        )
        self._admission = open_admission(
            state=settings.state.get_secret_value(),
            mode=settings.admission,
            lease_seconds=settings.lease_seconds,
            org=settings.org.name,
            clock=self._clock,
            zone=built.tenancy.time_zone,
            spent_in_windows=self._spent_in_windows,
            books=self._ledger,
            # Telemetry reads the store and the store tells telemetry: one of them has to wait for the other.
            shadowed=lambda scope, limit: self._telemetry.shadowed(scope, limit),  # noqa: PLW0108
        )
        self._prober = HealthProber(self._upstream)
        self._entities = EntityService(
            lambda sighting: self._telemetry.entities_looked_for(sighting)  # noqa: PLW0108
        )
        rules = rulebook(built, Fleet(built.policy.deployments.values()), self._entities)
        self._telemetry = PrometheusTelemetry(
            names=names(built),
            sources=ScrapeSources(
                budgets=self._admission.budgets,
                fleet=lambda: self.pipeline.rulebook.planner.fleet,
                ledger_lag_rows=self._ledger.lag_rows,
                ledger_writable=lambda: self._ledger.problem() is None and self._ledger.has_room(),
                policy_version=lambda: self.pipeline.rulebook.planner.policy.version,
            ),
            clock=self._clock,
            version=__version__,
        )
        relay = Relay(Services(self._upstream, self._admission, self._ledger, self._telemetry, self._clock))
        self.pipeline = Pipeline(
            rulebook=rules,
            admission=self._admission,
            ledger=self._ledger,
            relay=relay,
            telemetry=self._telemetry,
            clock=self._clock,
            random=random.random,
            denied=self._note_denial,
        )
        self._price_watch = PriceWatch(
            settings.ledger.get_secret_value(),
            self._adopt_prices,
            refresh_seconds=server.prices_refresh_seconds,
        )
        self._pool_accrual = PoolAccrual(
            settings.ledger.get_secret_value(), self._clock, self._telemetry.pool_booked, self._measure_pools
        )
        self._pool_accrual.configure(built.pools, built.tenancy.time_zone)
        self._alerts = BudgetAlerts(
            self._admission,
            built.scopes,
            settings.org.name,
            self._telemetry.budget_alerted,
            httpx.AsyncClient(),
        )
        self._archive = PolicyArchive(settings.ledger.get_secret_value())
        self.reloader = None if file is None else Reloader(file, built, self.adopt, self._count_reload)
        self._stopping = False
        self._waiting_for: str | None = None
        data_socket, admin_socket = sockets or listeners(built)
        self._data = Listening(
            DataPlane(self.pipeline, request_ids()),
            data_socket,
            drain_seconds=server.drain_seconds,
            protocol=functools.partial(ServerConnection, coalescer=coalescer),
        )
        operations = Operations(
            self.pipeline, self._ledger, lambda: self._built, self.book_pools, self.reloader, self._clock
        )
        token = server.admin.token
        admin = admin_app(
            token=None if token is None else token.get_secret_value(),
            metrics=self._telemetry.exposition,
            metrics_content_type=CONTENT_TYPE,
            ready=self.unready_reasons,
            version=__version__,
            routers=operations.routers(),
        )
        self._admin = Listening(admin, admin_socket, drain_seconds=ADMIN_DRAIN_SECONDS)

    @property
    def data_url(self) -> str:
        return url_of(self._built.settings.server.data.host, self._data.port)

    @property
    def admin_url(self) -> str:
        return url_of(self._built.settings.server.admin.host, self._admin.port)

    async def start(self, *, joins: bool = False) -> None:
        """Listen, open the ledger, and take up the prices and what was spent in the open windows.

        In this order: what dead workers left behind is part of the ledger first. While its database is
        unavailable `readyz` says so and requests are told to come back; how to answer them is not known yet.
        Raises LedgerUnusable when waiting would not help.

        `joins` others that serve already: it then takes no requests before it can answer them.
        """
        built = self._built
        try:
            self._admission.configure(built.scopes, built.tenancy.time_zone)
            self._entities.configure(recognizer_settings(built.settings))
            await self._admin.start()
            await self._prober.watch(self.pipeline.rulebook.planner.fleet)
            if not joins:
                await self._data.start()
            await retry_until_available(self._ledger.start, self._note_waiting)
            await retry_until_available(self._price_watch.start, self._note_waiting)
            await retry_until_available(self._admission.start, self._note_waiting)
            await retry_until_available(self._pool_accrual.start, self._note_waiting)
            self._alerts.start()
            self._archive.start()
            self._keep(built, How.START)
            self._ledger.note(EntryKind.ACT, {"act": "start", "policy": built.version})
            if self.reloader is not None:
                self.reloader.start()
            self.pipeline.opened.set()
            if joins:
                await self._data.start()
        except BaseException:
            await self.stop()
            raise
        _log.info("gateway.started", data=self.data_url, policy=built.version)

    async def start_unless(self, stop: asyncio.Event, *, joins: bool = False) -> bool:
        """As `start`. False when it was told to stop while it still waited for something."""
        starting = asyncio.ensure_future(self.start(joins=joins))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            starting.result()
            return True
        starting.cancel()
        await asyncio.wait({starting})
        return False

    async def stop(self) -> None:
        """Drain: no new requests, open ones finish within `drain_seconds`, then the ledger is flushed."""
        self._stopping = True
        _log.info("gateway.stopping")
        if self.reloader is not None:
            await self.reloader.close()
        try:
            await self._data.stop()
            await self._entities.close()
            await self._prober.close()
            await self._upstream.close()
            await self._alerts.close()
            await self._price_watch.close()
            await self._pool_accrual.close()
            await self._archive.close()
            await self._admission.close()
        finally:  # whatever of the above fails: rows that wait are saved, or it is said where they are
            try:
                await self._ledger.close()
            finally:
                await self._admin.stop()
        _log.info("gateway.stopped", rows_left=self._ledger.lag_rows())

    async def adopt(self, built: Built, how: How) -> None:
        """Serve `built` from now on; requests under way finish under the policy that they began with.

        Budgets first, because those that are new ask the ledger what was spent. After that nothing awaits
        in between, so no request sees half of it. What was learned of replicas that stay is
        kept. Settings that need a restart must be as they were. Raises ReloadRefused.
        """
        await self._adopt_budgets(built)
        fleet = Fleet(built.policy.deployments.values(), self.pipeline.rulebook.planner.fleet.replica_sets)
        rules = rulebook(built, fleet, self._entities)
        self._entities.configure(recognizer_settings(built.settings))
        self._telemetry.configure(names(built))
        self._alerts.configure(built.scopes)
        self._pool_accrual.configure(built.pools, built.tenancy.time_zone)
        self._built = built
        self.pipeline.rulebook = rules
        self._keep(built, how)
        self._price_watch.refresh_soon()
        self._ledger.note(EntryKind.ACT, {"act": "policy", "how": how, "version": built.version})
        await self._prober.watch(fleet)

    async def _adopt_budgets(self, built: Built) -> None:
        try:
            async with asyncio.timeout(BUDGET_SECONDS):
                await self._admission.reconfigure(built.scopes, built.tenancy.time_zone)
        except (LedgerUnavailable, TimeoutError) as exc:
            why = f"it cannot say what new budgets have spent ({exc or 'no answer'}); reload when it can"
            raise ReloadRefused(Result.UNAVAILABLE, [Problem(None, (), why, file="ledger")], []) from exc

    async def flush(self) -> None:
        """Return once the ledger holds everything that ended so far, and every version that served."""
        await self._ledger.flush()
        await self._archive.flush()

    async def book_pools(self) -> None:
        """Book what own GPUs have cost until now. Raises LedgerUnavailable."""
        await self._pool_accrual.refresh()

    async def refresh_prices(self) -> None:
        """Take up the prices that the ledger holds now. Raises LedgerUnavailable."""
        await self._price_watch.refresh()

    def unready_reasons(self) -> list[str]:
        """Why new requests should go elsewhere; empty when they should not."""
        reasons = ["shutting down"] if self._stopping else []
        if (problem := self._waiting_for or self._ledger.problem()) is not None:
            reasons.append(problem)
        elif not self.pipeline.opened.is_set():
            reasons.append("starting")
        elif not self._ledger.has_room():
            reasons.append(f"ledger: {self._ledger.lag_rows()} rows wait for a database that does not answer")
        if (problem := self._prober.problem()) is not None:
            reasons.append(problem)
        return reasons

    def metrics(self) -> list[FamilySamples]:
        """Every metric at this moment, to be added up with those of other workers."""
        return self._telemetry.samples()

    def _measure_pools(self, found: Sequence[PoolUse]) -> None:
        self._telemetry.pool_measured(
            {one.deployment: one.utilisation for one in found if one.utilisation is not None},
            {
                one.deployment: one.nano_usd_per_million_tokens
                for one in found
                if one.nano_usd_per_million_tokens is not None
            },
        )

    def _keep(self, built: Built, how: How) -> None:
        at = int(self._clock.now() * 1_000_000)
        text = PolicyText(
            version=built.version, text=built.redacted.text, whole=built.redacted.whole, kept_at=at
        )
        self._archive.note(text, InForce(at=at, version=built.version, how=how))

    def _note_denial(self, denial: Denial) -> None:
        self._ledger.note(EntryKind.REFUSED, msgspec.structs.asdict(denial))

    def _count_reload(self, result: Result) -> None:
        self._telemetry.reloaded(result, in_force=result.in_force)

    def _note_waiting(self, problem: str | None) -> None:
        if problem is not None and self._waiting_for is None:  # one line for each change of state
            _log.warning("gateway.waiting", problem=problem, data=self.data_url, admin=self.admin_url)
        self._waiting_for = problem

    def _adopt_prices(self, book: PriceBook) -> None:
        self.pipeline.prices = book

    async def _spent_in_windows(self, views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        # What has ended is in the ledger before it is asked.
        await self._ledger.flush()
        url = self._built.settings.ledger.get_secret_value()
        return await asyncio.to_thread(spent_in_windows, url, views)
