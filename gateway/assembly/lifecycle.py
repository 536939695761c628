"""Start, readiness and stop of one gateway.

Each start registers its close. The data port starts early, so that clients hear why they have to wait; it
closes first, and the ledger closes after everything that may still book. No failing close keeps it from that.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from gateway.assembly.adoption import Adoption
from gateway.assembly.closing import Close, OrderedClosing
from gateway.assembly.graph import GatewayParts
from gateway.assembly.readiness import Readiness
from gateway.config.screening import recognizer_settings
from gateway.core.audit import EntryKind
from gateway.http.server.listening import Listening
from gateway.ledger.retry import retry_until_available
from gateway.policy.rollout.reloader import How, Reloader

_log = structlog.get_logger("tollway.app")


LEDGER_LOOK_SECONDS = 0.5


class ClosingStep(enum.Enum):
    """What starts and closes, in the order of closing."""

    RELOADER = "reloader"
    DATA_PORT = "data port"
    SHEDDER = "load shedder"
    ENTITIES = "entities"
    IMAGES = "images"
    LARGE_BODIES = "large bodies"
    MEMORY_RELEASE = "memory release"
    PROBER = "prober"
    PROGRESS = "progress watch"
    UPSTREAM = "upstream"
    DISKS = "disk watch"
    TRACING = "tracing"
    ALERTS = "alerts"
    PRICE_WATCH = "price watch"
    POOL_ACCRUAL = "pool accrual"
    ARCHIVE = "policy archive"
    REFUSED_RETENTION = "retention of refused requests"
    ADMISSION = "admission"
    LEDGER = "ledger"
    LEDGER_WRITER = "ledger writer"
    ADMIN_PORT = "admin port"


class Lifecycle:
    """`start`, then `stop`."""

    def __init__(
        self,
        parts: GatewayParts,
        adoption: Adoption,
        readiness: Readiness,
        reloader: Reloader | None,
        *,
        data: Listening,
        admin: Listening,
        urls: Callable[[], dict[str, str]],
    ) -> None:
        """`urls` are those of the data and the admin port, for the log."""
        self._parts = parts
        self._adoption = adoption
        self._readiness = readiness
        self._reloader = reloader
        self._data = data
        self._admin = admin
        self._urls = urls
        self._closing = OrderedClosing(ClosingStep)

    async def start(self, *, joins: bool) -> None:
        """As `Gateway.start`. What a start that fails or is cancelled has begun is closed again."""
        try:
            await self._start_all(joins=joins)
        except BaseException:
            await self._undo()
            raise
        _log.info("gateway.started", data=self._urls()["data"], policy=self._adoption.built.version)

    async def start_unless(self, stop: asyncio.Event, *, joins: bool) -> bool:
        """As `Gateway.start_unless`."""
        starting = asyncio.create_task(self.start(joins=joins), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                return True
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            await self.stop()
        return False

    async def stop(self) -> None:
        """As `Gateway.stop`. Raises what the last failing close raised, after all others were closed."""
        self._readiness.stopping = True
        _log.info("gateway.stopping")
        await self._closing.close()
        _log.info("gateway.stopped", rows_left=self._parts.ledger.lag_rows())

    async def _start_all(self, *, joins: bool) -> None:
        parts, closing, built = self._parts, self._closing, self._adoption.built
        if parts.ledger_writer is not None:  # first, since it takes a second to begin
            await self._start(ClosingStep.LEDGER_WRITER, parts.ledger_writer.start, parts.ledger_writer.close)
        closing.register(ClosingStep.UPSTREAM, self._close_upstream)  # it connects when it is first used
        closing.register(ClosingStep.IMAGES, parts.images.close)
        closing.register(ClosingStep.LARGE_BODIES, parts.large_bodies.close)
        parts.large_bodies.start()
        closing.register(ClosingStep.MEMORY_RELEASE, parts.memory_release.close)
        parts.memory_release.start()
        if parts.tracing is not None:
            await self._start(ClosingStep.TRACING, parts.tracing.start, parts.tracing.close)
        parts.admission.configure(built.scopes, built.tenancy.time_zone)
        closing.register(ClosingStep.ENTITIES, parts.entities.close)
        parts.entities.configure(recognizer_settings(built.settings))
        await self._start(ClosingStep.ADMIN_PORT, self._admin.start, self._admin.stop)
        closing.register(ClosingStep.DISKS, parts.disks.close)
        parts.disks.start()
        closing.register(ClosingStep.PROBER, parts.prober.close)
        await parts.prober.watch(parts.pipeline.rulebook.routes.fleet)
        closing.register(ClosingStep.PROGRESS, parts.progress.close)
        parts.progress.watch(parts.pipeline.rulebook.routes.fleet)
        parts.progress.start()
        closing.register(ClosingStep.SHEDDER, parts.shedder.close)
        parts.shedder.start()
        if not joins:
            await self._start(ClosingStep.DATA_PORT, self._data.start, self._data.stop)
        await self._start_when_possible(ClosingStep.LEDGER, self._start_ledger, parts.ledger.close)
        await self._start_when_possible(
            ClosingStep.PRICE_WATCH, parts.price_watch.start, parts.price_watch.close
        )
        await self._start_when_possible(ClosingStep.ADMISSION, parts.admission.start, parts.admission.close)
        await self._start_when_possible(
            ClosingStep.POOL_ACCRUAL, parts.pool_accrual.start, parts.pool_accrual.close
        )
        self._start_loops()
        parts.pipeline.opened.set()
        if joins:
            await self._start(ClosingStep.DATA_PORT, self._data.start, self._data.stop)

    async def _start_ledger(self) -> None:
        """Start it, and say what it waits for: what the dead have left must be committed first."""
        starting = asyncio.create_task(self._parts.ledger.start(), name="ledger start")
        try:
            while not (await asyncio.wait({starting}, timeout=LEDGER_LOOK_SECONDS))[0]:
                if (problem := self._parts.ledger.problem()) is not None:
                    self._wait_for(problem)
            starting.result()
        finally:
            starting.cancel()
            await asyncio.wait({starting})

    async def _close_upstream(self) -> None:
        """Abort what is still read for nobody, and return once that is recorded."""
        await self._parts.upstream.close()
        await self._parts.pipeline.relay.close()

    def _start_loops(self) -> None:
        """What needs nothing to start with but a ledger that is open."""
        parts, closing, built = self._parts, self._closing, self._adoption.built
        closing.register(ClosingStep.ALERTS, parts.alerts.close)
        parts.alerts.start()
        closing.register(ClosingStep.ARCHIVE, parts.archive.close)
        parts.archive.start()
        closing.register(ClosingStep.REFUSED_RETENTION, parts.refused_retention.close)
        parts.refused_retention.start()
        self._adoption.archive(How.START)
        parts.ledger.note(EntryKind.ACT, {"act": "start", "policy": built.version})
        if self._reloader is not None:
            closing.register(ClosingStep.RELOADER, self._reloader.close)
            self._reloader.start()

    async def _start(self, part: ClosingStep, start: Callable[[], Awaitable[None]], close: Close) -> None:
        self._closing.register(part, close)
        await start()

    async def _start_when_possible(
        self, part: ClosingStep, start: Callable[[], Awaitable[None]], close: Close
    ) -> None:
        """Wait for the ledger's database as long as it takes. Raises LedgerUnusable."""
        self._closing.register(part, close)
        await retry_until_available(start, self._wait_for)

    async def _undo(self) -> None:
        """The caller raises why the start ended, so what fails here is only logged."""
        with suppress(Exception):  # each failing close has been logged by itself
            await self.stop()

    def _wait_for(self, problem: str | None) -> None:
        if problem is not None and self._readiness.waiting_for is None:  # one line for each change of state
            _log.warning("gateway.waiting", problem=problem, **self._urls())
        self._readiness.waiting_for = problem
