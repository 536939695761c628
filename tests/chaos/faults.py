"""What goes wrong, and when. A seed gives the plan; its moments are shares of the requests sent."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import httpx
import msgspec

from gateway.simulators.knobs import ErrorKind
from tests.chaos.gateways import GatewayProcess, SharedState, Upstream
from tests.chaos.load import Load

FAULTS = (
    ErrorKind.SERVER_ERROR,
    ErrorKind.UNAVAILABLE,
    ErrorKind.RATE_LIMIT,
    ErrorKind.RESET_BEFORE,
    ErrorKind.RESET_MID,
    ErrorKind.ERROR_EVENT,
    ErrorKind.ABORT,
    ErrorKind.NO_USAGE,
    ErrorKind.TRUNCATED_JSON,
    ErrorKind.GARBAGE,
)
POLL_SECONDS = 0.05


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How often each fault happens."""

    kills: int
    writer_kills: int
    terminations: int
    state_restarts: int
    state_losses: int
    weather_changes: int


class Event(msgspec.Struct, frozen=True):
    """Something that goes wrong once the share `at` of all requests was sent."""

    at: float
    what: str
    run: Callable[[], Awaitable[None]]


class Faults:
    """Three rows of events, each in order: gateways, shared state, upstreams."""

    def __init__(
        self,
        load: Load,
        gateways: Sequence[GatewayProcess],
        state: SharedState,
        upstreams: Sequence[Upstream],
        counts: Counts,
        seed: int,
    ) -> None:
        self._load = load
        self._gateways = list(gateways)
        self._state = state
        self._upstreams = list(upstreams)
        self._counts = counts
        self._seed = seed
        self.happened: Counter[str] = Counter()

    async def run(self) -> None:
        """Return when everything has happened, or when no request is left to be hit by it."""
        async with httpx.AsyncClient() as self._http, asyncio.TaskGroup() as group:
            for number, plan in enumerate((self._gateway_events, self._state_events, self._weather)):
                chance = random.Random(self._seed * 10 + number)
                group.create_task(self._play(sorted(plan(chance), key=lambda event: event.at)))

    async def _play(self, events: Sequence[Event]) -> None:
        for event in events:
            while self._load.share < event.at and not self._load.enough:
                await asyncio.sleep(POLL_SECONDS)
            if self._load.enough:
                return
            await event.run()
            self.happened[event.what] += 1

    # --- gateways ---

    def _gateway_events(self, chance: random.Random) -> Iterator[Event]:
        ends = [("kill -9 of a gateway", signal.SIGKILL)] * self._counts.kills
        ends += [("SIGTERM to a gateway", signal.SIGTERM)] * self._counts.terminations
        for what, how in ends:
            gateway, down = chance.choice(self._gateways), chance.uniform(0, 1.5)
            yield Event(_moment(chance), what, lambda g=gateway, d=down, s=how: self._renew(g, s, d))  # type: ignore[misc]
        for _ in range(self._counts.writer_kills):
            gateway = chance.choice(self._gateways)
            yield Event(_moment(chance), "kill -9 of a ledger's writer", gateway.kill_writer)
        for _ in range(self._counts.writer_kills // 4):
            gateway, down = chance.choice(self._gateways), chance.uniform(0, 1.5)
            what = "kill -9 of a gateway and its writer"
            yield Event(_moment(chance), what, lambda g=gateway, d=down: self._kill_both(g, d))  # type: ignore[misc]

    async def _renew(self, gateway: GatewayProcess, how: signal.Signals, down_seconds: float) -> None:
        await gateway.end(how)
        await asyncio.sleep(down_seconds)
        await gateway.start()

    async def _kill_both(self, gateway: GatewayProcess, down_seconds: float) -> None:
        await gateway.kill_writer()
        await self._renew(gateway, signal.SIGKILL, down_seconds)

    # --- shared state ---

    def _state_events(self, chance: random.Random) -> Iterator[Event]:
        counts = self._counts
        for number in range(counts.state_restarts + counts.state_losses):
            lose = number >= counts.state_restarts
            how = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            down = chance.choice((0.0, 0.3, 2.5))
            what = "loss of the shared state" if lose else "restart of the shared state"
            yield Event(
                _moment(chance),
                what,
                lambda s=how, d=down, x=lose: self._state.restart(s, down_seconds=d, lose=x),  # type: ignore[misc]
            )

    # --- upstreams ---

    def _weather(self, chance: random.Random) -> Iterator[Event]:
        for _ in range(self._counts.weather_changes):
            upstream = chance.choice(self._upstreams)
            knobs: dict[str, object] = {
                "error_kind": chance.choice(FAULTS),
                "error_rate": chance.choice((0.0, 0.02, 0.1)),
                "ttft_ms": chance.choice((2, 2, 2, 60)),
                "tokens_per_second": chance.choice((0, 2000, 2000, 300)),
            }
            yield Event(
                _moment(chance),
                "change of an upstream",
                lambda u=upstream, k=knobs: set_knobs(self._http, u, k),  # type: ignore[misc]
            )


async def set_knobs(http: httpx.AsyncClient, upstream: Upstream, knobs: Mapping[str, object]) -> None:
    """How `upstream` behaves from now on."""
    answer = await http.post(f"{upstream.url}/_sim/knobs", json=knobs, timeout=30)
    answer.raise_for_status()


def _moment(chance: random.Random) -> float:
    return chance.uniform(0.02, 0.98)
