"""How an attempt ended: what came back, and what it cost. The second half of its ledger row."""

from collections.abc import Mapping

import msgspec

from gateway.core.admission import Settlement
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.record import Outcome, encode_half
from gateway.core.usage import Usage
from gateway.core.wire_usage import Counts

NOTHING_USED = Settlement(spent_nano=0)
# Of a body of JSON, whose names and marks are no tokens: so many are surely there.
_BYTES_PER_TOKEN_OF_WHOLE = 16

_OUTCOMES: Mapping[FailureKind, Outcome] = {
    FailureKind.CONNECT: Outcome.CONNECT_ERROR,
    FailureKind.ZONE: Outcome.CONNECT_ERROR,
    FailureKind.CONNECT_TIMEOUT: Outcome.CONNECT_ERROR,
    FailureKind.FIRST_BYTE_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.BETWEEN_BYTES_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.TOTAL_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.GATEWAY_TIMEOUT: Outcome.TIMEOUT,
    FailureKind.REFUSED: Outcome.CLIENT_ERROR,
    FailureKind.ACCOUNT: Outcome.ACCOUNT_REJECTED,
    FailureKind.BUSY: Outcome.BUSY,
}


class Progress(msgspec.Struct, eq=False, gc=False):
    """What has come of an attempt so far. Times are monotonic seconds; `status` 0: no answer has begun.

    `is_whole`: all of the answer came, though its client had gone.
    `quiet_until`: when the first text came. `blocked_seconds`: how long the client was slow to take it.
    """

    sent_at: float
    last_seen_at: float
    quiet_until: float
    address: str = ""
    status: int = 0
    blocked_seconds: float = 0.0
    first_token_at: float | None = None
    text_chunks: int = 0
    text_bytes: int = 0
    finish_reason: str | None = None
    reported_model: str | None = None
    upstream_request_id: str | None = None
    is_whole: bool = False

    def size_of_whole(self, body: bytes) -> None:
        """The answer came in one piece and does not say how many tokens it has: a guess from its bytes."""
        self.text_chunks, self.text_bytes = max(len(body) // _BYTES_PER_TOKEN_OF_WHOLE, 1), len(body)


class Ended(msgspec.Struct, frozen=True, eq=False, gc=False):
    """How an attempt ended. Money in nano-USD, durations in ms.

    `other_costs` are what its usage would have cost at the other deployments of its candidate's `others`, in
    their order. `unseen_nano` is what a broken attempt may have cost beyond `cost_nano`. `price_version` None
    is the candidate's own. `failure` is set where the upstream failed: another replica may be tried. `flags`
    are those of `metering.FLAGS`, with commas; `reported` are counts that contradict each other. `rates` are
    those of `pricing.rates_used`; None: what its candidate lists for text.

    Many attributes: it is the half of the row that is known after the answer.
    """

    attempt_id: str
    outcome: Outcome
    progress: Progress
    usage: Usage
    estimated: bool
    service_tier: str | None
    price_version: str | None
    cost_nano: int
    other_costs: tuple[int, ...]
    unseen_nano: int
    ttft_ms: float | None
    duration_ms: float
    failure: UpstreamFailure | None
    flags: str = ""
    reported: Counts = ()
    rates: Mapping[str, int] | None = None

    @property
    def settlement(self) -> Settlement:
        """What it takes from the budgets: what was seen, and what it may have cost unseen."""
        usage = self.usage
        tokens = usage.input_text + usage.output_text
        if usage.others:
            tokens = usage.input_tokens + usage.output_tokens
        if self.estimated:
            return Settlement(
                spent_nano=self.cost_nano, unseen_nano=self.unseen_nano, least_rate_tokens=tokens
            )
        return Settlement(spent_nano=self.cost_nano, unseen_nano=self.unseen_nano, rate_tokens=tokens)

    def half(self) -> bytes:
        """Its half of the row (ENDED_FIELDS)."""
        usage, progress = self.usage, self.progress
        return encode_half(
            (
                self.attempt_id,
                progress.status,
                self.outcome,
                progress.finish_reason,
                progress.reported_model,
                (usage.input_text, usage.output_text, usage.others),
                self.estimated,
                self.service_tier,
                self.price_version,
                self.cost_nano,
                self.other_costs,
                self.unseen_nano,
                self.ttft_ms,
                self.duration_ms,
                progress.upstream_request_id,
                progress.address,
                self.flags,
                self.reported,
                self.rates,
            )
        )


def outcome_of(failure: UpstreamFailure) -> Outcome:
    """How a failed attempt is booked."""
    if failure.stale:
        return Outcome.STALE_CONNECTION
    if failure.remedy is not None:
        return Outcome.CLIENT_ERROR
    if failure.is_busy and failure.status == 429:
        return Outcome.RATE_LIMITED
    return _OUTCOMES.get(failure.kind, Outcome.UPSTREAM_ERROR)
