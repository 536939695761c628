"""The text of a request body: every string that an upstream could read, and none of the binary payloads."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.detect.token_ids import PROMPTS, holds_token_ids

# Vocabulary of the API. Any other key is text: a property name can carry data.
_KEYS = """
    additionalProperties anyOf arguments audio cache_control content custom default definitions description
    detail dimensions echo encoding_format enum file file_data file_id filename format frequency_penalty
    function function_call functions id image_url include_usage input input_audio instructions items
    json_schema logit_bias logprobs max_completion_tokens max_output_tokens max_tokens messages metadata min_p
    modalities model n name parallel_tool_calls parameters prediction presence_penalty prompt properties
    reasoning_content reasoning_effort refusal repetition_penalty required response_format role schema seed
    service_tier stop store stream stream_options strict suffix temperature text tool_call_id tool_calls
    tool_choice tools top_k top_logprobs top_p type url user verbosity video_url
"""
_WORDS = """
    array assistant auto base64 boolean content developer ephemeral file float function image_url input_audio
    input_file input_image input_text integer json_object json_schema mp3 none number object output_text
    refusal required string system text tool user video_url wav
"""
_KNOWN_KEYS, _KNOWN_WORDS = frozenset(_KEYS.split()), frozenset(_WORDS.split())

_ROLES = ("user", "assistant", "system", "tool", "developer")

# What a model reads one after the other, so that a value can be split over it.
_CONTENT_KEYS = frozenset({"content", "text", "prompt", "input", "suffix", "refusal", "reasoning_content"})
_MEDIA_KEYS = frozenset({"image_url", "video_url", "audio_url", "url", "file_data", "data"})
_MEDIA = frozenset({"image_url", "video_url", "audio_url", "file"})

# Members beside a prompt that stand in for text and cannot be read. vLLM takes them.
_EMBEDDING_KEYS = frozenset({"prompt_embeds", "prompt_token_ids"})

# Top-level members that the model never reads.
_UNTOLD_KEYS = frozenset({"model", "seed", "logit_bias", "stop_token_ids", *_EMBEDDING_KEYS})

_SHORTEST_TELLING_NUMBER = 10**8

_Stack = list[tuple[str | None, Any]]


class FoundText(msgspec.Struct, frozen=True, gc=False):
    """The text of one body.

    `pieces` keep the order of the body: first what the model reads as one conversation, piece by piece, then
    all the rest (names, arguments, schemas, metadata) as one piece with a line for each. `unreadable` says
    that some input cannot be read as text, such as embeddings: count it as most restrictive. `has_payload`:
    the payload of a media part was left out. `has_token_ids`: a prompt is written in them.
    """

    pieces: tuple[str, ...]
    unreadable: bool = False
    has_payload: bool = False
    has_token_ids: bool = False


def find_text(body: Mapping[str, Any]) -> FoundText:
    """Every string in a parsed request `body` that an upstream could read as text.

    Left out: base64 payloads of media parts (`data:` URLs, `input_audio.data`, `file.file_data`), what the
    model never reads, and the API's own vocabulary. Whole numbers of nine digits or more count as text.
    Iterative: nesting is bounded by the parser alone.
    """
    content: list[str] = []
    aside: list[str] = []
    payloads: list[str] = []
    # Last in, first out; children go on it in reverse, to keep the body's order. With each, its key.
    stack: _Stack = [(None, body)]
    # Objects are read in this loop: a call and a list for each would cost more than reading it.
    nested: _Stack = []
    while stack:
        parent, node = stack.pop()
        if type(node) is list:
            _read_items(parent, node, content, aside, nested)
        else:
            for key, value in node.items():
                kind = type(value)
                if kind is str and key in _CONTENT_KEYS:
                    content.append(value)
                    continue
                if parent is None and key in _UNTOLD_KEYS:
                    continue
                if kind is dict or kind is list:
                    nested.append((key, value))
                elif kind is str:
                    if value not in _KNOWN_WORDS:
                        (payloads if is_payload(parent, key, value) else aside).append(value)
                elif kind is int and abs(value) >= _SHORTEST_TELLING_NUMBER:
                    aside.append(str(value))
                if key not in _KNOWN_KEYS:
                    aside.append(key)
        if nested:
            nested.reverse()
            stack += nested
            nested.clear()
    return FoundText(
        (*content, "\n".join(aside)) if aside else tuple(content),
        not _EMBEDDING_KEYS.isdisjoint(body),
        bool(payloads),
        not PROMPTS.isdisjoint(body) and holds_token_ids(body),
    )


def _read_items(
    key: str | None, items: list[Any], content: list[str], aside: list[str], nested: _Stack
) -> None:
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            # Nearly every message: whose it is, and text. Its place in the order is here, if nothing waits.
            if not nested and kind is dict and len(item) == 2 and item.get("role") in _ROLES:
                text = item.get("content")
                if type(text) is str:
                    content.append(text)
                    continue
            nested.append((key, item))
        elif kind is str:
            if key in _CONTENT_KEYS:
                content.append(item)
            elif item not in _KNOWN_WORDS:
                aside.append(item)
        elif kind is int and abs(item) >= _SHORTEST_TELLING_NUMBER:
            aside.append(str(item))


def is_payload(parent: str | None, key: str, value: str) -> bool:
    """Whether the string behind `key` is the base64 of a media part, which no model reads as text."""
    if key not in _MEDIA_KEYS:
        return False
    if key == "data":
        return parent == "input_audio"
    if key == "file_data" and parent == "file":
        return True
    head = value[:256].lower()
    return (
        head.startswith("data:")
        and ";base64," in head
        and (key in _MEDIA or parent in _MEDIA or key == "file_data")
    )
