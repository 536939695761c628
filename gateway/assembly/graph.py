"""The object graph. Everything of one gateway is built here, from a checked configuration."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import __version__
from gateway.assembly.building import (
    MIB,
    body_bounds,
    names,
    port_states,
    refusal_allowances,
    rulebook,
    signing_seed,
    trusted_proxies,
    upstream,
)
from gateway.assembly.memory_release import MemoryRelease
from gateway.assembly.readiness import Readiness
from gateway.clock import SystemClock
from gateway.config.build import Built
from gateway.config.schema import Settings
from gateway.core.audit import Denial, EntryKind
from gateway.core.balancing import Fleet
from gateway.core.causes import EntityResult
from gateway.core.errors import BudgetExceeded
from gateway.core.overload import Priority
from gateway.core.pricing import PriceBook
from gateway.finance.pool_accrual import PoolAccrual, PoolUse
from gateway.finance.price_watch import PriceWatch
from gateway.http.client_address import ClientAddresses
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.port_state import PortState
from gateway.http.server.shedding import LoadShedder
from gateway.ledger.disks import DiskWatch
from gateway.ledger.journal.ledger import JournaledLedger
from gateway.ledger.journal.opening import folders_on_disk, open_journaled_ledger, writer_settings
from gateway.ledger.process.messages import WriterSettings
from gateway.ledger.process.owner import WriterOwner
from gateway.ledger.refused_retention import RefusedRetention
from gateway.ledger.spending import spent_in_windows
from gateway.metrics.access_log import AccessLog, RequestLines
from gateway.metrics.alerts import BudgetAlerts
from gateway.metrics.scrape import ScrapeSources
from gateway.metrics.telemetry import PrometheusTelemetry
from gateway.policy.rollout.archive import PolicyArchive
from gateway.ports import BudgetView, Upstream
from gateway.privacy.images import ImageFetcher
from gateway.privacy.service import EntityService
from gateway.proxy.attempt import Services
from gateway.proxy.failover import Relay
from gateway.proxy.large_bodies.reader import LargeBodyReader
from gateway.proxy.left_requests import LeavableRelay
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.refusal_limits import RefusalLimits
from gateway.proxy.unanswered import UnansweredRequests
from gateway.quota.factory import AnyAdmission, open_admission
from gateway.quota.memory import Shadowed
from gateway.replicas.health import HealthProber
from gateway.replicas.progress import ProgressWatch
from gateway.supervised import TaskRegistry
from gateway.tokenizers.counter import PromptCounter

if TYPE_CHECKING:
    import httpx

    from gateway.assembly.tracing import Tracing


class GatewayParts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one gateway is made of, not started yet.

    Many attributes: one for each part, in one place.
    """

    clock: SystemClock
    tasks: TaskRegistry
    coalescer: WriteCoalescer
    body_bytes: BodyBytes
    memory_release: MemoryRelease
    data_port: PortState
    admin_port: PortState
    upstream: Upstream
    ledger_writer: WriterOwner | None
    ledger: JournaledLedger
    disks: DiskWatch
    admission: AnyAdmission
    entities: EntityService
    images: ImageFetcher
    large_bodies: LargeBodyReader
    telemetry: PrometheusTelemetry
    tracing: "Tracing | None"
    clients: ClientAddresses
    refusal_limits: RefusalLimits
    pipeline: Pipeline
    prober: HealthProber
    progress: ProgressWatch
    price_watch: PriceWatch
    pool_accrual: PoolAccrual
    alerts: BudgetAlerts
    archive: PolicyArchive
    refused_retention: RefusedRetention
    readiness: Readiness
    shedder: LoadShedder


