"""Requests that end without an answer of an upstream: told to the access log, kept to be found, and audited.

What is kept is bounded, so that no flood of refusals fills the ledger or its audit log: each kind of refusal
of each key has an allowance, and all together have one. What goes beyond is counted. The access log has its
own bound.
"""

from collections.abc import Callable

from gateway.core.admission import GcraLimit
from gateway.core.audit import Denial
from gateway.core.errors import GatewayError, PrivacyViolation
from gateway.core.refused_request import KnownRequest, RefusedRequest, code_of, refused_request
from gateway.metrics.access_log import AccessLog
from gateway.ports import Clock, Inbound

# A flood of one kind takes five days to push all others out of the ledger, which keeps 200,000 records.
OF_EACH_KIND = GcraLimit(30)
OF_ALL = GcraLimit(100)
MOST_KINDS = 10_000


class UnansweredRequests:
    """Hears of each one. `not_kept` counts refusals that left no record."""

    def __init__(
        self,
        *,
        keep: Callable[[RefusedRequest], bool],
        denied: Callable[[Denial], None],
        access_log: AccessLog | None,
        clock: Clock,
    ) -> None:
        """`keep` puts a record on its way to the ledger, or says False. `denied` is told of what privacy kept
        in, within the allowance too."""
        self._keep = keep
        self._denied = denied
        self._access_log = access_log
        self._clock = clock
        # When what was taken of each allowance will have drained, in monotonic seconds.
        self._all = 0.0
        self._kinds: dict[tuple[str, str], float] = {}
        self._denials_left_out: dict[str, int] = {}  # by key, since its last entry
        self.not_kept = 0

    def refused(self, error: GatewayError, known: KnownRequest, inbound: Inbound) -> None:
        """A request was answered with `error`."""
        refused = refused_request(error, known, int(self._clock.now() * 1_000_000))
        now = self._clock.monotonic()
        if self._access_log is not None:
            self._access_log.refused(refused, inbound, _seconds(known, now))
        has_room = self._has_room(refused.key, code_of(error), now)
        if not (has_room and self._keep(refused)):
            self.not_kept += 1
        if isinstance(error, PrivacyViolation) and known.principal is not None:
            self._audit(refused, error.message, has_room=has_room)

    def abandoned(self, known: KnownRequest, inbound: Inbound) -> None:
        """Its client has gone before it was sent anywhere, or the gateway stops."""
        if self._access_log is not None:
            self._access_log.abandoned(known, inbound, _seconds(known, self._clock.monotonic()))

    def _audit(self, refused: RefusedRequest, message: str, *, has_room: bool) -> None:
        """Enter it into the audit log, or count it for the next entry of its key."""
        key, left_out = refused.key, self._denials_left_out
        if not has_room:
            left_out[key] = left_out.get(key, 0) + 1
            return
        count = left_out.pop(key, 0)
        self._denied(Denial(refused.request_id, key, refused.feature, refused.model, message, left_out=count))

    def _has_room(self, key: str, code: str, now: float) -> bool:
        kind, kinds = (key, code), self._kinds
        if kind not in kinds and len(kinds) >= MOST_KINDS:  # keys come and go with reloads
            kinds.clear()
        taken = kinds.get(kind, 0.0)
        if OF_EACH_KIND.wait_seconds(taken, 1, now) or OF_ALL.wait_seconds(self._all, 1, now):
            return False
        kinds[kind] = OF_EACH_KIND.take(taken, 1, now)
        self._all = OF_ALL.take(self._all, 1, now)
        return True


def _seconds(known: KnownRequest, now: float) -> float | None:
    """How long it took, where that was noted."""
    return None if known.started is None else now - known.started
