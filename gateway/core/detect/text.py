"""The text of a request body: every string that an upstream could read, and none of the binary payloads."""

from collections.abc import Mapping
from typing import Any

import msgspec

# Vocabulary of the API, which says nothing about a person. Any other key is text: a property name can carry data.
_KNOWN_KEYS = frozenset(
    """
    additionalProperties anyOf arguments audio cache_control content custom default definitions description detail
    dimensions echo encoding_format enum file file_data file_id filename format frequency_penalty function
    function_call functions id image_url include_usage input input_audio instructions items json_schema logit_bias
    logprobs max_completion_tokens max_output_tokens max_tokens messages metadata min_p modalities model n name
    parallel_tool_calls parameters prediction presence_penalty prompt properties reasoning_content reasoning_effort
    refusal repetition_penalty required response_format role schema seed service_tier stop store stream
    stream_options strict suffix temperature text tool_call_id tool_calls tool_choice tools top_k top_logprobs top_p
    type url user verbosity video_url
    """.split()
)
_KNOWN_WORDS = frozenset(
    """
    array assistant auto base64 boolean content developer ephemeral file float function image_url input_audio
    input_file input_image input_text integer json_object json_schema mp3 none number object output_text refusal
    required string system text tool user video_url wav
    """.split()
)
_LONGEST_KNOWN_WORD = max(map(len, _KNOWN_WORDS))

# What a model reads one after the other, so that a value can be split over it.
_CONTENT_KEYS = frozenset({"content", "text", "prompt", "input", "suffix", "refusal", "reasoning_content"})
_MEDIA_KEYS = frozenset({"image_url", "video_url", "audio_url", "url", "file_data", "data"})
_MEDIA = frozenset({"image_url", "video_url", "audio_url", "file"})

# Token ids and embeddings: input that is not text. The others steer the sampler and never reach the model.
_UNREADABLE_KEYS = ("prompt_embeds", "prompt_token_ids")
_SAMPLER_KEYS = frozenset({"model", "seed", "logit_bias", "stop_token_ids", *_UNREADABLE_KEYS})

_SHORTEST_TELLING_NUMBER = 10**8
_WALKED = frozenset({str, dict, list, int})


class FoundText(msgspec.Struct, frozen=True, gc=False):
    """The text of one body.

    `pieces` keep the order of the body: first what the model reads as one conversation, piece by piece, then all
    the rest (names, arguments, schemas, metadata) as one piece with a line for each. `unreadable` says that some
    input cannot be read as text, such as token ids: count it as most restrictive.
    """

    pieces: tuple[str, ...]
    unreadable: bool = False


def find_text(body: Mapping[str, Any]) -> FoundText:
    """Every string in a parsed request `body` that an upstream could read as text.

    Left out: base64 payloads of media parts (`data:` URLs, `input_audio.data`, `file.file_data`), what only steers
    the sampler, and the API's own vocabulary. Whole numbers of nine digits or more count as text. Iterative:
    nesting is bounded by the parser alone.
    """
    content: list[str] = []
    aside: list[str] = []
    # Last in, first out: children are pushed in reverse, to keep the body's order. `key` is the nearest key above.
    stack: list[tuple[str, Any]] = [("", body if type(body) is dict else dict(body))]
    while stack:
        key, node = stack.pop()
        if type(node) is dict:
            nested = _read_members(key, node, content, aside)
            if nested:
                nested.reverse()
                stack += nested
        elif type(node) is list:
            stack += [(key, item) for item in reversed(node) if type(item) in _WALKED]
        elif type(node) is str:
            _keep(key, node, content, aside)
        elif type(node) is int and abs(node) >= _SHORTEST_TELLING_NUMBER and key not in ("prompt", "input"):
            aside.append(str(node))
    if aside:
        content.append("\n".join(aside))
    return FoundText(tuple(content), _is_unreadable(body))


def _read_members(
    parent: str, members: dict[str, Any], content: list[str], aside: list[str]
) -> list[tuple[str, Any]]:
    """Keeps the strings among `members` and returns the members that hold more."""
    nested: list[tuple[str, Any]] = []
    for key, value in members.items():
        if key not in _KNOWN_KEYS:
            aside.append(key)
        kind = type(value)
        if kind is str:
            if key in _CONTENT_KEYS:
                content.append(value)
            elif key not in _MEDIA_KEYS or not _is_payload(parent, key, value):
                _keep(key, value, content, aside)
        elif kind in _WALKED and key not in _SAMPLER_KEYS:
            nested.append((key, value))
    return nested


def _keep(key: str, text: str, content: list[str], aside: list[str]) -> None:
    if key in _CONTENT_KEYS:
        content.append(text)
    elif key != "model" and (len(text) > _LONGEST_KNOWN_WORD or text not in _KNOWN_WORDS):
        aside.append(text)


def _is_payload(parent: str, key: str, value: str) -> bool:
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


def _is_unreadable(body: Mapping[str, Any]) -> bool:
    if _holds_token_ids(body.get("prompt")) or _holds_token_ids(body.get("input")):
        return True
    return any(body.get(key) for key in _UNREADABLE_KEYS)


def _holds_token_ids(prompt: object) -> bool:
    return type(prompt) is list and any(type(item) is int or type(item) is list for item in prompt)
