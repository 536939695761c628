"""The text of a request body: every string that an upstream could read, and none of the binary payloads."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.detect.payloads import PLACES, holds_content, payload_of, read_payload, without_payload
from gateway.detect.token_ids import PROMPTS, holds_neither_text_nor_ids, holds_token_ids

# Vocabulary of the API. Any other key is text: a property name can carry data.
_KEYS = """
    additionalProperties anyOf arguments audio audio_url cache_control content custom default
    definitions description detail dimensions echo encoding_format enum file file_data file_id filename
    format frequency_penalty function function_call functions id image_url include_usage input
    input_audio input_video instructions items json_schema logit_bias logprobs max_completion_tokens
    max_output_tokens max_tokens messages metadata min_p modalities model n name parallel_tool_calls
    parameters prediction presence_penalty prompt properties reasoning_content reasoning_effort refusal
    repetition_penalty required response_format role schema seed service_tier stop store stream
    stream_options strict suffix temperature text tool_call_id tool_calls tool_choice tools top_k
    top_logprobs top_p type url user verbosity video_url
"""
_WORDS = """
    array assistant audio_url auto base64 boolean content developer ephemeral file float function image_url
    input_audio input_file input_image input_text input_video integer json_object json_schema mp3 none number
    object output_text refusal required string system text tool user video_url wav
"""
_KNOWN_KEYS, _KNOWN_WORDS = frozenset(_KEYS.split()), frozenset(_WORDS.split())

_ROLES = ("user", "assistant", "system", "tool", "developer")

# What a model reads one after the other, so that a value can be split over it.
_CONTENT_KEYS = frozenset({"content", "text", "prompt", "input", "suffix", "refusal", "reasoning_content"})
# Members beside a prompt that stand in for text and cannot be read. vLLM and SGLang take them.
_EMBEDDING_KEYS = frozenset({"prompt_embeds", "prompt_token_ids", "input_embeds", "input_ids"})
_PROMPT_KEYS = PROMPTS | _EMBEDDING_KEYS

# Nothing that is looked for has fewer digits.
_LEAST_TELLING = 10**8


class _Key(str):
    """A key whose value stands where the API has it, told by identity: no key of a body is one."""

    __slots__ = ()


_MESSAGES, _PARTS = _Key("messages"), _Key("content")

_Stack = list[tuple[str | None, Any]]


class FoundText(msgspec.Struct, frozen=True, gc=False):
    """The text of one body.

    `pieces` keep the order of the body: first what the model reads as one conversation, piece by piece, then
    all the rest (names, arguments, schemas, metadata) as one piece with a line for each. `unreadable` says
    that some input cannot be read as text, such as embeddings, or a payload that is not what its place says:
    count it as most restrictive. `has_token_ids`: a prompt is written in them.
    """

    pieces: tuple[str, ...]
    unreadable: bool = False
    has_token_ids: bool = False


def find_text(body: Mapping[str, Any]) -> FoundText:
    """Every string in a parsed request `body` that an upstream could read as text.

    Left out: payloads of the content parts of messages (see payloads), and the API's own vocabulary. Numbers
    of nine digits or more count as text. Iterative: nesting is bounded by the parser alone.
    """
    content: list[str] = []
    aside: list[str] = []
    unreadable = False
    # Last in, first out; children go on it in reverse, to keep the body's order. With each, its key.
    stack: _Stack = [(None, body)]
    # Objects are read in this loop: a call and a list for each would cost more than reading it.
    nested: _Stack = []
    while stack:
        parent, node = stack.pop()
        if type(node) is list:
            unreadable |= _read_items(parent, node, content, aside, nested)
        else:
            for key, value in node.items():
                kind = type(value)
                if kind is str and key in _CONTENT_KEYS:
                    content.append(value)
                    continue
                if key not in _KNOWN_KEYS:
                    aside.append(key)  # before the value, as a word for it has to be
                if kind is dict or kind is list:
                    nested.append((key if kind is dict else _placed(parent, key), value))
                elif kind is str:
                    if value not in _KNOWN_WORDS:
                        aside.append(value)
                        unreadable |= holds_content(parent, key, value)
                elif (kind is int or kind is float) and not -_LEAST_TELLING < value < _LEAST_TELLING:
                    aside.append(_digits_of(value))
        if nested:
            nested.reverse()
            stack += nested
            nested.clear()
    pieces = (*content, "\n".join(aside)) if aside else tuple(content)
    if _PROMPT_KEYS.isdisjoint(body):
        return FoundText(pieces, unreadable)
    unreadable |= not _EMBEDDING_KEYS.isdisjoint(body) or holds_neither_text_nor_ids(body)
    return FoundText(pieces, unreadable, holds_token_ids(body))


def _placed(parent: str | None, key: str) -> str:
    """The key of a list, told apart where it stands where the API has it."""
    if parent is None:
        return _MESSAGES if key == "messages" else key
    return _PARTS if parent is _MESSAGES and key == "content" else key


def _read_items(
    key: str | None, items: list[Any], content: list[str], aside: list[str], nested: _Stack
) -> bool:
    """Whether something in them is unreadable."""
    unreadable = False
    if key is _PARTS:
        items, unreadable = _without_payloads(items, aside)
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
                unreadable |= holds_content(None, key, item)
        elif (kind is int or kind is float) and not -_LEAST_TELLING < item < _LEAST_TELLING:
            aside.append(_digits_of(item))
    return unreadable


def _without_payloads(parts: list[Any], aside: list[str]) -> tuple[list[Any], bool]:
    """`parts` without their payloads, and whether one of these is unreadable. Their text goes to `aside`."""
    rest, unreadable = [], False
    for part in parts:
        kind = part.get("type") if type(part) is dict else None
        place = PLACES.get(kind) if type(kind) is str else None
        written = None if place is None else payload_of(part, place)
        if place is None or written is None:
            rest.append(part)
            continue
        read = read_payload(written, place)
        aside += read.text
        unreadable |= read.unreadable
        rest.append(without_payload(part, place))
    return rest, unreadable


def _digits_of(number: int | float) -> str:
    """The digits of a number, also those that it leaves with where they are others."""
    whole = str(int(number))
    if type(number) is int:
        return whole
    written = repr(number).partition("e")[0].removesuffix(".0").replace(".", "")
    return whole if written == whole else f"{whole}\n{written}"
