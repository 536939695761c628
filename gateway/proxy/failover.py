"""Forward an admitted request along its plan, and settle its hold.

Retry and failover happen only before the first byte reaches the client, and only inside the plan. Every
attempt is recorded on its way out, whatever that way is. The hold has one owner, `Relay.forward`.
"""

from gateway.core.admission import Hold
from gateway.core.balancing import FailureAttribution, Fleet, ReplicaState
from gateway.core.envelope import envelope
from gateway.core.errors import (
    GatewayError,
    LimitExceeded,
    Unavailable,
    UpstreamExhausted,
    UpstreamFailure,
)
from gateway.core.sse import error_event
from gateway.ports import Clock, Inbound, Sink
from gateway.proxy.attempt import Attempt, Services
from gateway.proxy.ended import NOTHING_USED
from gateway.proxy.target import Request, Target, again, target_at

REPLICA_TRIES = 2


class Relay:
    """Forwards requests. One for the whole process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def forward(self, request: Request, hold: Hold, fleet: Fleet, inbound: Inbound, sink: Sink) -> None:
        """Answer through `sink`, or raise the GatewayError that says why no candidate did."""
        services, settlement = self._services, NOTHING_USED
        targets = Targets(request, fleet, services.clock)
        attempt: Attempt | None = None
        failure: UpstreamFailure | None = None
        try:
            while (target := targets.next()) is not None:
                async with target.replica:
                    if settlement.spent_nano or settlement.unseen_nano:
                        used, settlement = settlement, NOTHING_USED
                        hold = await services.admission.renew(hold, used)
                    attempt = Attempt(services, hold, target, inbound, sink)
                    try:
                        failure = (await attempt.run()).failure
                    finally:
                        if attempt.ended is not None:
                            settlement = attempt.ended.settlement
                if failure is None:
                    break
                targets.failed(target, failure)
                if sink.started:
                    break
        finally:
            services.admission.settle(hold, settlement)
        if attempt is None or (failure is not None and not sink.started):
            raise _exhausted(failure)
        attempt.report_completed()
        await (attempt.finish() if failure is None else _break_off(sink, failure))


class Targets:
    """What the attempts of one request go to: at most two replicas of each candidate, in the plan's order.

    A stale connection is no verdict on its replica: the same one is tried again, on a fresh connection.
    """

    __slots__ = ("_again", "_attribution", "_clock", "_fleet", "_index", "_number", "_request", "_tried")

    def __init__(self, request: Request, fleet: Fleet, clock: Clock) -> None:
        self._request = request
        self._fleet = fleet
        self._clock = clock
        self._index = 0  # of the candidate whose turn it is
        self._number = 0  # of attempts
        self._tried: list[ReplicaState] = []
        self._again: Target | None = None
        self._attribution: FailureAttribution | None = None

    def next(self) -> Target | None:
        """Where the next attempt goes, which enters its replica at once; None when nothing is left."""
        self._number += 1
        if self._again is not None:
            target, self._again = self._again, None
            return again(target, self._number)
        request, clock = self._request, self._clock
        candidates = request.plan.candidates
        while self._index < len(candidates):
            replica_set = self._fleet.replica_sets[candidates[self._index].name]
            if len(self._tried) < REPLICA_TRIES:
                replica = replica_set.choose(clock.monotonic(), self._tried)
                if replica is not None:
                    self._tried.append(replica)
                    at = int(clock.now() * 1_000_000)
                    return target_at(replica, replica_set, request, self._index, self._number, at)
            self._index += 1
            self._tried = []
        return None

    def failed(self, target: Target, failure: UpstreamFailure) -> None:
        """The attempt at `target` ended in `failure`: count it where it belongs."""
        if failure.stale:
            self._again = None if target.fresh else target
        elif failure.status == 429:
            target.replica.breaker.succeeded()  # it is alive, only busy: not its fault
        else:
            self._attribution = self._attribution or FailureAttribution()
            self._attribution.failed(target.replica, failure, self._clock.monotonic())


async def _break_off(sink: Sink, failure: UpstreamFailure) -> None:
    """The stream has begun, so the client learns of the failure from one event, and no [DONE] follows."""
    await sink.send(error_event(envelope(_exhausted(failure))))
    await sink.end()


def _exhausted(failure: UpstreamFailure | None) -> GatewayError:
    if failure is None:
        return Unavailable("No replica can take this request now. Retry shortly.", retry_after_seconds=1.0)
    if failure.status == 429:
        return LimitExceeded(
            "The upstream is at its rate limit. Retry shortly.",
            scope="upstream",
            limit="upstream",
            retry_after_seconds=1.0,
        )
    return UpstreamExhausted(
        f"The model's server failed ({failure.kind}). Nothing is wrong with the request."
    )
