"""What goes wrong while it soaks: one thing after the other, in turn, until it is over."""

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import httpx

from gateway.simulators.knobs import ErrorKind
from tests.chaos.faults import set_knobs
from tests.chaos.gateways import GatewayProcess, SharedState, Upstream
from tests.chaos.scenario import ADMIN_TOKEN

WELL = {"error_rate": 0.0, "ttft_ms": 2, "tokens_per_second": 2000}


class RecurringFaults:
    """Every `interval_seconds` the next one. Upstreams are well again before the next."""

    def __init__(
        self,
        gateway: GatewayProcess,
        state: SharedState,
        upstreams: Sequence[Upstream],
        interval_seconds: float,
        seed: int,
    ) -> None:
        self._gateway = gateway
        self._state = state
        self._upstreams = list(upstreams)
        self._interval_seconds = interval_seconds
        self._chance = random.Random(seed)
        self._reloads = 0
        self._between = asyncio.Lock()
        self.happened: Counter[str] = Counter()

    async def run(self) -> None:
        turns: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            (
                "upstreams cut in the middle",
                lambda: self._weather(error_kind=ErrorKind.RESET_MID, error_rate=0.2),
            ),
            ("reload", self._reload),
            ("upstreams slow", lambda: self._weather(ttft_ms=400, tokens_per_second=100)),
            ("Redis restarted", self._restart_state),
            ("upstreams refuse", lambda: self._weather(error_kind=ErrorKind.UNAVAILABLE, error_rate=0.3)),
            ("ledger's writer killed", self._gateway.kill_writer),
            (
                "error events in streams",
                lambda: self._weather(error_kind=ErrorKind.ERROR_EVENT, error_rate=0.3),
            ),
        ]
        async with httpx.AsyncClient() as self._http:
            for what, happen in itertools.cycle(turns):
                await asyncio.sleep(self._interval_seconds / 2)
                async with self._between:
                    await happen()
                self.happened[what] += 1
                await asyncio.sleep(self._interval_seconds / 2)
                await asyncio.gather(*(set_knobs(self._http, upstream, WELL) for upstream in self._upstreams))

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End `running`, and never in the middle of one: what is down comes back first."""
        async with self._between:
            running.cancel()

    async def _weather(self, **knobs: object) -> None:
        await set_knobs(self._http, self._chance.choice(self._upstreams), knobs)

    async def _restart_state(self) -> None:
        await self._state.restart(signal.SIGKILL, down_seconds=self._chance.choice((0.0, 0.5)), lose=False)

    async def _reload(self) -> None:
        """The same configuration under a new version: everything that a version has is built anew."""
        self._reloads += 1
        with self._gateway.config.open("a") as file:
            file.write(f"# {self._reloads}\n")
        answer = await self._http.post(
            f"{self._gateway.admin_url}/admin/v1/reload",
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=60,
        )
        answer.raise_for_status()
