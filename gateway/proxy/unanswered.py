"""Requests that end without an answer of an upstream: told to the access log, kept to be found, and audited.

What is kept is bounded, so that no flood of refusals fills the ledger, its audit log or the disk. Each kind
of refusal of each key has an allowance, all together have one, and those without a key have a part of it.
Audit log and access log have allowances of their own, so no flood keeps anything out of another place. What
goes beyond is counted.
"""

from collections.abc import Callable

from gateway.core.allowances import BoundedEvents
from gateway.core.audit import Denial
from gateway.core.errors import GatewayError, PermissionDenied, PrivacyViolation, TooManyRefusals
from gateway.core.refused_request import KnownRequest, RefusedRequest, code_of, refused_request
from gateway.http.client_address import ClientAddresses, network_of
from gateway.metrics.access_log import AccessLog
from gateway.ports import Clock, Inbound
from gateway.proxy.refusal_limits import RefusalLimits

# A flood of one kind takes five days to push all others out of the ledger, which keeps 200,000 records.
OF_EACH_KIND = 30
OF_ALL = 100
# Lines of the access log: twenty a second make a GB a day.
LINES_OF_EACH_KIND = 120
LINES_OF_ALL = 1200


class UnansweredRequests:
    """Hears of each one. `not_kept` counts refusals that left no record."""

    def __init__(
        self,
        *,
        keep: Callable[[RefusedRequest], bool],
        denied: Callable[[Denial], None],
        access_log: AccessLog | None,
        clock: Clock,
        limits: RefusalLimits,
        clients: ClientAddresses,
    ) -> None:
        """`keep` puts a record on its way to the ledger, or says False. `denied` is told of what privacy kept
        in, within the allowance too."""
        self._keep = keep
        self._denied = denied
        self._access_log = access_log
        self._clock = clock
        self.limits = limits
        self.clients = clients
        self._records = BoundedEvents(of_each=OF_EACH_KIND, of_all=OF_ALL)
        self._denials = BoundedEvents(of_each=OF_EACH_KIND, of_all=OF_ALL)
        self._lines = BoundedEvents(of_each=LINES_OF_EACH_KIND, of_all=LINES_OF_ALL)
        self.not_kept = 0

    def refused(self, error: GatewayError, known: KnownRequest, inbound: Inbound) -> GatewayError:
        """A request is to end with `error`. Returns what it is answered with, as the limits judge it."""
        key = _key_of(error, known)
        client = self.clients.of(inbound.peer, inbound.headers)
        answer = self.limits.judged(error, client, key)
        refused = refused_request(answer, known, int(self._clock.now() * 1_000_000))
        now, code = self._clock.monotonic(), code_of(answer)
        self._log_refused(refused, inbound, (key or network_of(client), code), _seconds(known, now), now)
        kind = (key, code) if key else None  # strangers have one allowance for all that they try
        if self._records.admit(kind, now) is None or not self._keep(refused):
            self.not_kept += 1
        cause = answer.cause if isinstance(answer, TooManyRefusals) else answer
        if isinstance(cause, PrivacyViolation) and known.principal is not None:
            self._audit(refused, cause.message, now)
        return answer

    def abandoned(self, known: KnownRequest, inbound: Inbound) -> None:
        """Its client has gone before it was sent anywhere, or the gateway stops."""
        log, now = self._access_log, self._clock.monotonic()
        if log is not None:
            key = "" if known.principal is None else known.principal.key
            left_out = self._lines.admit((key, "abandoned"), now)
            if left_out is not None:
                log.abandoned(known, inbound, _seconds(known, now), left_out)

    def _log_refused(
        self,
        refused: RefusedRequest,
        inbound: Inbound,
        kind: tuple[str, str],
        seconds: float | None,
        now: float,
    ) -> None:
        if self._access_log is not None:
            left_out = self._lines.admit(kind, now)
            if left_out is not None:
                self._access_log.refused(refused, inbound, seconds, left_out)

    def _audit(self, refused: RefusedRequest, message: str, now: float) -> None:
        """Enter it into the audit log, or count it for the next entry of its key."""
        key = refused.key
        left_out = self._denials.admit(key, now)
        if left_out is not None:
            self._denied(
                Denial(refused.request_id, key, refused.feature, refused.model, message, left_out=left_out)
            )


def _key_of(error: GatewayError, known: KnownRequest) -> str:
    """The valid key of a refused request; empty: it had none."""
    if known.principal is not None:
        return known.principal.key
    return error.key if isinstance(error, PermissionDenied) else ""


def _seconds(known: KnownRequest, now: float) -> float | None:
    """How long it took, where that was noted."""
    return None if known.started is None else now - known.started
