"""The bytes of the benchmarks: a chat request and an answer, 700 bytes each, as an SDK and vLLM write."""

from __future__ import annotations

import json

MODEL = "llama-4-scout"
KEY = "sk-bench-2f6d1c0a9b8e7d5f4a3b"
REQUEST_BYTES = 700
ANSWER_BYTES = 700

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


def _padded(document: dict[str, object], place: dict[str, object], size: int) -> bytes:
    """`document` as compact JSON of exactly `size` bytes; the text in `place["content"]` is padded."""
    missing = size - len(json.dumps(document, separators=(",", ":")).encode())
    if missing < 0:
        raise ValueError(f"{-missing} bytes too long")
    padding = ("Please keep names and numbers as they are. " * 20)[:missing]
    place["content"] = f"{place['content']}{padding}"
    return json.dumps(document, separators=(",", ":")).encode()


def chat_request(*, stream: bool = False, max_tokens: int = 128, size: int = REQUEST_BYTES) -> bytes:
    """A chat request of `size` bytes for `MODEL`; a stream does not ask for usage, the SDK's default."""
    user: dict[str, object] = {"role": "user", "content": PROMPT}
    document: dict[str, object] = {
        "messages": [{"role": "system", "content": "You write short and exact summaries."}, user],
        "model": MODEL,
        "max_tokens": max_tokens,
        "temperature": 0.2,
    }
    if stream:
        document["stream"] = True
    return _padded(document, user, size)


def chat_answer() -> bytes:
    """The static upstream's answer: a vLLM chat completion of 700 bytes with usage."""
    message: dict[str, object] = {"role": "assistant", "content": REPLY}
    usage = {"prompt_tokens": 171, "total_tokens": 249, "completion_tokens": 78}
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


def http_post(port: int, body: bytes) -> bytes:
    """The whole HTTP/1.1 request for a chat completion, as sent to every subject alike."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def http_get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
