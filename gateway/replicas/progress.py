"""Watches over what is under way: a replica that is gone or stuck must not hold its requests for ever.

Two ways in which a server falls silent on connections that stay open:
- It is gone: nobody listens there, and yet nothing ends. Its streams have broken after a short silence, and
  an answer in one piece when a graceful stop would be over, in which it may still come.
- It is stuck: it answers probes, takes requests and makes no tokens. Nothing has come from there for long,
  while other replicas answer, and its own counters stand still. It is out until it has answered a request of
  one token.
"""

import asyncio
from collections.abc import Iterator

import structlog

from gateway.core.balancing import Fleet, ReplicaSet
from gateway.core.catalog import Health
from gateway.core.errors import FailureKind
from gateway.core.replica_state import ReplicaState, UnderWay
from gateway.ports import Clock, Upstream
from gateway.replicas.activity import ActivityReader, Trial
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.health")

LOOK_SECONDS = 1.0
# A replica whose answers end at least so often is looked at no closer.
FLOWING_SECONDS = 2.0

# When something of an attempt came last, and whether its replica was gone: while both stay, it is silent.
_Mark = tuple[float | None, bool]


class ProgressWatch:
    """`start`, then `watch` each fleet in force, then `close`. Looks once a second.

    A silence is what has been seen of it: who waits for a slow client is not silent, and begins anew then.
    """

    def __init__(self, upstream: Upstream, clock: Clock, tasks: TaskRegistry) -> None:
        self._upstream = upstream
        self._clock = clock
        self._registry = tasks
        self._fleet = Fleet([])
        self._silent: dict[UnderWay, tuple[_Mark, float]] = {}
        self._activity: dict[ReplicaState, ActivityReader] = {}
        self._trials: dict[ReplicaState, SupervisedTask] = {}
        self._looks = SupervisedTask(
            "replica-progress", self.look, tasks, wait=lambda: asyncio.sleep(LOOK_SECONDS)
        )

    def start(self) -> None:
        self._looks.start()

    def watch(self, fleet: Fleet) -> None:
        """Look at the replicas of `fleet` from now on."""
        self._fleet = fleet

    async def close(self) -> None:
        await self._looks.close()
        await self._end_trials(list(self._trials))

    async def look(self) -> None:
        """One look at every replica that is probed."""
        self._note_silence()
        if self._silent:
            for replica_set, health in self._watched():
                await self._look_at(replica_set, health)
        if self._activity or self._trials:
            await self._tidy()

    async def _look_at(self, replica_set: ReplicaSet, health: Health) -> None:
        for state in replica_set.replicas:
            if state.is_gone:
                self._break_off_gone(state, health)
        if health.stuck_seconds is not None:
            suspects = self._suspects(replica_set, health.stuck_seconds)
            await asyncio.gather(*(self._judge(replica_set, one, health) for one in suspects))

    def _watched(self) -> Iterator[tuple[ReplicaSet, Health]]:
        for replica_set in self._fleet.replica_sets.values():
            if replica_set.deployment.health is not None:
                yield replica_set, replica_set.deployment.health

    # --- silence ---

    def _note_silence(self) -> None:
        """Since when each attempt waits for its replica, by what is seen now and was seen before."""
        now, before, silent = self._clock.monotonic(), self._silent, {}
        for replica_set, _ in self._watched():
            for state in replica_set.replicas:
                if not state.is_gone and now - state.answered_at < FLOWING_SECONDS:
                    continue
                for attempt in state.under_way:
                    if attempt.is_waiting:
                        mark = (attempt.last_seen_at, state.is_gone)
                        known = before.get(attempt)
                        silent[attempt] = known if known is not None and known[0] == mark else (mark, now)
        self._silent = silent

    def _silent_since(self, attempt: UnderWay) -> float | None:
        known = self._silent.get(attempt)
        return None if known is None else known[1]

    def _break_off_gone(self, state: ReplicaState, health: Health) -> None:
        now = self._clock.monotonic()
        for attempt in list(state.under_way):
            since = self._silent_since(attempt)
            patience = health.silence_seconds if attempt.is_stream else health.drain_seconds
            if since is not None and now - since >= patience:
                detail = f"connections are refused, and nothing came for {now - since:.0f} s"
                attempt.break_off(FailureKind.SILENT, detail)

    # --- stuck ---

    def _suspects(self, replica_set: ReplicaSet, stuck_seconds: float) -> list[ReplicaState]:
        """Replicas that may be stuck: half of the time is over, so that their counters can be watched."""
        now = self._clock.monotonic()
        return [
            state
            for state in replica_set.replicas
            if not (state.is_stuck or state.is_gone)
            and (since := self._still_since(state)) is not None
            and now - since >= stuck_seconds / 2
        ]

    def _still_since(self, state: ReplicaState) -> float | None:
        """Since when nothing has come from `state` although somebody waits; None: nobody does."""
        waits = [since for attempt in state.under_way if (since := self._silent_since(attempt)) is not None]
        return max(min(waits), _last_sign(state)) if waits else None

    async def _judge(self, replica_set: ReplicaSet, state: ReplicaState, health: Health) -> None:
        """Take `state` out if nothing has moved on it for `stuck_seconds`, by all that can be known."""
        stuck_seconds = health.stuck_seconds or 0.0
        reader = self._activity.get(state)
        if reader is None:
            reader = self._activity[state] = ActivityReader(self._upstream, state.replica.endpoint)
        is_readable = await reader.read(self._clock.monotonic(), health.timeout_seconds)
        now, since = self._clock.monotonic(), self._still_since(state)
        if since is None or state.is_stuck:
            return
        if is_readable:
            since = max(since, reader.moved_at)
        elif state.is_up and not any(attempt.last_seen_at for attempt in self._waiting(state)):
            return  # answers in one piece, of a server that tells nothing: they may only be long
        if now - since < stuck_seconds:
            return
        if state.is_up and not _others_flow(replica_set, state, now - stuck_seconds):
            return
        self._take_out(replica_set, state, health, now - since)

    def _waiting(self, state: ReplicaState) -> list[UnderWay]:
        return [attempt for attempt in state.under_way if attempt in self._silent]

    def _take_out(self, replica_set: ReplicaSet, state: ReplicaState, health: Health, seconds: float) -> None:
        name = state.replica.name
        state.is_stuck, state.is_up = True, False
        _log.warning("replica.stuck", replica=name, seconds=round(seconds), under_way=len(state.under_way))
        for attempt in self._waiting(state):
            attempt.break_off(FailureKind.SILENT, f"the replica is stuck: nothing moved for {seconds:.0f} s")
        task = SupervisedTask(
            "replica-trial",
            Trial(self._upstream, replica_set, state).run,
            self._registry,
            wait=lambda: asyncio.sleep(health.interval_seconds),
            subject=name,
        )
        self._trials[state] = task
        task.start()

    async def _tidy(self) -> None:
        """Forget what is known of replicas that are no suspects any more, or not in the fleet."""
        watched = {state for replica_set, _ in self._watched() for state in replica_set.replicas}
        self._activity = {
            state: reader
            for state, reader in self._activity.items()
            if state in watched and self._still_since(state) is not None
        }
        await self._end_trials([one for one in self._trials if one not in watched or not one.is_stuck])

    async def _end_trials(self, of: list[ReplicaState]) -> None:
        await asyncio.gather(*(self._trials.pop(state).close() for state in of))


def _last_sign(state: ReplicaState) -> float:
    """When something of an answer came from `state` last (monotonic seconds)."""
    return max([state.answered_at, *(attempt.last_seen_at or 0.0 for attempt in state.under_way)])


def _others_flow(replica_set: ReplicaSet, state: ReplicaState, since: float) -> bool:
    return any(_last_sign(other) > since for other in replica_set.replicas if other is not state)
