"""OpenAI's API as GPT-4o's callers see it: envelopes, headers, usage and refusals."""

import hashlib
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

import orjson

from gateway.simulators.dialect import Observer
from gateway.simulators.embeddings import dimensions_of, embed
from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import ErrorKind, Knobs
from gateway.simulators.media import openai_image_tokens
from gateway.simulators.openai_checks import output_limit
from gateway.simulators.prefix_cache import PrefixCache
from gateway.simulators.prompts import Modalities, Prompt
from gateway.simulators.refusals import Header, SimulatedRefusal, invalid
from gateway.simulators.requests import Json, SimulatedCall, parsed
from gateway.simulators.state import State
from gateway.simulators.wire import Shape

_MODELS: Final = (
    "gpt-4o",
    "gpt-4o-2024-08-06",
    "gpt-4o-2024-11-20",
    "gpt-4o-audio-preview",
    "gpt-4o-mini",
    "gpt-4o-mini-2024-07-18",
    "gpt-3.5-turbo-instruct",
    "text-embedding-3-small",
    "text-embedding-3-large",
)
_SNAPSHOTS: Final = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}
_SHUT_DOWN: Final = dict.fromkeys(
    ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o-mini-2024-07-18"), "2027-01-14"
)
_FINGERPRINT = "fp_5110677019"
_KEYS_PAGE = "https://platform.openai.com/account/api-keys"
_REQUESTS_A_MINUTE = 10_000
_TOKENS_A_MINUTE = 30_000_000
_PARTS = ("text", "refusal", "image_url", "input_audio", "file")
_CHUNK: Json = {"service_tier": "default", "system_fingerprint": _FINGERPRINT}
_SHAPE = Shape(
    chunk=_CHUNK,
    body=_CHUNK,
    message={"refusal": None, "annotations": []},
    opening_delta={"refusal": None},
    choice={},
    streamed_choice={},
    closing_choice={},
    logprobs={"refusal": None},
    null_usage=True,
    tool_id_prefix="call_",
    done_after_error=False,
)


class _Unobserved:
    """OpenAI shows no metrics."""

    def started(self, prompt_tokens: int, cached_tokens: int, choices: int) -> None: ...
    def first_token(self, seconds_since_arrival: float) -> None: ...
    def tokens(self, count: int, gap_seconds: float | None) -> None: ...
    def finished(self, reason: str, seconds: float, held_tokens: int) -> None: ...


