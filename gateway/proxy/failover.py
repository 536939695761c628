"""Forward an admitted request along its plan, and settle its hold.

Retry and failover happen only before the first byte reaches the client, and only inside the plan. After a
time-out they happen only where leaving stopped the work: nothing is paid for twice. Every attempt is recorded
on its way out, whatever that way is. The hold has one owner, `Relay.forward`.
"""

from collections.abc import Callable

import msgspec

from gateway.core.admission import Hold
from gateway.core.balancing import ReplicaSet
from gateway.core.ended import NOTHING_USED
from gateway.core.envelope import envelope
from gateway.core.errors import BudgetExceeded, FailureKind, GatewayError, UpstreamFailure, UpstreamRejected
from gateway.core.heads import HeaderLines
from gateway.core.json_bounds import is_light
from gateway.core.refusals import uncapped_too_large
from gateway.core.replica_state import FailureAttribution, ReplicaState
from gateway.core.sent import Sent
from gateway.core.sse import error_event
from gateway.core.stated_limits import stated_in
from gateway.dialects.outgoing import is_concerned
from gateway.dialects.refusals import Remedy
from gateway.ports import Clock, Inbound, Sink
from gateway.proxy.attempt import Attempt, Services
from gateway.proxy.verdict import verdict_on, verdict_on_stream

# Failed attempts of one request at the replicas of one candidate, and the times that it is asked of replicas
# which are known to be full: a hundred refusals for each request would be a load of their own.
REPLICA_TRIES = 2


