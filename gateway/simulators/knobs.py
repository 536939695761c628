"""The knobs of a simulator: how fast it answers, how it fails, what it serves. All can change at run time."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_HOUR_MS = 3_600_000


class InvalidKnob(ValueError):
    """A knob has an unknown name, a wrong type or a value out of range. The message says which."""


class ErrorKind(StrEnum):
    """Every way in which a simulator can fail."""

    RATE_LIMIT = "rate_limit"  # 429 rate_limit_exceeded with retry-after
    INSUFFICIENT_QUOTA = "insufficient_quota"  # 429 insufficient_quota: the account has no money left
    SERVER_ERROR = "server_error"  # 500
    UNAVAILABLE = "unavailable"  # 503
    BAD_GATEWAY = "bad_gateway"  # 502 with an HTML page, as a load balancer in front answers
    GATEWAY_TIMEOUT = "gateway_timeout"  # 504 with an HTML page: a load balancer in front gave up waiting
    REFUSAL = "refusal"  # a 4xx: refusal_status, refusal_code and refusal_message say which
    ERROR_BODY = "error_body"  # 200, and that refusal in place of the answer; of a stream its first event
    TIMEOUT = "timeout"  # never answers
    RESET_BEFORE = "reset_before"  # connection reset before any byte of the answer
    RESET_MID = "reset_mid"  # connection reset in the middle of the answer
    STALL_MID = "stall_mid"  # stops sending in the middle of the answer, the connection stays open
    GARBAGE = "garbage"  # bytes that are not HTTP
    ERROR_EVENT = "error_event"  # an error event inside the stream; 500 when not streaming
    ABORT = "abort"  # finish_reason "abort" half-way, with [DONE], under 200
    TRUNCATED_JSON = "truncated_json"  # 200, well-framed, but the JSON ends early
    NO_USAGE = "no_usage"  # a good answer without usage


class ErrorShape(StrEnum):
    """How the error of an error answer is written."""

    OWN = "own"  # as this kind of server writes it
    OBJECT = "object"  # {"object": "error", "message": ...}: vLLM of old
    TEXT_IN_ERROR = "text_in_error"  # {"error": "..."}
    DETAIL = "detail"  # {"detail": "..."}: FastAPI
    DETAIL_LIST = "detail_list"  # {"detail": [{"loc": ..., "msg": ...}]}: FastAPI's validation
    MESSAGE = "message"  # {"message": "..."}
    PLAIN = "plain"  # plain text
    HTML = "html"  # a page
    PARAM_LIST = "param_list"  # OpenAI's envelope, with an integer code and a list as param
    AZURE = "azure"  # OpenAI's envelope, with an innererror


class RetryAfter(StrEnum):
    """How an error answer tells when to come back, after `retry_after_ms`."""

    OWN = "own"  # as this kind of server does it
    NONE = "none"
    MILLISECONDS = "milliseconds"  # retry-after-ms
    SECONDS = "seconds"  # retry-after in seconds
    DATE = "date"  # retry-after as an HTTP date


class Knobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One setting of a simulator. Zero means "off" or "no limit" where the description says so.

    Many attributes: one for each knob of `POST /_sim/knobs`.
    """

    models: Annotated[
        tuple[str, ...], Meta(description="Model names served. None: the kind's usual ones.")
    ] = ()
    api_key: Annotated[
        str | None,
        Meta(description="The only bearer key accepted. None: OpenAI takes any, vLLM asks for none."),
    ] = None
    seed: Annotated[int, Meta(description="Seed of answers, jitter and faults.")] = 0
    ttft_ms: Annotated[float, Meta(ge=0, le=_HOUR_MS, description="Milliseconds before the first token.")] = (
        0.0
    )
    ttft_jitter_ms: Annotated[
        float,
        Meta(
            ge=0, le=_HOUR_MS, description="Up to so many milliseconds more or less before the first token."
        ),
    ] = 0.0
    prefill_tokens_per_second: Annotated[
        float,
        Meta(ge=0, description="Uncached prompt tokens delay the first token at this rate. 0: no delay."),
    ] = 0.0
    tokens_per_second: Annotated[
        float, Meta(ge=0, description="Output tokens a second for each request. 0: as fast as possible.")
    ] = 0.0
    output_tokens: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Length of a text answer in tokens.")
    ] = 60
    max_model_len: Annotated[
        int, Meta(ge=0, description="Context length in tokens. 0: 128000 for OpenAI, 131072 for vLLM.")
    ] = 0
    max_concurrency: Annotated[
        int,
        Meta(
            ge=0,
            description="Requests in flight, waiting ones included; past it 503 (vLLM, where each choice is "
            "one) or 429. 0: no limit.",
        ),
    ] = 0
    max_num_seqs: Annotated[
        int, Meta(ge=0, description="Requests generating at once; the others wait their turn. 0: no limit.")
    ] = 0
    opening_first: Annotated[
        bool, Meta(description="A stream's head and role leave at once, before the wait for the first token.")
    ] = False
    comment_every_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=_HOUR_MS,
            description="While a stream waits for its first token, a comment each so many ms. 0: none.",
        ),
    ] = 0.0
    odd_values: Annotated[
        bool,
        Meta(description="Optional members of answers and chunks are null, of other types or broken text."),
    ] = False
    break_after_tokens: Annotated[
        int,
        Meta(ge=-1, description="Output tokens before a stream breaks off in the middle. -1: half of them."),
    ] = -1
    bills_to_the_end: Annotated[
        bool, Meta(description="A client that leaves does not stop it: the whole answer is generated.")
    ] = False
    prompt_caching: Annotated[bool, Meta(description="Count cached prompt tokens.")] = True
    healthy: Annotated[bool, Meta(description="False: /health answers 503 and requests 500.")] = True
    frozen: Annotated[
        bool,
        Meta(description="True: no token is made. /health answers 200, requests are taken, streams stand."),
    ] = False
    silent_on_sigterm: Annotated[
        bool,
        Meta(
            description="SIGTERM closes the port and freezes all that runs, with its connections open, until "
            "the clients leave. Otherwise streams end with finish_reason abort."
        ),
    ] = False
    error_rate: Annotated[
        float, Meta(ge=0, le=1, description="Share of requests that fail with error_kind.")
    ] = 0.0
    error_kind: Annotated[ErrorKind, Meta(description="How they fail.")] = ErrorKind.SERVER_ERROR
    fail_next: Annotated[
        int, Meta(ge=0, description="The next so many requests fail with error_kind, whatever the rate.")
    ] = 0
    retry_after_ms: Annotated[
        int, Meta(ge=0, description="Milliseconds to wait that an error answer tells, such as rate_limit.")
    ] = 1000
    retry_after: Annotated[
        RetryAfter, Meta(description="How error answers tell it. own: as this kind of server does.")
    ] = RetryAfter.OWN
    error_shape: Annotated[
        ErrorShape, Meta(description="How errors are written. own: as this kind of server does.")
    ] = ErrorShape.OWN
    refusal_status: Annotated[int, Meta(ge=400, le=499, description="Status of a refusal.")] = 400
    refusal_code: Annotated[str | None, Meta(description="Code of a refusal. None: none.")] = None
    refusal_message: Annotated[str, Meta(description="Message of a refusal.")] = "The request is refused."


def checked(knobs: Knobs) -> Knobs:
    """The same knobs. Raises InvalidKnob when a value made in Python is out of range."""
    return _convert(msgspec.to_builtins(knobs))


def merged(knobs: Knobs, changes: Mapping[str, Any]) -> Knobs:
    """`knobs` with a JSON merge patch applied: null puts a knob back to its default. Raises InvalidKnob."""
    values = {**msgspec.to_builtins(knobs), **changes}
    return _convert({name: value for name, value in values.items() if value is not None})


def _convert(values: Mapping[str, Any]) -> Knobs:
    try:
        return msgspec.convert(values, Knobs)
    except msgspec.ValidationError as exc:
        raise InvalidKnob(str(exc)) from exc
