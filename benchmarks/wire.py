"""The bytes of the benchmarks: chat requests as an SDK writes them, and an answer of 700 bytes as vLLM's."""

from __future__ import annotations

import base64
import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "llama-4-scout"
KEY = "sk-bench-2f6d1c0a9b8e7d5f4a3b"
REQUEST_BYTES = 700
ANSWER_BYTES = 700
LONG_REQUEST_BYTES = 100_000
IMAGE_BYTES = 4_000_000
CHAT_PATH = "/v1/chat/completions"

# Ordinary business text with digits, an @ and a date: detectors have to look, and find nothing.
PROMPT = (
    "Summarise the meeting below for people who were not there, in at most three bullet points. The "
    "delivery of 14 pallets planned for 2026-03-18 moves to week 13 because the carrier (rate @ "
    "1,240.50 a lorry) lost two slots; the Osaka team keeps 8% of the stock in reserve and asks for a "
    "decision by Friday at 16:30. Open questions: who pays for storage of order 4471-B, and does the "
    "second warehouse need a licence before the audit in June? "
)
REPLY = (
    "- Delivery of the 14 pallets slips from 18 March to week 13, as the carrier lost two slots.\n- "
    "Osaka keeps 8% of stock in reserve and needs a decision by Friday, 16:30.\n- Still open: storage "
    "costs of order 4471-B, and whether the second warehouse needs a licence before June. "
)
PADDING = "Please keep names and numbers as they are. "
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def _padded(document: dict[str, object], place: dict[str, object], size: int) -> bytes:
    """`document` as compact JSON of exactly `size` bytes; the text in `place["content"]` is padded."""
    missing = size - len(json.dumps(document, separators=(",", ":")).encode())
    if missing < 0:
        raise ValueError(f"{-missing} bytes too long")
    padding = (PADDING * (missing // len(PADDING) + 1))[:missing]
    place["content"] = f"{place['content']}{padding}"
    return json.dumps(document, separators=(",", ":")).encode()


def _chat(user: dict[str, object], max_tokens: int, model: str) -> dict[str, object]:
    return {
        "messages": [{"role": "system", "content": "You write short and exact summaries."}, user],
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0.2,
    }


def chat_request(
    *, stream: bool = False, max_tokens: int = 128, size: int = REQUEST_BYTES, model: str = MODEL
) -> bytes:
    """A chat request of `size` bytes; a stream does not ask for usage, the SDK's default."""
    user: dict[str, object] = {"role": "user", "content": PROMPT}
    document = _chat(user, max_tokens, model)
    if stream:
        document["stream"] = True
    return _padded(document, user, size)


def short_request(model: str) -> bytes:
    """700 bytes whatever the model's name is: the text is padded to it."""
    return chat_request(model=model)


def long_request(model: str) -> bytes:
    return chat_request(size=LONG_REQUEST_BYTES, model=model)


def image_request(model: str) -> bytes:
    """A question about an image of 4 MB in a data URL: 5.3 MB of JSON. The pixels are noise, as a photo's."""
    image = PNG_HEAD + random.Random(4).randbytes(IMAGE_BYTES - len(PNG_HEAD))
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    parts = [
        {"type": "text", "text": "What does the label on the pallet say?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return json.dumps(_chat({"role": "user", "content": parts}, 128, model), separators=(",", ":")).encode()


# What OpenAI tells beside the totals of a prompt that a cache knew, and of a model that reasons.
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 128, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 64,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def chat_answer(details: Mapping[str, object] | None = None) -> bytes:
    """The static upstream's answer: a chat completion of 700 bytes with usage, and its `details`."""
    text = REPLY if details is None else REPLY[:160]
    message: dict[str, object] = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 171, "total_tokens": 249, "completion_tokens": 78, **(details or {})}
    document: dict[str, object] = {
        "id": "chatcmpl-6f1d2c3b4a5968778695a4b3c2d1e0f1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage,
    }
    return _padded(document, message, ANSWER_BYTES)


def models_answer() -> bytes:
    """What `GET /v1/models` of a vLLM server says, as far as routers read it."""
    card = {
        "id": MODEL,
        "object": "model",
        "created": 1790000000,
        "owned_by": "vllm",
        "max_model_len": 131072,
    }
    return json.dumps({"object": "list", "data": [card]}, separators=(",", ":")).encode()


def http_post(
    port: int, body: bytes, *, path: str = CHAT_PATH, headers: Mapping[str, str] | None = None
) -> bytes:
    """The whole HTTP/1.1 request for a chat completion; `headers` are those that a subject asks for."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    key = "" if "Authorization" in (headers or {}) else f"Authorization: Bearer {KEY}\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}{more}"
        f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def http_get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
