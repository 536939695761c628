"""A Llama 4 replica as vLLM 0.32 serves it: int error codes, open operations routes, load in a header."""

import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import orjson

from gateway.simulators.dialect import Observer
from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import ErrorKind, Knobs
from gateway.simulators.media import llama4_image_tokens
from gateway.simulators.prefix_cache import PrefixCache
from gateway.simulators.prompts import Modalities, Prompt
from gateway.simulators.refusals import Header, SimulatedRefusal, invalid
from gateway.simulators.requests import Json, SimulatedCall, SimulatedEndpoint, parsed, parts, wrong_type
from gateway.simulators.state import State
from gateway.simulators.vllm_metrics import VllmMetrics
from gateway.simulators.wire import Shape

DEFAULT_MODEL = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
VERSION = "0.32.0"

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_TEXT_FACTOR = 1.06
_MAX_IMAGES = 5
_MEDIA = {"input_audio": "audio", "audio_url": "audio", "video_url": "video"}
_KINDS = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "InternalServerError",
    503: "Service Unavailable",
}
_FULL = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
    "instance."
)
_SHAPE = Shape(
    chunk={},
    body={
        "service_tier": None,
        "system_fingerprint": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    },
    message={
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning": None,
    },
    opening_delta={},
    choice={"stop_reason": None, "token_ids": None},
    streamed_choice={"token_ids": None},
    closing_choice={"stop_reason": None},
    logprobs={},
    null_usage=False,
    tool_id_prefix="chatcmpl-tool-",
    done_after_error=True,
)