def build_parts(built: Built, writer_path: Path | None, request_lines: RequestLines | None) -> GatewayParts:
    """`writer_path` is where the ledger's writer listens; without one the gateway runs its own.

    `request_lines` is where the access log goes; without it there is none.

    Raises UnusableKey when the configured signing key is none.
    """
    clock, tasks, coalescer = SystemClock(), TaskRegistry(), WriteCoalescer()
    memory_release = MemoryRelease(tasks)
    data_port, admin_port = port_states(built.settings)
    client = upstream()
    owner = WriterOwner(ledger_writer_settings(built.settings), tasks) if writer_path is None else None
    ledger = _ledger(built, coalescer, _writer_address(owner, writer_path), tasks)

    url = built.settings.ledger_url
    disks = DiskWatch(folders_on_disk(url, built.settings.server.journal_dir), tasks)

    # Telemetry reads the store, and the store tells telemetry: one of them has to wait for the other.
    def shadowed(scope: str, limit: str) -> None:
        telemetry.shadowed(scope, limit)

    def counted(result: EntityResult) -> None:
        telemetry.entities_looked_for(result)

    def priority_of(headers: Mapping[bytes, bytes]) -> Priority:
        return pipeline.priority_of(headers)

    shedder = LoadShedder(built.settings.server.data.shed_after_seconds, priority_of, clock)
    admission = _admission(built, ledger, clock, shadowed, tasks)
    entities = EntityService(counted, tasks)
    clients = ClientAddresses(trusted_proxies(built.settings))
    limits = RefusalLimits(refusal_allowances(built.settings), clock)

    def is_open() -> bool:
        return pipeline.opened.is_set()

    readiness = Readiness(ledger, admission, disks, shedder, tasks, is_open)
    sources = ScrapeSources(
        budgets=admission.budgets,
        fleet=lambda: pipeline.rulebook.routes.fleet,
        ledger_lag_rows=ledger.lag_rows,
        ledger_writable=lambda: ledger.problem() is None and ledger.has_room(),
        ledger_writer=owner,
        ready=lambda: not readiness.reasons(),
        degraded=lambda: len(readiness.degraded()),
        disks=lambda: disks.space,
        event_loop_tasks=lambda: len(asyncio.all_tasks()),
        ports=(data_port, admin_port),
        policy_version=lambda: pipeline.rulebook.routes.policy.version,
        tasks=tasks,
        refusals_not_kept=lambda: pipeline.unanswered.not_kept,
        refusals_limited=lambda: limits.counts,
        log_lines_lost=lambda: 0 if request_lines is None else request_lines.output.lost,
        shedder=shedder,
    )

    def budget_refused(error: BudgetExceeded) -> None:
        alerts.refused(error)

    telemetry = PrometheusTelemetry(
        names=names(built), sources=sources, clock=clock, version=__version__, budget_refused=budget_refused
    )
    alerts = _alerts(built, admission, telemetry, tasks)
    most = built.settings.server.max_event_mib * MIB
    tracing = _tracing(built, telemetry, clock, tasks)
    told = telemetry if tracing is None else tracing.telemetry(telemetry)
    access_log = _access_log(built, request_lines, clients)
    images, large_bodies = ImageFetcher(), LargeBodyReader(tasks)
    services = Services(
        client,
        admission,
        ledger,
        told,
        clock,
        max_event_bytes=most,
        access_log=access_log,
        large_bodies=large_bodies,
    )
    unanswered = UnansweredRequests(
        keep=ledger.keep_refused,
        denied=_auditing(ledger),
        access_log=access_log,
        clock=clock,
        limits=limits,
        clients=clients,
    )
    pipeline = _pipeline(built, services, entities, images, unanswered, large_bodies)
    return GatewayParts(
        clock=clock,
        tasks=tasks,
        coalescer=coalescer,
        body_bytes=BodyBytes(*body_bounds(built.settings.server), memory_release.soon),
        memory_release=memory_release,
        data_port=data_port,
        admin_port=admin_port,
        upstream=client,
        ledger_writer=owner,
        ledger=ledger,
        disks=disks,
        admission=admission,
        entities=entities,
        images=images,
        large_bodies=large_bodies,
        telemetry=telemetry,
        tracing=tracing,
        clients=clients,
        refusal_limits=limits,
        pipeline=pipeline,
        prober=HealthProber(client, tasks),
        progress=ProgressWatch(client, clock, tasks),
        price_watch=_price_watch(built, pipeline, tasks),
        pool_accrual=_pool_accrual(built, telemetry, clock, tasks),
        alerts=alerts,
        archive=PolicyArchive(url, tasks),
        refused_retention=RefusedRetention(url, built.settings.server.refusals_kept_days, clock.now, tasks),
        readiness=readiness,
        shedder=shedder,
    )


def ledger_writer_settings(settings: Settings) -> WriterSettings:
    """What the process that writes the ledger has to know. Raises UnusableKey."""
    server = settings.server
    return writer_settings(
        settings.ledger_url,
        folder=server.journal_dir,
        sync=server.journal_sync,
        signing_seed=signing_seed(settings),
        log_level=server.log_level,
    )


def _writer_address(owner: WriterOwner | None, path: Path | None) -> Callable[[], Path]:
    """Where the writer listens: at a path that is known, or will be once the owner has started."""

    def address() -> Path:
        if path is not None:
            return path
        return owner.path if owner is not None else Path()

    return address


