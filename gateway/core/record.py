"""The usage record: one ledger row for one attempt, and the two halves that it is the join of.

A half is bytes: `Sent.half` is made before the request goes out, `Ended.half` when it has ended. Nobody puts
them together but whoever writes the row.
- Of `Sent`: what every request of its route shares (ROUTE_FIELDS), and what is its own (SENT_FIELDS).
- Of `Ended`: what came back (ENDED_FIELDS).
"""

import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.media import NO_MEDIA, Media
from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.usage import Usage, usage_of

MOST = 2**53  # exact in JSON everywhere
DIGITS = 6

# Attempts in flight, available replicas, and all replicas of a pool.
PoolState = tuple[int, int, int]


class RecordedFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a decision depended on, kept so that another policy can be tried on it.

    `draw` in [0, 1) is what a split by weights went by. `budget` is the share used of the fullest budget.

    `pools` leaves out those that were idle and whole. `text_bytes` 0: nothing of this was recorded.
    `needs` are capabilities in alphabetical order, with commas, as are `finds`: what in the text raised the
    request to its privacy class. `named` is the class of the caller's header. `unit` tells apart whom sticky
    shares keep together.
    """

    text_bytes: int = 0
    max_output: int | None = None
    choices: int = 1
    prompts: int = 1
    needs: str = ""
    media: Media = NO_MEDIA
    named: str = ""
    finds: str = ""
    unit: str | None = None
    draw: float = 0.0
    budget: float = 0.0
    pools: Mapping[str, PoolState] = {}


NOTHING_RECORDED = RecordedFacts()


class Outcome(enum.StrEnum):
    """How an attempt ended, as finance and ops read it."""

    SUCCESS = "success"
    CLIENT_ERROR = "client_error"  # the upstream refused the request (4xx)
    RATE_LIMITED = "rate_limited"  # the upstream answered 429
    BUSY = "busy"  # the upstream answered that it has too much to do: 503 or 529
    ACCOUNT_REJECTED = "account_rejected"  # the upstream refused our own account there
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
    `flags` are those of `metering.FLAGS`, with commas; `reported` are the upstream's own counts where they
    contradict each other. `rates` are what each unit was booked at, in nano-USD per million; empty where that
    is not known. `ttft_ms` is None when no token came. `facts` are what the plan depended on
    beside these columns.

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
    flags: str = ""
    reported: Mapping[str, int] = {}
    rates: Mapping[str, int] = {}


# --- the two halves ---

# `input_rate` and `output_rate` are nano-USD per million tokens of text; `others` are the model's other
# deployments, pairs of a name and the first of them there.
ROUTE_FIELDS = (
    "org",
    "team",
    "feature",
    "key",
    "model",
    "dispatched_model",
    "deployment",
    "zone",
    "price_version",
    "policy_version",
    "input_rate",
    "output_rate",
    "others",
)
# `prompt_tokens` is the estimate that is booked when nobody learns how the attempt ended.
SENT_FIELDS = (
    "attempt_id",
    "request_id",
    "at",
    "endpoint",
    "replica",
    "privacy",
    "modalities",
    "decision",
    "stream",
    "held_nano_usd",
    "prompt_tokens",
    "tags",
    "text_bytes",
    "max_output",
    "choices",
    "prompts",
    "needs",
    "media",
    "named",
    "finds",
    "unit",
    "draw",
    "budget",
    "pools",
)
# `units` are what was read and written as text, and pairs of every other unit and its amount.
# `other_costs` follow the order of `others`. `price_version` and `rates` None: those of the route.
ENDED_FIELDS = (
    "attempt_id",
    "status",
    "outcome",
    "finish_reason",
    "reported_model",
    "units",
    "estimated",
    "service_tier",
    "price_version",
    "cost_nano_usd",
    "other_costs",
    "unseen_nano_usd",
    "ttft_ms",
    "duration_ms",
    "upstream_request_id",
    "address",
    "flags",
    "reported",
    "rates",
)

HALF_BYTES = 64 * 1024  # a half is about 250 bytes; values of a longer one are cut to fit
_TEXT_CHARACTERS = 512  # of a value that had to be cut, as in the ledger
_MOST_ENTRIES = 64

# Facts by name.
_FACTS = frozenset(RecordedFacts.__struct_fields__)
_encode = msgspec.msgpack.Encoder().encode
_PAIR = b"\x92"  # an array of two follows


def route_half(values: Sequence[object]) -> bytes:
    """What all attempts along one route have in common, in the order of ROUTE_FIELDS."""
    return encode_half(values)


def sent_half(route: bytes, values: Sequence[object]) -> bytes:
    """An attempt that is about to be sent: `route` is a `route_half`, `values` are those of SENT_FIELDS."""
    return _PAIR + route + encode_half(values)


def encode_half(values: Sequence[object]) -> bytes:
    """`values` in msgpack, cut where they are too large or cannot be written."""
    try:
        half = _encode(values)
    except (UnicodeError, OverflowError, TypeError, msgspec.MsgspecError):
        return _encode([_cut(value) for value in values])
    return half if len(half) <= HALF_BYTES else _encode([_cut(value) for value in values])


def joined(sent: Mapping[str, Any], ended: Mapping[str, Any] | None) -> UsageRecord:
    """The record of an attempt from its two halves, by name; without `ended` as it has to be presumed.

    Raises KeyError, TypeError, ValueError or msgspec.ValidationError for halves that are none.
    """
    ended = _presumed(sent) if ended is None else ended
    media = sent["media"]
    facts = {name: sent[name] for name in _FACTS}
    facts["media"] = NO_MEDIA if media is None else Media(*media)
    facts["pools"] = {name: tuple(state) for name, state in sent["pools"].items()}
    others = [name for name, _ in sent["others"]]
    return UsageRecord(
        attempt_id=sent["attempt_id"],
        request_id=sent["request_id"],
        at=sent["at"],
        org=sent["org"],
        team=sent["team"],
        feature=sent["feature"],
        key=sent["key"],
        model=sent["model"],
        dispatched_model=sent["dispatched_model"],
        reported_model=ended["reported_model"],
        endpoint=sent["endpoint"],
        deployment=sent["deployment"],
        replica=sent["replica"],
        zone=sent["zone"],
        privacy=sent["privacy"],
        modalities=sent["modalities"],
        decision=sent["decision"],
        stream=sent["stream"],
        status=ended["status"],
        outcome=Outcome(ended["outcome"]),
        finish_reason=ended["finish_reason"],
        usage=usage_of_units(ended["units"]),
        estimated=ended["estimated"],
        service_tier=ended["service_tier"],
        price_version=ended["price_version"] or sent["price_version"],
        cost_nano_usd=ended["cost_nano_usd"],
        counterfactual_nano_usd=dict(zip(others, ended["other_costs"], strict=True)),
        held_nano_usd=sent["held_nano_usd"],
        unseen_nano_usd=ended["unseen_nano_usd"],
        ttft_ms=ended["ttft_ms"],
        duration_ms=ended["duration_ms"],
        upstream_request_id=ended["upstream_request_id"],
        tags=sent["tags"],
        policy_version=sent["policy_version"],
        facts=RecordedFacts(**facts),
        address=ended["address"],
        flags=ended["flags"],
        reported=dict(ended["reported"]),
        rates=rates_of(ended["rates"], sent["input_rate"], sent["output_rate"]),
    )


def usage_of_units(units: Sequence[Any]) -> Usage:
    """The usage of a second half. Raises TypeError or ValueError for what is none."""
    text, written, others = units
    return usage_of({"input_text": text, "output_text": written, **dict(others)})


def rates_of(rates: Mapping[str, int] | None, input_rate: int, output_rate: int) -> Mapping[str, int]:
    """What a row was booked at, by what its halves say. Raises TypeError for what is no whole number."""
    found = {"input_text": input_rate, "output_text": output_rate} if rates is None else rates
    return {unit: operator.index(rate) for unit, rate in found.items()}


def _presumed(sent: Mapping[str, Any]) -> dict[str, Any]:
    """It was sent, and nobody was there to see how it ended: at least its prompt, at most what was held."""
    tokens = sent["prompt_tokens"]
    spent = -(-tokens * sent["input_rate"] // TOKENS_PER_PRICE_UNIT)
    return {
        "status": 0,
        "outcome": Outcome.PRESUMED,
        "finish_reason": None,
        "reported_model": None,
        "units": (tokens, 0, ()),
        "estimated": True,
        "service_tier": None,
        "price_version": None,
        "cost_nano_usd": spent,
        "other_costs": [-(-tokens * rate // TOKENS_PER_PRICE_UNIT) for _, rate in sent["others"]],
        "unseen_nano_usd": max(sent["held_nano_usd"] - spent, 0),
        "ttft_ms": None,
        "duration_ms": 0.0,
        "upstream_request_id": None,
        "address": "",
        "flags": "",
        "reported": (),
        "rates": None,
    }


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-MOST, min(value, MOST))
    if isinstance(value, Mapping):
        return {_cut(key): _cut(item) for key, item in list(value.items())[:_MOST_ENTRIES]}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_cut(item) for item in value]  # all: their number is the file's, and costs follow names
    return value
