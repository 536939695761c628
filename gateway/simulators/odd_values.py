"""Answers whose optional members hold what no schema says: valid JSON all the same, and the same text."""

from typing import Any

import orjson

from gateway.simulators.requests import Json

_LONE_SURROGATE = "\x00lone surrogate\x00"
_ANSWER: Json = {
    "id": None,
    "object": {},
    "created": "yesterday",
    "model": ["odd"],
    "service_tier": 7,
    "system_fingerprint": _LONE_SURROGATE,
}
_CHOICE: Json = {"logprobs": 5, "stop_reason": {"odd": True}, "content_filter_results": []}
_USAGE: Json = {
    "prompt_tokens_details": "none",
    "completion_tokens_details": {"reasoning_tokens": _LONE_SURROGATE, "audio_tokens": []},
}


def odd(document: Json) -> bytes:
    """A chunk or a whole answer with odd members; its text, its finish and its totals stay as they are."""
    strange: dict[str, Any] = {**document, **_ANSWER}
    strange["choices"] = [{**choice, **_CHOICE} for choice in document["choices"]]
    if isinstance(document.get("usage"), dict):
        strange["usage"] = {**document["usage"], **_USAGE}
    return orjson.dumps(strange).replace(orjson.dumps(_LONE_SURROGATE), b'"\\ud800"')
