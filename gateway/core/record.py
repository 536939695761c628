"""The usage record: one ledger row for one attempt."""

import enum
from collections.abc import Mapping

import msgspec

from gateway.core.answer import Usage
from gateway.core.facts import NOTHING_RECORDED, RecordedFacts


class Outcome(enum.StrEnum):
    """How an attempt ended, as finance and ops read it."""

    SUCCESS = "success"
    CLIENT_ERROR = "client_error"  # the upstream refused the request as wrong (4xx)
    RATE_LIMITED = "rate_limited"  # the upstream answered 429
    UPSTREAM_ERROR = "upstream_error"  # 5xx, broken or malformed answer, aborted generation
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"  # no byte of the request was processed
    STALE_CONNECTION = "stale_connection"  # a reused connection was gone; the request was sent again
    CLIENT_DISCONNECT = "client_disconnect"
    SHUTDOWN = "shutdown"  # the gateway stopped before the answer was complete
    PRESUMED = "presumed"  # it was sent, and the gateway died: at least the prompt, at most what was held


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, complete. Money in nano-USD, durations in ms, `at` in UTC microseconds since 1970.

    `attempt_id` is `<request_id>:<n>` with n from 1; unique for ever. `model` is the name the client sent,
    `dispatched_model` the one the upstream was asked for, `reported_model` the one it said it used.
    `counterfactual_nano_usd` maps each other deployment of the model's `use` list to what this usage would
    have cost there. `unseen_nano_usd` is what a broken attempt may have cost beyond `cost_nano_usd`.
    `address` is the one that the bytes went to, `ip:port`; empty when none went out.
    `ttft_ms` is None when no token came. `facts` are what the plan depended on beside these columns.

    Many attributes: it is the ledger's row, one for each column.
    """

    attempt_id: str
    request_id: str
    at: int
    org: str
    team: str
    feature: str
    key: str
    model: str
    dispatched_model: str
    reported_model: str | None
    endpoint: str
    deployment: str
    replica: str
    zone: str
    privacy: str
    modalities: str
    decision: str
    stream: bool
    status: int
    outcome: Outcome
    finish_reason: str | None
    usage: Usage
    estimated: bool
    service_tier: str | None
    price_version: str
    cost_nano_usd: int
    counterfactual_nano_usd: Mapping[str, int]
    held_nano_usd: int
    unseen_nano_usd: int
    ttft_ms: float | None
    duration_ms: float
    upstream_request_id: str | None
    tags: Mapping[str, str]
    policy_version: str
    facts: RecordedFacts = NOTHING_RECORDED
    address: str = ""
