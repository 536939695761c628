"""A whole gateway: its parts, its two ports, and what may be asked of it while it runs."""

import asyncio
import socket
from pathlib import Path

from fastapi import FastAPI

from gateway import __version__
from gateway.admin.operations import Operations
from gateway.admin.server import admin_app, admin_listening
from gateway.assembly.adoption import Adoption
from gateway.assembly.building import Listeners, listeners, request_ids
from gateway.assembly.graph import build_parts
from gateway.assembly.lifecycle import Lifecycle
from gateway.config.build import Built
from gateway.http.server.exchange import Handler
from gateway.http.server.listening import Listening, url_of
from gateway.metrics.access_log import RequestLines
from gateway.metrics.across import FamilySamples
from gateway.metrics.telemetry import CONTENT_TYPE
from gateway.policy.rollout.config_file import ConfigFile
from gateway.policy.rollout.reloader import How, Reloader, Result
from gateway.proxy.handler import DataPlane
from gateway.proxy.pipeline import Pipeline


class Gateway:
    """A whole gateway in the running event loop: `start`, then `stop`. Raises PortTaken when made."""

    def __init__(
        self,
        built: Built,
        file: ConfigFile | None = None,
        sockets: Listeners | None = None,
        *,
        writer_path: Path | None = None,
        request_lines: RequestLines | None = None,
    ) -> None:
        """`file` is what `built` was read from; without it there is nothing to reload.

        `sockets` are those for the two ports; left out: they are opened as `built` says. `writer_path` is
        where the ledger's writer listens; left out: the gateway runs one. `request_lines` is where the access
        log goes; left out: there is none.
        """
        self.parts = build_parts(built, writer_path, request_lines)
        self._adoption = Adoption(self.parts, built)
        self.reloader = None if file is None else self._reloader(built, file)
        self._readiness = self.parts.readiness
        data_socket, admin_socket = sockets or listeners(built)
        if (
            admin_socket.family == socket.AF_UNIX
        ):  # a worker's, for its supervisor, which has one for everybody
            self.parts.admin_port.name = "worker"
        self._data = Listening(
            self._data_plane(),
            data_socket,
            self.parts.data_port,
            drain_seconds=built.settings.server.drain_seconds,
            coalescer=self.parts.coalescer,
            body_bytes=self.parts.body_bytes,
            idle_seconds=built.settings.server.data.idle_seconds,
            shedder=self.parts.shedder,
        )
        self._admin = admin_listening(
            self._admin_app(), admin_socket, self.parts.admin_port, self.parts.coalescer
        )
        self._lifecycle = Lifecycle(
            self.parts,
            self._adoption,
            self._readiness,
            self.reloader,
            data=self._data,
            admin=self._admin,
            urls=lambda: {"data": self.data_url, "admin": self.admin_url},
        )

    @property
    def built(self) -> Built:
        """The configuration in force."""
        return self._adoption.built

    @property
    def pipeline(self) -> Pipeline:
        return self.parts.pipeline

    @property
    def data_url(self) -> str:
        return url_of(self.built.settings.server.data.host, self._data.port)

    @property
    def admin_url(self) -> str:
        return url_of(self.built.settings.server.admin.host, self._admin.port)

    async def start(self, *, joins: bool = False) -> None:
        """Listen, open the ledger, and take up the prices and what was spent in the open windows.

        In this order: what dead workers left behind is part of the ledger first. While its database is
        unavailable `readyz` says so and requests are told to come back; how to answer them is not known yet.
        Raises LedgerUnusable when waiting would not help.

        `joins` others that serve already: it then takes no requests before it can answer them.
        """
        await self._lifecycle.start(joins=joins)

    async def start_unless(self, stop: asyncio.Event, *, joins: bool = False) -> bool:
        """As `start`. False when it was told to stop while it still waited for something."""
        return await self._lifecycle.start_unless(stop, joins=joins)

    async def stop(self) -> None:
        """Drain: no new requests, open ones finish within `drain_seconds`, then the ledger is flushed.

        Whatever fails meanwhile is logged and raised at the end; the ledger is flushed all the same.
        """
        await self._lifecycle.stop()

    async def adopt(self, built: Built, how: How) -> None:
        """Serve `built` from now on. Raises ReloadRefused; then the configuration before goes on serving."""
        await self._adoption.adopt(built, how)

    async def flush(self) -> None:
        """Return once the ledger holds everything that ended so far, and every version that served."""
        await self.parts.ledger.flush()
        await self.parts.archive.flush()

    async def book_pools(self) -> None:
        """Book what own GPUs have cost until now. Raises LedgerUnavailable."""
        await self.parts.pool_accrual.refresh()

    async def refresh_prices(self) -> None:
        """Take up the prices that the ledger holds now. Raises LedgerUnavailable."""
        await self.parts.price_watch.refresh()

    def unready_reasons(self) -> list[str]:
        """Why new requests should go elsewhere; empty when they should not."""
        return self._readiness.reasons()

    def degraded_reasons(self) -> list[str]:
        """What fails while requests are served as they should be; empty when nothing does."""
        return self._readiness.degraded()

    def metrics(self) -> list[FamilySamples]:
        """Every metric at this moment, to be added up with those of other workers."""
        return self.parts.telemetry.samples()

    def _reloader(self, built: Built, file: ConfigFile) -> Reloader:
        telemetry = self.parts.telemetry

        def count(result: Result) -> None:
            telemetry.reloaded(result, in_force=result.in_force)

        return Reloader(file, built, self._adoption.adopt, count, self.parts.tasks)

    def _data_plane(self) -> Handler:
        new_request_id, tracing = request_ids(), self.parts.tracing
        plane = DataPlane(self.parts.pipeline, new_request_id)
        return plane if tracing is None else tracing.handler(plane, new_request_id)

    def _admin_app(self) -> FastAPI:
        parts, token = self.parts, self.built.settings.server.admin.token
        operations = Operations(
            parts.pipeline, parts.ledger, lambda: self.built, self.book_pools, self.reloader, parts.clock
        )
        return admin_app(
            token=None if token is None else token.get_secret_value(),
            metrics=parts.telemetry.exposition,
            metrics_content_type=CONTENT_TYPE,
            ready=self.unready_reasons,
            degraded=self.degraded_reasons,
            version=__version__,
            limits=parts.refusal_limits,
            routers=operations.routers(),
        )