class VllmDialect:
    """`vllm serve` with a Llama 4 model, prompt token details, request-id headers and a queue limit.

    Llama 4 has its own tokenizer: its text tokens are taken as 1.06 times o200k_base, rounded up.
    """

    headers_before_first_token = True
    overload = ErrorKind.UNAVAILABLE

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        self.metrics = VllmMetrics(model)
        self.observer: Observer = self.metrics
        self.modalities = Modalities(
            image_tokens=llama4_image_tokens,
            text_factor=_TEXT_FACTOR,
            unreadable_image=lambda: invalid("Failed to load image: cannot identify image file"),
            refused_part=_refused_part,
            max_images=_MAX_IMAGES,
        )
        self._routes = self._build_routes()
        self._started_at = int(time.time())

    def new_prefix_cache(self) -> PrefixCache:
        return PrefixCache(minimum_tokens=16, block_tokens=16)

    def models(self, knobs: Knobs) -> tuple[str, ...]:
        return knobs.models or (DEFAULT_MODEL,)

    def max_model_len(self, knobs: Knobs) -> int:
        return knobs.max_model_len or 131_072

    def authorize(self, exchange: SimulatedExchange, knobs: Knobs) -> None:
        """Only /v1 is guarded: health, metrics and the tokenizer stay open, as they do on vLLM."""
        if knobs.api_key is None or not exchange.path.startswith("/v1"):
            return
        scheme, _, key = (exchange.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or key != knobs.api_key:
            raise SimulatedRefusal(401, "Unauthorized")

    def answer(self, exchange: SimulatedExchange, state: State) -> Reply:
        route = self._routes.get((exchange.method, exchange.path))
        if route is not None:
            return route(exchange, state)
        if exchange.path in {*SimulatedEndpoint, *(path for _, path in self._routes)}:
            raise SimulatedRefusal(405, "Method Not Allowed")
        raise SimulatedRefusal(404, "Not Found", kind="Not Found")

    def _build_routes(self) -> dict[tuple[str, str], Callable[[SimulatedExchange, State], Reply]]:
        return {
            ("GET", "/v1/models"): self._model_list,
            ("GET", "/health"): _health,
            ("GET", "/ping"): _health,
            ("POST", "/ping"): _health,
            ("GET", "/load"): lambda _, state: _json({"server_load": state.slots.in_flight}),
            ("GET", "/version"): lambda *_: _json({"version": VERSION}),
            ("GET", "/metrics"): lambda *_: Reply(body=self.metrics.page(), content_type=_METRICS_TYPE),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }

    def _model_list(self, exchange: SimulatedExchange, state: State) -> Reply:
        del exchange
        length = self.max_model_len(state.knobs)
        cards = [_model_card(name, length, self._started_at) for name in self.models(state.knobs)]
        return _json({"object": "list", "data": cards})

    def _tokenize(self, exchange: SimulatedExchange, state: State) -> Reply:
        document = parsed(exchange.body)
        messages = document.get("messages") or ()
        texts = [str(part.get("text") or "") for message in messages for part in parts(message)]
        text = document["prompt"] if isinstance(document.get("prompt"), str) else "\n".join(texts)
        ids = state.tokenizer.ids(text).tolist()
        count = {"count": len(ids), "max_model_len": self.max_model_len(state.knobs)}
        return _json({**count, "tokens": ids, "token_strs": None})

    def _detokenize(self, exchange: SimulatedExchange, state: State) -> Reply:
        document = parsed(exchange.body)
        ids = document.get("tokens")
        if not isinstance(ids, list) or not all(type(item) is int for item in ids):
            raise wrong_type("tokens", "an array of token ids", ids)
        try:
            return _json({"prompt": state.tokenizer.decode(ids)})
        except (KeyError, OverflowError) as exc:
            raise invalid("Token id out of vocabulary") from exc

    def unknown_model(self, model: str) -> SimulatedRefusal:
        return SimulatedRefusal(404, f"The model `{model}` does not exist.", param="model")

    def check(self, call: SimulatedCall, document: Json, prompt: Prompt, knobs: Knobs) -> int:
        del document  # vLLM ignores fields that it does not know
        context = self.max_model_len(knobs)
        wanted = call.max_tokens or 0
        if prompt.tokens + max(wanted, 1) > context:
            message = (
                f"This model's maximum context length is {context} tokens. However, you requested {wanted} "
                f"output tokens and your prompt contains {prompt.tokens} input tokens, for a total of "
                f"{prompt.tokens + wanted} tokens. Please reduce the length of the input prompt or the "
                "number of requested output tokens."
            )
            raise invalid(message, "input_tokens")
        return min(call.max_tokens or context, context - prompt.tokens)

    def sequences(self, call: SimulatedCall) -> int:
        """Each choice of each prompt is one of the engine's requests."""
        return call.choices_per_prompt * max(len(call.prompts), 1)

    def fault(self, kind: ErrorKind, knobs: Knobs, model: str) -> SimulatedRefusal:
        del knobs, model
        match kind:
            case (
                ErrorKind.RATE_LIMIT | ErrorKind.INSUFFICIENT_QUOTA
            ):  # vLLM has neither; a proxy in front may
                return SimulatedRefusal(429, "Too many requests")
            case ErrorKind.UNAVAILABLE:
                return SimulatedRefusal(503, _FULL)
            case _:
                message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
                return SimulatedRefusal(500, message)

    def envelope(self, refused: SimulatedRefusal) -> bytes:
        if refused.status == 401:
            return b'{"error":"Unauthorized"}'
        kind = _KINDS.get(refused.status, "BadRequestError") if refused.kind != "Not Found" else refused.kind
        error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.status}
        return orjson.dumps({"error": error})

    def shape(self, call: SimulatedCall) -> Shape:
        del call
        return _SHAPE

    def usage(self, prompt: Prompt, cached_tokens: int) -> Callable[[int], Json]:
        details: Json = {"cached_tokens": cached_tokens}
        if prompt.image_tokens:
            details["multimodal_tokens"] = {"image": prompt.image_tokens}

        def usage(completion_tokens: int) -> Json:
            return {
                "prompt_tokens": prompt.tokens,
                "total_tokens": prompt.tokens + completion_tokens,
                "completion_tokens": completion_tokens,
                "prompt_tokens_details": details,
            }

        return usage

    def reported_model(self, model: str) -> str:
        return model

    def ident(self, exchange: SimulatedExchange, call: SimulatedCall) -> str:
        name = exchange.header(b"x-request-id") or token_hex(16)
        return f"{'chatcmpl' if call.is_chat else 'cmpl'}-{name}"

    def headers(self, exchange: SimulatedExchange, state: State) -> list[Header]:
        headers = [(b"server", b"uvicorn")]
        if exchange.path.startswith("/v1"):
            ident = exchange.header(b"x-request-id") or token_hex(16)
            headers.append((b"x-request-id", ident.encode("latin-1")))
        wanted = (exchange.header(b"endpoint-load-metrics-format") or "").upper()
        if wanted in ("JSON", "TEXT") and exchange.method == "POST":
            headers.append((b"endpoint-load-metrics", self._load(state, as_json=wanted == "JSON")))
        return headers

    def _load(self, state: State, *, as_json: bool) -> bytes:
        named = {
            "num_requests_waiting": float(state.slots.waiting),
            "kv_cache_usage_perc": self.metrics.kv_cache_usage(),
        }
        if as_json:
            return b"JSON " + orjson.dumps({"named_metrics": named})
        return b"TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in named.items()).encode()


def _refused_part(kind: str) -> SimulatedRefusal | None:
    if kind in ("text", "image_url", "refusal"):
        return None
    if kind in _MEDIA:
        return invalid(f"At most 0 {_MEDIA[kind]}(s) may be provided in one prompt.", _MEDIA[kind])
    return invalid(f"Unknown part type: {kind}")


def _health(exchange: SimulatedExchange, state: State) -> Reply:
    del exchange
    return Reply(status=200 if state.knobs.healthy else 503, body=b"", content_type=b"text/plain")


def _model_card(name: str, max_model_len: int, created: int) -> Json:
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "vllm"}
    return {**card, "root": name, "parent": None, "max_model_len": max_model_len, "permission": []}


def _json(value: Any) -> Reply:
    return Reply(body=orjson.dumps(value))
