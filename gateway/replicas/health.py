"""Active health probes: one task for each replica that has a health route, all owned by the prober."""

import asyncio
from collections.abc import Iterator

import structlog

from gateway.core.balancing import Fleet
from gateway.core.catalog import Health
from gateway.core.errors import UpstreamFailure
from gateway.core.heads import request_head
from gateway.core.replica_state import ReplicaState
from gateway.ports import Upstream, UpstreamRequest
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.health")

# One late answer can be a long batch; two in a row are not. A refusal or a 5xx needs no second opinion.
TIMEOUTS_TO_DOWN = 2
MAX_HEALTH_BYTES = 64 * 1024


class HealthProber:
    """Keeps `is_up` of each replica. `watch` goes on with another fleet, `close` ends all tasks."""

    def __init__(self, upstream: Upstream, tasks: TaskRegistry) -> None:
        self._upstream = upstream
        self._registry = tasks
        self._tasks: dict[tuple[ReplicaState, Health], SupervisedTask] = {}

    async def watch(self, fleet: Fleet) -> None:
        """Probe the replicas of `fleet` from now on; those that are in it as before are not disturbed."""
        wanted = dict.fromkeys(_probed(fleet))
        _mark_unprobed_up(fleet)
        gone = [self._tasks.pop(one) for one in list(self._tasks) if one not in wanted]
        for one in wanted:
            if one not in self._tasks:
                self._tasks[one] = self._begin(*one)
        await _close(gone)

    async def close(self) -> None:
        tasks, self._tasks = list(self._tasks.values()), {}
        await _close(tasks)

    def _begin(self, state: ReplicaState, health: Health) -> SupervisedTask:
        task = SupervisedTask(
            "replica-probe",
            _Probe(self._upstream, state, health).probe,
            self._registry,
            is_essential=True,
            wait=lambda: asyncio.sleep(health.interval_seconds),
            subject=state.replica.name,
            longest_pause_seconds=health.interval_seconds,
        )
        task.start(is_due=True)
        return task


class _Probe:
    """The probes of one replica."""

    def __init__(self, upstream: Upstream, state: ReplicaState, health: Health) -> None:
        self._upstream = upstream
        self._state = state
        self._health = health
        self._timeouts = 0  # in a row

    async def probe(self) -> None:
        """One probe, and what it says about the replica."""
        try:
            async with asyncio.timeout(self._health.timeout_seconds):
                problem = await self._ask()
        except TimeoutError:
            self._timeouts += 1
            if self._timeouts >= TIMEOUTS_TO_DOWN:
                _set_up(self._state, "no answer in time")
            return
        self._timeouts = 0
        _set_up(self._state, problem)

    async def _ask(self) -> str | None:
        """None when the replica is well, else what is wrong; and whether anybody listens there."""
        head = request_head(self._state.replica.endpoint, b"GET", self._health.path.encode("ascii"))
        request = UpstreamRequest(head=head, body=b"")
        try:
            response = await self._upstream.send(request)
            self._state.is_gone = False
            try:
                await response.read(MAX_HEALTH_BYTES)
            finally:
                response.abort()
        except UpstreamFailure as failure:
            if failure.refused:
                self._state.is_gone, self._state.is_stuck = True, False  # what comes next is another process
            return str(failure)
        return None if response.status == 200 else f"status {response.status}"


def _set_up(state: ReplicaState, problem: str | None) -> None:
    if problem is None and state.is_stuck:
        return  # that it answers is known; only tokens would be news (replicas/progress.py)
    was_up, state.is_up = state.is_up, problem is None
    if was_up == state.is_up:
        return
    if problem is None:
        # The probe saw it work, so there is nothing left for the breaker to wait for.
        state.succeeded()
        _log.info("replica.up", replica=state.replica.name)
    else:
        _log.warning("replica.down", replica=state.replica.name, problem=problem)


async def _close(tasks: list[SupervisedTask]) -> None:
    await asyncio.gather(*(task.close() for task in tasks))


def _mark_unprobed_up(fleet: Fleet) -> None:
    """A replica that is no longer probed would stay as the last probe left it, for ever."""
    for replica_set in fleet.replica_sets.values():
        if replica_set.deployment.health is None:
            for state in replica_set.replicas:
                state.is_up, state.is_gone, state.is_stuck = True, False, False


def _probed(fleet: Fleet) -> Iterator[tuple[ReplicaState, Health]]:
    for replica_set in fleet.replica_sets.values():
        if replica_set.deployment.health is not None:
            for state in replica_set.replicas:
                yield state, replica_set.deployment.health