class Relay:
    """Forwards requests. One for the whole process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def forward(  # noqa: PLR0912, PLR0915  # one loop over attempts, to be read from top to bottom
        self,
        sent: Sent,
        hold: Hold,
        inbound: Inbound,
        sink: Sink,
        begins: Callable[[Sent], None] | None = None,
    ) -> None:
        """Answer through `sink`, or raise the GatewayError that says why no candidate did.

        `begins` is told of each attempt before it is sent.
        """
        services, settlement = self._services, NOTHING_USED
        turns = Turns(sent, services.clock)
        attempt: Attempt | None = None
        failure: UpstreamFailure | None = None
        try:
            while (replica := turns.next()) is not None:
                replica.in_flight += 1
                try:
                    sent = turns.sent
                    if more := sent.estimate.uncapped and sent.needs_more(hold):
                        hold.ask = sent.uncapped_ask()
                    if more or settlement.spent_nano or settlement.unseen_nano:
                        used, settlement = settlement, NOTHING_USED
                        hold = await services.admission.renew(hold, used)
                        if sent.needs_more(hold):
                            turns.skip()
                            continue
                    sent.hold(hold, replica, int(services.clock.now() * 1_000_000))
                    if sent.call.members:
                        await self._adapt(sent)
                    if begins is not None:
                        begins(sent)
                    attempt = Attempt(services, sent, inbound, sink)
                    replica.under_way.add(attempt)
                    try:
                        failure = (await attempt.run()).failure
                    finally:
                        replica.under_way.discard(attempt)
                        if attempt.ended is not None:
                            settlement = attempt.ended.settlement
                finally:
                    replica.in_flight -= 1
                if failure is None:
                    break
                turns.failed(replica, failure)
                if sink.started or not turns.may_go_on:
                    break
        except UpstreamRejected as error:
            _name_last_attempt(error, sent)
            raise
        finally:
            services.admission.settle(hold, settlement)
        if attempt is None or (failure is not None and not sink.started):
            verdict = turns.too_large or turns.verdict()
            _name_last_attempt(verdict, sent)
            raise verdict
        attempt.report_completed()
        await (attempt.finish() if failure is None else _break_off(sink, failure, attempt.cost_line()))

    async def _adapt(self, sent: Sent) -> None:
        """Have a large body written as the dialect of `sent` wants it: a small one is when it is sent."""
        reader, rest = self._services.large_bodies, sent.rest
        if reader is None or is_light(rest) or not is_concerned(sent.call.members, sent.dialect):
            return
        sent.adapted = await reader.adapted(rest, sent.call.members, sent.dialect)


class Turns(msgspec.Struct, eq=False, gc=False):
    """Whose turn it is: replicas of each candidate of a request, in the order of its candidates.

    At most two may fail. One that is full has taken nothing and said so at once, so all others are asked too.
    A stale connection is no verdict on its replica: the same one is tried again, on a fresh connection.
    Nor is the refusal of what the gateway had added: that is sent again without it. `sent` is the attempt of
    this turn, still to be completed by `hold`. `too_large`: the last candidate that was skipped, and why.
    `may_go_on`: what failed may be asked of another.
    """

    sent: Sent
    _clock: Clock
    _index: int = 0  # of the candidate whose turn it is
    _number: int = 0  # of attempts
    _tried: list[ReplicaState] = []
    _failed: int = 0  # of those tried
    _known_busy: int = 0  # of those tried, when their turn came
    _same: ReplicaState | None = None
    _remedy: Remedy | None = None
    _attribution: FailureAttribution | None = None
    _failures: list[tuple[int, UpstreamFailure]] = []  # with the candidate of each
    _is_plan_tried: bool = True  # no candidate was without a replica to ask
    may_go_on: bool = True
    too_large: BudgetExceeded | None = None

    def next(self) -> ReplicaState | None:
        """Where the next attempt goes, which enters it at once; None when nothing is left."""
        self._number = number = self._number + 1
        if self._same is not None:
            same, self._same = self._same, None
            remedy, self._remedy = self._remedy, None
            self.sent = self.sent.again(number=number, index=self._index, fresh=remedy is None, remedy=remedy)
            return same
        candidates = self.sent.candidates
        while self._index < len(candidates):
            replica_set = candidates[self._index].replica_set
            if replica_set.stated_limits is not None and not self._tried and self._is_beyond(replica_set):
                continue
            if not self._tried or (self._failed < REPLICA_TRIES and self._known_busy < REPLICA_TRIES):
                now = self._clock.monotonic()
                replica = replica_set.choose(now, self._tried, self.sent.principal.key)
                if replica is not None:
                    self._tried.append(replica)
                    if replica.busy_until > now:
                        self._known_busy += 1
                    if number > 1 or self._index:
                        self.sent = self.sent.again(number=number, index=self._index)
                    return replica
            self._is_plan_tried &= bool(self._tried)
            self._next_candidate()
        return None

    def _is_beyond(self, replica_set: ReplicaSet) -> bool:
        """Pass a candidate over that would refuse again, as long as another one comes after it."""
        sent, limits = self.sent, replica_set.stated_limits
        if limits is None or self._index == len(sent.candidates) - 1:
            return False
        if not limits.exclude(sent.call, sent.estimates[self._index], self._clock.monotonic()):
            return False
        self._failures.append((self._index, limits.refusal))
        self._next_candidate()
        return True

    def skip(self) -> None:
        """What is held does not do for the candidate of this turn: the next attempt goes to another."""
        self.too_large = uncapped_too_large(self.sent)
        self._number -= 1
        self._next_candidate()

    def _next_candidate(self) -> None:
        self._index += 1
        self._tried, self._failed, self._known_busy = [], 0, 0

    def failed(self, replica: ReplicaState, failure: UpstreamFailure) -> None:
        """The attempt of this turn, at `replica`, ended in `failure`: count it where it belongs."""
        key = self.sent.principal.key
        if failure.remedy is None:  # else the same candidate is asked again, otherwise
            self._failures.append((self._index, failure))
        if failure.stale:
            self._same = None if self.sent.fresh else replica
        elif failure.remedy is not None:
            self._same, self._remedy = replica, failure.remedy
            replica.breaker.succeeded(key, self._clock.monotonic())
        elif failure.is_busy:
            replica.told_busy(self._clock.monotonic(), failure.retry_after_seconds, key)
        elif failure.kind is FailureKind.REFUSED:
            # It is alive, and nothing is wrong with it.
            replica.breaker.succeeded(key, self._clock.monotonic())
        else:
            self._failed += 1
            self._attribution = self._attribution or FailureAttribution(key)
            siblings = self.sent.candidate.replica_set.replicas
            self._attribution.failed(replica, failure, self._clock.monotonic(), siblings)
        if failure.is_of_candidate:
            # Whatever went wrong before at its other replicas: they would say the same.
            self._failures = [found for found in self._failures if found[0] != self._index]
            self._failures.append((self._index, failure))
            stated = stated_in(failure, self._clock.monotonic())
            if stated is not None:
                self.sent.candidate.replica_set.stated_limits = stated
            self._next_candidate()
        stops = self.sent.candidate.deployment.stops_when_left
        self.may_go_on = not failure.was_given_up or stops.stops(stream=self.sent.call.stream)

    def verdict(self) -> GatewayError:
        """What the client is told when the last turn is over."""
        failures = [failure for _, failure in self._failures]
        return verdict_on(failures, is_plan_tried=self._is_plan_tried)


def _name_last_attempt(error: GatewayError, sent: Sent) -> None:
    """Let `error` say whose it is: that of the last deployment that was asked, if one was."""
    if sent.attempt_id:
        deployment = sent.candidate.deployment
        error.attempts, error.deployment = sent.number, deployment.name
        error.headers = (
            *error.headers,
            (b"x-tollway-deployment", deployment.name.encode()),
            (b"x-tollway-zone", deployment.zone.encode()),
        )


async def _break_off(sink: Sink, failure: UpstreamFailure, cost: HeaderLines) -> None:
    """The stream has begun, so the client learns of the failure from one event, and no [DONE] follows."""
    await sink.send(error_event(envelope(verdict_on_stream(failure))))
    await sink.end(cost)
