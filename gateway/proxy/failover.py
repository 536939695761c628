"""Forward an admitted request along its plan, and relay the answer.

Retry and failover happen only before the first byte reaches the client, and only inside the plan. Every
attempt is recorded on its way out, whatever that way is.
"""

from collections.abc import Iterator

from gateway.core.admission import Hold
from gateway.core.balancing import Blame, Fleet, ReplicaState
from gateway.core.envelope import envelope
from gateway.core.errors import (
    FailureKind,
    GatewayError,
    LimitExceeded,
    Unavailable,
    UpstreamExhausted,
    UpstreamFailure,
)
from gateway.core.sse import error_event
from gateway.ports import Inbound, Sink
from gateway.proxy.attempt import Attempt, Request
from gateway.proxy.dispatch import NOTHING_USED, Dispatch, Services

REPLICA_TRIES = 2


class Relay:
    """Dispatches attempts. One for the whole process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._admission = services.admission
        self._clock = services.clock

    async def forward(self, request: Request, hold: Hold, fleet: Fleet, inbound: Inbound, sink: Sink) -> None:
        """Answer through `sink`, or raise the GatewayError that says why no candidate did."""
        settlement = NOTHING_USED
        failure: UpstreamFailure | None = None
        blame = Blame()
        try:
            for attempt in self._attempts(request, fleet):
                try:
                    if settlement.spent_nano or settlement.unseen_nano:
                        renewed, settlement = settlement, NOTHING_USED
                        hold = await self._admission.renew(hold, renewed)
                    dispatch = Dispatch(self._services, request, hold, attempt, blame, inbound, sink)
                    try:
                        await dispatch.run()
                        return
                    except UpstreamFailure as exc:
                        failure = exc
                    finally:
                        settlement = dispatch.settlement
                    if sink.started:
                        dispatch.report_completed()
                        await _break_off(sink, failure)
                        return
                finally:
                    attempt.pool.give_back(attempt.state)
        finally:
            self._admission.settle(hold, settlement)
        raise _exhausted(failure)

    def _attempts(self, request: Request, fleet: Fleet) -> Iterator[Attempt]:
        """At most two replicas of each candidate, in the plan's order. Each is counted as outstanding.

        A stale connection is no verdict on its replica: the same one is tried again, on a fresh connection.
        """
        number = 0
        for deployment, expected in zip(request.plan.candidates, request.plan.estimates, strict=True):
            pool = fleet.replica_sets[deployment.name]
            tried: list[ReplicaState] = []
            while len(tried) < REPLICA_TRIES:
                state = pool.take(self._clock.monotonic(), tried)
                if state is None:
                    break
                tried.append(state)
                number += 1
                attempt = Attempt(request, number, pool, state, expected)
                yield attempt
                if attempt.stale:
                    pool.take_again(state)
                    number += 1
                    yield Attempt(request, number, pool, state, expected, fresh=True)


async def _break_off(sink: Sink, failure: UpstreamFailure) -> None:
    """The stream has begun, so the client learns of the failure from one event, and no [DONE] follows."""
    await sink.send(error_event(envelope(_exhausted(failure))))
    await sink.end()


def _exhausted(failure: UpstreamFailure | None) -> GatewayError:
    if failure is None:
        return Unavailable("No replica can take this request now. Retry shortly.", retry_after_seconds=1.0)
    if failure.kind is FailureKind.STATUS and failure.detail == "status 429":
        return LimitExceeded(
            "The upstream is at its rate limit. Retry shortly.",
            scope="upstream",
            limit="upstream",
            retry_after_seconds=1.0,
        )
    return UpstreamExhausted(
        f"The model's server failed ({failure.kind}). Nothing is wrong with the request."
    )
