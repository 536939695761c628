"""What OpenAI refuses in a generation request beyond its types: fields, models, sizes."""

from collections.abc import Iterable

import orjson

from gateway.simulators.embeddings import dimensions_of
from gateway.simulators.prompts import Prompt
from gateway.simulators.refusals import SimulatedRefusal, invalid
from gateway.simulators.requests import Json, SimulatedCall

_MAX_OUTPUT_TOKENS = 16_384
# They reason, and take tools that are no functions.
_LATER_MODELS = ("gpt-5", "gpt-6", "o1", "o3", "o4")
# fmt: off
_CHAT_FIELDS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n",
    "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed",
    "service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools",
    "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})
_COMPLETION_FIELDS = frozenset({
    "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n",
    "presence_penalty", "prompt", "seed", "stop", "stream", "stream_options", "suffix", "temperature",
    "top_p", "user",
})
# fmt: on
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})


def output_limit(call: SimulatedCall, document: Json, prompt: Prompt, context_tokens: int) -> int:
    """The most tokens a choice may have. Raises Refused (400, 403, 404) as OpenAI does."""
    _check_fields(call, document)
    _check_kind_of_model(call)
    _check_capabilities(call, document)
    _check_prediction(call, document)
    _check_json_mode(call, document)
    if call.max_tokens is not None and call.max_tokens > _MAX_OUTPUT_TOKENS:
        message = (
            f"max_tokens is too large: {call.max_tokens}. This model supports at most {_MAX_OUTPUT_TOKENS} "
            f"completion tokens, whereas you provided {call.max_tokens}."
        )
        raise invalid(message, "max_tokens", "invalid_value")
    if prompt.tokens >= context_tokens:
        message = (
            f"This model's maximum context length is {context_tokens} tokens. However, your messages "
            f"resulted in {prompt.tokens} tokens. Please reduce the length of the messages."
        )
        raise invalid(message, "messages", "context_length_exceeded")
    return min(call.max_tokens or _MAX_OUTPUT_TOKENS, context_tokens - prompt.tokens)


def _check_fields(call: SimulatedCall, document: Json) -> None:
    if unknown := sorted(document.keys() - (_CHAT_FIELDS if call.is_chat else _COMPLETION_FIELDS)):
        raise invalid(f"Unrecognized request argument supplied: {unknown[0]}")
    if unknown := sorted((document.get("stream_options") or {}).keys() - _STREAM_OPTIONS):
        name = f"stream_options.{unknown[0]}"
        raise invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if document.get("max_tokens") is not None and document.get("max_completion_tokens") is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise invalid(message, code="invalid_parameter_combination")


def check_refused_fields(document: Json, refused: Iterable[str]) -> None:
    """Raises Refused (400) for what this model does not read."""
    for name in refused:
        if document.get(name) is not None:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise invalid(message, name, "unsupported_parameter")


def _check_capabilities(call: SimulatedCall, document: Json) -> None:
    """GPT-4o takes functions alone; its relatives for search and audio have names that say so."""
    model = call.model
    for index, tool in enumerate(call.tools):
        if tool.get("type") != "function" and not model.startswith(_LATER_MODELS):
            message = f"Invalid value: '{tool.get('type')}'. Supported values are: 'function'."
            raise invalid(message, f"tools[{index}].type", "invalid_value")
    if document.get("web_search_options") is not None and "search" not in model:
        raise invalid("Web search options not supported with this model.")
    modalities = document.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities and "audio" not in model:
        message = "This model does not support the requested output modalities: 'audio'."
        raise invalid(message, "modalities", "unsupported_value")
    if document.get("reasoning_effort") is not None and not model.startswith(_LATER_MODELS):
        raise invalid("Unrecognized request argument supplied: reasoning_effort")
    if document.get("metadata") and not document.get("store"):
        raise invalid("The 'metadata' parameter is only allowed when 'store' is enabled.", "metadata")


def _check_prediction(call: SimulatedCall, document: Json) -> None:
    """What cannot stand beside predicted output."""
    if document.get("prediction") is None:
        return
    for name in ("max_completion_tokens", "tools", "logprobs"):
        if document.get(name):
            message = f"Unsupported parameter: '{name}' is not supported when 'prediction' is set."
            raise invalid(message, name, "unsupported_parameter")
    if call.choices_per_prompt > 1:
        raise invalid("Invalid value for 'n': only 1 is allowed when 'prediction' is set.", "n")


def _check_kind_of_model(call: SimulatedCall) -> None:
    if dimensions_of(call.model) is not None:
        raise SimulatedRefusal(403, "You are not allowed to sample from this model")
    if call.is_chat == call.model.endswith("-instruct"):
        kind, here, there = (
            ("not a chat model", "chat/", "") if call.is_chat else ("a chat model", "", "chat/")
        )
        message = (
            f"This is {kind} and thus not supported in the v1/{here}completions endpoint. "
            f"Did you mean to use v1/{there}completions?"
        )
        raise SimulatedRefusal(404, message, param="model")


def _check_json_mode(call: SimulatedCall, document: Json) -> None:
    if call.response_format is None or call.response_format["type"] != "json_object":
        return
    if b"json" not in orjson.dumps(document.get("messages")).lower():
        message = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
            "'json_object'."
        )
        raise invalid(message, "messages")
