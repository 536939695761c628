"""Active health probes: one task for each replica that has a health route, all owned by the prober."""

import asyncio
from collections.abc import Iterator

import structlog

from gateway.core.balancing import Fleet, ReplicaState
from gateway.core.catalog import Health
from gateway.core.errors import UpstreamFailure
from gateway.ports import Upstream, UpstreamRequest

_log = structlog.get_logger("tollway.health")

# One late answer can be a long batch; two in a row are not. A refusal or a 5xx needs no second opinion.
TIMEOUTS_TO_DOWN = 2
MAX_HEALTH_BYTES = 64 * 1024


class HealthProber:
    """Keeps `is_up` of each replica. `watch` goes on with another fleet, `close` ends all tasks."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._tasks: dict[tuple[ReplicaState, Health], asyncio.Task[None]] = {}
        self._broken: set[str] = set()

    async def watch(self, fleet: Fleet) -> None:
        """Probe the replicas of `fleet` from now on; those that are in it as before are not disturbed."""
        wanted = dict.fromkeys(_probed(fleet))
        _mark_unprobed_up(fleet)
        gone = [self._tasks.pop(one) for one in list(self._tasks) if one not in wanted]
        for one in wanted:
            if one not in self._tasks:
                state, health = one
                probing = self._probe_for_ever(state, health)
                self._tasks[one] = asyncio.create_task(probing, name=f"probe {state.replica.name}")
        await _end(gone)

    async def close(self) -> None:
        tasks, self._tasks = list(self._tasks.values()), {}
        await _end(tasks)

    def problem(self) -> str | None:
        """Why replicas are not watched as they should be, for `readyz`; None when all is well."""
        if not self._broken:
            return None
        return f"health probes: failing for {', '.join(sorted(self._broken))}"

    async def _probe_for_ever(self, state: ReplicaState, health: Health) -> None:
        name, timeouts = state.replica.name, 0
        try:
            while True:
                try:
                    timeouts = await self._probe_once(state, health, timeouts)
                    self._broken.discard(name)
                except Exception:
                    # Our own defect. A replica that nobody watches must neither go unnoticed nor be given up.
                    if name not in self._broken:
                        _log.exception("replica.probe_failed", replica=name)
                    self._broken.add(name)
                await asyncio.sleep(health.interval_seconds)
        finally:
            self._broken.discard(name)

    async def _probe_once(self, state: ReplicaState, health: Health, timeouts: int) -> int:
        """The number of time-outs in a row, this probe included."""
        try:
            async with asyncio.timeout(health.timeout_seconds):
                problem = await self._probe(state, health)
        except TimeoutError:
            if timeouts + 1 >= TIMEOUTS_TO_DOWN:
                _set_up(state, "no answer in time")
            return timeouts + 1
        _set_up(state, problem)
        return 0

    async def _probe(self, state: ReplicaState, health: Health) -> str | None:
        """None when the replica is well, else what is wrong."""
        request = UpstreamRequest(
            endpoint=state.replica.endpoint,
            method=b"GET",
            target=health.path.encode("ascii"),
            headers=[(b"accept-encoding", b"identity")],
            body=b"",
        )
        try:
            response = await self._upstream.send(request)
            try:
                await response.read(MAX_HEALTH_BYTES)
            finally:
                response.abort()
        except UpstreamFailure as failure:
            return str(failure)
        return None if response.status == 200 else f"status {response.status}"


def _set_up(state: ReplicaState, problem: str | None) -> None:
    was_up, state.is_up = state.is_up, problem is None
    if was_up == state.is_up:
        return
    if problem is None:
        # The probe saw it work, so there is nothing left for the breaker to wait for.
        state.breaker.succeeded()
        _log.info("replica.up", replica=state.replica.name)
    else:
        _log.warning("replica.down", replica=state.replica.name, problem=problem)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _mark_unprobed_up(fleet: Fleet) -> None:
    """A replica that is no longer probed would stay as the last probe left it, for ever."""
    for replica_set in fleet.replica_sets.values():
        if replica_set.deployment.health is None:
            for state in replica_set.replicas:
                state.is_up = True


def _probed(fleet: Fleet) -> Iterator[tuple[ReplicaState, Health]]:
    for replica_set in fleet.replica_sets.values():
        if replica_set.deployment.health is not None:
            for state in replica_set.replicas:
                yield state, replica_set.deployment.health