def _ledger(
    built: Built, coalescer: WriteCoalescer, address: Callable[[], Path], tasks: TaskRegistry
) -> JournaledLedger:
    server = built.settings.server
    return open_journaled_ledger(
        built.settings.ledger_url,
        address,
        folder=server.journal_dir,
        sync=server.journal_sync,
        coalescer=coalescer,
        queue_rows=server.ledger_queue_rows,
        tasks=tasks,
    )


def _admission(
    built: Built, ledger: JournaledLedger, clock: SystemClock, shadowed: Shadowed, tasks: TaskRegistry
) -> AnyAdmission:
    settings = built.settings

    async def spent(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        # What has ended is in the ledger before it is asked.
        await ledger.flush()
        return await asyncio.to_thread(spent_in_windows, settings.ledger_url, views)

    return open_admission(
        state=settings.state.get_secret_value(),
        mode=settings.admission,
        lease_seconds=settings.lease_seconds,
        timeout_seconds=settings.state_timeout_seconds,
        org=settings.org.name,
        clock=clock,
        zone=built.tenancy.time_zone,
        spent_in_windows=spent,
        books=ledger,
        shadowed=shadowed,
        tasks=tasks,
    )


def _tracing(
    built: Built, telemetry: PrometheusTelemetry, clock: SystemClock, tasks: TaskRegistry
) -> "Tracing | None":
    if built.traces is None:
        return None
    # Only then: OpenTelemetry takes a tenth of a second and memory.
    from gateway.assembly.tracing import Tracing  # noqa: PLC0415

    return Tracing(built.traces, telemetry.spans_ended, clock, tasks)


def _pipeline(
    built: Built,
    services: Services,
    entities: EntityService,
    images: ImageFetcher,
    unanswered: UnansweredRequests,
    large_bodies: LargeBodyReader,
) -> Pipeline:
    return Pipeline(
        rulebook=rulebook(built, Fleet(built.policy.deployments.values()), entities, images),
        admission=services.admission,
        ledger=services.ledger,
        relay=LeavableRelay(Relay(services)),
        telemetry=services.telemetry,
        clock=services.clock,
        random=random.random,
        unanswered=unanswered,
        counter=PromptCounter(services.upstream, services.clock),
        large_bodies=large_bodies,
    )


def _auditing(ledger: JournaledLedger) -> Callable[[Denial], None]:
    def audit_denial(denial: Denial) -> None:
        ledger.note(EntryKind.REFUSED, msgspec.to_builtins(denial))

    return audit_denial


def _access_log(built: Built, lines: RequestLines | None, clients: ClientAddresses) -> AccessLog | None:
    server = built.settings.server
    if lines is None or server.access_log == "off":
        return None
    return AccessLog(
        lines,
        writes_all=server.access_log == "all",
        sample=float(server.access_log_sample),
        random=random.random,
        clients=clients,
    )


def _price_watch(built: Built, pipeline: Pipeline, tasks: TaskRegistry) -> PriceWatch:
    def adopt(book: PriceBook) -> None:
        pipeline.take_prices(book)

    settings = built.settings
    return PriceWatch(
        settings.ledger_url,
        adopt,
        tasks,
        refresh_seconds=settings.server.prices_refresh_seconds,
    )


def _pool_accrual(
    built: Built, telemetry: PrometheusTelemetry, clock: SystemClock, tasks: TaskRegistry
) -> PoolAccrual:
    def measured(found: Sequence[PoolUse]) -> None:
        telemetry.pool_measured(
            {one.deployment: one.utilisation for one in found if one.utilisation is not None},
            {
                one.deployment: one.nano_usd_per_million_tokens
                for one in found
                if one.nano_usd_per_million_tokens is not None
            },
        )

    url = built.settings.ledger_url
    accrual = PoolAccrual(url, clock, telemetry.pool_booked, measured, tasks)
    accrual.configure(built.pools, built.tenancy.time_zone)
    return accrual


def _alerts(
    built: Built, admission: AnyAdmission, telemetry: PrometheusTelemetry, tasks: TaskRegistry
) -> BudgetAlerts:
    org = built.settings.org.name
    trust_env = built.settings.server.proxy_from_env

    def webhook_client() -> "httpx.AsyncClient":
        import httpx  # noqa: PLC0415  # only where there is a webhook

        return httpx.AsyncClient(trust_env=trust_env)

    return BudgetAlerts(admission, built.scopes, org, telemetry.budget_alerted, webhook_client, tasks)
