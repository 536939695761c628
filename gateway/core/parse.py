"""Parse a request body once, shallowly: only the facts that routing and metering need.

The prompt is not interpreted: it stays in the body, which stands beside the facts until it is classified.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.core.call import MAX_TAG_LENGTH, MAX_TAGS, Call
from gateway.core.catalog import Api, Capability, Modality
from gateway.core.errors import InvalidRequest
from gateway.core.media import NO_MEDIA, TEXT_ONLY, Media, media_of
from gateway.dialects.outgoing import members_of
from gateway.dialects.table import DEVELOPER, LISTED, TREATED

Body = Mapping[str, Any]

NOTHING: frozenset[Capability] = frozenset()
_NO_MEMBERS: frozenset[str] = frozenset()
_DEVELOPER = frozenset({DEVELOPER})

MAX_CHOICES = 128

# What `reasoning_effort` says when no reasoning is asked for.
_NO_EFFORT = (None, "none")

# Integers from here on are read as floats; below zero, those beyond half of it.
LARGEST_EXACT = 2.0**64
_NUMBERLESS = frozenset({str, int, bool, type(None)})  # an `int` is one that was read exactly
_LONG_INTEGERS = re.compile(rb"(?<![\d.])-?\d{19,}(?![\d.eE])")
_NO_SEARCH = (None, False)
_CAPS = frozenset({"max_completion_tokens", "max_tokens"})
_CHOICES = frozenset({"n", "best_of"})
# Members by which a request asks the upstream to look things up elsewhere, in the spellings of several APIs.
_SEARCHES = frozenset({"web_search_options", "search_parameters", "enable_search", "search_options"})
_NEEDING = _SEARCHES | {
    *("tools", "functions", "function_call", "response_format", "logprobs", "reasoning_effort", "reasoning"),
    *("modalities", "audio"),
}
_USERS = frozenset({"safety_identifier", "user"})
# Most requests have no others than these, which one look tells.
_USUAL = LISTED - _CHOICES - _NEEDING - _USERS - TREATED - {"service_tier"}
_UNTREATED = LISTED - TREATED
# Large members that hold text, or schemas, in which a number is the same however it is written.
_WITHOUT_NUMBERS = frozenset({"messages", "tools", "functions", "response_format"})


def parse_call(
    api: Api, raw: bytes | bytearray, max_messages: int, addressed: str | None = None
) -> tuple[Call, Body]:
    """Read `raw` as a request to `api`: its facts, and its body, which is kept until it is classified.

    `addressed` is the model that its address names, which counts before the one in the body.
    The body is without `model`, `stream_options` and output caps, as is `rest`. Raises InvalidRequest with
    the field at fault in `param`.
    """
    body = _decode(raw)
    model = body.pop("model", None)
    if addressed is not None:
        model = addressed
    if model is None:
        raise InvalidRequest("You must provide a `model` parameter.", param="model")
    if not isinstance(model, str) or not model:
        raise _wrong_type("model", "a non-empty string")
    _check_numbers(body, raw)
    # Most members are absent from most requests: each is read only where it is there.
    stream = (_optional(body, "stream", bool, "a boolean") or False) if "stream" in body else False
    options = _stream_options(body, stream) if "stream_options" in body else {}
    modalities, media, members = (
        _message_contents(body, max_messages) if api is Api.CHAT else _prompt_contents(api, body)
    )
    rare = not _USUAL.issuperset(body)
    if rare and not _UNTREATED.issuperset(body):
        members |= members_of(body)
    prompts = 1 if api is Api.CHAT else _prompts(api, body)
    choices = _choices(body) if rare and not _CHOICES.isdisjoint(body) else 1
    call = Call(
        # By position: by name it costs four times as much, and this is made for every request.
        api,
        model,
        stream,
        bool(options.pop("include_usage", False)),
        options,
        None if _CAPS.isdisjoint(body) else _max_output(api, body),
        choices * prompts if api is Api.COMPLETIONS else choices,
        modalities,
        _needs(body, choices) if rare and (choices > 1 or not _NEEDING.isdisjoint(body)) else NOTHING,
        media,
        _optional(body, "service_tier", str, "a string") if rare and "service_tier" in body else None,
        _tags(body) if rare and "metadata" in body else {},
        (rest := _encode(body)),
        len(rest) - media.bytes,
        _user(body) if rare and not _USERS.isdisjoint(body) else None,
        prompts,
        members,
    )
    if stream and api is Api.EMBEDDINGS:
        raise InvalidRequest("Embeddings can't be streamed.", param="stream")
    return call, body


def _decode(raw: bytes | bytearray) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        if exc.msg.startswith("depth limit"):
            raise _too_deep() from exc
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {exc.msg} (line {exc.lineno}, "
            f"column {exc.colno}). The body must be one JSON object in UTF-8.",
            code="invalid_json",
        ) from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return body


def _check_numbers(body: Mapping[str, Any], raw: bytes | bytearray) -> None:
    """Integers beyond 64 bits were read as floats, and would reach the upstream as other numbers."""
    for name, value in body.items():
        kind = type(value)
        if kind in _NUMBERLESS or name in _WITHOUT_NUMBERS or (kind is float and 0 <= value < LARGEST_EXACT):
            continue
        if _is_huge(value) and _has_long_integer(raw):
            raise InvalidRequest(
                f"Invalid '{name}': a number beyond 64 bits. Expected a value that is exact in JSON.",
                param=name,
                code="invalid_value",
            )


def _has_long_integer(raw: bytes | bytearray) -> bool:
    """Fractions may be huge and are forwarded as they are; only an integer must be exact."""
    return any(
        len(written) > 20 or not -LARGEST_EXACT / 2 <= int(written) < LARGEST_EXACT
        for written in _LONG_INTEGERS.findall(raw)
    )


def _is_huge(value: Any) -> bool:
    pending = [value]
    while pending:  # a stack, since the body may be nested deeper than calls can be
        value = pending.pop()
        if isinstance(value, float) and not -LARGEST_EXACT / 2 <= value < LARGEST_EXACT:
            return True
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as exc:  # nesting that can be read but not written back
        raise _too_deep() from exc


def _too_deep() -> InvalidRequest:
    return InvalidRequest("The JSON body is nested too deeply: 254 levels at most.", code="invalid_json")


def _optional(body: Mapping[str, Any], name: str, kind: type[Any], noun: str) -> Any:
    value = body.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _wrong_type(name, noun)


def _wrong_type(name: str, noun: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid type for '{name}': expected {noun}.", param=name, code="invalid_type")


def _positive(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(name, "an integer")
    if value < 1:
        raise InvalidRequest(
            f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def _stream_options(body: dict[str, Any], stream: bool) -> dict[str, Any]:
    options = body.pop("stream_options", None)
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise _wrong_type("stream_options", "an object")
    if not stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    if not isinstance(options.get("include_usage", False), bool | None):
        raise _wrong_type("stream_options.include_usage", "a boolean")
    _encode({"stream_options": options})  # it is written back for each attempt, so refuse it now or never
    return options


def _max_output(api: Api, body: dict[str, Any]) -> int | None:
    if api is Api.EMBEDDINGS:
        return None
    least = None
    for name in ("max_completion_tokens", "max_tokens"):
        cap = body.pop(name, None)
        if cap is not None and (type(cap) is not int or cap < 1):
            _positive({name: cap}, name)
        if cap is not None and (least is None or cap < least):
            least = cap
    return least


def _choices(body: Mapping[str, Any]) -> int:
    """How many completions the upstream will generate and bill: `n`, or `best_of` where that is larger."""
    choices = max(_positive(body, "n") or 1, _positive(body, "best_of") or 1)
    if choices > MAX_CHOICES:
        raise InvalidRequest(f"Invalid 'n': at most {MAX_CHOICES} choices are allowed.", param="n")
    return choices


def _prompts(api: Api, body: Mapping[str, Any]) -> int:
    """How many prompts one request holds: a list of token ids is one, any other list has one in each item."""
    prompt = body.get("input" if api is Api.EMBEDDINGS else "prompt")
    if not isinstance(prompt, list) or isinstance(prompt[0], int):
        return 1
    return len(prompt)


def _needs(body: Mapping[str, Any], choices: int) -> frozenset[Capability]:
    tools, functions = body.get("tools"), body.get("functions") or body.get("function_call")
    form = body.get("response_format")
    logprobs = body.get("logprobs")
    reasons = body.get("reasoning_effort") not in _NO_EFFORT or bool(body.get("reasoning"))
    if tools is not None and not isinstance(tools, list):
        raise _wrong_type("tools", "an array")
    if form is not None and not isinstance(form, dict):
        raise _wrong_type("response_format", "an object")
    needs = set()
    if tools or functions:
        needs.add(Capability.TOOLS)
    if functions:
        needs.add(Capability.FUNCTIONS)
    if tools:
        needs.update(_tool_needs(tools))
    if any(body.get(name) not in _NO_SEARCH for name in _SEARCHES):
        needs.add(Capability.WEB_SEARCH)
    if body.get("audio") or _speaks(body):
        needs.add(Capability.AUDIO_OUTPUT)
    if form and form.get("type") == "json_schema":
        needs.add(Capability.JSON_SCHEMA)
    if logprobs:
        needs.add(Capability.LOGPROBS)
    if reasons:
        needs.add(Capability.REASONING)
    if choices > 1:
        needs.add(Capability.CHOICES)
    return frozenset(needs) if needs else NOTHING


def _tool_needs(tools: list[Any]) -> set[Capability]:
    """Tools that are no functions run at the upstream, or are called in another form."""
    kinds = {str(tool.get("type") or "function") for tool in tools if isinstance(tool, dict)} - {"function"}
    searches = {kind for kind in kinds if "web_search" in kind}
    needs = {Capability.WEB_SEARCH} if searches else set()
    return needs | {Capability.CUSTOM_TOOLS} if kinds - searches else needs


def _speaks(body: Mapping[str, Any]) -> bool:
    spoken = body.get("modalities")
    return isinstance(spoken, list) and "audio" in spoken


def _tags(body: Mapping[str, Any]) -> dict[str, str]:
    metadata = body.get("metadata")
    if not metadata:
        return {}
    if not isinstance(metadata, dict):
        raise _wrong_type("metadata", "an object")
    return {
        str(name)[:MAX_TAG_LENGTH]: value[:MAX_TAG_LENGTH]
        for name, value in list(metadata.items())[:MAX_TAGS]
        if isinstance(value, str)
    }


def _user(body: Mapping[str, Any]) -> str | None:
    user = body.get("safety_identifier") or body.get("user")
    return user if user and isinstance(user, str) else None


def _prompt_contents(api: Api, body: Mapping[str, Any]) -> tuple[frozenset[Modality], Media, frozenset[str]]:
    name = "input" if api is Api.EMBEDDINGS else "prompt"
    value = body.get(name)
    if not value or not isinstance(value, (str, list)):
        raise InvalidRequest(f"'{name}' must be a non-empty string or array.", param=name)
    if "messages" in body:  # some servers read these instead
        raise InvalidRequest(f"Send either 'messages' or '{name}', not both.", param="messages")
    return TEXT_ONLY, NO_MEDIA, _NO_MEMBERS


def _message_contents(
    body: Mapping[str, Any], max_messages: int
) -> tuple[frozenset[Modality], Media, frozenset[str]]:
    """What the messages hold, and DEVELOPER where one is of that role."""
    messages = body.get("messages")
    if messages is None:
        raise InvalidRequest("Missing required parameter: 'messages'.", param="messages")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects")
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected at least one message.",
            param="messages",
            code="empty_array",
        )
    if len(messages) > max_messages:
        raise InvalidRequest(
            f"Invalid 'messages': array too long. Expected at most {max_messages} messages, "
            f"but got {len(messages)} instead.",
            param="messages",
            code="array_above_max_length",
        )
    parts: list[tuple[str, Any]] = []
    members = _NO_MEMBERS
    for index, message in enumerate(messages):
        # Nearly all of them: text, and whose it is.
        if (
            type(message) is dict
            and type(message.get("content")) is str
            and type(role := message.get("role")) is str
            and role != DEVELOPER
        ):
            continue
        _check_message(message, index, parts)
        if message["role"] == DEVELOPER:
            members = _DEVELOPER
    wants_audio = "modalities" in body and _speaks(body)
    if not parts and not wants_audio:
        return TEXT_ONLY, NO_MEDIA, members
    return *media_of(parts, wants_audio), members


def _check_message(message: Any, index: int, parts: list[tuple[str, Any]]) -> None:
    if not isinstance(message, dict):
        raise _wrong_type(f"messages[{index}]", "an object")
    if not isinstance(message.get("role"), str):
        raise InvalidRequest(
            f"Missing required parameter: 'messages[{index}].role'.", param=f"messages[{index}].role"
        )
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    where = f"messages[{index}].content"
    if not isinstance(content, list):
        raise _wrong_type(where, "a string or an array of content parts")
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise _wrong_type(f"{where}[{number}]", "an object")
        parts.append((f"{where}[{number}]", part))