class OpenAIDialect:
    """api.openai.com."""

    headers_before_first_token = False
    overload = ErrorKind.RATE_LIMIT

    def __init__(self) -> None:
        self.observer: Observer = _Unobserved()
        self.modalities = Modalities(
            image_tokens=openai_image_tokens,
            text_factor=1.0,
            unreadable_image=_unreadable_image,
            refused_part=_refused_part,
            max_images=1500,
        )
        self._minute = 0
        self._requests_this_minute = 0

    def new_prefix_cache(self) -> PrefixCache:
        return PrefixCache(minimum_tokens=1024, block_tokens=128)

    def models(self, knobs: Knobs) -> tuple[str, ...]:
        return knobs.models or _MODELS

    def max_model_len(self, knobs: Knobs) -> int:
        return knobs.max_model_len or 128_000

    def authorize(self, exchange: SimulatedExchange, knobs: Knobs) -> None:
        scheme, _, key = (exchange.header(b"authorization") or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise SimulatedRefusal(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
                f"{_KEYS_PAGE}.",
            )
        if knobs.api_key is not None and key != knobs.api_key:
            shown = f"{key[:4]}{'*' * 8}{key[-4:]}" if len(key) > 8 else "*" * len(key)
            message = f"Incorrect API key provided: {shown}. You can find your API key at {_KEYS_PAGE}."
            raise SimulatedRefusal(401, message, code="invalid_api_key")

    def answer(self, exchange: SimulatedExchange, state: State) -> Reply:
        match exchange.method, exchange.path:
            case "POST", "/v1/embeddings":
                return self._embeddings(exchange, state)
            case "GET", "/v1/models":
                data = [_model_card(name) for name in self._listed(state)]
                return _json({"object": "list", "data": data})
            case "GET", path if path.startswith("/v1/models/"):
                name = path.removeprefix("/v1/models/")
                if name not in self._listed(state):
                    message = f"The model '{name}' does not exist"
                    raise SimulatedRefusal(404, message, param="model", code="model_not_found")
                return _json(_model_card(name))
            case method, "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" | "/v1/models" as path:
                hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
                raise SimulatedRefusal(
                    405, f"Not allowed to {method} on {path}. {hint}", code="method_not_supported"
                )
            case method, path:
                raise SimulatedRefusal(404, f"Invalid URL ({method} {path})")

    def _listed(self, state: State) -> tuple[str, ...]:
        if not state.knobs.healthy:
            raise self.fault(ErrorKind.SERVER_ERROR, state.knobs, "")
        return self.models(state.knobs)

    def _embeddings(self, exchange: SimulatedExchange, state: State) -> Reply:
        document = parsed(exchange.body)
        model = document.get("model")
        if not isinstance(model, str) or not model:
            raise invalid("you must provide a model parameter")
        if model not in self.models(state.knobs):
            raise self.unknown_model(model)
        if dimensions_of(model) is None:
            raise SimulatedRefusal(403, "You are not allowed to generate embeddings from this model")
        body, tokens = embed(document, model, state.tokenizer)
        return Reply(body=body, prompt_tokens=tokens)

    def unknown_model(self, model: str) -> SimulatedRefusal:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return SimulatedRefusal(404, message, param="model", code="model_not_found")

    def check(self, call: SimulatedCall, document: Json, prompt: Prompt, knobs: Knobs) -> int:
        return output_limit(call, document, prompt, self.max_model_len(knobs))

    def sequences(self, call: SimulatedCall) -> int:
        del call
        return 1

    def fault(self, kind: ErrorKind, knobs: Knobs, model: str) -> SimulatedRefusal:
        match kind:
            case ErrorKind.RATE_LIMIT:
                wait = knobs.retry_after_ms
                message = (
                    f"Rate limit reached for {model} in organization org-simulated on requests per min "
                    f"(RPM): Limit {_REQUESTS_A_MINUTE}, Used {_REQUESTS_A_MINUTE}, Requested 1. Please try "
                    f"again in {wait}ms. Visit https://platform.openai.com/account/rate-limits to learn more."
                )
                retry = ((b"retry-after-ms", b"%d" % wait), (b"retry-after", b"%d" % -(-wait // 1000)))
                return SimulatedRefusal(
                    429, message, kind="requests", code="rate_limit_exceeded", headers=retry
                )
            case ErrorKind.INSUFFICIENT_QUOTA:
                message = "You exceeded your current quota, please check your plan and billing details."
                return SimulatedRefusal(429, message, kind="insufficient_quota", code="insufficient_quota")
            case ErrorKind.UNAVAILABLE:
                message = "The engine is currently overloaded, please try again later."
                return SimulatedRefusal(503, message, kind="server_error")
            case _:
                message = "The server had an error while processing your request. Sorry about that!"
                return SimulatedRefusal(500, message, kind="server_error")

    def envelope(self, refused: SimulatedRefusal) -> bytes:
        error = {
            "message": refused.message,
            "type": refused.kind,
            "param": refused.param,
            "code": refused.code,
        }
        return orjson.dumps({"error": error})

    def shape(self, call: SimulatedCall) -> Shape:
        del call
        return _SHAPE

    def usage(self, prompt: Prompt, cached_tokens: int) -> Callable[[int], Json]:
        prompt_details = {"cached_tokens": cached_tokens, "audio_tokens": prompt.audio_tokens}

        def usage(completion_tokens: int) -> Json:
            return {
                "prompt_tokens": prompt.tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt.tokens + completion_tokens,
                "prompt_tokens_details": prompt_details,
                "completion_tokens_details": {
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            }

        return usage

    def reported_model(self, model: str) -> str:
        return _SNAPSHOTS.get(model, model)

    def ident(self, exchange: SimulatedExchange, call: SimulatedCall) -> str:
        del exchange
        return f"{'chatcmpl' if call.is_chat else 'cmpl'}-{token_hex(16)}"

    def headers(self, exchange: SimulatedExchange, state: State) -> list[Header]:
        del exchange
        left = self._requests_left()
        return [
            (b"openai-organization", b"org-simulated"),
            (b"openai-processing-ms", b"%d" % max(1, int(state.knobs.ttft_ms))),
            (b"openai-version", b"2020-10-01"),
            (b"x-ratelimit-limit-requests", b"%d" % _REQUESTS_A_MINUTE),
            (b"x-ratelimit-limit-tokens", b"%d" % _TOKENS_A_MINUTE),
            (b"x-ratelimit-remaining-requests", b"%d" % left),
            (b"x-ratelimit-remaining-tokens", b"%d" % (_TOKENS_A_MINUTE - 100)),
            (b"x-ratelimit-reset-requests", b"6ms"),
            (b"x-ratelimit-reset-tokens", b"0s"),
            (b"x-request-id", b"req_%s" % token_hex(16).encode()),
        ]

    def _requests_left(self) -> int:
        """Shown, not enforced; counted by the minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._requests_this_minute = minute, 0
        self._requests_this_minute += 1
        return max(_REQUESTS_A_MINUTE - self._requests_this_minute, 0)


def _unreadable_image() -> SimulatedRefusal:
    formats = "['png', 'jpeg', 'gif', 'webp']"
    message = (
        "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
        f"{formats}."
    )
    return invalid(message, code="invalid_image_format")


def _refused_part(kind: str) -> SimulatedRefusal | None:
    if kind in _PARTS:
        return None
    supported = ", ".join(f"'{part}'" for part in _PARTS)
    return invalid(
        f"Invalid value: '{kind}'. Supported values are: {supported}.", "messages", "invalid_value"
    )


def _model_card(name: str) -> Json:
    # A stable invented creation time: clients sort by it.
    created = 1_715_367_049 + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=2).digest())
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "system"}
    return {**card, "shutdown_date": _SHUT_DOWN.get(name)}


def _json(value: Any) -> Reply:
    return Reply(body=orjson.dumps(value))
